"""Which layers learn nothing.

Shape suffixes: S steps, R rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.board.findings._finding import Finding, counted, listed, percent, unique
from jacoscope.board.findings._gradients import RECENT
from jacoscope.board.table import Row, Table

__all__ = ["DEAD_SHARE", "dead_layers"]

Array = npt.NDArray[Any]

DEAD_SHARE = 0.999
"""Share of zero gradients from which on a layer learns nothing, as for the alert on dead layers
(Lu et al., arXiv:1903.06733)."""


def dead_layers(rms: Table | None, zeros: Table | None) -> Finding | None:
    """Layers that get no gradient, or hardly any weight of which does, in the last captures.

    Args:
        rms: ``grad_rms`` or ``grad_norm`` by parameter.
        zeros: ``grad_zero_fraction`` by parameter.
    """
    silent = _rows_where(rms, lambda recent_S: bool((recent_S == 0).all()))
    # Rows of an embedding whose tokens are absent have no gradient by right.
    mostly = [
        row
        for row in _rows_where(zeros, lambda recent_S: bool(np.median(recent_S) >= DEAD_SHARE))
        if row.kind != "embedding"
    ]
    dead = unique(row.name for row in (*silent, *mostly))
    if not dead:
        return None
    layers = unique(row.layer for row in (*silent, *mostly))
    view = {"view": "layers", "quantity": "grad_zero_fraction" if mostly else "grad_rms"}
    parts = []
    if silent:
        parts.append(f"the gradient is exactly zero in {listed([r.name for r in silent])}")
    nearly = [row.name for row in mostly if row not in silent]
    if nearly:
        parts.append(f"at least {percent(DEAD_SHARE)} of it is zero in {listed(nearly)}")
    text = "; ".join(parts)
    return Finding(
        "dead",
        "warning",
        f"{counted(len(layers), 'layer')} {'learns' if len(layers) == 1 else 'learn'} next to "
        "nothing.",
        f"In the last captures, {text}. Dead units, a frozen or unused part, or a loss that does "
        "not reach it would show like this.",
        layers=layers,
        view=view,
    )


def _rows_where(table: Table | None, holds: Callable[[Array], bool]) -> list[Row]:
    """The parameters for whose values in the last captures something holds."""
    if table is None:
        return []
    found = []
    for column, row in enumerate(table.rows):
        values_S = table.values_SL[:, column]
        recent_S = values_S[~np.isnan(values_S)][-RECENT:]
        # Parts behind a factor that starts at zero get their first gradient a few steps in.
        if not row.is_group and len(recent_S) == RECENT and holds(recent_S):
            found.append(row)
    return found
