"""The scaling curves as small multiples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

__all__ = ["draw"]

_STYLES = {
    "norms": ("#0072b2", "o"),
    "norms + Gram": ("#d55e00", "s"),
    "norms + columns": ("#009e73", "^"),
    "all three": ("#444444", "D"),
}


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Draw a part ``scaling`` of the figures into a PNG.

    Args:
        figures: What :func:`benchmarking.scaling.scaling` gave.
        path: Where to write.
    """
    sweeps = list(dict.fromkeys(point["sweep"] for point in figures["points"]))
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 6), layout="constrained")
        panels = figure.subplots(2, 3).flat
        able = [point for point in figures["points"] if "ratio" in point]
        highest = max(point["high"] for point in able)
        for panel, sweep in zip(panels, sweeps, strict=False):
            _draw_ratios(panel, sweep, [point for point in able if point["sweep"] == sweep])
            panel.set_ylim(0.9, 1.02 * highest)
        for panel in (figure.axes[0], figure.axes[3]):
            panel.set_ylabel("captured / plain, forward + backward")
        _draw_memory(figure.axes[5], figures["memory"])
        figure.axes[0].legend(frameon=False)
        figure.savefig(path, dpi=150)


def _draw_ratios(panel: Axes, sweep: str, points: Sequence[Mapping[str, Any]]) -> None:
    for want, (colour, marker) in _STYLES.items():
        mine = [point for point in points if point["want"] == want]
        values = [point["value"] for point in mine]
        low, high = [point["low"] for point in mine], [point["high"] for point in mine]
        panel.fill_between(values, low, high, color=colour, alpha=0.15, linewidth=0)
        ratios = [point["ratio"] for point in mine]
        panel.plot(values, ratios, color=colour, marker=marker, markersize=4, label=want)
    panel.axhline(1, color="0.7", linewidth=1, zorder=0)
    _power_axis(panel, sweep, points)


def _draw_memory(panel: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    if not points:
        panel.set_axis_off()
        return
    for want, (colour, marker) in _STYLES.items():
        mine = [point for point in points if point["want"] == want]
        grown = [max(point["memory"], 0) / 2**20 for point in mine]
        values = [point["value"] for point in mine]
        panel.plot(values, grown, color=colour, marker=marker, markersize=4)
    first = [point for point in points if point["want"] == points[0]["want"]]
    rows = [point["rows"] / 2**20 for point in first]
    panel.plot([point["value"] for point in first], rows, color="0.6", linestyle="--")
    panel.annotate(
        "all rows, N × P",
        (first[-1]["value"], rows[-1]),
        (-12, -2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color="0.4",
    )
    panel.set_yscale("symlog", linthresh=1)
    panel.set_ylim(bottom=0)
    _power_axis(panel, "width", points)
    panel.set_ylabel("peak memory beyond plain, MiB")


def _power_axis(panel: Axes, label: str, points: Sequence[Mapping[str, Any]]) -> None:
    values = sorted({point["value"] for point in points})
    panel.set_xscale("log", base=2)
    panel.set_xticks(values, [str(value) for value in values])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlabel(label)
