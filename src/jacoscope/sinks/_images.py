"""Samples that are images, as pixels and as files."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt

__all__ = ["coloured", "data_url"]

_SIDE = 64
"""Pixels that a thumbnail's longer side has at most."""


def data_url(image: npt.NDArray[np.uint8]) -> str:
    """An image of shape (height, width, channels) as a small PNG within a URL.

    An image of at most 64 pixels a side keeps its pixels; a larger one is averaged down.
    """
    from PIL import Image  # runs without pictures need not load it

    is_grey = image.shape[2] < 3
    picture = Image.fromarray(image[..., 0] if is_grey else coloured(image))
    longest = max(picture.size)
    if longest > _SIDE:
        width, height = (max(1, round(side * _SIDE / longest)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def coloured(thing: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Red, green and blue of an image of any number of channels, shape (height, width, 3)."""
    channels = thing.shape[2]
    if channels < 3:  # grey, perhaps with something beside it
        return np.repeat(thing[..., :1], 3, axis=2)
    if channels == 4:  # the fourth is opacity
        opacity = thing[..., 3:] / 255
        blended = thing[..., :3] * opacity + 255 * (1 - opacity)
        return blended.round().astype(np.uint8)
    return np.ascontiguousarray(thing[..., :3])
