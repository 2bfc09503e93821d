"""Which recorded step a request for a step means."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

__all__ = ["nearest_step"]


def nearest_step(steps: Sequence[int], asked: int | None) -> int:
    """The last step that is not after the one asked for, or the first if all are.

    Args:
        steps: Recorded steps, increasing; one or more.
        asked: The step asked for, or ``None`` for the last of all.
    """
    if asked is None:
        return steps[-1]
    return steps[max(0, bisect_right(steps, asked) - 1)]
