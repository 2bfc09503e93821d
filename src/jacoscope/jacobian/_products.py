"""Inner products of a matrix's rows with one another.

Shape suffixes: N rows, P columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jacoscope.jacobian._inner_products import inner_products, is_fast

__all__ = ["row_products"]

_STRIPS = 4
_MANY = 512
"""Rows from which on leaving products out is worth more calls, on one thread as on two."""


def row_products(matrix_NP: Tensor) -> Tensor:
    """All inner products of the rows, shape (N, N), a new tensor.

    Where they are not left to oneDNN, processors make those of many rows in strips, each from its
    own diagonal on, and mirrored: ten products in sixteen.
    """
    if is_fast(matrix_NP):
        return inner_products(matrix_NP, matrix_NP)
    rows = len(matrix_NP)
    if rows < _MANY or matrix_NP.device.type != "cpu":
        return matrix_NP @ matrix_NP.T
    products_NN = matrix_NP.new_empty(rows, rows)
    step = -(-rows // _STRIPS)
    for start in range(0, rows, step):
        stop = start + step
        torch.mm(matrix_NP[start:stop], matrix_NP[start:].T, out=products_NN[start:stop, start:])
        products_NN[stop:, start:stop] = products_NN[start:stop, stop:].T
    return products_NN
