"""Inner products of a matrix's rows with one another.

Shape suffixes: N rows, P columns.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

__all__ = ["RowProducts", "row_products"]

_STRIPS = 4
_LEAST = 64
"""Rows and columns from which on leaving products out is worth more calls."""


def row_products(matrix_NP: Tensor) -> Tensor:
    """All inner products of the rows, shape (N, N), a new tensor.

    On processors it is made in strips, each from its own diagonal on, and mirrored: ten products
    in sixteen.
    """
    rows = len(matrix_NP)
    if min(matrix_NP.shape) < _LEAST or matrix_NP.device.type != "cpu":
        return matrix_NP @ matrix_NP.T
    products_NN = matrix_NP.new_empty(rows, rows)
    step = -(-rows // _STRIPS)
    for start in range(0, rows, step):
        stop = start + step
        torch.mm(matrix_NP[start:stop], matrix_NP[start:].T, out=products_NN[start:stop, start:])
        products_NN[stop:, start:stop] = products_NN[start:stop, stop:].T
    return products_NN


@final
class RowProducts:
    """Remembers the products last made: a layer's weight and bias share their gradient's.

    Args:
        remembers: Whether it does; else it makes them each time.
    """

    def __init__(self, remembers: bool = True) -> None:
        self._remembers = remembers
        self._matrix: Tensor | None = None
        self._version = 0
        self._products: Tensor | None = None

    def of(self, matrix_NP: Tensor) -> Tensor:
        """All inner products of the rows, shape (N, N), which nobody may change."""
        if not self._remembers:
            return row_products(matrix_NP)
        if self._products is None or not self._is_known(matrix_NP):
            # The matrix is held, so that no other can come to lie in its place.
            self._matrix, self._version = matrix_NP, matrix_NP._version
            self._products = row_products(matrix_NP)
        return self._products

    def forget(self) -> None:
        """Let go of them, and remember no others."""
        self._remembers = False
        self._matrix = self._products = None

    def _is_known(self, matrix_NP: Tensor) -> bool:
        known = self._matrix
        return (
            known is not None
            and known.data_ptr() == matrix_NP.data_ptr()
            and known.shape == matrix_NP.shape
            and known.stride() == matrix_NP.stride()
            and known.dtype == matrix_NP.dtype
            and known.device == matrix_NP.device
            and self._version == known._version
        )
