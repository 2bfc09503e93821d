"""The headline scalars of a run over its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.board.fields import listing
from jacoscope.board.recording import Recording
from jacoscope.board.track import Steps

__all__ = ["Headline", "headline_of"]


@dataclass(frozen=True, eq=False)
class Headline:
    """Scalars on the whole model.

    Args:
        names: What each is called.
        titles: The same for a person.
        units: Their units.
        steps_S: Steps, increasing.
        values_SL: Values by step and scalar; ``nan`` also where there is none.
        present_SL: Where there is a value.
    """

    names: tuple[str, ...]
    titles: tuple[str, ...]
    units: tuple[str, ...]
    steps_S: Steps
    values_SL: npt.NDArray[Any]
    present_SL: npt.NDArray[np.bool_]

    def series(self, name: str) -> tuple[Steps, npt.NDArray[Any]]:
        """The steps and values of one scalar; empty if there is none of that name."""
        if name not in self.names:
            return np.empty(0, np.int64), np.empty(0)
        column = self.names.index(name)
        there = self.present_SL[:, column]
        return self.steps_S[there], self.values_SL[there, column]

    def last(self, name: str) -> tuple[int, float] | None:
        """The step and the value that a scalar had last."""
        steps, values = self.series(name)
        return (int(steps[-1]), float(values[-1])) if len(steps) else None


def headline_of(recording: Recording) -> Headline:
    """The headline, from as many tags as scalars came and went."""
    parts = []
    described: dict[str, tuple[str, str]] = {}
    tracks = recording.tracks(".headline")
    # Those of captures before those of probes, and the longest list first, for its order.
    for tag, track in sorted(tracks, key=lambda found: (found[0].is_probe, -len(found[0].names))):
        names = tag.names
        values = track.values_S
        if values.dtype == object or values.ndim != 2 or values.shape[1] != len(names):
            continue
        titles, units = listing(tag.schema, "titles"), listing(tag.schema, "units")
        for place, name in enumerate(names):
            title = str(titles[place]) if place < len(titles) else name
            unit = str(units[place]) if place < len(units) else ""
            described.setdefault(name, (title, unit))
        parts.append((names, track))
    steps = [track.steps_S for _, track in parts]
    steps_S = np.unique(np.concatenate(steps)) if steps else np.empty(0, np.int64)
    columns = {name: column for column, name in enumerate(described)}
    values_SL = np.full((len(steps_S), len(columns)), np.nan)
    present_SL = np.zeros(values_SL.shape, bool)
    for names, track in parts:
        chosen = np.array([columns[name] for name in names])
        places = np.ix_(np.searchsorted(steps_S, track.steps_S), chosen)
        values_SL[places] = track.values_S
        present_SL[places] = True
    return Headline(
        tuple(described),
        tuple(title for title, _ in described.values()),
        tuple(unit for _, unit in described.values()),
        steps_S,
        values_SL,
        present_SL,
    )
