"""What the pictures of probes share: a sheet laid out in pixels, colours, and names that fit."""

from __future__ import annotations

import functools
import math
import textwrap
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Any, ParamSpec

import numpy as np
import numpy.typing as npt
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from jacoscope.quantities import FloatArray
from jacoscope.sinks._words import cut_name, one_line

__all__ = [
    "ABSENT",
    "FRAME",
    "INFINITE",
    "INK",
    "LOWERS",
    "MARGIN",
    "NAN",
    "PAGE_WIDTH",
    "PALE",
    "RAISES",
    "SIGNED_COLOURS",
    "ZERO",
    "Pixels",
    "add_axes",
    "broken_patches",
    "common_prefix",
    "draw_note",
    "is_drawable",
    "largest_of",
    "log_norm",
    "new_page",
    "picture",
    "rgb",
    "short_names",
    "spread",
    "write",
    "write_heading",
    "write_legend",
]

Pixels = npt.NDArray[np.uint8]
P = ParamSpec("P")

PAGE_WIDTH, MARGIN = 1280, 24
_DPI = 100
_TITLE_LENGTH = 124

# Blue and orange are told apart by all kinds of colour vision (Okabe and Ito).
LOWERS, RAISES = "#0072b2", "#e69f00"
SIGNED_COLOURS = LinearSegmentedColormap.from_list("signed", [LOWERS, "#ffffff", "#d55e00"])
ZERO, NAN, INFINITE, ABSENT = "#8c8c8c", "#d62728", "#ff7f0e", "#ececec"
INK, PALE, FRAME = "#1a1a1a", "#555555", "#d0d0d0"

_LARGEST = 1e150
"""Numbers beyond it are not drawn: sums and ranges of them leave double precision."""


def picture(draw: Callable[P, Figure]) -> Callable[P, Pixels]:
    """Make a function that lays out a figure return its pixels, shape (height, width, 3).

    Matplotlib's settings, which are the user's, have no say in how it looks. What the page has left
    at its lower end is cut off.

    Args:
        draw: The function.
    """

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Pixels:
        with style.context("default"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # of a script that the font lacks
            canvas = FigureCanvasAgg(draw(*args, **kwargs))
            canvas.draw()  # type: ignore[no-untyped-call]
            pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        inked = np.flatnonzero((pixels[..., :3] != 255).any(axis=(1, 2)))
        return pixels[: inked.max(initial=0) + MARGIN, :, :3].copy()

    return drawn


def new_page(height: float) -> Figure:
    """A white page of some pixels' height."""
    size = (PAGE_WIDTH / _DPI, math.ceil(height) / _DPI)
    return Figure(figsize=size, dpi=_DPI, facecolor="white")


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place that is counted in pixels from the page's upper left corner."""
    page = figure.get_figheight() * _DPI
    box = (left / PAGE_WIDTH, 1 - (top + height) / page, width / PAGE_WIDTH, height / page)
    axes = figure.add_axes(box)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9a9a9a")
    axes.tick_params(length=3, labelsize=8.5, color="#9a9a9a", labelcolor=INK)
    return axes


def write(figure: Figure, left: float, top: float, text: str, **styled: Any) -> Text:
    """Write a text at a place that is counted in pixels from the page's upper left corner.

    Args:
        figure: The page.
        left: Pixels from its left.
        top: Pixels from its top.
        text: The text.
        styled: Settings of :class:`matplotlib.text.Text`; and ``room``, pixels after which the
            text is cut off.
    """
    page = figure.get_figheight() * _DPI
    room = styled.pop("room", None)
    if room is not None:
        styled |= {"clip_box": Bbox.from_extents(left, 0, left + room, page), "clip_on": True}
    styled = {"fontsize": 9, "va": "top", "color": INK, "parse_math": False, **styled}
    return figure.text(left / PAGE_WIDTH, 1 - top / page, text, **styled)


def write_heading(figure: Figure, title: str, explanation: str) -> int:
    """Write a title of two lines at most and an explanation below; the pixels that they take."""
    lines = textwrap.wrap(title, _TITLE_LENGTH, max_lines=2, placeholder=" …")
    for index, line in enumerate(lines):
        write(figure, MARGIN, 14 + 22 * index, line, fontsize=12, fontweight="bold")
    below = 14 + 22 * len(lines) + 4
    said = textwrap.wrap(explanation, 178)
    for index, line in enumerate(said):
        write(figure, MARGIN, below + 17 * index, line, color=PALE)
    return below + 17 * len(said) + 8


def write_legend(
    figure: Figure, left: float, top: float, handles: Sequence[Artist], columns: int = 6
) -> None:
    """Write a legend at a place that is counted in pixels from the page's upper left corner."""
    page = figure.get_figheight() * _DPI
    legend = figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(left / PAGE_WIDTH, 1 - top / page),
        ncols=columns, fontsize=9, frameon=False, borderaxespad=0, borderpad=0,
        handletextpad=0.6, columnspacing=1.8,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def broken_patches(values: FloatArray) -> list[Patch]:
    """Legend entries for numbers that are none, as far as there are any among some values."""
    entries = (
        (bool(np.isnan(values).any()), NAN, "not a number"),
        (bool(np.isinf(values).any()), INFINITE, "infinite"),
    )
    return [Patch(color=colour, label=name) for there, colour, name in entries if there]


def largest_of(values: FloatArray) -> float:
    """The largest magnitude that can be drawn; 1 if all are zero."""
    finite = np.abs(values[np.isfinite(values)]).clip(max=_LARGEST)
    return float(finite.max(initial=0.0)) or 1.0


@picture
def draw_note(title: str, note: str) -> Figure:
    """A picture that has nothing to show, and says so."""
    figure = new_page(110)
    write_heading(figure, title, note)
    return figure


def is_drawable(value: float) -> bool:
    """Whether a number is finite, and small enough to be drawn."""
    return abs(value) < _LARGEST


def common_prefix(names: Sequence[str]) -> str:
    """The modules that all names lie within, with the final dot."""
    by_depth = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = takewhile(lambda parts: len(set(parts)) == 1, by_depth)
    return "".join(f"{parts[0]}." for parts in shared) if len(names) > 1 else ""


def short_names(names: Sequence[str], length: int) -> list[str]:
    """Names without the modules that all lie within, cut in the middle if they are too long."""
    prefix = common_prefix(names)
    return [cut_name(one_line(name.removeprefix(prefix)), length) for name in names]


def log_norm(values: FloatArray) -> LogNorm:
    """A logarithmic scale over the positive numbers among some values."""
    positive = values[np.isfinite(values) & (values > 0)].clip(1e-250, 1e250)
    low, high = (positive.min(), positive.max()) if positive.size else (1e-1, 1.0)
    return LogNorm(low / 2, high * 2) if high / low < 4 else LogNorm(low, high)


def spread(wanted: Iterable[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels, as near as need be to those wanted, at least ``gap`` apart."""
    places = np.array(list(wanted), dtype=float)
    order = np.argsort(places, kind="stable")
    sorted_ = places[order].clip(low, high)
    for index in range(1, len(sorted_)):
        sorted_[index] = max(sorted_[index], sorted_[index - 1] + gap)
    ceiling = high
    for index in reversed(range(len(sorted_))):
        sorted_[index] = min(sorted_[index], ceiling)
        ceiling = sorted_[index] - gap
    places[order] = sorted_
    return [float(place) for place in places]


def rgb(colour: str) -> tuple[int, int, int]:
    """The parts of a colour such as ``#8c8c8c``, from 0 to 255."""
    red, green, blue = (int(colour[index : index + 2], 16) for index in (1, 3, 5))
    return red, green, blue
