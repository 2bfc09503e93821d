"""The findings of a run: what each is made of, read from the record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.board.fields import mapping, mappings, text, texts
from jacoscope.board.findings._alerts import raised
from jacoscope.board.findings._coverage import coverage, lost_coverage, not_measured
from jacoscope.board.findings._dead import dead_layers
from jacoscope.board.findings._finding import Finding, in_order
from jacoscope.board.findings._gradients import (
    RECENT,
    by_layer,
    non_finite,
    risen,
    spread,
)
from jacoscope.board.findings._probes import allocation, no_probes, probed_step
from jacoscope.board.findings._samples import agreement, no_samples, noise
from jacoscope.board.findings._updates import pace
from jacoscope.board.headline import Headline
from jacoscope.board.known import FAMILIES
from jacoscope.board.missing import Gap
from jacoscope.board.recording import Recording
from jacoscope.board.table import Row, Table, table_of

__all__ = ["findings_of"]

_SAMPLE_QUANTITIES = tuple(
    name for family in ("Samples", "Noise", "Agreement", "Fisher") for name in FAMILIES[family]
)
_AGREEMENT = ("coherence", "grad_diversity", "sample_alignment", "sample_opposed")
_GRADIENTS = ("grad_nonfinite", "grad_rms", "grad_norm")
"""Quantities that show a gradient that is not finite."""

_ALL = "(all)"
_WINDOW = 10 * RECENT
"""How many captures are looked through for the last ones of a row; rows may have schedules of their
own, which are due more seldom."""

_CAPTURES = 1000
"""How many captures are drawn for what is said of the last ones and of the first: all of them in
most runs, and of very long ones enough to be read at once."""


def findings_of(recording: Recording, headline: Headline, gaps: Sequence[Gap]) -> list[Finding]:
    """What a run says in plain words, the gravest first.

    Args:
        recording: The run.
        headline: Its headline scalars.
        gaps: What is missing in it.
    """
    tables = _Tables(recording)
    parts = (
        raised(recording.lists(".alerts")),
        _gradients(recording, headline, tables),
        _coverage(recording, headline),
        not_measured(gaps),
        _samples(recording, headline, tables, gaps),
        _probes(recording),
    )
    found = [finding for part in parts for finding in part if finding is not None]
    return in_order(_pointing_at_what_is_there(finding, recording) for finding in found)


def _pointing_at_what_is_there(finding: Finding, recording: Recording) -> Finding:
    """The finding, without a view of a quantity that is not recorded."""
    quantity = (finding.view or {}).get("quantity")
    if quantity is None or recording.group.has(quantity):
        return finding
    if finding.kind == "non_finite":
        other = next((name for name in _GRADIENTS if recording.group.has(name)), None)
        if other is not None:
            return replace(finding, view={"view": "layers", "quantity": other})
    return replace(finding, view=None)


class _Tables:
    """Quantities of the run by step and row, each read once."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._read: dict[tuple[str, int | None], Table] = {}

    def get(self, name: str, most: int | None = _CAPTURES) -> Table | None:
        """A quantity; ``None`` if it is not recorded.

        Args:
            name: The quantity.
            most: How many captures are enough; ``None`` for all.
        """
        tags = self._recording.group.of(name)
        if not tags:
            return None
        key = name, most
        if key not in self._read:
            self._read[key] = table_of(self._recording, tags, most)
        table = self._read[key]
        return table if len(table.steps_S) else None

    def late(self, name: str) -> Table | None:
        """The last captures of a quantity; ``None`` if it is not recorded."""
        table = self.get(name)
        return None if table is None else table.last(_WINDOW)

    def of_row(self, name: str, row: str) -> npt.NDArray[Any]:
        """The values of a row by step; none if it is not recorded."""
        table = self.get(name)
        columns = [c for c, r in enumerate(table.rows) if r.name == row] if table else []
        return table.values_SL[:, columns[0]] if table and columns else np.empty(0)


def _gradients(
    recording: Recording, headline: Headline, tables: _Tables
) -> Iterator[Finding | None]:
    yield _non_finite(recording, headline, tables)
    rms = tables.get("grad_rms")
    # Of gradients that are not finite there is no more to say than where they began.
    if rms is not None and _ends_finite(rms):
        layers, late_SL = by_layer(rms.last(_WINDOW))
        yield spread(layers, late_SL)
        if len(rms.steps_S) >= 2 * RECENT:
            yield risen(layers, by_layer(rms.between(0, _WINDOW))[1], late_SL)
    yield dead_layers(
        tables.late("grad_rms") or tables.late("grad_norm"), tables.late("grad_zero_fraction")
    )
    ratio = tables.late("update_ratio")
    yield None if ratio is None else pace(ratio)


def _ends_finite(table: Table) -> bool:
    """Whether what the last capture has is finite."""
    finite_R = np.isfinite(table.values_SL[-1])
    present_SR = table.present_SL
    return bool((finite_R if present_SR is None else finite_R | ~present_SR[-1]).all())


def _non_finite(recording: Recording, headline: Headline, tables: _Tables) -> Finding | None:
    """From the counts of non-finite gradients, or else from norms that are not finite."""
    status = recording.last_text(".status")
    precision = text(mapping(status, "gradient"), "precision")
    steps_S, counts_S = headline.series("grad_nonfinite")
    if len(steps_S) and not (counts_S > 0).any():
        return non_finite((), steps_S, np.zeros((len(steps_S), 0), bool), precision)
    for name in _GRADIENTS:
        table = tables.get(name, most=None)
        if table is None:
            continue
        bad_SR = table.values_SL > 0 if name == "grad_nonfinite" else ~np.isfinite(table.values_SL)
        if table.present_SL is not None:
            bad_SR &= table.present_SL
        return non_finite(table.rows, table.steps_S, bad_SR, precision)
    whole = Row("", "", "all", 0)
    return non_finite((whole,), steps_S, (counts_S > 0)[:, None], precision)


def _coverage(recording: Recording, headline: Headline) -> Iterator[Finding | None]:
    described = recording.last_text(".run")
    without_samples = [
        {**item, "reason": "no per-sample quantity is asked for"}
        for item in mappings(described, "parameters")
        if not set(texts(item, "quantities")).intersection(_SAMPLE_QUANTITIES)
    ]
    left_out = mappings(described, "left_out")
    outside = {"coverage": left_out, "sample_coverage": [*left_out, *without_samples]}
    for name, items in outside.items():
        last = headline.last(name)
        if last is not None:
            yield coverage(name, last[1], items)
            yield lost_coverage(name, *headline.series(name))


def _samples(
    recording: Recording, headline: Headline, tables: _Tables, gaps: Sequence[Gap]
) -> Iterator[Finding | None]:
    asked = recording.group.has(*_SAMPLE_QUANTITIES, ".samples")
    if not asked and not any(gap.quantity in _SAMPLE_QUANTITIES for gap in gaps):
        yield no_samples()
        return
    # The last batch of an epoch may be smaller than the others.
    counts_S = headline.series("sample_count")[1][-RECENT:]
    samples = float(np.median(counts_S)) if len(counts_S) else None
    scale = headline.last("noise_scale")
    if scale is not None:
        yield noise(scale[1], samples, scale[0])
    yield agreement({name: _recent(headline, tables, name) for name in _AGREEMENT}, samples)


def _recent(headline: Headline, tables: _Tables, name: str) -> float:
    """The median of the last captures on the whole model: of the headline, or else of its row."""
    values_S = headline.series(name)[1] if name in headline.names else tables.of_row(name, _ALL)
    recent_S = values_S[~np.isnan(values_S)][-RECENT:]
    return float(np.median(recent_S)) if len(recent_S) else float("nan")


def _probes(recording: Recording) -> Iterator[Finding | None]:
    told = recording.texts(".probe")
    if not told:
        yield no_probes()
        return
    stepped = [(step, mapping(record, "all_else_equal")) for step, record in told]
    allocated = [(step, mapping(record, "allocation")) for step, record in told]
    yield from (probed_step(*found) for found in [f for f in stepped if f[1]][-1:])
    yield from (allocation(*found) for found in [f for f in allocated if f[1]][-1:])
