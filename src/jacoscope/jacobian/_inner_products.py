"""Inner products of the rows of matrices.

Shape suffixes: N and M rows, K columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["inner_products", "is_fast"]

# What torch.compile makes of a linear layer; it is there where PyTorch was built with oneDNN.
_LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_LEAST = 2**20
"""Multiplications from which on a product is worth the longer call."""


def inner_products(first_NK: Tensor, second_MK: Tensor) -> Tensor:
    """Each row's inner product with each of the other's rows, shape (N, M).

    In single precision on processors oneDNN makes them: as fast as MKL on Intel's, twice as fast
    on others, for which MKL leaves out the widest registers.
    """
    (rows, columns), others = first_NK.shape, len(second_MK)
    if rows * columns * others < _LEAST or not (is_fast(first_NK) and is_fast(second_MK)):
        return first_NK @ second_MK.T
    products: Tensor = _LINEAR(first_NK, second_MK, None, "none", [], "")
    return products


def is_fast(matrix: Tensor) -> bool:
    """Whether products of a matrix's rows are left to oneDNN."""
    return (
        _LINEAR is not None
        and bool(torch.backends.mkldnn.enabled)
        and matrix.device.type == "cpu"
        and matrix.dtype == torch.float32
        and matrix.is_contiguous()  # others take a thousand times as long
    )
