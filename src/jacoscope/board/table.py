"""A quantity over all its rows, from however many tags it is recorded in.

A tag has a fixed list of rows; a run whose rows change, or rows with schedules of their own, take
several. Shape suffixes: S steps, L rows, N values of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.board.catalogue import Tag
from jacoscope.board.fields import listing, mapping, mappings, text
from jacoscope.board.recording import Recording
from jacoscope.board.track import Steps, Track

__all__ = ["Row", "Table", "order_of", "rows_of", "table_of"]

_GROUP_KINDS = ("all", "group", "layer")


@dataclass(frozen=True)
class Row:
    """What a value is of.

    Args:
        name: A parameter, or several taken together.
        layer: The layer that owns it.
        kind: What it is for; ``all``, ``group`` and ``layer`` are several taken together.
        size: Number of scalars.
    """

    name: str
    layer: str
    kind: str
    size: int

    @property
    def is_group(self) -> bool:
        """Whether it is several parameters taken together."""
        return self.kind in _GROUP_KINDS


@dataclass(frozen=True, eq=False)
class Table:
    """A quantity by step and row.

    Args:
        rows: What the columns are of.
        steps_S: Steps, increasing.
        values_SL: Values; ``nan`` also where there is none.
        present_SL: Where there is a value; ``None`` if everywhere.
        is_thinned: Whether steps were left out at random.
    """

    rows: tuple[Row, ...]
    steps_S: Steps
    values_SL: npt.NDArray[Any]
    present_SL: npt.NDArray[np.bool_] | None
    is_thinned: bool

    def last(self, steps: int) -> Table:
        """Only the last so many steps."""
        return self.between(max(0, len(self.steps_S) - steps), len(self.steps_S))

    def between(self, start: int, stop: int) -> Table:
        """Only the steps from one place to before another."""
        present = None if self.present_SL is None else self.present_SL[start:stop]
        steps, values = self.steps_S[start:stop], self.values_SL[start:stop]
        return Table(self.rows, steps, values, present, self.is_thinned)

    def only(self, columns: Sequence[int]) -> Table:
        """Only some rows."""
        index = list(columns)
        present = None if self.present_SL is None else self.present_SL[:, index]
        rows = tuple(self.rows[column] for column in index)
        return Table(rows, self.steps_S, self.values_SL[:, index], present, self.is_thinned)


def rows_of(tags: Sequence[Tag], order: Sequence[str]) -> tuple[Row, ...]:
    """The rows of some tags together: parameters in the model's order, then groups.

    Args:
        tags: The tags.
        order: The model's parameters, in its order.
    """
    found: dict[str, Row] = {}
    for tag in tags:
        for row in _rows(tag):
            found.setdefault(row.name, row)
    places = {name: place for place, name in enumerate(order)}
    last = len(places)
    # Sorting is stable: rows that the model does not name stay as they were recorded.
    return tuple(sorted(found.values(), key=lambda r: (r.is_group, places.get(r.name, last))))


def order_of(recording: Recording) -> list[str]:
    """The watched parameters in the model's order."""
    watched = mappings(recording.last_text(".run"), "parameters")
    return [text(item, "parameter") for item in watched]


def table_of(recording: Recording, tags: Sequence[Tag], most: int | None = None) -> Table:
    """A quantity over all its rows.

    Args:
        recording: The run.
        tags: The tags of the quantity.
        most: How many steps of each tag are enough; all by default.
    """
    rows = rows_of(tags, order_of(recording))
    parts = [(tag, *_sound(recording.track(tag, most), tag)) for tag in tags]
    parts = [part for part in parts if len(part[1].steps_S)]
    thinned = any(track.is_thinned for _, track, _ in parts)
    if not parts:
        nothing = np.empty((0, len(rows)))
        return Table(rows, np.empty(0, np.int64), nothing, None, False)
    names = [row.name for row in rows]
    steps_S = np.unique(np.concatenate([track.steps_S for _, track, _ in parts]))
    first, track, values = parts[0]
    if len(parts) == 1 and first.names == names:
        table = Table(rows, track.steps_S, values, None, thinned)
    else:
        table = _united(rows, steps_S, parts, thinned)
    return _without_missing(table, recording, tags[0])


def _united(
    rows: tuple[Row, ...],
    steps_S: Steps,
    parts: Sequence[tuple[Tag, Track, npt.NDArray[Any]]],
    thinned: bool,
) -> Table:
    column_of = {row.name: column for column, row in enumerate(rows)}
    dtype = np.result_type(*(values.dtype for _, _, values in parts))
    united_SL = np.full((len(steps_S), len(rows)), np.nan, dtype)
    present_SL = np.zeros(united_SL.shape, bool)
    for tag, track, values in parts:
        columns = np.array([column_of[name] for name in tag.names])
        places = np.ix_(np.searchsorted(steps_S, track.steps_S), columns)
        united_SL[places] = values
        present_SL[places] = True
    return Table(rows, steps_S, united_SL, None if present_SL.all() else present_SL, thinned)


def _sound(track: Track, tag: Tag) -> tuple[Track, npt.NDArray[Any]]:
    """The values with one number for each of the tag's names; what is damaged is left out."""
    rows, values = len(tag.names), track.values_S
    if values.dtype != object:
        if values.ndim == 2 and values.shape[1] == rows:
            return track, values
        kept = np.zeros(len(values), bool)
    else:
        kept = np.array([getattr(value, "shape", ()) == (rows,) for value in values], bool)
    sound = track.where(kept)
    stacked = np.stack(list(sound.values_S)) if kept.any() else np.empty((0, rows))
    return sound, stacked.astype(np.float64)


def _without_missing(table: Table, recording: Recording, tag: Tag) -> Table:
    """Tell values that could not be had, recorded as nan, from a nan that was measured."""
    if not np.isnan(table.values_SL).any():
        return table
    present_SL = (
        np.ones(table.values_SL.shape, bool) if table.present_SL is None else table.present_SL
    )
    columns = {row.name: column for column, row in enumerate(table.rows)}
    told = recording.texts(".probe" if tag.is_probe else ".status")
    for place, (step, record) in enumerate(told):
        missing = mapping(mapping(record, "missing"), tag.quantity)
        absent = [columns[name] for name in missing if name in columns]
        if not absent:
            continue
        until = step + 1 if tag.is_probe else told[place + 1][0] if place + 1 < len(told) else None
        start = int(np.searchsorted(table.steps_S, step))
        stop = len(table.steps_S) if until is None else int(np.searchsorted(table.steps_S, until))
        present_SL[start:stop, absent] &= ~np.isnan(table.values_SL[start:stop, absent])
    everywhere = bool(present_SL.all())
    return Table(
        table.rows,
        table.steps_S,
        table.values_SL,
        None if everywhere else present_SL,
        table.is_thinned,
    )


def _rows(tag: Tag) -> list[Row]:
    names = tag.names
    layers, kinds = listing(tag.schema, "layers"), listing(tag.schema, "kinds")
    sizes = listing(tag.schema, "sizes")
    return [
        Row(
            name,
            str(layers[place]) if layers else name,
            str(kinds[place]) if kinds else "",
            sizes[place] if sizes and isinstance(sizes[place], int) else 0,
        )
        for place, name in enumerate(names)
    ]
