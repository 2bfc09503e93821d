"""What the gradients of the layers say.

Shape suffixes: S steps, R rows, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.board.findings._finding import (
    Finding,
    Severity,
    counted,
    said,
    unique,
)
from jacoscope.board.table import Row, Table

__all__ = [
    "NOTABLE_SPREAD",
    "RECENT",
    "RISE",
    "WIDE_SPREAD",
    "by_layer",
    "non_finite",
    "risen",
    "spread",
]

Array = npt.NDArray[Any]

RECENT = 10
"""How many of the last captures count as now: so many that no single batch decides, and as many as
the running mean of the noise scale looks back on."""

NOTABLE_SPREAD, WIDE_SPREAD = 2.0, 4.0
"""Decades between the layers with the smallest and the largest gradients. By two, one learning rate
serves plain gradient descent badly. By four, as for the alert on vanishing gradients, some weights
would need ten thousand times the learning rate of others; where gradients shrink from layer to
layer by a constant factor, it takes some tens of layers to get there (Glorot and Bengio, AISTATS
2010, section 4, has the spread, and no threshold)."""

RISE = 2.0
"""Decades by which a layer's gradient has grown over the run. Gradients vary by a few times from
step to step (Pascanu et al., arXiv:1211.5063, section 3.2); a hundredfold is more than that."""

_SCALED = ("16", "16-mixed")
"""Precisions in which the Trainer scales the loss, and lowers the scale when a gradient overflows
(Micikevicius et al., arXiv:1710.03740, section 3.2)."""

_DEPTH_CORRELATION = 0.5
"""Rank correlation of depth and gradient from which on the spread has a direction."""


def by_layer(table: Table) -> tuple[tuple[str, ...], Array]:
    """A root mean square by layer, from those of its parameters: √(Σ n·rms² / Σ n).

    Args:
        table: ``grad_rms`` by parameter.

    Returns:
        The layers, and their values by step, shape (S, L); ``nan`` where a layer has none.
    """
    columns: dict[str, list[int]] = {}
    for column, row in enumerate(table.rows):
        if not row.is_group:
            columns.setdefault(row.layer, []).append(column)
    there_SR = ~np.isnan(table.values_SL) if table.present_SL is None else table.present_SL
    values_SL = np.full((len(table.steps_S), len(columns)), np.nan)
    for place, own in enumerate(columns.values()):
        sizes = np.array([max(1, table.rows[column].size) for column in own], np.float64)
        weights = np.where(there_SR[:, own], sizes, 0.0)
        squares = np.where(there_SR[:, own], table.values_SL[:, own].astype(np.float64) ** 2, 0.0)
        with np.errstate(all="ignore"):
            values_SL[:, place] = np.sqrt((weights * squares).sum(1) / weights.sum(1))
    return tuple(columns), values_SL


def non_finite(
    rows: Sequence[Row], steps_S: Array, bad_SR: npt.NDArray[np.bool_], precision: str = ""
) -> Finding | None:
    """Where gradients first were not finite, or that all were.

    Args:
        rows: What the columns are of.
        steps_S: Captured steps.
        bad_SR: Where a gradient was not finite.
        precision: The Trainer's precision setting.
    """
    if not len(steps_S):
        return None
    affected_S = bad_SR.any(axis=1)
    view = {"view": "layers", "quantity": "grad_nonfinite"}
    if not affected_S.any():
        captures = counted(len(steps_S), "captured step")
        return Finding(
            "non_finite", "good", "All gradients are finite.", f"In {captures}.", view=view
        )
    first, last = np.flatnonzero(affected_S)[[0, -1]]
    start, end = int(steps_S[first]), int(steps_S[last])
    count = int(affected_S.sum())
    once = (
        f"Only step {start} is affected"
        if count == 1
        else (
            f"First at step {start}, last at step {end}; {count:,} of {len(steps_S):,} captured "
            "steps are affected"
        )
    )
    scaled = precision in _SCALED
    excuse = (
        " With loss scaling some are expected: those steps are skipped and the scale is lowered."
        if scaled
        else ""
    )
    return Finding(
        "non_finite",
        "warning" if scaled else "alert",
        f"Gradients are not finite at step {start}.",
        f"{once}. The layers that showed it first are where to look.{excuse}",
        start,
        unique(rows[c].layer for c in np.flatnonzero(bad_SR[first]).tolist() if rows[c].layer),
        view,
    )


def spread(layers: Sequence[str], late_SL: Array) -> Finding | None:
    """How far apart the layers' gradients are in the last captures.

    Args:
        layers: The layers in the model's order.
        late_SL: Their root mean square gradients in the last captures.
    """
    medians_L = _medians(late_SL[::-1])
    known = np.flatnonzero(np.isfinite(medians_L) & (medians_L > 0))
    if len(known) < 2:
        return None
    logs = np.log10(medians_L[known])
    low, high = int(known[np.argmin(logs)]), int(known[np.argmax(logs)])
    decades = float(logs.max() - logs.min())
    factor = said(10**decades, 2)
    numbers = (
        "In the last captures, the layers' root mean square gradients go from "
        f"{said(medians_L[low])} in {layers[low]} to {said(medians_L[high])} in {layers[high]}, "
        f"a factor of {factor}"
    )
    view = {"view": "layers", "quantity": "grad_rms"}
    if decades < NOTABLE_SPREAD:
        title = "No layer's gradient vanishes or explodes against the others."
        return Finding("spread", "good", title, f"{numbers}.", view=view)
    severity: Severity = "warning" if decades >= WIDE_SPREAD else "note"
    title = f"Layers' gradients are {decades:.1f} decades apart."
    return Finding("spread", severity, title, f"{numbers}{_direction(logs)}.", view=view)


def _direction(logs_L: Array) -> str:
    """How the gradients go with depth, where they do."""
    ranks = np.argsort(np.argsort(logs_L, kind="stable"), kind="stable")
    depth = np.arange(len(logs_L))
    if len(logs_L) < 3 or logs_L.max() == logs_L.min():
        return ""
    correlation = float(np.corrcoef(ranks, depth)[0, 1])
    if correlation > _DEPTH_CORRELATION:
        return "; they shrink towards the first layers, as vanishing gradients do"
    if correlation < -_DEPTH_CORRELATION:
        return "; they grow towards the first layers, as exploding gradients do"
    return "; they do not go with depth"


def risen(layers: Sequence[str], early_SL: Array, late_SL: Array) -> Finding | None:
    """Layers whose gradients have grown by orders of magnitude over the run.

    Args:
        layers: The layers.
        early_SL: Their root mean square gradients in the first captures.
        late_SL: Those in the last.
    """
    with np.errstate(all="ignore"):
        decades_L = np.log10(_medians(late_SL[::-1]) / _medians(early_SL))
    grown = np.flatnonzero(np.isfinite(decades_L) & (decades_L >= RISE))
    if not len(grown):
        return None
    grown = grown[np.argsort(-decades_L[grown], kind="stable")]
    most = int(grown[0])
    text = (
        f"Most in {layers[most]}, by a factor of {said(10 ** float(decades_L[most]), 2)} from the "
        f"first captures to the last."
    )
    return Finding(
        "risen",
        "warning",
        f"The gradients of {counted(len(grown), 'layer')} have grown more than "
        f"{said(10**RISE)}-fold over the run.",
        text,
        layers=tuple(layers[place] for place in grown.tolist()),
        view={"view": "layers", "quantity": "grad_rms"},
    )


def _medians(values_SL: Array) -> Array:
    """By layer, the median of the first captures that have a value; ``nan`` where none has."""
    medians_L = np.full(values_SL.shape[1], np.nan)
    for layer, values_S in enumerate(values_SL.T):
        known_S = values_S[~np.isnan(values_S)][:RECENT]
        if len(known_S):
            medians_L[layer] = np.median(known_S)
    return medians_L
