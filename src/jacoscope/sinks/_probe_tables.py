"""Probes as tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jacoscope.probe_record import ProbeRecord
from jacoscope.probing import AllElseEqual, WeightShare
from jacoscope.sinks._probe_words import interaction_of, sentence_of, signed, total, unsigned
from jacoscope.sinks._words import cut_name, escaped, one_line

__all__ = ["probe_notes", "step_table"]

_NAME_LENGTH = 80
_NAMES_SHOWN = 5
_READING = (
    "Every row moves one layer as this step moved it and holds every other where it was. "
    "**predicted** is g·Δθ, the change of the loss that the layer's partial derivatives promise; "
    "**with second order** adds ½ Δθᵀ H Δθ, the curvature; **actual** is the change that came. "
    "The interaction is what layers do to the loss together and none of them alone."
)
_WEIGHTS = (
    "The single weights that promised most: their derivative by autograd, and the slope that "
    "moving the weight alone a little to either side shows. **rounding error** is how far rounding "
    "of the loss alone can put that slope off; a difference many times larger means a kink or a "
    "strong bend of the loss there. **promised** is ∂L/∂θ · Δθ."
)


def step_table(result: AllElseEqual, step: int) -> str:
    """A step's change of the loss by layer, and its weights' finite differences.

    Args:
        result: The probe's result.
        step: Optimiser steps before this one.
    """
    rows = [[_name(s.layer), *_cells(s.predicted, s.second_order, s.actual)] for s in result.layers]
    together = total(share.second_order for share in result.layers)
    extra = _known(result.second_order - together)
    rows.append(["*interaction*", "0", extra, signed(interaction_of(result)), "–"])
    promised = total(share.predicted for share in result.layers)
    whole = _cells(promised, result.second_order, result.actual)
    rows.append([f"**{cell}**" for cell in ("whole step", *whole)])
    header = ["layer", "predicted", "with second order", "actual", "share of the promise kept"]
    parts = [
        f"### Step {step}: what each layer's move did to the loss",
        escaped(sentence_of(result, _NAME_LENGTH)),
        _table(header, rows),
        _READING,
    ]
    if result.missing is not None:
        parts.append(f"No second order: {escaped(one_line(result.missing))}")
    elif result.method is not None:
        parts.append(f"Second derivatives: {escaped(one_line(result.method))}")
    if result.rounding:
        least = unsigned(result.rounding, 1)
        parts.append(f"Actual changes below {least} are rounding of the loss.")
    if result.weights:
        parts += [_weights(result.weights), _WEIGHTS]
    return "\n\n".join(parts)


def probe_notes(record: ProbeRecord) -> str:
    """How the probes of a step went, and what they could not say and why.

    Args:
        record: All that the probes say.
    """
    parts = ["### How the probes went"]
    if record.notes:
        parts.append(_reasons("subject", "note", record.notes))
    if record.withheld:
        parts += ["### What could not be computed", _reasons("quantity", "why", record.withheld)]
    gaps = _gaps(record)
    if gaps:
        header = ["quantity", "missing", "why"]
        parts += ["### What is missing of some layers", _table(header, gaps)]
    if not record.withheld and not gaps:
        parts.append("Everything that was asked for was computed.")
    return "\n\n".join(parts)


def _cells(predicted: float, second_order: float, actual: float) -> list[str]:
    both = _known(predicted + second_order)
    return [signed(predicted), both, signed(actual), _kept(predicted, actual)]


def _known(value: float) -> str:
    return "–" if math.isnan(value) else signed(value)


def _kept(predicted: float, actual: float) -> str:
    share = actual / predicted if predicted else math.nan
    if not math.isfinite(share):
        return "–"
    return f"{share:.0%}".replace("-", "−") if abs(share) < 100 else f"{signed(share)} times"


def _weights(weights: Sequence[WeightShare]) -> str:
    header = ["weight", "∂L/∂θ", "finite difference", "rounding error", "Δθ", "promised"]
    rows = []
    for weight in weights:
        name = _name(f"{weight.parameter}[{', '.join(map(str, weight.index))}]")
        numbers = [signed(value) for value in (weight.derivative, weight.difference)]
        error = unsigned(weight.error, 1)
        ends = [signed(value) for value in (weight.step, weight.predicted)]
        rows.append([name, *numbers, error, *ends])
    return _table(header, rows)


def _gaps(record: ProbeRecord) -> list[list[str]]:
    """By quantity and reason, the layers whose values are missing."""
    rows = []
    for item in record.records:
        if item.quantity in record.withheld:
            continue
        by_reason: dict[str, list[str]] = {}
        for name, reason in item.missing.items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            shown = ", ".join(_name(name) for name in names[:_NAMES_SHOWN])
            more = len(names) - _NAMES_SHOWN
            missing = f"{shown} and {more} more" if more > 0 else shown
            rows.append([_name(item.quantity), missing, escaped(one_line(reason))])
    return rows


def _reasons(first: str, second: str, reasons: Mapping[str, str]) -> str:
    rows = [[_name(key), escaped(one_line(reason))] for key, reason in reasons.items()]
    return _table([first, second], rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _name(value: str) -> str:
    return escaped(cut_name(one_line(value), _NAME_LENGTH))
