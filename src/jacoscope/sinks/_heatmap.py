"""A picture of a quantity: layers down, captured steps across."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from jacoscope.quantities import FloatArray, Quantity
from jacoscope.sinks._history import ROWS_PER_PAGE, History, page_count
from jacoscope.sinks._probe_figures import common_prefix

__all__ = ["draw_heatmap"]

_SUBTITLE = 75
_NAME_LENGTH = 40
_ZERO, _NAN, _INFINITE, _MISSING = "#8c8c8c", "#d62728", "#ff7f0e", "#ececec"


def draw_heatmap(quantity: Quantity, history: History, page: int = 0) -> npt.NDArray[np.uint8]:
    """The picture, shape (height, width, 3).

    Colours are viridis, which reads in print and for the colour-blind; signed quantities use a
    scale that diverges from zero. Zeros on a logarithmic scale, nan, infinity and missing
    values have colours of their own, named in a legend.

    Args:
        quantity: What is drawn.
        history: Its values by captured step.
        page: Which stretch of the layers.
    """
    first = page * ROWS_PER_PAGE
    names = history.axis.names[first : first + ROWS_PER_PAGE]
    values_LS = history.values_LS[first : first + ROWS_PER_PAGE]
    prefix = common_prefix(history.axis.names)
    labels = [_short(name.removeprefix(prefix)) for name in names]
    margin = 0.35 + 0.075 * max(map(len, labels))
    width, height = margin + 4.6 + 1.15, 1.45 + 0.2 * max(len(names), 4)
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((margin / width, 0.55 / height, 4.6 / width, 1 - 1.4 / height))
    norm, colours = _scale(quantity, history.values_LS)
    missing_LS = history.missing_LS[first : first + ROWS_PER_PAGE]
    painted = _paint(values_LS, missing_LS, norm, colours, quantity.is_log)
    axes.imshow(painted, aspect="auto", interpolation="nearest")
    _label(axes, quantity, history, labels, page, prefix)
    _colour_bar(figure, axes, quantity, norm, colours, height)
    _legend(axes, values_LS, missing_LS, quantity.is_log)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()


def _scale(quantity: Quantity, values_LS: FloatArray) -> tuple[Normalize, Any]:
    finite = values_LS[np.isfinite(values_LS)].clip(-1e300, 1e300)  # room to widen the range
    if quantity.is_log:
        positive = finite[finite > 0].clip(1e-250)
        low, high = (positive.min(), positive.max()) if positive.size else (1e-1, 1.0)
        low, high = (low / 2, high * 2) if high / low < 4 else (low, high)
        return LogNorm(low, high), colormaps["viridis"]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    if low < 0:
        reach = max(-low, high)
        return TwoSlopeNorm(0.0, -reach, reach), colormaps["PuOr"]
    if quantity.unit == "1":
        low, high = 0.0, 1.0
    return Normalize(low, high if high > low else low + 1), colormaps["viridis"]


def _paint(
    values_LS: FloatArray,
    missing_LS: npt.NDArray[np.bool_],
    norm: Normalize,
    colours: Any,
    is_log: bool,
) -> FloatArray:
    drawable = np.isfinite(values_LS) & ((values_LS > 0) | (not is_log))
    painted: FloatArray = colours(norm(np.where(drawable, values_LS, 1.0)))[..., :3]
    painted[~drawable & (values_LS == 0)] = _rgb(_ZERO)
    painted[np.isnan(values_LS)] = _rgb(_NAN)
    painted[np.isinf(values_LS)] = _rgb(_INFINITE)
    painted[missing_LS] = _rgb(_MISSING)
    return painted


def _label(
    axes: Axes, quantity: Quantity, history: History, labels: list[str], page: int, prefix: str
) -> None:
    # Plain texts and one collection of lines: ticks and lines one by one take twice the time.
    axes.set_yticks([])
    beside = axes.get_yaxis_transform()
    for row, label in enumerate(labels):
        axes.text(
            -0.01, row, label, transform=beside, fontsize=8, ha="right", va="center_baseline",
            parse_math=False,
        )  # fmt: skip
    between = [
        [(-0.5, row - 0.5), (len(history) - 0.5, row - 0.5)] for row in range(1, len(labels))
    ]
    lines = LineCollection(between, colors="white", linewidths=0.4)
    axes.add_collection(lines, autolim=False)
    places = np.unique(np.linspace(0, len(history) - 1, min(len(history), 9)).round().astype(int))
    axes.set_xticks(places, [str(history.steps[place]) for place in places], fontsize=8)
    thinned = "; each column the largest of several steps" if history.is_thinned else ""
    axes.set_xlabel(f"captured step{thinned}", fontsize=9)
    pages = page_count(history)
    which = f", page {page + 1} of {pages}" if pages > 1 else ""
    within = f" of {prefix.rstrip('.')}" if prefix else ""
    axes.set_title(
        f"{quantity.title}{within} by step{which}\n", fontsize=11, loc="left", parse_math=False
    )
    axes.text(
        0, 1.0, f"{_subtitle(quantity.formula)}\n",
        transform=axes.transAxes, fontsize=8, va="center", color="#444444",
    )  # fmt: skip
    axes.tick_params(length=2)


def _colour_bar(
    figure: Figure, axes: Axes, quantity: Quantity, norm: Normalize, colours: Any, height: float
) -> None:
    from matplotlib.cm import ScalarMappable

    place = axes.get_position()
    bar_axes = figure.add_axes((place.x1 + 0.02, place.y0, 0.02, place.height))
    bar = figure.colorbar(ScalarMappable(norm, colours), cax=bar_axes)
    unit = "" if quantity.unit == "1" else quantity.unit
    bar.set_label(unit if height > 2.6 else "", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    if quantity.is_log and height < 4:  # no room for more labels than these
        bar.ax.yaxis.set_major_locator(LogLocator(numticks=4))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())


def _legend(
    axes: Axes, values_LS: FloatArray, missing_LS: npt.NDArray[np.bool_], is_log: bool
) -> None:
    absent = missing_LS
    entries = (
        (is_log and bool((values_LS == 0).any()), _ZERO, "zero"),
        (bool((np.isnan(values_LS) & ~absent).any()), _NAN, "not a number"),
        (bool(np.isinf(values_LS).any()), _INFINITE, "infinite"),
        (bool(absent.any()), _MISSING, "missing"),
    )
    patches = [Patch(facecolor=colour, label=name) for shown, colour, name in entries if shown]
    if patches:
        axes.legend(
            handles=patches, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, fontsize=8,
            frameon=False, borderaxespad=0.2,
        )  # fmt: skip


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5))


def _short(name: str) -> str:
    """The name, its middle left out if it is too long for the margin."""
    if len(name) <= _NAME_LENGTH:
        return name
    tail = name[-(_NAME_LENGTH * 2 // 3) :]
    return f"{name[: _NAME_LENGTH - len(tail) - 1]}…{tail}"


def _subtitle(formula: str) -> str:
    """A formula as far as it fits on one line; the text card has the whole of it."""
    for mark in ("; ", ", "):
        if len(formula) > _SUBTITLE:
            formula = formula.split(mark)[0]
    return textwrap.shorten(formula, _SUBTITLE, placeholder=" …")
