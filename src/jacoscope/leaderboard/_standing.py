"""Who leads while an epoch runs, which decides what is worth keeping of a sample."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from jacoscope.leaderboard._batch import SampleId, id_order

__all__ = ["Standing"]


class Standing:
    """The leading samples so far, lowest score first.

    It knows of no others: where a leader comes again with a worse score, a sample that was passed
    over before cannot move up. So it is to be longer than the board that it is for.

    Args:
        length: How many to remember.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._scores: dict[SampleId, float] = {}

    @property
    def names(self) -> list[SampleId]:
        """The leaders, the first one first."""
        return list(self._scores)

    def take(
        self, challengers: Iterable[tuple[SampleId, float]], came: Collection[SampleId]
    ) -> None:
        """Let new samples in where they lead.

        Args:
            challengers: New samples with their scores, at least the lowest ``length`` of them.
            came: All new samples, whose earlier scores no longer count.
        """
        scores = {name: score for name, score in self._scores.items() if name not in came}
        scores.update(challengers)
        lowest = sorted(scores, key=lambda name: (scores[name], id_order(name)))
        self._scores = {name: scores[name] for name in lowest[: self._length]}
