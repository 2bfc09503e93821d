"""A picture of the spectrum of a tangent kernel, as it changes while a model trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from jacoscope.quantities import FloatArray
from jacoscope.sinks._probe_figures import (
    MARGIN,
    PAGE_WIDTH,
    PALE,
    Pixels,
    add_axes,
    draw_note,
    new_page,
    picture,
    write,
    write_heading,
    write_legend,
)
from jacoscope.sinks._words import cut_name, one_line

__all__ = ["draw_spectra"]

_MOST_LINES = 8
_HEIGHT, _LEFT, _SPECTRUM, _LEGEND, _COURSE = 330, 92, 500, 610, 880
_LARGEST, _DEEPEST = 1e150, 1e-16
_EXPLANATION = (
    "Eigenvalues of Θ = J Jᵀ, J = ∂f/∂θ over all samples and outputs: large ones are directions "
    "that training learns fast, small ones slowly."
)
_COURSES = (
    ("largest", np.max, "-", "o"),
    ("median", np.median, "--", "s"),
    ("smallest", np.min, ":", "^"),
)
_NONE = " (never above zero)"
_UNIT = "eigenvalue (squared output per squared unit of θ)"

Spectrum = tuple[int, FloatArray]


def draw_spectra(history: Sequence[tuple[int, Mapping[str, FloatArray]]], row: str) -> Pixels:
    """The picture, shape (height, 1280, 3).

    Args:
        history: By probed step, the eigenvalues by row, largest first.
        row: Which of them: a layer, a group, or ``(all)``.
    """
    name = "of the whole model" if row == "(all)" else f"of {cut_name(one_line(row), 60)}"
    title = f"Spectrum of the neural tangent kernel {name}"
    found = [(step, np.asarray(rows[row])) for step, rows in history if row in rows]
    spectra = [(step, values) for step, values in found if values.size]
    if not spectra:
        return draw_note(title, "No step has eigenvalues to show.")
    return _draw(spectra, f"{title}, up to step {spectra[-1][0]:,}")


@picture
def _draw(spectra: Sequence[Spectrum], title: str) -> Figure:
    figure = new_page(_HEIGHT + 220)
    top = write_heading(figure, title, _EXPLANATION) + 34
    left = add_axes(figure, _LEFT, top, _SPECTRUM, _HEIGHT)
    right = add_axes(figure, _COURSE, top, PAGE_WIDTH - MARGIN - _COURSE, _HEIGHT)
    shown = _chosen(spectra)
    shades = colormaps["viridis"](np.linspace(0, 0.88, len(shown)))
    handles = []
    for (step, values), shade in zip(shown, shades, strict=True):
        index = np.flatnonzero(_drawable(values))
        style = {"color": shade, "linewidth": 1.6, "marker": "o" if len(values) < 40 else ""}
        left.plot(index + 1, values[index], markersize=3.5, **style)
        label = f"step {step:,}{_exceptions(values)}"
        handles.append(Line2D([], [], markersize=3.5, label=label, **style))
    write_legend(figure, _LEGEND, top, handles, columns=1)
    courses = _draw_course(right, spectra)
    is_plain = not any("(" in str(line.get_label()) for line in courses)
    write_legend(figure, _COURSE, top + _HEIGHT + 48, courses, columns=3 if is_plain else 1)
    rows = max(len(values) for _, values in spectra)
    left.set_xlim(0.5, rows + 0.5)
    for x, axes in ((_LEFT, left), (_COURSE, right)):
        _set_scale(axes, spectra)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        write(
            figure, x - 62, top + _HEIGHT / 2, _UNIT, rotation=90, va="center", ha="center",
            fontsize=8.5, color=PALE,
        )  # fmt: skip
    left.set_xlabel("index of the eigenvalue, largest first", fontsize=9)
    right.set_xlabel("step", fontsize=9)
    head = {"fontsize": 9, "fontweight": "bold", "va": "bottom"}
    write(figure, _LEFT, top - 8, "at a few steps", **head)
    write(figure, _COURSE, top - 8, "over all probed steps", **head)
    return figure


def _chosen(spectra: Sequence[Spectrum]) -> list[Spectrum]:
    """The first, the last and some evenly between."""
    count = min(len(spectra), _MOST_LINES)
    places = np.unique(np.linspace(0, len(spectra) - 1, count).round().astype(int))
    return [spectra[place] for place in places]


def _drawable(values: FloatArray) -> npt.NDArray[np.bool_]:
    return np.isfinite(values) & (values > 0) & (values < _LARGEST)


def _exceptions(values: FloatArray) -> str:
    """How many eigenvalues have no place on a logarithmic scale, and why."""
    is_finite = np.isfinite(values)
    counts = (
        (int((values == 0).sum()), "zero"),
        (int((is_finite & (values < 0)).sum()), "below zero"),
        (int((~is_finite).sum()), "not finite"),
    )
    said = ", ".join(f"{count} {name}" for count, name in counts if count)
    return f"\n({said})" if said else ""


def _draw_course(axes: Axes, spectra: Sequence[Spectrum]) -> list[Line2D]:
    """The largest, the median and the smallest eigenvalue over steps; the legend's entries."""
    steps = np.array([step for step, _ in spectra])
    size = 4.5 if len(steps) < 30 else 0
    lines = []
    for name, pick, dashes, marker in _COURSES:
        with np.errstate(invalid="ignore"):  # of infinities of both signs
            picked = np.array([pick(values) for _, values in spectra], dtype=float)
        there = _drawable(picked)
        note = "" if there.all() else " (gaps: no number above zero)" if there.any() else _NONE
        (line,) = axes.plot(
            steps, np.where(there, picked, np.nan), dashes, color="#333333", linewidth=1.5,
            marker=marker, markersize=size, label=f"{name}{note}",
        )  # fmt: skip
        lines.append(line)
    if steps[0] == steps[-1]:
        axes.set_xlim(steps[0] - 1, steps[0] + 1)
    return lines


def _set_scale(axes: Axes, spectra: Sequence[Spectrum]) -> None:
    every = np.concatenate([values.ravel() for _, values in spectra])
    drawable = every[_drawable(every)]
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = 0.1, 1.0
    if drawable.size:
        high = float(drawable.max())
        low = max(float(drawable.min()), high * _DEEPEST, 1e-300)
    else:
        axes.text(0.5, 0.5, "no eigenvalue above zero", transform=axes.transAxes, ha="center")
    room = max(1.6, (100 * low / high) ** 0.5)  # two powers of ten at least
    axes.set_ylim(low / room, high * room)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
