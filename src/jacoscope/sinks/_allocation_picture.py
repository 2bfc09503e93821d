"""A picture of a run's change of the loss, shared out among layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jacoscope.probe_record import AllocationRecord
from jacoscope.sinks._probe_figures import (
    INK,
    LOWERS,
    RAISES,
    Pixels,
    add_axes,
    draw_note,
    is_drawable,
    new_page,
    picture,
    short_names,
    spread,
    write,
    write_heading,
)
from jacoscope.sinks._probe_words import signed, total, unsigned

__all__ = ["draw_allocation"]

_MOST_LINES, _MOST_BARS, _NAME = 8, 20, 24
_HEIGHT, _LEFT, _WIDTH, _ROW = 340, 92, 880, 24
# Told apart by all kinds of colour vision (Tol, Colour schemes), and by their marks.
_MARKS = (
    *(("#332288", "o"), ("#cc6677", "s"), ("#117733", "^"), ("#2f8fc4", "D")),
    *(("#882255", "v"), ("#44aa99", "P"), ("#999933", "X"), ("#aa4499", "*")),
)
_EXPLANATION = (
    "What each layer's moves did to the loss since step {since}, on the same samples: ∫ g·dθ, "
    "summed over the steps between probes. The gap is what the sum over so few points misses."
)

History = Sequence[tuple[int, AllocationRecord]]


@dataclass(frozen=True)
class _Line:
    """A line over steps.

    Args:
        name: What stands at its end.
        values: Its values.
        colour: Its colour.
        dashes: Matplotlib's line style.
        width: Its width in points.
        marker: Matplotlib's marker.
    """

    name: str
    values: list[float]
    colour: str
    dashes: str = "-"
    width: float = 1.6
    marker: str = ""


def draw_allocation(history: History) -> Pixels:
    """The picture, shape (height, 1280, 3).

    Args:
        history: By probed step, what has been allocated since the first probe.
    """
    if not history or not history[-1][1].by_layer:
        return draw_note("Loss change allocated to layers", "There is no layer to show.")
    return _draw(history)


@picture
def _draw(history: History) -> Figure:
    last_step, last = history[-1]
    figure = new_page(2 * _HEIGHT + 320 + _ROW * (_MOST_BARS + 3))
    title = (
        f"From step {last.since:,} to step {last_step:,} the loss changed by "
        f"{signed(last.change)}, to {unsigned(last.loss)}"
    )
    top = write_heading(figure, title, _EXPLANATION.format(since=f"{last.since:,}")) + 28
    head = {"fontsize": 9, "fontweight": "bold", "va": "bottom"}
    write(figure, _LEFT, top - 8, "allocated so far (unit: loss)", **head)
    _draw_course(add_axes(figure, _LEFT, top, _WIDTH, _HEIGHT), history)
    top += _HEIGHT + 84
    write(figure, _LEFT, top - 8, f"allocated up to step {last_step:,}", **head)
    _draw_bars(figure, top, last)
    return figure


def _draw_course(axes: Axes, history: History) -> None:
    """Lines over steps, each with its name at its end."""
    steps, lines = _lines(history)
    axes.axhline(0, color="#c8c8c8", linewidth=1, zorder=0)
    drawable = [0.0]
    for line in lines:
        there = np.array([is_drawable(value) for value in line.values])
        values = np.where(there, line.values, np.nan)
        axes.plot(
            steps, values, line.dashes, color=line.colour, linewidth=line.width,
            marker=line.marker, markersize=5, markevery=max(1, len(steps) // 8),
        )  # fmt: skip
        drawable += values[there].tolist()
    low, high = min(drawable), max(drawable)
    room = 0.04 * (high - low) or 1.0
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(value)))
    axes.set_xlabel("step", fontsize=9)
    _name_ends(axes, steps[-1], lines)


def _lines(history: History) -> tuple[list[int], list[_Line]]:
    """The steps, and what is drawn over them."""
    steps, records = _points(history)
    last = history[-1][1]
    chosen = _largest(last, _MOST_LINES)
    others = [layer for layer in last.by_layer if layer not in chosen]
    marked = zip(chosen, short_names(chosen, _NAME), _MARKS, strict=False)
    lines = [
        _Line(name, _allocated(records, [layer]), colour, marker=marker)
        for layer, name, (colour, marker) in marked
    ]
    if others:
        name = f"… {len(others)} others"
        lines.append(_Line(name, _allocated(records, others), "#9a9a9a", width=1.2))
    changes = [math.nan if record is None else record.change for record in records]
    gaps = [math.nan if record is None else _gap(record) for record in records]
    lines.append(_Line("gap", gaps, "#7a7a7a", "--", 1.4))
    lines.append(_Line("true change", changes, "#000000", width=2.4))
    return steps, lines


def _points(history: History) -> tuple[list[int], list[AllocationRecord | None]]:
    """Every step with what was allocated, from zero where counting began; nothing between runs."""
    steps: list[int] = []
    records: list[AllocationRecord | None] = []
    since: int | None = None
    for step, record in history:
        if record.since != since:
            if since is not None:
                steps.append(record.since)
                records.append(None)
            since = record.since
            steps.append(since)
            records.append(AllocationRecord(since, dict.fromkeys(record.by_layer, 0.0), 0.0, 0.0))
        steps.append(step)
        records.append(record)
    return steps, records


def _largest(record: AllocationRecord, count: int) -> list[str]:
    """The layers that most was allocated to, in the model's order."""
    sizes = {
        layer: abs(value) if math.isfinite(value) else math.inf
        for layer, value in record.by_layer.items()
    }
    largest = set(sorted(sizes, key=lambda layer: -sizes[layer])[:count])
    return [layer for layer in record.by_layer if layer in largest]


def _allocated(records: list[AllocationRecord | None], layers: list[str]) -> list[float]:
    return [
        math.nan
        if record is None
        else total(record.by_layer.get(layer, math.nan) for layer in layers)
        for record in records
    ]


def _gap(record: AllocationRecord) -> float:
    return record.change - total(record.by_layer.values())


def _name_ends(axes: Axes, step: int, lines: list[_Line]) -> None:
    """Write each line's name and last value to the right of its end, none over another."""
    low, high = axes.get_ylim()
    ends = [line.values[-1] if is_drawable(line.values[-1]) else low for line in lines]
    shares = [(end - low) / (high - low) for end in ends]
    places = spread(shares, 17 / _HEIGHT, -0.02, 1.02)
    for line, end, place in zip(lines, ends, places, strict=True):
        leader = {
            "arrowstyle": "-", "color": line.colour, "linewidth": 0.7, "relpos": (0, 0.5),
            "shrinkA": 0, "shrinkB": 2,
        }  # fmt: skip
        axes.annotate(
            f"{line.name}  {signed(line.values[-1])}", (step, end), (1.035, place),
            textcoords="axes fraction", va="center", fontsize=8.5, color=line.colour,
            fontweight="bold" if line.name == "true change" else "normal", parse_math=False,
            annotation_clip=False, arrowprops=leader if is_drawable(line.values[-1]) else None,
        )  # fmt: skip


def _draw_bars(figure: Figure, top: int, record: AllocationRecord) -> None:
    """A bar for each layer, and for all that is not a layer's."""
    chosen = _largest(record, _MOST_BARS)
    others = [value for layer, value in record.by_layer.items() if layer not in chosen]
    names = short_names(chosen, 33)
    values = [record.by_layer[layer] for layer in chosen]
    if others:
        names.append(f"… {len(others)} others")
        values.append(total(others))
    names += ["gap", "true change"]
    values += [_gap(record), record.change]
    axes = add_axes(figure, 262, top, _WIDTH - 60, _ROW * len(values))
    drawable = [value for value in values if is_drawable(value)]
    low, high = min([0.0, *drawable]), max([0.0, *drawable])
    span = (high - low) or 1.0
    for place, value in enumerate(values):
        length = value if is_drawable(value) else 0.0
        is_layer = place < len(values) - 2
        colour = (LOWERS if value < 0 else RAISES) if is_layer else "#7f7f7f"
        axes.barh(place, length, 0.66 if is_layer else 0.34, color=colour, linewidth=0)
        axes.annotate(
            signed(value), (length, place), (6 if length >= 0 else -6, 0),
            textcoords="offset points", va="center", ha="left" if length >= 0 else "right",
            fontsize=8.5, color=INK,
        )  # fmt: skip
    axes.axvline(0, color="#9a9a9a", linewidth=0.8)
    axes.set_xlim(low - 0.12 * span, high + 0.12 * span)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names, fontsize=9, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(value)))
    axes.set_xlabel(
        "change of the loss (unit: loss); blue lowered it, orange raised it", fontsize=9
    )
