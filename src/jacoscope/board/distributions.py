"""``/data/distribution`` and ``/data/quantiles``: over a parameter's scalars, and over samples.

Shape suffixes: S steps, L rows, N bins, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jacoscope.board.catalogue import Tag
from jacoscope.board.endpoint import Answer, Asked, Endpoint, Plan, states_of
from jacoscope.board.fields import listing, number, text
from jacoscope.board.mistakes import NotRecordedError, shown
from jacoscope.board.nearest import nearest_step
from jacoscope.board.recording import Recording
from jacoscope.board.reductions import column_starts, quantile_columns
from jacoscope.board.series import column_arrays, in_span
from jacoscope.board.track import Track
from jacoscope.errors import nearest
from jacoscope.filled_bins import unpack

__all__ = ["DISTRIBUTION", "QUANTILES"]

_HISTOGRAM, _QUANTILES = "grad_histogram", ".sample_quantiles"
_STEPS = 1000
_POINTS, _FEWEST, _MOST = 600, 2, 5000


_NAMED = {_HISTOGRAM: "histogram", _QUANTILES: "sample norms"}


def _tags_with(recording: Recording, name: str, row: str) -> list[Tag]:
    """The tags that hold a row; none if the run has the row, but not of this."""
    tags = recording.group.of(name)
    found = [tag for tag in tags if row in tag.names]
    if not found and not any(row in tag.names for tag in recording.group.tags):
        known = [name for tag in tags for name in tag.names]
        raise NotRecordedError(
            f"the run has no {_NAMED[name]} of {shown(row)}; {nearest(row, known)}"
        )
    return found


def _absent(name: str, row: str, shapes: Mapping[str, tuple[int, ...]]) -> Answer:
    """That a row has none of this, which is no mistake of who asks: rules may differ by row."""
    told = f"the run has no {_NAMED[name]} of {row}: its rule does not ask for what they need"
    arrays = {key: np.empty(shape) for key, shape in shapes.items()}
    return Answer({"row": row, "absent": told}, arrays)


def _plan_distribution(asked: Asked) -> Plan:
    row, step = asked.query.text("row"), asked.query.integer("step")
    recording = asked.recording()
    tags = _tags_with(recording, _HISTOGRAM, row)
    states = states_of([*tags, *recording.tags()])
    if not tags:
        nothing = {"edges": (0,), "counts": (0,)}
        return Plan(states, lambda: _absent(_HISTOGRAM, row, nothing))
    return Plan(states, lambda: _distribution(recording, tags, row, step))


def _distribution(recording: Recording, tags: list[Tag], row: str, asked: int | None) -> Answer:
    by_step: dict[int, tuple[Tag, Track, int]] = {}
    for tag in tags:
        track = recording.track(tag)
        by_step.update(
            {step: (tag, track, place) for place, step in enumerate(track.steps_S.tolist())}
        )
    steps = sorted(by_step)
    if not steps:
        raise NotRecordedError(f"the run has no histogram of {shown(row)} yet")
    step = nearest_step(steps, asked)
    tag, track, place = by_step[step]
    edges = np.array([number(edge) for edge in listing(tag.schema, "edges")], np.float64)
    kept = np.asarray(track.values_S[place], np.float64)
    counts_LN = unpack(kept, len(tag.names), len(edges) - 1)
    if counts_LN is None:
        raise NotRecordedError(f"the histograms of step {step} are damaged")
    thinning = column_starts(len(steps), _STEPS).tolist()
    meta = {
        "row": row,
        "step": step,
        "steps": [steps[place] for place in thinning],
        "thinned": len(thinning) < len(steps) or track.is_thinned,
        "unit": "loss per unit of parameter",
    }
    counts = counts_LN[tag.names.index(row)]
    return Answer(meta, {"edges": edges, "counts": counts})


def _plan_quantiles(asked: Asked) -> Plan:
    query = asked.query
    row, span = query.text("row"), query.span()
    points = query.count("points", _POINTS, _FEWEST, _MOST)
    recording = asked.recording()
    tags = _tags_with(recording, _QUANTILES, row)
    states = states_of([*tags, *recording.tags()])
    if not tags:
        nothing = {"step": (0,), "values": (0, 0)}
        return Plan(states, lambda: _absent(_QUANTILES, row, nothing))
    return Plan(states, lambda: _quantiles(recording, tags, row, span, points))


def _quantiles(
    recording: Recording,
    tags: list[Tag],
    row: str,
    span: tuple[int | None, int | None],
    points: int,
) -> Answer:
    quantiles = [number(q) for q in listing(tags[0].schema, "quantiles")]
    by_step: dict[int, Any] = {}
    is_thinned = False
    for tag in tags:
        track = recording.track(tag)
        is_thinned |= track.is_thinned
        shape = (len(tag.names), len(quantiles))
        column = tag.names.index(row)
        for step, value in zip(track.steps_S.tolist(), track.values_S, strict=True):
            if getattr(value, "shape", ()) == shape:
                by_step[step] = value[column]
    steps_S = np.array(sorted(by_step), np.int64)
    start, stop = in_span(steps_S, span)
    steps_S = steps_S[start:stop]
    starts_B = column_starts(len(steps_S), points)
    rows = [by_step[step] for step in steps_S.tolist()]
    values_SQ = np.array(rows, np.float64).reshape(len(rows), len(quantiles))
    meta = {
        "row": row,
        "quantiles": quantiles,
        "unit": text(tags[0].schema, "unit"),
        "thinned": is_thinned,
        "binned": len(starts_B) < len(steps_S),
    }
    columns = column_arrays(steps_S, starts_B)
    return Answer(meta, {**columns, "values": quantile_columns(values_SQ, starts_B)})


DISTRIBUTION = Endpoint(_plan_distribution, ("run", "group", "row", "step"), sends_arrays=True)
QUANTILES = Endpoint(
    _plan_quantiles, ("run", "group", "row", "from", "to", "points"), sends_arrays=True
)
