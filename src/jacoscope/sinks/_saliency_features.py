"""Input saliency of a table's rows, as bars or as a heat map of features by outputs.

Shape suffixes: n samples, k outputs shown per sample, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jacoscope.probing import Saliency
from jacoscope.quantities import FloatArray
from jacoscope.sinks._probe_figures import (
    INFINITE,
    LOWERS,
    MARGIN,
    NAN,
    PAGE_WIDTH,
    RAISES,
    SIGNED_COLOURS,
    add_axes,
    broken_patches,
    largest_of,
    new_page,
    picture,
    rgb,
    write_heading,
    write_legend,
)
from jacoscope.sinks._probe_words import signed
from jacoscope.sinks._words import cut, cut_name, one_line

__all__ = ["draw_feature_saliency"]

_PANELS, _WIDEST, _BETWEEN, _SCALE = 4, 420, 84, 96
_MOST_FEATURES, _MOST_BARS, _MOST_LEVEL = 48, 40, 6
_EXPLANATION = (
    "∂f/∂x: how much an output moves with one feature, every other feature held where it is. "
    "{colours}{which}"
)
_UNIT = "output per unit of the feature"


@picture
def draw_feature_saliency(
    saliency: Saliency, title: str, names: list[str], features: Sequence[str]
) -> Figure:
    """A panel for each sample, features down: bars if they are few, else a heat map.

    Args:
        saliency: The saliency.
        title: What stands above.
        names: Names of the samples.
        features: Names of the features, as far as they are known.
    """
    shown = _largest_features(saliency.maps)
    maps_nkD = saliency.maps[:, :, shown]
    outputs, every = saliency.maps.shape[1:]
    labels = [features[d] if d < len(features) else f"x{d}" for d in shown]
    labels = [cut_name(one_line(label), 22) for label in labels]
    is_bars = outputs == 1 and len(shown) <= _MOST_BARS
    pitch = 17 if len(shown) <= 24 else 13
    height = pitch * len(shown)
    between = _BETWEEN + (26 if outputs > _MOST_LEVEL else 0)
    figure = new_page(400 + -(-len(names) // _PANELS) * (height + between))
    colours = "Blue lowers it, orange raises it." + ("" if is_bars else " The label is bold.")
    which = f" The {len(shown)} of {every} features that move outputs most."
    said = _EXPLANATION.format(colours=colours, which=which if len(shown) < every else "")
    top = write_heading(figure, title, said)
    patches = broken_patches(maps_nkD)
    if patches:
        write_legend(figure, MARGIN, top, patches)
        top += 24
    high = largest_of(maps_nkD)
    left = MARGIN + 14 + 7 * max(map(len, labels))
    room = PAGE_WIDTH - left - (MARGIN if is_bars else _SCALE)
    width = min(room // min(_PANELS, len(names)), _WIDEST)
    for sample, name in enumerate(names):
        row, column = divmod(sample, _PANELS)
        y = top + 26 + row * (height + between)
        axes = add_axes(figure, left + column * width, y, width - 16, height)
        axes.set_title(_head(saliency, sample, name), fontsize=9, loc="left", parse_math=False)
        if is_bars:
            _draw_bars(axes, maps_nkD[sample, 0], high)
        else:
            _draw_map(axes, maps_nkD[sample].T, high)
            _name_outputs(axes, saliency, sample)
        here = labels if column == 0 else [""] * len(labels)
        axes.set_yticks(range(len(labels)), here, fontsize=8, parse_math=False)
        axes.tick_params(axis="y", length=0)
    if not is_bars:
        right = left + min(_PANELS, len(names)) * width
        bar = add_axes(figure, right + 6, top + 26, 14, 200)
        _draw_scale(figure, bar, high)
    return figure


def _largest_features(maps_nkD: FloatArray) -> list[int]:
    """All features if they are few, else those with the largest derivatives, in order."""
    every = maps_nkD.shape[2]
    if every <= _MOST_FEATURES:
        return list(range(every))
    sizes = np.nan_to_num(np.abs(maps_nkD), nan=np.inf).max(axis=(0, 1))
    return sorted(np.argsort(-sizes, kind="stable")[:_MOST_FEATURES].tolist())


def _head(saliency: Saliency, sample: int, name: str) -> str:
    """The sample's name, label and, if there is one alone, output."""
    label = saliency.labels[sample] if sample < len(saliency.labels) else None
    parts = [cut_name(name, 14 if label is not None else 28)]
    if label is not None:
        parts.append(cut(f"label {one_line(label)}".replace("-", "−"), 14))
    if saliency.values.shape[1:] == (1,):
        parts.append(f"output {signed(float(saliency.values[sample, 0]), 2)}")
    return ", ".join(parts)


def _draw_bars(axes: Axes, map_D: FloatArray, high: float) -> None:
    places = np.arange(len(map_D))
    lengths = np.where(np.isfinite(map_D), map_D.clip(-high, high), 0)
    colours = np.where(lengths < 0, LOWERS, RAISES)
    axes.barh(places, lengths, height=0.7, color=list(colours), linewidth=0)
    for broken, colour in ((np.isnan(map_D), NAN), (np.isinf(map_D), INFINITE)):
        axes.barh(places[broken], 2 * high, left=-high, height=0.7, color=colour, linewidth=0)
    axes.axvline(0, color="#9a9a9a", linewidth=0.8)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(-1.05 * high, 1.05 * high)
    axes.set_ylim(len(map_D) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(value)))
    axes.set_xlabel(_UNIT, fontsize=8)


def _draw_map(axes: Axes, map_Dk: FloatArray, high: float) -> None:
    shares = np.nan_to_num(map_Dk.clip(-high, high) / high / 2 + 0.5)
    painted: npt.NDArray[np.uint8] = SIGNED_COLOURS(shares, bytes=True)[..., :3]
    painted[np.isnan(map_Dk)] = rgb(NAN)
    painted[np.isinf(map_Dk)] = rgb(INFINITE)
    axes.imshow(painted, aspect="auto", interpolation="nearest")
    axes.spines[["top", "right"]].set_visible(True)
    axes.spines[["top", "right"]].set_color("#9a9a9a")


def _name_outputs(axes: Axes, saliency: Saliency, sample: int) -> None:
    """Below each column, which output it is and its value; the label's is bold."""
    numbers, values = saliency.outputs[sample], saliency.values[sample]
    is_level = len(numbers) <= _MOST_LEVEL
    between = "\n" if is_level else ": "
    pairs = zip(numbers, values, strict=True)
    texts = [f"{number}{between}{signed(float(value), 2)}" for number, value in pairs]
    axes.set_xticks(range(len(texts)), texts, fontsize=7.5, rotation=0 if is_level else 90)
    label = saliency.labels[sample] if sample < len(saliency.labels) else None
    for number, tick in zip(numbers, axes.get_xticklabels(), strict=True):
        if str(number) == label:
            tick.set_fontweight("bold")
    axes.set_xlabel("output number and value", fontsize=8)


def _draw_scale(figure: Figure, axes: Axes, high: float) -> None:
    bar = figure.colorbar(ScalarMappable(Normalize(-high, high), SIGNED_COLOURS), cax=axes)
    bar.set_label(_UNIT, fontsize=8)
    bar.ax.yaxis.set_major_locator(MaxNLocator(5))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(value)))
    bar.ax.tick_params(which="both", labelsize=8)
