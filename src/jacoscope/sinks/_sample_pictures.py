"""Pictures of the samples on the leaderboards, drawn now and then and at the end of the run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from jacoscope.leaderboard import Board, EpochBoards

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["SamplePictures"]

_SHARE = 0.02
_SECONDS_PER_PICTURE = 0.2


class SamplePictures:
    """Draws the boards whose samples are images.

    They are drawn at the end of an epoch as long as drawing takes less than a fiftieth of the time
    that has passed; where epochs are too short for that, now and then. The last epoch's are drawn
    when the run ends.

    Args:
        writer: The event file.
        group: The monitor's group.
        is_wanted: Whether to draw at all.
    """

    def __init__(self, writer: SummaryWriter, group: str, is_wanted: bool) -> None:
        self._writer = writer
        self._group = group
        self._is_wanted = is_wanted
        self._waiting: EpochBoards | None = None
        self._started = time.monotonic()
        self._drawing_seconds = 0.0

    def write(self, boards: EpochBoards) -> None:
        """Take up an epoch's boards, and draw them if it is time."""
        if not self._is_wanted:
            return
        self._waiting = boards
        expected = self._drawing_seconds + _SECONDS_PER_PICTURE * len(_drawable(boards))
        if expected <= _SHARE * (time.monotonic() - self._started):
            self.draw()

    def draw(self) -> None:
        """Draw the last boards, unless that is done."""
        boards, self._waiting = self._waiting, None
        drawable = _drawable(boards) if boards is not None else []
        if boards is None or not drawable:
            return
        begun = time.monotonic()
        # Matplotlib takes half a second to import, which runs without pictures need not pay.
        from jacoscope.sinks._thumbnails import draw_thumbnails

        for board in drawable:
            tag = f"{self._group}_samples_pictures/{board.name}"
            image = draw_thumbnails(boards, board)
            self._writer.add_image(tag, image, boards.step, dataformats="HWC")
        self._drawing_seconds += time.monotonic() - begun

    def stop(self) -> None:
        """Draw nothing any more."""
        self._is_wanted = False
        self._waiting = None


def _drawable(boards: EpochBoards) -> list[Board]:
    """The boards that have an image to show."""
    return [
        board
        for board in boards.boards
        if any(
            entry.thing is not None and not isinstance(entry.thing, str) for entry in board.entries
        )
    ]
