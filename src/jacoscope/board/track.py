"""The values of one tag over steps, of which the last written count.

Shape suffixes: S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Steps", "Track", "is_overwritten", "last_written"]

Steps = npt.NDArray[np.int64]
Walls = npt.NDArray[np.float64]

_LATE = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Track:
    """The values of a tag, by step.

    Args:
        steps_S: Steps, increasing.
        walls_S: When each was written.
        values_S: The values: one array whose first dimension is S, or, if their shapes differ or
            they are texts, an array of objects.
        is_thinned: Whether steps were left out at random, since all are too many to send.
    """

    steps_S: Steps
    walls_S: Walls
    values_S: npt.NDArray[Any]
    is_thinned: bool = False

    @classmethod
    def of(
        cls,
        steps: Sequence[int],
        walls: Sequence[float],
        values: Sequence[npt.NDArray[Any]],
        is_thinned: bool = False,
    ) -> Track:
        """From values in any order, some of which may have been written anew."""
        walls_S = np.asarray(walls, dtype=np.float64)
        order = np.argsort(walls_S, kind="stable")
        steps_S = np.asarray(steps, dtype=np.int64)[order]
        kept = order[last_written(steps_S)]
        return cls(
            np.asarray(steps, dtype=np.int64)[kept],
            walls_S[kept],
            _together([values[index] for index in kept.tolist()]),
            is_thinned,
        )

    def where(self, kept: npt.NDArray[np.bool_]) -> Track:
        """Those of some steps."""
        if kept.all():
            return self
        return Track(self.steps_S[kept], self.walls_S[kept], self.values_S[kept], self.is_thinned)

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        data = self.values_S
        inner = sum(_size(value) for value in data.flat) if data.dtype == object else 0
        return int(data.nbytes + self.steps_S.nbytes + self.walls_S.nbytes + inner)


def last_written(steps_S: Steps) -> npt.NDArray[np.bool_]:
    """Which values count, of values in the order of writing.

    A value that is written at a step is the end of all that was written before for this step and
    later ones: the run was taken up again there. What is left increases.
    """
    later_S = np.minimum.accumulate(np.append(steps_S, _LATE)[::-1])[::-1][1:]
    return np.asarray(steps_S < later_S)


def is_overwritten(track: Track, clock: Track) -> npt.NDArray[np.bool_]:
    """Which values belong to a stretch of the run that was done again.

    Args:
        track: The values.
        clock: What is written with or before all others of its step, such as what is captured.
    """
    order = np.argsort(clock.walls_S, kind="stable")
    ticks_S = np.append(clock.steps_S[order], _LATE)
    earliest_S = np.minimum.accumulate(ticks_S[::-1])[::-1]
    after_S = earliest_S[np.searchsorted(clock.walls_S[order], track.walls_S, side="right")]
    return np.asarray(after_S <= track.steps_S)


def _together(values: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    numeric = all(value.dtype.kind == "f" for value in values)
    if values and numeric and len({value.shape for value in values}) == 1:
        return np.stack(values)
    apart = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        apart[index] = value if value.dtype != object or value.size != 1 else value.item()
    return apart


def _size(value: Any) -> int:
    return int(value.nbytes) if isinstance(value, np.ndarray) else len(value)
