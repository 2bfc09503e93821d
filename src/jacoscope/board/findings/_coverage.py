"""How much of the model the numbers are on.

Shape suffix: S steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.board.fields import text
from jacoscope.board.findings._finding import Finding, counted, listed, percent, unique
from jacoscope.board.missing import Gap

__all__ = ["COVERED", "LOSS", "coverage", "lost_coverage", "not_measured"]

Array = npt.NDArray[Any]

COVERED = 0.95
"""Share of the model's scalars from which on numbers on the whole model are about the whole model:
what is left out is then a twentieth at most."""

LOSS = 0.99
"""A fall below this multiple of what it was is a loss, as for the alert on coverage."""

_REASONS = 3
_MEASURED = {"coverage": "gradients", "sample_coverage": "per-sample gradients"}


def coverage(name: str, share: float, left_out: Sequence[Mapping[str, Any]]) -> Finding | None:
    """The share of the model that numbers are on, and what is left out.

    Args:
        name: ``coverage`` or ``sample_coverage``.
        share: Scalars measured over trainable scalars.
        left_out: The parameters that are not watched, each with its reason; none to leave that
            unsaid.
    """
    if np.isnan(share):
        return None
    what = _MEASURED[name]
    if share >= 1:
        title = f"The {what} of the whole model are measured."
    else:
        title = f"The {what} of {percent(share)} of the model are measured."
    return Finding(
        name,
        "good" if share >= COVERED else "warning",
        title,
        f"By number of scalars that can be trained.{_outside(left_out)}",
        layers=unique(text(item, "layer") for item in left_out),
    )


def _outside(left_out: Sequence[Mapping[str, Any]]) -> str:
    """What is not watched, by reason."""
    reasons = Counter(text(item, "reason") for item in left_out)
    if not reasons:
        return ""
    parts = [
        f"{counted(count, 'parameter')}: {reason}"
        for reason, count in reasons.most_common(_REASONS)
    ]
    if len(reasons) > _REASONS:
        parts.append(f"and {counted(len(reasons) - _REASONS, 'more reason')}")
    return f" Left out: {'; '.join(parts)}."


def lost_coverage(name: str, steps_S: Array, shares_S: Array) -> Finding | None:
    """Where numbers that were there went missing.

    Args:
        name: ``coverage`` or ``sample_coverage``.
        steps_S: Captured steps.
        shares_S: The share of the model that was measured.
    """
    if len(steps_S) < 2:
        return None
    best_S = np.fmax.accumulate(shares_S)[:-1]
    fallen = np.flatnonzero(shares_S[1:] < LOSS * best_S)
    if not len(fallen):
        return None
    place = int(fallen[0]) + 1
    step = int(steps_S[place])
    shares = (best_S[place - 1], shares_S[place], shares_S[-1])
    before, after, now = (percent(float(share)) for share in shares)
    what = _MEASURED[name]
    return Finding(
        f"{name}_lost",
        "warning",
        f"From step {step} on, fewer {what} are measured.",
        f"Coverage fell from {before} to {after} of the model's scalars; it is {now} now. Numbers "
        "on the whole model before and after are of different parts.",
        step,
    )


def not_measured(gaps: Sequence[Gap]) -> list[Finding]:
    """What was asked for and could not be measured: one finding for quantities that go together."""
    by_reason: dict[str, list[Gap]] = {}
    for gap in gaps:
        by_reason.setdefault(gap.reason, []).append(gap)
    together: dict[tuple[str, ...], list[Gap]] = {}
    for same in by_reason.values():
        together.setdefault(unique(gap.quantity for gap in same), []).extend(same)
    return [_gap(names, same) for names, same in together.items()]


def _gap(names: tuple[str, ...], gaps: Sequence[Gap]) -> Finding:
    rows = unique(row for gap in gaps for row in gap.rows)
    reasons = unique(gap.reason for gap in gaps)
    since = min(gap.since for gap in gaps)
    is_whole = any(not gap.rows for gap in gaps)
    where = "" if is_whole else f" in {counted(len(rows), 'row')}"
    more = f" (and {counted(len(reasons) - 1, 'more reason')})" if len(reasons) > 1 else ""
    return Finding(
        f"missing: {', '.join(names)}",
        "warning" if is_whole else "note",
        f"{listed(names)} could not be measured{where}.",
        f"Since step {since}: {reasons[0].rstrip('.')}{more}.",
        since,
        () if is_whole else rows,
        {"view": "layers", "quantity": names[0]},
    )
