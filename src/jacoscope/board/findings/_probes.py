"""What probes say of the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jacoscope.board.fields import mapping, number, text
from jacoscope.board.findings._finding import Finding, percent, said

__all__ = ["GAP", "KEPT", "allocation", "no_probes", "probed_step"]

KEPT = 0.5
"""Share of the promised change from which on the derivative is taken to have kept its word. On a
quadratic loss the best step along a direction keeps just half of the promise: less is beyond it."""

GAP = 0.1
"""Share of the loss change that may stay without a layer before the allocation misleads; own
choice."""

_VIEW = {"view": "all_else_equal"}


def probed_step(step: int, result: Mapping[str, Any]) -> Finding | None:
    """Whether the last probed step did to the loss what its derivative promised.

    Args:
        step: The step.
        result: What the record says of it, all else equal.
    """
    predicted = number(result.get("predicted"))
    actual = number(result.get("after")) - number(result.get("before"))
    sentence = text(result, "sentence")
    if not math.isfinite(predicted) or not math.isfinite(actual):
        return None
    rounding = number(result.get("rounding"))
    numbers = f"The derivative promised {said(predicted)}; the step came to {said(actual)}."
    told = f"At step {step}: {sentence} {numbers}" if sentence else f"At step {step}: {numbers}"
    if abs(actual) <= rounding or predicted >= 0:
        return Finding("probed_step", "note", "The last probed step.", told, step, view=_VIEW)
    if actual > 0:
        title = "The last probed step raised the loss that it was to lower."
        return Finding("probed_step", "warning", title, told, step, view=_VIEW)
    if actual / predicted < KEPT:
        title = f"The last probed step kept {percent(actual / predicted)} of what it promised."
        return Finding("probed_step", "note", title, told, step, view=_VIEW)
    title = "The last probed step did about what its derivative promised."
    return Finding("probed_step", "good", title, told, step, view=_VIEW)


def allocation(step: int, record: Mapping[str, Any]) -> Finding | None:
    """Which layer the run's change of the loss is owed to, and what is owed to none.

    Args:
        step: The step that it is up to.
        record: What the record says of the allocation.
    """
    change, gap = number(record.get("change")), number(record.get("gap"))
    layers = {name: number(value) for name, value in mapping(record, "by_layer").items()}
    known = {name: value for name, value in layers.items() if math.isfinite(value)}
    if not (math.isfinite(change) and math.isfinite(gap)) or change == 0 or not known:
        return None
    most = min(known, key=known.__getitem__) if change < 0 else max(known, key=known.__getitem__)
    share = abs(gap / change)
    said_all = (
        f"Up to step {step} the loss of the probed samples changed by {said(change)}; what is "
        f"allocated to layers adds up to {said(change - gap)}, of which {said(known[most])} to "
        f"{most}."
    )
    if share > GAP:
        title = f"The allocation to layers is {percent(share)} off: probe more often."
        return Finding("allocation", "note", title, said_all, step, view=_VIEW)
    title = f"{most} did most to the loss so far."
    return Finding("allocation", "good", title, said_all, step, view=_VIEW)


def no_probes() -> Finding:
    """That no step was probed."""
    return Finding(
        "no_probes",
        "note",
        "No step was probed.",
        "This run has no probes. To see whether the loss moves as derivatives say, and what moves "
        "the outputs, add some of their quantities, such as predicted_change, actual_change and "
        "ntk_trace.",
        view=_VIEW,
    )
