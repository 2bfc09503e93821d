"""``/data/series``: a quantity over steps and rows, in as many columns as a picture can show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.board.catalogue import Tag
from jacoscope.board.endpoint import Answer, Asked, Endpoint, Plan, states_of
from jacoscope.board.fields import text
from jacoscope.board.mistakes import BadQueryError, NotRecordedError
from jacoscope.board.recording import Recording
from jacoscope.board.reductions import column_starts, extremes, to_float32
from jacoscope.board.table import Table, rows_of, table_of

__all__ = ["SERIES", "column_arrays", "in_span"]

_POINTS, _FEWEST, _MOST = 600, 2, 5000


def _plan(asked: Asked) -> Plan:
    query = asked.query
    recording = asked.recording()
    name = query.text("quantity")
    tags = recording.group.quantity(name)
    if any("edges" in tag.schema for tag in tags):
        raise BadQueryError(f"{name} has many values per row; ask /data/distribution for them")
    span = query.span()
    points = query.count("points", _POINTS, _FEWEST, _MOST)
    chosen = query.indices("rows")
    rows = len(rows_of(tags, ()))
    if chosen is not None and max(chosen) >= rows:
        raise NotRecordedError(f"row {max(chosen)} of {name} does not exist; it has {rows} rows")
    errors = tuple(t for t in recording.group.of(".error") if t.schema.get("of") == name)
    needed = {*recording.tags(".run", ".status", ".probe"), *tags, *errors}
    states = sorted(states_of(needed))
    return Plan(states, lambda: _answer(recording, tags, errors, span, points, chosen))


def _answer(
    recording: Recording,
    tags: tuple[Tag, ...],
    errors: tuple[Tag, ...],
    span: tuple[int | None, int | None],
    points: int,
    chosen: tuple[int, ...] | None,
) -> Answer:
    whole = table_of(recording, tags)
    index = range(len(whole.rows)) if chosen is None else chosen
    start, stop = in_span(whole.steps_S, span)
    table = whole.between(start, stop)
    table = table if chosen is None else table.only(chosen)
    starts_B = column_starts(len(table.steps_S), points)
    binned = len(starts_B) < len(table.steps_S)
    reduced = extremes(table.values_SL, starts_B, table.present_SL)
    arrays: dict[str, npt.NDArray[Any]] = {
        **column_arrays(table.steps_S, starts_B),
        "low": reduced.low_LB,
        "high": reduced.high_LB,
        "flags": reduced.flags_LB,
    }
    if errors and not binned:
        arrays["error"] = _errors(recording, errors, table)
    return Answer({**_about(recording, tags, whole, table, index), "binned": binned}, arrays)


def _about(
    recording: Recording, tags: tuple[Tag, ...], whole: Table, table: Table, index: Any
) -> Mapping[str, Any]:
    schema = tags[0].schema
    name = tags[0].quantity
    steps = whole.steps_S
    return {
        "run": recording.group.run,
        "group": recording.group.group,
        "quantity": name,
        "title": text(schema, "title", name),
        "unit": text(schema, "unit"),
        "log": schema.get("log") is True,
        "probe": tags[0].is_probe,
        "rows": [
            {"name": r.name, "layer": r.layer, "kind": r.kind, "size": r.size, "index": i}
            for i, r in zip(index, table.rows, strict=True)
        ],
        "steps_total": len(steps),
        "steps_in_range": len(table.steps_S),
        "first_step": int(steps[0]) if len(steps) else None,
        "last_step": int(steps[-1]) if len(steps) else None,
        "thinned": whole.is_thinned,
    }


def in_span(steps_S: npt.NDArray[Any], span: tuple[int | None, int | None]) -> tuple[int, int]:
    """The places of the first step in a span and of the first one after it."""
    first, last = span
    start = 0 if first is None else int(np.searchsorted(steps_S, first, side="left"))
    stop = len(steps_S) if last is None else int(np.searchsorted(steps_S, last, side="right"))
    return start, max(start, stop)


def column_arrays(
    steps_S: npt.NDArray[Any], starts_B: npt.NDArray[np.intp]
) -> dict[str, npt.NDArray[Any]]:
    """Which steps each column holds: the first, the last, how many."""
    ends_B = np.append(starts_B[1:], len(steps_S))[: len(starts_B)]
    return {
        "step": steps_S[starts_B].astype(np.float64),
        "step_last": steps_S[ends_B - 1].astype(np.float64),
        "count": (ends_B - starts_B).astype(np.int32),
    }


def _errors(recording: Recording, tags: tuple[Tag, ...], table: Table) -> npt.NDArray[np.float32]:
    """Standard errors of the values of a table, ``nan`` where there is none."""
    found = table_of(recording, tags)
    errors_SL = np.full(table.values_SL.shape, np.nan)
    column_of = {row.name: column for column, row in enumerate(found.rows)}
    steps, here, there = np.intersect1d(table.steps_S, found.steps_S, return_indices=True)
    for column, row in enumerate(table.rows):
        if row.name in column_of and len(steps):
            errors_SL[here, column] = found.values_SL[there, column_of[row.name]]
    return to_float32(errors_SL.T)


SERIES = Endpoint(
    _plan, ("run", "group", "quantity", "from", "to", "points", "rows"), sends_arrays=True
)
