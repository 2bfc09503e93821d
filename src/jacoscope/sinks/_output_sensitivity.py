"""A picture of how sensitive each output is to each layer.

Shape suffixes: L layers, C outputs.
"""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jacoscope.probe_record import OutputSensitivity
from jacoscope.quantities import FloatArray
from jacoscope.sinks._probe_figures import (
    INFINITE,
    MARGIN,
    NAN,
    PALE,
    ZERO,
    Pixels,
    add_axes,
    broken_patches,
    common_prefix,
    draw_note,
    log_norm,
    new_page,
    picture,
    rgb,
    short_names,
    write,
    write_heading,
    write_legend,
)
from jacoscope.sinks._probe_words import unsigned
from jacoscope.sinks._words import cut_name, one_line

__all__ = ["draw_output_sensitivity"]

_COLOURS = colormaps["viridis"]
_NAME, _LEFT, _WIDTH = 33, 262, 860
_MOST_LAYERS, _WIDEST = 128, 96
_EXPLANATION = (
    "√(mean over samples of ‖∂f_c/∂θ‖²): how much output c moves if a layer's parameters move by "
    "one unit the way it is most sensitive to."
)


def draw_output_sensitivity(sensitivity: OutputSensitivity, step: int) -> Pixels:
    """The picture, shape (height, 1280, 3).

    Args:
        sensitivity: The numbers.
        step: Optimiser steps before they were taken.
    """
    title = f"Sensitivity of each output to each layer at step {step:,}"
    values_LC = np.asarray(sensitivity.values, dtype=float)
    if not values_LC.size:
        return draw_note(title, "There is no layer to show.")
    return _draw(sensitivity.layers, values_LC, title)


@picture
def _draw(layers: tuple[str, ...], values_LC: FloatArray, title: str) -> Figure:
    every = len(layers)
    if every > _MOST_LAYERS:
        sizes = np.nan_to_num(values_LC, nan=np.inf).max(axis=1)
        kept = sorted(np.argsort(-sizes, kind="stable")[:_MOST_LAYERS].tolist())
        layers, values_LC = tuple(layers[place] for place in kept), values_LC[kept]
    row = min(max(900 // len(layers), 12), 26)
    height, outputs = row * len(layers), values_LC.shape[1]
    column = min(_WIDTH / outputs, _WIDEST)
    width = column * outputs
    figure = new_page(height + 420)
    said = _EXPLANATION
    if every > len(layers):
        said += f" The {len(layers)} of {every} layers that outputs are most sensitive to."
    top = write_heading(figure, title, said)
    patches = [Patch(color=ZERO, label="zero")] if (values_LC == 0).any() else []
    patches += broken_patches(values_LC)
    if patches:
        write_legend(figure, MARGIN, top, patches)
        top += 24
    top += 22
    prefix = common_prefix(layers)
    if prefix:
        within = f"layers of {cut_name(one_line(prefix.rstrip('.')), 24)}"
        write(figure, _LEFT - 5, top - 4, within, ha="right", va="bottom", fontsize=8.5, color=PALE)
    axes = add_axes(figure, _LEFT, top, width, height)
    norm = log_norm(values_LC)
    axes.imshow(_painted(values_LC, norm), aspect="auto", interpolation="nearest")
    axes.spines[["left", "bottom"]].set_visible(False)
    size = 8.5 if row >= 15 else 7.5
    labels = short_names(layers, _NAME)
    axes.set_yticks(range(len(layers)), labels, fontsize=size, parse_math=False)
    _name_outputs(axes, outputs, column)
    if column >= 52 and row >= 15:
        _write_numbers(axes, values_LC, norm)
    bar_axes = add_axes(figure, _LEFT + width + 18, top, 15, min(max(height, 140), 320))
    bar = figure.colorbar(ScalarMappable(norm, _COLOURS), cax=bar_axes)
    bar.set_label("output per unit of θ", fontsize=8.5)
    bar.ax.tick_params(which="both", labelsize=8)
    return figure


def _painted(values_LC: FloatArray, norm: LogNorm) -> Pixels:
    drawable = np.isfinite(values_LC) & (values_LC > 0)
    shares = np.asarray(norm(np.where(drawable, values_LC.clip(max=1e300), norm.vmin or 1.0)))
    painted: Pixels = _COLOURS(shares, bytes=True)[..., :3]
    painted[values_LC == 0] = rgb(ZERO)
    painted[np.isnan(values_LC)] = rgb(NAN)
    painted[np.isinf(values_LC)] = rgb(INFINITE)
    return painted


def _name_outputs(axes: Axes, outputs: int, column: float) -> None:
    stride = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9) if s * column >= 22)
    places = range(0, outputs, stride)
    axes.set_xticks(places, [str(place) for place in places], fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("output c", fontsize=9)


def _write_numbers(axes: Axes, values_LC: FloatArray, norm: LogNorm) -> None:
    shares = np.asarray(norm(np.where(values_LC > 0, values_LC, norm.vmin or 1.0)))
    for (layer, output), value in np.ndenumerate(values_LC):
        if np.isfinite(value):
            is_pale = shares[layer, output] > 0.6 or value == 0
            axes.text(
                output, layer, unsigned(float(value), 2), ha="center", va="center",
                fontsize=8, color="black" if is_pale else "white",
            )  # fmt: skip
