"""A picture of input saliency: the samples, and how much each part of them moves the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from jacoscope.probing import Saliency
from jacoscope.quantities import FloatArray
from jacoscope.sinks._probe_figures import (
    ABSENT,
    FRAME,
    INFINITE,
    MARGIN,
    NAN,
    PAGE_WIDTH,
    PALE,
    Pixels,
    broken_patches,
    draw_note,
    new_page,
    picture,
    rgb,
    write,
    write_heading,
    write_legend,
)
from jacoscope.sinks._probe_words import signed, unsigned
from jacoscope.sinks._saliency_features import draw_feature_saliency
from jacoscope.sinks._saliency_sequences import draw_sequence_saliency
from jacoscope.sinks._words import cut_name, one_line

__all__ = ["draw_saliency"]

_COLOURS = colormaps["cividis"]
_GAP, _ABOVE, _BELOW, _BAR = 6, 24, 32, 110
_LARGEST_SIDE, _CAPTION = 160, 92
_LABEL = "#d55e00"
_EXPLANATION = (
    "Each map: how much one output moves with each pixel, ‖∂f/∂x‖ over its channels; brighter is "
    "more. Below it that output, the largest in bold."
)


def draw_saliency(
    saliency: Saliency, step: int, ids: Sequence[str] | None = None, features: Sequence[str] = ()
) -> Pixels:
    """The picture, shape (height, 1280, 3).

    Images: one row per sample, with a map per output; sequences: one row of bars per sample;
    features: one panel per sample, features down.

    Args:
        saliency: The saliency of a few samples.
        step: Optimiser steps before it was taken.
        ids: Names of the samples; by default, and where there are too few, their number.
        features: Names of the features of a table; by default ``x0``, ``x1`` and so on.
    """
    title = f"Input saliency at step {step:,}"
    if not saliency.maps.size:
        return draw_note(title, "There is no sample to show.")
    count = len(saliency.maps)
    given = [one_line(name) for name in ids or ()][:count]
    names = [*given, *(f"sample {index}" for index in range(len(given), count))]
    if saliency.kind == "image":
        return _draw_images(saliency, title, names)
    if saliency.kind == "sequence":
        return draw_sequence_saliency(saliency, title, names)
    return draw_feature_saliency(saliency, title, names, features)


@picture
def _draw_images(saliency: Saliency, title: str, names: list[str]) -> Figure:
    samples, outputs = saliency.maps.shape[:2]
    side = (PAGE_WIDTH - 2 * MARGIN - _BAR) // (outputs + 1) - _GAP
    width, height = _fitted(saliency.maps.shape[3], saliency.maps.shape[2], side)
    row = _ABOVE + height + _BELOW
    figure = new_page(150 + samples * row)
    top = write_heading(figure, title, _EXPLANATION)
    patches = broken_patches(saliency.maps)
    if patches:
        write_legend(figure, MARGIN, top, patches)
        top += 24
    canvas = np.full((round(figure.get_figheight() * 100), PAGE_WIDTH, 3), 255, dtype=np.uint8)
    column = max(width, min(side, _CAPTION)) + _GAP
    for sample, name in enumerate(names):
        y = top + sample * row + _ABOVE
        image = None if saliency.things is None else _coloured(saliency.things[sample])
        _paste(canvas, MARGIN, y, _resized(image, (width, height)))
        name = cut_name(name, column // 8)
        write(figure, MARGIN, y - 4, name, va="bottom", fontweight="bold", room=column - _GAP)
        label = saliency.labels[sample] if sample < len(saliency.labels) else None
        if label is not None:
            text = cut_name(f"label {one_line(label)}", column // 7)
            write(figure, MARGIN, y + height + 4, text, room=column - _GAP)
        finite = saliency.maps[sample][np.isfinite(saliency.maps[sample])]
        largest = float(finite.max(initial=0.0))
        for place in range(outputs):
            painted = _painted(saliency.maps[sample, place], largest, (width, height))
            left = MARGIN + (place + 1) * column
            is_label = _caption(figure, saliency, (sample, place), (left, y, height))
            _paste(canvas, left, y, painted, is_label)
        left = MARGIN + (outputs + 1) * column + 4
        _write_scale(figure, canvas, (left, y, max(height, 64)), largest)
    figure.figimage(canvas)
    return figure


def _caption(
    figure: Figure, saliency: Saliency, which: tuple[int, int], place: tuple[int, int, int]
) -> bool:
    """Write which output a map is of and its value; whether it is the label's."""
    (sample, index), (left, top, height) = which, place
    number = str(saliency.outputs[sample, index])
    is_label = sample < len(saliency.labels) and number == saliency.labels[sample]
    noun = "class" if _has_classes(saliency) else "output"
    head = f"label: {number}" if is_label else f"{noun} {number}"
    weight = "bold" if is_label else "normal"
    write(figure, left, top - 4, head, va="bottom", fontweight=weight, fontsize=8.5)
    values = saliency.values[sample]
    is_largest = len(values) > 1 and values[index] == np.fmax.reduce(values)
    weight = "bold" if is_largest else "normal"
    text = signed(float(values[index]))
    write(figure, left, top + height + 4, text, fontweight=weight)
    return is_label


def _write_scale(
    figure: Figure, canvas: Pixels, place: tuple[int, int, int], largest: float
) -> None:
    """A row's colour bar, from zero at its lower end."""
    x, y, side = place
    shades = np.linspace(1, 0, side)[:, None].repeat(14, axis=1)
    canvas[y : y + side, x : x + 14] = _COLOURS(shades, bytes=True)[..., :3]
    write(figure, x + 20, y - 3, unsigned(largest, 2) if largest else "all zero", fontsize=8.5)
    write(figure, x + 20, y + side + 3, "0", va="bottom", fontsize=8.5)
    unit = "output per\nunit of\ninput"
    write(figure, x + 20, y + side / 2, unit, va="center", fontsize=8, color=PALE)


def _has_classes(saliency: Saliency) -> bool:
    """Whether the labels are classes, which are whole numbers."""
    known = [label for label in saliency.labels if label is not None]
    return bool(known) and all(label.isdecimal() for label in known)


def _paste(canvas: Pixels, left: int, top: int, image: Pixels, is_framed: bool = False) -> None:
    """Put an image into its place, in a frame."""
    height, width = image.shape[:2]
    edge = 3 if is_framed else 1
    rows, columns = slice(top - edge, top + height + edge), slice(left - edge, left + width + edge)
    canvas[rows, columns] = rgb(_LABEL if is_framed else FRAME)
    canvas[top : top + height, left : left + width] = image


def _fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """The size of an image enlarged by a whole factor, or made smaller, to fit into a square."""
    side = max(min(side, _LARGEST_SIDE), 8)
    longest = max(width, height)
    if longest <= side:
        return width * (side // longest), height * (side // longest)
    return max(1, round(width * side / longest)), max(1, round(height * side / longest))


def _resized(image: Pixels | None, size: tuple[int, int]) -> Pixels:
    """An image with its pixels as they are where it is enlarged, averaged down otherwise."""
    if image is None:
        return np.full((size[1], size[0], 3), rgb(ABSENT), dtype=np.uint8)
    is_larger = size[0] >= image.shape[1]
    way = Image.Resampling.NEAREST if is_larger else Image.Resampling.BOX
    return np.asarray(Image.fromarray(image).resize(size, way))


def _painted(map_HW: FloatArray, largest: float, size: tuple[int, int]) -> Pixels:
    """A map in colours."""
    shares = map_HW / (largest or 1.0)
    if map_HW.shape[1] > size[0]:  # averaged as numbers, not as colours
        small = Image.fromarray(shares.astype(np.float32)).resize(size, Image.Resampling.BOX)
        shares = np.asarray(small, dtype=np.float64)
    painted: Pixels = _COLOURS(np.nan_to_num(shares).clip(0, 1), bytes=True)[..., :3]
    painted[np.isnan(shares)] = rgb(NAN)
    painted[np.isinf(shares)] = rgb(INFINITE)
    return _resized(painted, size)


def _coloured(image: npt.NDArray[np.generic]) -> Pixels:
    """Red, green and blue of an image whose numbers go from 0 to 1, shape (height, width, 3)."""
    shades = (np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0, 1) * 255).round()
    channels = shades.shape[2]
    if channels < 3:  # grey, perhaps with something beside it
        shades = shades[..., :1].repeat(3, axis=2)
    elif channels == 4:  # the fourth is opacity
        opacity = shades[..., 3:] / 255
        shades = (shades[..., :3] * opacity + 255 * (1 - opacity)).round()
    return np.ascontiguousarray(shades[..., :3]).astype(np.uint8)
