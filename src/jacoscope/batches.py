"""What a batch holds: how many samples, their labels, the samples themselves.

A path into a batch names keys, places or attributes, joined by dots: ``image``, ``1``,
``inputs.input_ids``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jacoscope.errors import ConfigError, nearest

__all__ = ["Thing", "batch_size_of", "labels_of", "pick", "rows_of", "size_and_source_of"]
__all__ += ["tensors_of", "things_of"]

Thing: TypeAlias = npt.NDArray[np.uint8] | str
"""A sample as it can be shown."""

_DEPTH = 8


def tensors_of(batch: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a batch with its path, in order.

    Args:
        batch: Tensors, mappings, sequences and dataclasses, nested.
        path: Path of ``batch`` itself.
        depth: How deep it is nested.
    """
    if isinstance(batch, Tensor):
        yield path, batch
        return
    if depth > _DEPTH:
        return
    for key, value in _entries(batch):
        yield from tensors_of(value, f"{path}.{key}" if path else key, depth + 1)


def batch_size_of(batch: Any) -> int | None:
    """The number of samples: the first dimension of the first tensor that has one.

    Batches of graphs that say how many graphs they hold (``num_graphs``) are taken at their word.
    """
    return size_and_source_of(batch)[0]


def size_and_source_of(batch: Any) -> tuple[int | None, str]:
    """The number of samples as :func:`batch_size_of` has it, and where it is from, as a noun."""
    graphs = getattr(batch, "num_graphs", None)
    if isinstance(graphs, int):
        return graphs, "the batch's num_graphs"
    for path, tensor in tensors_of(batch):
        if tensor.dim():
            named = f", {path!r}" if path else ""
            return int(tensor.shape[0]), f"the first dimension of the batch's first tensor{named}"
    return None, ""


def rows_of(batch: Any) -> Tensor | None:
    """Which graph each row belongs to, in a batch of graphs that says so."""
    if not isinstance(getattr(batch, "num_graphs", None), int):
        return None
    owners = getattr(batch, "batch", None)
    return owners if isinstance(owners, Tensor) else None


def labels_of(batch: Any, samples: int) -> Tensor | None:
    """Class labels: the one tensor of integers of shape (N,), by name where there are several."""
    found = {
        path: tensor
        for path, tensor in tensors_of(batch)
        if tensor.shape in ((samples,), (samples, 1)) and _is_integer(tensor)
    }
    if len(found) > 1:
        found = {path: each for path, each in found.items() if _is_label(path)}
    if len(found) != 1:
        return None
    return next(iter(found.values())).detach().flatten()


def pick(batch: Any, path: str, key: str = "") -> Any:
    """What stands at a path in a batch.

    Args:
        batch: The batch.
        path: The path, such as ``image`` or ``1.labels``.
        key: Where the path comes from in the configuration, for the error.

    Raises:
        ConfigError: If nothing stands there.
    """
    here = batch
    for part in path.split("."):
        entries = dict(_entries(here))
        if part in entries:
            here = entries[part]
        elif hasattr(here, part):
            here = getattr(here, part)
        else:
            raise ConfigError(
                f"{path!r} is not in the batch, which has no {part!r} there; "
                f"{nearest(part, entries)}",
                key=key,
            )
    return here


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), each) for key, each in value.items())
    elif isinstance(value, list | tuple):
        names = getattr(value, "_fields", None)
        for place, each in enumerate(value):
            yield (names[place] if names else str(place)), each
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name)


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool)


def _is_label(path: str) -> bool:
    last = path.rpartition(".")[2].lower()
    return any(word in last for word in ("label", "target", "class")) or last in ("y", "1")


def things_of(batch: Any, path: str | None, samples: int) -> Callable[[int], Thing | None]:
    """How to show a sample: its image, shape (H, W, C), or its text; ``None`` if it cannot be.

    Args:
        batch: The batch.
        path: Path of what to show; ``none`` for nothing, by default the first image or the first
            row of ids.
        samples: Number of samples.
    """
    if path == "none":
        return lambda place: None
    given = pick(batch, path, "samples.thing") if path else _first_shown(batch, samples)
    if isinstance(given, Tensor) and given.dim() and len(given) == samples:
        return lambda place: _shown(given[place].detach())
    if isinstance(given, list | tuple) and len(given) == samples:
        return lambda place: str(given[place])
    return lambda place: None


def _first_shown(batch: Any, samples: int) -> Tensor | list[str] | None:
    tensors = [t for _, t in tensors_of(batch) if t.dim() and len(t) == samples]
    for tensor in tensors:
        if tensor.dim() == 4 and tensor.shape[1] in (1, 3, 4):
            return tensor
    for tensor in tensors:
        if tensor.dim() == 2 and not tensor.is_floating_point():
            return tensor
    return None


def _shown(sample: Tensor) -> Thing | None:
    """An image as (H, W, C) bytes, its darkest value black and its brightest white; ids as text."""
    if sample.dim() == 1 and not sample.is_floating_point():
        return " ".join(str(each) for each in sample[:64].tolist())
    if sample.dim() == 2:
        sample = sample.unsqueeze(0)
    if sample.dim() != 3:
        return None
    pixels = sample[:3].float().cpu().numpy()  # in torch small images take twice as long
    image = np.nan_to_num(pixels, posinf=0.0, neginf=0.0)
    if len(image) not in (1, 3):
        image = image[:1]
    low, high = image.min(), image.max()
    image = (image - low) / max(high - low, 1e-12) * 255
    result: Thing = image.round().astype(np.uint8).transpose(1, 2, 0)
    return result
