"""Input saliency of sequences, as bars over their places.

Shape suffixes: n samples, T places, B bars.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jacoscope.probing import Saliency
from jacoscope.quantities import FloatArray
from jacoscope.sinks._probe_figures import (
    INFINITE,
    LOWERS,
    MARGIN,
    NAN,
    PALE,
    add_axes,
    broken_patches,
    largest_of,
    new_page,
    picture,
    write,
    write_heading,
    write_legend,
)
from jacoscope.sinks._probe_words import unsigned
from jacoscope.sinks._words import cut, cut_name, one_line

__all__ = ["draw_sequence_saliency"]

_ROW, _LEFT, _WIDTH = 96, 190, 1060
_NAMED_PLACES, _MOST_BARS = 64, 530


@picture
def draw_sequence_saliency(saliency: Saliency, title: str, names: list[str]) -> Figure:
    """A row of bars for each sample, all to one scale.

    Args:
        saliency: The saliency.
        title: What stands above.
        names: Names of the samples.
    """
    places = saliency.maps.shape[2]
    tokens = saliency.things
    is_named = tokens is not None and places <= _NAMED_PLACES
    bars_nB, stride = _merged(saliency.maps[:, 0])
    longest = 0 if tokens is None else max(len(str(token)) for token in np.unique(tokens))
    width = min(_WIDTH, 44 * bars_nB.shape[1])
    is_upright = longest * 7 < width / places - 3
    pitch = _ROW + (36 if is_upright or not is_named else 22 + 6 * longest)
    figure = new_page(160 + pitch * len(names))
    top = write_heading(figure, title, _explanation(saliency, stride))
    patches = broken_patches(bars_nB)
    if patches:
        write_legend(figure, MARGIN, top, patches)
        top += 24
    top += 18
    write(figure, _LEFT, top - 6, "output per unit of input", va="bottom", fontsize=8, color=PALE)
    for sample, name in enumerate(names):
        y = top + sample * pitch
        write(figure, MARGIN, y + _ROW / 2 - 18, cut_name(name, 13), fontweight="bold", room=118)
        label = saliency.labels[sample] if sample < len(saliency.labels) else None
        if label is not None:
            write(figure, MARGIN, y + _ROW / 2, cut(f"label {one_line(label)}", 15), room=118)
        axes = add_axes(figure, _LEFT, y, width, _ROW)
        _draw_bars(axes, bars_nB[sample], largest_of(bars_nB), width)
        if is_named:
            ids = [str(token) for token in np.asarray(tokens)[sample]]
            rotation = 0 if is_upright else 90
            axes.set_xticks(range(places), ids, fontsize=7.5, rotation=rotation)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t * stride:.0f}"))
    order = "below each bar the id of its token" if is_named else f"place t, of {places}"
    write(figure, _LEFT, top + len(names) * pitch - 6, order, color=PALE)
    return figure


def _explanation(saliency: Saliency, stride: int) -> str:
    thing = "place t" if saliency.things is None else "token t, at its embedding"
    said = [f"Each bar: ‖∂f/∂x_t‖, how much all outputs together move with {thing}; one scale."]
    if saliency.is_sketched:
        said.append("Estimates from random cotangents.")
    if stride > 1:
        said.append(f"Each bar the largest of {stride} places.")
    return " ".join(said)


def _merged(map_nT: FloatArray) -> tuple[FloatArray, int]:
    """No more bars than can be seen, each the largest of some neighbours."""
    samples, places = map_nT.shape
    stride = -(-places // _MOST_BARS)
    if stride == 1:
        return map_nT, 1
    padded = np.zeros((samples, -(-places // stride) * stride))
    padded[:, :places] = map_nT
    return padded.reshape(samples, -1, stride).max(axis=2), stride


def _draw_bars(axes: Axes, bars_B: FloatArray, high: float, width: float) -> None:
    places = np.arange(len(bars_B))
    heights = np.where(np.isfinite(bars_B), bars_B.clip(max=high), 0)
    style: dict[str, Any] = {"linewidth": 0.8 * width / len(bars_B) * 72 / 100, "capstyle": "butt"}
    axes.vlines(places, 0, heights, color=LOWERS, **style)
    for broken, colour in ((np.isnan(bars_B), NAN), (np.isinf(bars_B), INFINITE)):
        axes.vlines(places[broken], 0, high, color=colour, **style)
    if not bars_B.any():
        axes.text(0.02, 0.5, "all zero", transform=axes.transAxes, fontsize=9, va="center")
    axes.set_xlim(-0.6, len(bars_B) - 0.4)
    axes.set_ylim(0, high * 1.04)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: unsigned(value)))
