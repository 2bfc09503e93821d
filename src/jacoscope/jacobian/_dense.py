"""Rows that are given.

Shape suffixes: N samples, P scalars of the parameter.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from jacoscope.jacobian._arithmetic import compute_dtype
from jacoscope.jacobian._factor import Factor
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
    def of_rows(cls, rows: Factor, *, memory_budget: int = DEFAULT_MEMORY_BUDGET) -> DenseJacobian:
        """The Jacobian of a vector, whose rows others may have too.

        Args:
            rows: Rows of shape (N, P).
            memory_budget: Bytes that temporaries may take.
        """
        made = cls(rows.rows_NP, memory_budget=memory_budget)
        made._factor = rows
        return made

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

    def select(self, index: Tensor) -> DenseJacobian:
        """The Jacobian of some samples alone."""
        return DenseJacobian(self._given[index], memory_budget=self.memory_budget)

    def _rows(self, index: Index) -> Tensor:
        return self._given[index].to(self.dtype)

    def _evaluate(self, wants: Sequence[str]) -> dict[str, Tensor]:
        if self._factor is None:
            return super()._evaluate(wants)
        found: dict[str, Tensor] = {}
        if "row_sq_norms" in wants:
            found["row_sq_norms"] = self._factor.lengths_N.square()
        if "gram" in wants:
            products_NN = self._factor.products_NN
            found["gram"] = products_NN.clone() if self._factor.is_shared else products_NN
        others = tuple(want for want in wants if want not in found)
        return {**found, **super()._evaluate(others)} if others else found

    def _probe_vector(self, left: Tensor) -> Tensor:
        return super()._probe_vector(left) if self._factor is None else self._factor.along(left)

    def _magnitude(self) -> Tensor:
        return super()._magnitude() if self._factor is None else self._factor.lengths_N

    @property
    def knows_magnitude(self) -> bool:
        """Whether :meth:`magnitude` has been worked out for something else."""
        return self._factor is not None and self._factor.has_lengths

    @cached_property
    def _factor(self) -> Factor | None:
        """The rows as a matrix, if nothing has to be cast."""
        if self._given.dtype != self.dtype:
            return None
        return Factor(self._given.reshape(self.shape))

    @property
    def _sizes(self) -> Hashable:
        return self.shape[1], self._given.dtype

    @property
    def _row_bytes(self) -> int:
        return 0 if self._given.dtype == self.dtype else super()._row_bytes

    def _making_work(self) -> float:
        return 0.0 if self._given.dtype == self.dtype else super()._making_work()
