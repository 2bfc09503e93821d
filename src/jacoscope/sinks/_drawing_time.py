"""The time that drawing takes, kept to a small share of the run's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["DrawingTime"]

_SHARE = 0.01
_SECONDS_PER_PICTURE = 0.2
"""What the first picture is taken to need."""


class DrawingTime:
    """Says whether pictures may be drawn now; all that draws into one event file shares one.

    During a run, drawing may take a hundredth of the time that has passed. What is drawn counts
    twice, since it is drawn once more when the run ends; so a run of a minute or two is drawn at
    its end alone.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._seconds = 0.0
        self._pictures = 0

    def allows(self, pictures: int) -> bool:
        """Whether there is time for so many pictures.

        Args:
            pictures: How many would be drawn.
        """
        each = self._seconds / self._pictures if self._pictures else _SECONDS_PER_PICTURE
        expected = self._seconds + 2 * each * pictures
        return expected <= _SHARE * (time.monotonic() - self._started)

    @contextmanager
    def drawing(self, pictures: int) -> Iterator[None]:
        """Count the time that passes within as that of so many pictures.

        Args:
            pictures: How many are drawn.
        """
        begun = time.monotonic()
        try:
            yield
        finally:
            self._seconds += time.monotonic() - begun
            self._pictures += pictures
