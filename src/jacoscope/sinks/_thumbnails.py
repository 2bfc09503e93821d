"""A picture of the samples on a board: thumbnails in rows, each with its name and numbers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from jacoscope.leaderboard import Board, Entry, EpochBoards
from jacoscope.sinks._images import coloured
from jacoscope.sinks._words import cut, cut_name, one_line

__all__ = ["draw_thumbnails"]

_WIDTH, _MARGIN, _HEADER = 1280, 16, 76
_COLUMNS, _SIDE, _CAPTION, _LINE = 8, 136, 72, 17
_CELL = (_WIDTH - 2 * _MARGIN) // _COLUMNS
_INDENT = (_CELL - _SIDE) // 2
_DPI = 100
_FRAME, _ABSENT = 0xD0, 0xEC
_NUMBERS = {
    "norm": "|g| {norm:.2g}",
    "mean_norm": "mean |g| {mean_norm:.2g}",
    "mean_loss": "mean loss {mean_loss:.2g}",
    "alignment": "|g| {norm:.2g}, cos {alignment:.2g}",
    "class_alignment": "class cos {class_alignment:.2g}",
    "mean_class_alignment": "mean class cos {mean_class_alignment:.2g}",
}
"""By what a board is ranked by, the last line below a thumbnail; more would not fit."""


def draw_thumbnails(boards: EpochBoards, board: Board) -> npt.NDArray[np.uint8]:
    """The picture, shape (height, 1280, 3).

    Images smaller than a thumbnail are enlarged by a whole factor, so that their pixels stay what
    they are; larger ones are averaged down. A sample that has no image has a grey field.

    Args:
        boards: The epoch.
        board: Which of its boards.
    """
    rows = -(-len(board.entries) // _COLUMNS)
    height = _HEADER + rows * (_SIDE + _CAPTION)
    canvas = np.full((height, _WIDTH, 3), 255, dtype=np.uint8)
    figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    agg = FigureCanvasAgg(figure)
    _write(figure, (_MARGIN + _INDENT, 12), board.title, fontsize=12.5, fontweight="bold")
    said = f"epoch {boards.epoch}, {boards.seen:,} samples seen; ids: {boards.id_source}"
    _write(figure, (_MARGIN + _INDENT, 38), cut(one_line(said), 160), color="#555555")
    for place, entry in enumerate(board.entries):
        row, column = divmod(place, _COLUMNS)
        left = _MARGIN + column * _CELL + _INDENT
        top = _HEADER + row * (_SIDE + _CAPTION)
        _paste(canvas, left, top, entry)
        cell = Bbox.from_extents(left, 0, left + _CELL - 6, height)
        for index, line in enumerate(_caption(board, entry)):
            below = top + _SIDE + 5 + index * _LINE
            weight = "normal" if index else "bold"
            _write(figure, (left, below), line, fontweight=weight, clip_box=cell, clip_on=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a script that the font lacks
        agg.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(agg.buffer_rgba())  # type: ignore[no-untyped-call]
    # White paper on both, texts on one, images on the other.
    np.minimum(pixels[..., :3], canvas, out=canvas)
    return canvas


def _write(figure: Figure, place: tuple[int, int], text: str, **style: Any) -> None:
    width, height = figure.get_size_inches() * _DPI
    x, y = place
    style = {"fontsize": 8.5, "va": "top", "parse_math": False, **style}
    figure.text(x / width, 1 - y / height, text, **style)


def _paste(canvas: npt.NDArray[np.uint8], left: int, top: int, entry: Entry) -> None:
    """Put the sample in the middle of its place, in a thin frame."""
    thing = entry.thing
    if isinstance(thing, str) or thing is None or not thing.size:
        canvas[top : top + _SIDE, left : left + _SIDE] = _ABSENT
        return
    image = _fitted(thing)
    height, width = image.shape[:2]
    top += _SIDE - height  # down to its caption
    left += (_SIDE - width) // 2
    canvas[top - 1 : top + height + 1, left - 1 : left + width + 1] = _FRAME
    canvas[top : top + height, left : left + width] = image


def _fitted(thing: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The image in three colours and at a thumbnail's size."""
    image = Image.fromarray(coloured(thing))
    longest = max(image.size)
    if longest <= _SIDE:
        factor = _SIDE // longest
        size = (image.width * factor, image.height * factor)
        return np.asarray(image.resize(size, Image.Resampling.NEAREST))
    shares = (side * _SIDE / longest for side in image.size)
    width, height = (max(1, round(share)) for share in shares)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))


def _caption(board: Board, entry: Entry) -> list[str]:
    """The lines below a thumbnail: id, label and the number of the ranking."""
    lines = [cut_name(one_line(entry.id), 17)]
    if entry.label is not None:
        kind = "" if isinstance(entry.label, str) else "label "
        lines.append(cut(f"{kind}{one_line(entry.label)}", 22))
    return [*lines, _NUMBERS[board.ranked_by].format_map(vars(entry))]
