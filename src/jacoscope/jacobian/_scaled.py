"""Rows that are multiplied by a number, so that their squares stay within a type's range.

Shape suffixes: K chosen samples.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from jacoscope.jacobian._indices import Index
from jacoscope.jacobian._jacobian import Jacobian

__all__ = ["ScaledJacobian", "scaled_factors"]

_MOST = {torch.float32: 2.0**120, torch.float64: 2.0**1000}


@final
class ScaledJacobian(Jacobian):
    """The rows of another Jacobian, each multiplied by the same number once it is made.

    Args:
        whole: The other Jacobian.
        factor: The number.
    """

    def __init__(self, whole: Jacobian, factor: float) -> None:
        super().__init__(
            whole.samples,
            whole.parameter_shape,
            dtype=whole.dtype,
            device=whole.device,
            memory_budget=whole.memory_budget,
        )
        self._whole = whole
        self._factor = factor

    def select(self, index: Tensor) -> Jacobian:
        """The Jacobian of some samples alone."""
        return self._whole.select(index).scaled(self._factor)

    def _rows(self, index: Index) -> Tensor:
        return self._whole._rows(index) * self._factor

    @property
    def _row_bytes(self) -> int:
        return self._whole._row_bytes + super()._row_bytes


def scaled_factors(
    left: Tensor, right: Tensor, factor: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Two factors of a product that is multiplied by a number, the first brought to about one.

    Then the squares of both stay within range wherever those of the product do. All but ``factor``
    itself is by powers of two, and exact; no device is waited for.

    Args:
        left: One factor, any shape.
        right: The other, any shape.
        factor: The number.
        dtype: What to compute in.
    """
    left, right = left.to(dtype), right.to(dtype)
    if not left.numel():
        return left, right
    _, exponent = torch.frexp(torch.linalg.vector_norm(left, torch.inf))
    power = torch.exp2(-exponent.to(dtype)).clamp(1 / _MOST[dtype], _MOST[dtype])
    return left * power, (right * factor).div_(power)
