"""Pictures of the samples on the leaderboards, drawn now and then and at the end of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jacoscope.leaderboard import Board, EpochBoards
from jacoscope.sinks._drawing_time import DrawingTime

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["SamplePictures"]


class SamplePictures:
    """Draws the boards whose samples are images.

    They are drawn at the end of an epoch as far as there is time for it; where epochs are too short
    for that, now and then. The last epoch's are drawn when the run ends.

    Args:
        writer: The event file.
        group: The monitor's group.
        is_wanted: Whether to draw at all.
        time: What drawing takes.
    """

    def __init__(
        self, writer: SummaryWriter, group: str, is_wanted: bool, time: DrawingTime
    ) -> None:
        self._writer = writer
        self._group = group
        self._is_wanted = is_wanted
        self._waiting: EpochBoards | None = None
        self._time = time

    def write(self, boards: EpochBoards) -> None:
        """Take up an epoch's boards, and draw them if it is time."""
        if not self._is_wanted:
            return
        self._waiting = boards
        self.catch_up()

    def catch_up(self) -> None:
        """Draw what waits, if there is time for it by now."""
        if self._waiting is not None and self._time.allows(len(_drawable(self._waiting))):
            self.draw()

    def draw(self) -> None:
        """Draw the last boards, unless that is done."""
        boards, self._waiting = self._waiting, None
        drawable = _drawable(boards) if boards is not None else []
        if boards is None or not drawable:
            return
        # Matplotlib takes half a second to import, which runs without pictures need not pay.
        from jacoscope.sinks._thumbnails import draw_thumbnails

        with self._time.drawing(len(drawable)):
            for board in drawable:
                tag = f"{self._group}_samples_pictures/{board.name}"
                image = draw_thumbnails(boards, board)
                self._writer.add_image(tag, image, boards.step, dataformats="HWC")

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
