"""Histograms as they are kept in an event file: the bins that hold anything.

Gradients of a step fall into a few dozen of the hundreds of bins, and TensorBoard computes a
checksum of all that is written, in Python.

Shape suffixes: L parameters, N bins, F bins that hold anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["pack", "unpack"]


def pack(counts_LN: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The places of the bins that hold anything in any histogram, and under them the counts.

    Args:
        counts_LN: Counts, shape (L, N).

    Returns:
        Shape (L + 1, F), the places in the first row; at least one bin is kept.
    """
    filled_F = np.flatnonzero((counts_LN != 0).any(axis=0))
    filled_F = filled_F if filled_F.size else np.zeros(1, np.int64)
    return np.concatenate([filled_F[None].astype(counts_LN.dtype), counts_LN[:, filled_F]])


def unpack(packed: npt.NDArray[Any], parameters: int, bins: int) -> npt.NDArray[Any] | None:
    """The counts of all bins, shape (L, N), or ``None`` if they are damaged.

    Args:
        packed: What :func:`pack` gave, or the counts themselves.
        parameters: L.
        bins: N.
    """
    if packed.shape == (parameters, bins):
        return packed
    if packed.ndim != 2 or len(packed) != parameters + 1 or packed.dtype.kind != "f":
        return None
    places_F = packed[0]
    if not ((places_F >= 0) & (places_F < bins) & (places_F == np.floor(places_F))).all():
        return None
    counts_LN = np.zeros((parameters, bins), packed.dtype)
    counts_LN[:, places_F.astype(np.int64)] = packed[1:]
    return counts_LN
