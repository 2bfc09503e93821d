"""Rows of samples, and what has been worked out of them.

Shape suffixes: N rows, P columns.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from jacoscope.jacobian._products import row_products

__all__ = ["Factor"]


@final
class Factor:
    """One side of outer products, or rows themselves; a layer's weight and bias share one.

    What is asked for again is not worked out again, unless the rows have been changed in place.

    Args:
        rows_NP: The rows, in the type that is computed in.
        is_shared: Whether several Jacobians have it: only then are products kept, which may be
            larger than the rows.

    Attributes:
        rows_NP: The rows.
        is_shared: Whether several Jacobians have it.
    """

    __slots__ = ("_along", "_lengths_N", "_products_NN", "_version", "is_shared", "rows_NP")

    def __init__(self, rows_NP: Tensor, *, is_shared: bool = False) -> None:
        self.rows_NP = rows_NP
        self.is_shared = is_shared
        self._version = rows_NP._version
        self._lengths_N: Tensor | None = None
        self._products_NN: Tensor | None = None
        self._along: tuple[Tensor, Tensor] | None = None

    @property
    def lengths_N(self) -> Tensor:
        """The rows' Euclidean norms, which nobody may change."""
        self._look()
        if self._lengths_N is None:
            self._lengths_N = torch.linalg.vector_norm(self.rows_NP, dim=1)
        return self._lengths_N

    @property
    def has_lengths(self) -> bool:
        """Whether :attr:`lengths_N` has been worked out."""
        self._look()
        return self._lengths_N is not None

    @property
    def products_NN(self) -> Tensor:
        """All inner products of the rows; nobody may change them where it is shared."""
        if not self.is_shared:
            return row_products(self.rows_NP)
        self._look()
        if self._products_NN is None:
            self._products_NN = row_products(self.rows_NP)
        return self._products_NN

    def along(self, direction_P: Tensor) -> Tensor:
        """Each row's inner product with a direction, shape (N,), which nobody may change.

        That of the direction last asked for is kept, and not asked about what it holds now.
        """
        self._look()
        if self._along is None or self._along[0] is not direction_P:
            self._along = direction_P, self.rows_NP @ direction_P
        return self._along[1]

    def _look(self) -> None:
        if self.rows_NP._version != self._version:
            self._version = self.rows_NP._version
            self._lengths_N = self._products_NN = self._along = None
