"""A picture of what each layer's move did to the loss in one step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jacoscope.probing import AllElseEqual, LayerShare
from jacoscope.sinks._probe_figures import (
    INK,
    LOWERS,
    MARGIN,
    PALE,
    RAISES,
    add_axes,
    common_prefix,
    is_drawable,
    new_page,
    picture,
    short_names,
    write,
    write_heading,
    write_legend,
)
from jacoscope.sinks._probe_words import interaction_of, sentence_of, signed, total, unsigned
from jacoscope.sinks._words import cut_name, one_line

__all__ = ["draw_waterfall"]

_MANY, _SHOWN, _NAME = 24, 20, 33
_ROW, _LEFT, _WIDTH, _COLUMN = 27, 262, 740, 124
_PROMISE: dict[str, Any] = {
    "marker": "D",
    "markersize": 7.5,
    "markerfacecolor": "none",
    "markeredgecolor": INK,
}
_CURVED: dict[str, Any] = {
    "marker": "o",
    "markersize": 4,
    "markerfacecolor": INK,
    "markeredgecolor": INK,
}
_EXPLANATION = (
    "Each bar: the change of the loss if only this layer moves as in step {step}, every other held "
    "where it was. Bars and interaction add up to the whole step."
)


@dataclass(frozen=True)
class _Row:
    """One bar.

    Args:
        name: What stands to the left of it.
        start: Where it starts, as a change of the loss since before the step.
        change: How long it is.
        promised: What the derivative promised, if it promised anything.
        curved: What first and second order promised together.
        text: What stands at the bar.
    """

    name: str
    start: float
    change: float
    promised: float
    curved: float
    text: str

    @property
    def end(self) -> float:
        return self.start + (self.change if is_drawable(self.change) else 0.0)

    @property
    def marks(self) -> list[float]:
        """Where its marks are, those that can be drawn."""
        return [self.start + x for x in (self.promised, self.curved) if is_drawable(x)]


@picture
def draw_waterfall(result: AllElseEqual, step: int, second_order: bool = True) -> Figure:
    """The picture, shape (height, 1280, 3).

    Of many layers, those with the largest changes have a bar of their own, in the model's order.

    Args:
        result: The probe's result.
        step: Optimiser steps before this one.
        second_order: Whether to show what first and second order promised together.
    """
    second_order = second_order and not math.isnan(result.second_order)
    rows = _rows(result, second_order)
    figure = new_page(250 + _ROW * (len(rows) + 1))
    top = write_heading(figure, sentence_of(result, 48), _EXPLANATION.format(step=f"{step:,}"))
    top += 58
    height = _ROW * (len(rows) + 1)
    axes = add_axes(figure, _LEFT, top, _WIDTH, height)
    axes.set_ylim(len(rows) - 0.5, -1.5)
    limits = _limits(axes, rows)
    axes.axvline(0, color="#b0b0b0", linewidth=1, zorder=0)
    axes.plot(0, -1, marker="|", markersize=16, color=INK, clip_on=False)
    _say(axes, 0, -1, unsigned(result.before, 5), limits)
    for place, row in enumerate(rows):
        is_last = place == len(rows) - 1
        _draw_row(axes, place, row, limits, is_last)
    _write_columns(figure, rows, top, second_order)
    prefix = common_prefix([share.layer for share in _most(result.layers)[0]])
    if prefix:
        within = f"layers of {cut_name(one_line(prefix.rstrip('.')), 24)}"
        write(figure, _LEFT - 12, top - 13, within, ha="right", fontsize=8.5, color=PALE)
    is_beyond = any(
        not limits[0] <= row.start + x <= limits[1]
        for row in rows
        for x in (row.promised, row.curved)
        if not math.isnan(x)
    )
    _legend(figure, top, second_order, is_beyond)
    if result.missing is not None:
        note = f"no second order: {one_line(result.missing)}"
        write(figure, MARGIN, top + height + 44, note[:180], color=PALE, fontsize=8.5)
    _finish(axes, rows)
    return figure


def _rows(result: AllElseEqual, second_order: bool) -> list[_Row]:
    rows: list[_Row] = []

    def add(name: str, share: LayerShare) -> None:
        start = rows[-1].end if rows else 0.0
        curved = share.predicted + share.second_order if second_order else math.nan
        rows.append(_Row(name, start, share.actual, share.predicted, curved, signed(share.actual)))

    shares, others = _most(result.layers)
    for name, share in zip(short_names([s.layer for s in shares], _NAME), shares, strict=True):
        add(name, share)
    if others:
        add(f"… {len(others)} others", _sum(others))
    every = _sum(result.layers)
    extra = result.second_order - every.second_order
    add("interaction of layers", LayerShare("", 0.0, extra, interaction_of(result)))
    curved = every.predicted + result.second_order if second_order else math.nan
    text = unsigned(result.after, 5)
    text += f" ({signed(result.actual)})" if math.isfinite(result.after) else ""
    rows.append(_Row("loss after (whole step)", 0.0, result.actual, every.predicted, curved, text))
    return rows


def _most(layers: Sequence[LayerShare]) -> tuple[list[LayerShare], list[LayerShare]]:
    """The layers that have a bar of their own, in the model's order, and the others."""
    if len(layers) <= _MANY:
        return list(layers), []
    sizes = [abs(s.actual) if math.isfinite(s.actual) else math.inf for s in layers]
    largest = set(sorted(range(len(layers)), key=lambda place: -sizes[place])[:_SHOWN])
    shown = [share for place, share in enumerate(layers) if place in largest]
    return shown, [share for place, share in enumerate(layers) if place not in largest]


def _sum(shares: Sequence[LayerShare]) -> LayerShare:
    """Several layers' shares, each added up."""
    return LayerShare(
        "",
        total(share.predicted for share in shares),
        total(share.second_order for share in shares),
        total(share.actual for share in shares),
    )


def _limits(axes: Axes, rows: list[_Row]) -> tuple[float, float]:
    """Room for every bar, and for marks that are not far off."""
    ends = [0.0, *(row.end for row in rows)]
    low, high = min(ends), max(ends)
    span = (high - low) or max((abs(mark) for row in rows for mark in row.marks), default=0.0) or 1
    near = [m for row in rows for m in row.marks if low - span <= m <= high + span]
    low, high = min([low, *near]), max([high, *near])
    span = high - low or span
    low, high = low - 0.05 * span, high + 0.24 * span
    axes.set_xlim(low, high)
    return axes.get_xlim()


def _draw_row(
    axes: Axes, place: int, row: _Row, limits: tuple[float, float], is_last: bool
) -> None:
    colour = "#7f7f7f" if is_last else LOWERS if row.change < 0 else RAISES
    height = 0.3 if is_last else 0.62
    if is_drawable(row.change):
        axes.barh(place, row.change, height, row.start, color=colour, linewidth=0, zorder=2)
        if not row.change:
            axes.plot(row.start, place, marker="|", markersize=11, color=INK, zorder=2)
    if not is_last:
        axes.plot([row.end, row.end], [place, place + 1], ":", color="#9a9a9a", linewidth=1)
    for offset, style in ((row.promised, _PROMISE), (row.curved, _CURVED)):
        if math.isnan(offset):
            continue
        where = row.start + offset if is_drawable(offset) else offset
        if limits[0] <= where <= limits[1]:
            axes.plot(where, place, linestyle="none", zorder=4, **style)
        else:
            edge, arrow = (limits[0], "<") if where < limits[0] else (limits[1], ">")
            axes.plot(edge, place, arrow, color=INK, markersize=6, clip_on=False, zorder=4)
    marks = [mark for mark in row.marks if limits[0] <= mark <= limits[1]]
    _say(axes, max([row.start, row.end, *marks]), place, row.text, limits)


def _say(axes: Axes, x: float, y: float, text: str, limits: tuple[float, float]) -> None:
    """Write to the right of a place."""
    axes.annotate(
        text, (min(x, limits[1]), y), (10, 0), textcoords="offset points", va="center",
        fontsize=9, color=INK, parse_math=False, zorder=5, annotation_clip=False,
        bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "linewidth": 0, "alpha": 0.75},
    )  # fmt: skip


def _write_columns(figure: Figure, rows: list[_Row], top: int, second_order: bool) -> None:
    """Write what was promised, in numbers."""
    right = _LEFT + _WIDTH + 10 + _COLUMN
    heads = [("derivative\npromised", "promised")]
    if second_order:
        heads.append(("with second\norder", "curved"))
    for index, (head, field) in enumerate(heads):
        left = right + index * _COLUMN
        write(figure, left, top - 6, head, ha="right", fontsize=8.5, color=PALE)
        for place, row in enumerate(rows):
            centre = top + (place + 1.5) * _ROW
            write(figure, left, centre, signed(getattr(row, field)), ha="right", va="center")


def _legend(figure: Figure, top: int, second_order: bool, is_beyond: bool) -> None:
    handles: list[Patch | Line2D] = [
        Patch(color=LOWERS, label="lowered the loss"),
        Patch(color=RAISES, label="raised the loss"),
        Line2D(
            [], [], linestyle="none", label="promised by its derivative (first order)", **_PROMISE
        ),
    ]
    if second_order:
        label = "promised by first and second order"
        handles.append(Line2D([], [], linestyle="none", label=label, **_CURVED))
    if is_beyond:
        handles.append(
            Line2D([], [], linestyle="none", marker=">", color=INK, label="beyond the picture")
        )
    write_legend(figure, MARGIN, top - 48, handles)


def _finish(axes: Axes, rows: list[_Row]) -> None:
    names = ["loss before", *(row.name for row in rows)]
    places = [-1, *range(len(rows))]
    axes.set_yticks(places, names, fontsize=9, parse_math=False)
    axes.tick_params(axis="y", length=0, pad=9)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: signed(x)))
    axes.set_xlabel("change of the loss since before the step (unit: loss)", fontsize=9)
