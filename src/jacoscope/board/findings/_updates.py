"""What the weights' updates say."""

from __future__ import annotations

import numpy as np

from jacoscope.board.findings._finding import Finding, Severity, counted, said, unique
from jacoscope.board.findings._gradients import RECENT
from jacoscope.board.table import Row, Table

__all__ = ["FAST", "SLOW", "pace"]

SLOW, FAST = 1e-4, 1e-1
"""Update ratios a decade below and two above the rule of thumb of 1e-3 (lecture notes of Stanford's
CS231n, "Ratio of weights:updates"). At a tenth, ten steps replace the weights."""

_VIEW = {"view": "layers", "quantity": "update_ratio"}


def pace(table: Table) -> Finding | None:
    """Whether weights move far too fast or too slowly in the last captures.

    Args:
        table: ``update_ratio`` by parameter. Biases and norms, which start at zero or one and may
            be far from any scale, are left out where kinds are known.
    """
    paces = [(row, _recent(table, column)) for column, row in enumerate(table.rows)]
    found = [(row, pace) for row, pace in paces if row.kind in ("weight", "") and pace is not None]
    if not found:
        return None
    fast = [(row, pace) for row, pace in found if pace > FAST]
    slow = [(row, pace) for row, pace in found if pace < SLOW]
    low, high = min(pace for _, pace in found), max(pace for _, pace in found)
    about = f"about 1e−3 is a common rule of thumb; here they are from {said(low)} to {said(high)}"
    if fast:
        return _finding("warning", fast, len(found), f"more than {said(FAST)} of their norm", about)
    if slow:
        return _finding("note", slow, len(found), f"less than {said(SLOW)} of their norm", about)
    return Finding(
        "pace",
        "good",
        "Weights move at a usual pace.",
        f"Update ratios are from {said(low)} to {said(high)}; about 1e−3 is a common rule of "
        "thumb.",
        view=_VIEW,
    )


def _finding(
    severity: Severity, found: list[tuple[Row, float]], of: int, pace: str, about: str
) -> Finding:
    count = counted(len(found), "weight tensor")
    return Finding(
        "pace",
        severity,
        f"{count} of {of} {'moves' if len(found) == 1 else 'move'} by {pace} in a step.",
        f"Update ratios, the median of the last captures: {about}.",
        layers=unique(row.layer for row, _ in found),
        view=_VIEW,
    )


def _recent(table: Table, column: int) -> float | None:
    """The median of the last captures that have a value; ``None`` where they are too few."""
    values_S = table.values_SL[:, column]
    recent_S = values_S[~np.isnan(values_S)][-RECENT:]
    return float(np.median(recent_S)) if len(recent_S) == RECENT else None
