"""What is shown of samples whose leaderboard is kept elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from jacoscope.leaderboard._batch import SampleBatch, Thing
from jacoscope.leaderboard._leaderboard import Leaderboard

__all__ = ["ShownSamples", "without_things"]


class ShownSamples:
    """Picks, in one of several processes, the samples whose things to send along.

    The leaders among the samples of all processes are among the leaders of their own process, so a
    leaderboard of its own tells which may be asked for. Running means alone may differ: a process
    knows them from the epochs in which it had the sample itself, so that a board ranked by them may
    have a sample that is not shown.

    Args:
        size: Places on a board.
    """

    def __init__(self, size: int) -> None:
        self._board = Leaderboard(size, layers_size=0)
        self._epoch = 0

    def of(self, batches: Sequence[SampleBatch], epoch: int) -> tuple[SampleBatch, ...]:
        """The same batches, each with the things of its leaders, no more, so that they travel."""
        if epoch != self._epoch:
            self._board.close_epoch(self._epoch, 0)
            self._epoch = epoch
        return tuple(self._with_leaders(batch) for batch in batches)

    def _with_leaders(self, batch: SampleBatch) -> SampleBatch:
        asked: dict[int, Thing] = {}

        def thing(place: int) -> Thing | None:
            found = batch.thing(place)
            if found is not None:
                asked[place] = found
            return found

        self._board.add(dataclasses.replace(batch, thing=thing))
        return dataclasses.replace(batch, thing=_Kept(asked))


def without_things(batches: Sequence[SampleBatch]) -> tuple[SampleBatch, ...]:
    """The same batches, of which no sample can be shown."""
    return tuple(dataclasses.replace(batch, thing=_Kept({})) for batch in batches)


class _Kept:
    """The things of some samples."""

    def __init__(self, things: Mapping[int, Thing]) -> None:
        self._things = things

    def __call__(self, place: int) -> Thing | None:
        return self._things.get(place)
