"""Rows that are given.

Shape suffixes: N samples, P scalars of the parameter.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import final

import torch
from torch import Tensor

from jacoscope.jacobian._arithmetic import compute_dtype
from jacoscope.jacobian._indices import Index
from jacoscope.jacobian._jacobian import DEFAULT_MEMORY_BUDGET, Jacobian

__all__ = ["DenseJacobian"]


@final
class DenseJacobian(Jacobian):
    """A Jacobian of which all rows are there.

    Args:
        rows: Shape (N, *parameter_shape).
        memory_budget: Bytes that temporaries may take.
    """

    def __init__(self, rows: Tensor, *, memory_budget: int = DEFAULT_MEMORY_BUDGET) -> None:
        if rows.dim() == 0:
            raise ValueError("rows must have a leading dimension of samples, got a scalar")
        super().__init__(
            rows.shape[0],
            rows.shape[1:],
            dtype=compute_dtype(rows.dtype),
            device=rows.device,
            memory_budget=memory_budget,
        )
        self._given = rows.detach()

    @classmethod
    @torch.no_grad()
    def add(cls, parts: Sequence[DenseJacobian]) -> DenseJacobian:
        """The sum of several.

        Args:
            parts: At least one; of the same samples and parameter's shape.
        """
        first = parts[0]
        if len(parts) == 1:
            return first
        dtype = compute_dtype(*(part.dtype for part in parts))
        total = first._given.to(dtype) + parts[1]._given
        for part in parts[2:]:
            total += part._given
        return cls(total, memory_budget=first.memory_budget)

    def _rows(self, index: Index) -> Tensor:
        return self._given[index].to(self.dtype)

    def _from_rows(self, wants: Sequence[str]) -> dict[str, Tensor]:
        if "gram" not in wants or self._given.dtype != self.dtype:
            return super()._from_rows(wants)
        others = tuple(want for want in wants if want != "gram")
        found = super()._from_rows(others) if others else {}
        return found | {"gram": self.products.of(self._given.reshape(self.shape)).clone()}

    def _probe(self, left: Tensor, right: Tensor) -> Tensor:
        if len(self.parameter_shape) != 1:
            return super()._probe(left, right)
        return (self._given.to(self.dtype) @ left).mul_(right)

    @property
    def _sizes(self) -> Hashable:
        return self.shape[1], self._given.dtype

    @property
    def _row_bytes(self) -> int:
        return 0 if self._given.dtype == self.dtype else super()._row_bytes

    def _making_work(self) -> float:
        return 0.0 if self._given.dtype == self.dtype else super()._making_work()
