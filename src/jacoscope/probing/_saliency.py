"""Input saliency: how much each pixel, token or feature moves the outputs.

Shape suffixes: n samples shown, k outputs shown per sample, H×W pixels, T places, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jacoscope.probing._place_jacobian import PlaceJacobian

__all__ = ["Saliency", "saliency_of"]

_ALL_CLASSES = 10
_TOP_CLASSES = 5


@dataclass(frozen=True, eq=False)
class Saliency:
    """∂f/∂x of a few samples, as it can be shown.

    Simonyan et al., Deep inside convolutional networks, arXiv:1312.6034, section 3.

    Args:
        kind: ``image``, ``sequence`` (tokens or time steps) or ``features`` (a table's row).
        maps: Of images, the norm of ∂f_c/∂x over channels, shape (n, k, H, W); of sequences, the
            norm of ∂f/∂x_t over outputs and over x_t's numbers, shape (n, 1, T); of features,
            ∂f_c/∂x itself, with its sign, shape (n, k, D).
        things: The samples: images (n, H, W, channels), from their darkest value 0 to their
            brightest 1; token ids (n, T), or nothing; features (n, D).
        outputs: Which outputs the maps are of, shape (n, k); empty where they are of all together.
        values: These outputs, shape (n, k).
        labels: Class labels or target values, as text, or ``None`` where not known.
        is_sketched: Whether the norms of a sequence are estimates from random cotangents.
    """

    kind: Literal["image", "sequence", "features"]
    maps: npt.NDArray[np.float64]
    things: npt.NDArray[np.float64] | npt.NDArray[np.int64] | None
    outputs: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    labels: tuple[str | None, ...]
    is_sketched: bool = False


def saliency_of(jacobian: PlaceJacobian, samples: int, targets: Tensor | None) -> Saliency:
    """Saliency of the first samples.

    Args:
        jacobian: ∂f/∂x.
        samples: How many to show.
        targets: Class labels or target values, shape (N, …).
    """
    shown = min(samples, jacobian.samples)
    labels = _labels(targets, shown)
    function = jacobian.rows.function
    x = function.sample_inputs[jacobian.index] if jacobian.index is not None else None
    values = jacobian.values[:shown].double().cpu().numpy()
    if x is None or len(jacobian.shape) not in (1, 3):
        return _sequence(jacobian, shown, labels)
    is_image = len(jacobian.shape) == 3
    if is_image and jacobian.shape[0] not in (1, 2, 3, 4):
        return _sequence(jacobian, shown, labels)
    chosen = _chosen(jacobian.values[:shown], targets)
    every = sorted({output for row in chosen for output in row})
    rows = jacobian.rows_of(shown, every).double().cpu()
    picked = torch.stack(
        [rows[i, [every.index(output) for output in row]] for i, row in enumerate(chosen)]
    )
    outputs = np.array(chosen, dtype=np.int64)
    taken = np.take_along_axis(values, outputs, axis=1)
    sample = x[:shown].detach().double().cpu()
    if not is_image:
        return Saliency("features", picked.numpy(), sample.numpy(), outputs, taken, labels)
    maps = torch.linalg.vector_norm(picked, dim=2)
    return Saliency("image", maps.numpy(), _images(sample), outputs, taken, labels)


def _sequence(jacobian: PlaceJacobian, shown: int, labels: tuple[str | None, ...]) -> Saliency:
    rows = jacobian.rows.of_place(
        jacobian.place, jacobian.index, slice(0, shown), jacobian.cotangents.vectors
    ).double()
    flat = rows.flatten(3) if rows.dim() > 3 else rows.unsqueeze(-1)
    squares = flat.square().sum(-1)  # (n, K, T)
    summed = squares.sum(1) if jacobian.cotangents.is_exact else squares.mean(1)
    return Saliency(
        "sequence",
        summed.sqrt().unsqueeze(1).cpu().numpy(),
        _tokens(jacobian, shown, summed.shape[1]),
        np.empty((shown, 0), dtype=np.int64),
        np.empty((shown, 0)),
        labels,
        is_sketched=not jacobian.cotangents.is_exact,
    )


def _tokens(jacobian: PlaceJacobian, shown: int, places: int) -> npt.NDArray[np.int64] | None:
    for tensor in jacobian.rows.function.sample_inputs:
        if not tensor.is_floating_point() and tensor.shape[1:] == (places,):
            return tensor[:shown].long().cpu().numpy()
    return None


def _chosen(values: Tensor, targets: Tensor | None) -> list[list[int]]:
    """The outputs to show of each sample: all if few, else its label and the largest."""
    outputs = values.shape[1]
    if outputs <= _ALL_CLASSES:
        return [list(range(outputs)) for _ in values]
    largest = values.topk(_TOP_CLASSES, dim=1).indices.tolist()
    if targets is None or targets.is_floating_point():
        return [list(row) for row in largest]
    chosen = []
    for row, label in zip(largest, targets.flatten().tolist(), strict=False):
        if 0 <= label < outputs and label not in row:
            row = [label, *row[:-1]]
        chosen.append(list(row))
    return chosen


def _labels(targets: Tensor | None, shown: int) -> tuple[str | None, ...]:
    if targets is None or targets[0].numel() != 1:
        return (None,) * shown
    numbers = targets[:shown].flatten().tolist()
    return tuple(f"{n:.3g}" if isinstance(n, float) else str(n) for n in numbers)


def _images(sample: Tensor) -> npt.NDArray[np.float64]:
    """Images (n, H, W, channels), each stretched over 0 to 1."""
    flat = sample.flatten(1)
    low = flat.min(1).values[:, None, None, None]
    high = flat.max(1).values[:, None, None, None]
    images = (sample - low) / (high - low).clamp(min=1e-12)
    return images.permute(0, 2, 3, 1).numpy()
