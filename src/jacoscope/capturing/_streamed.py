"""Rows that are made anew each time they are asked for, since all of them would not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from jacoscope.jacobian import Jacobian

__all__ = ["StreamedJacobian", "TooLargeError"]


class TooLargeError(Exception):
    """Rows would take more memory than they may.

    Args:
        needed: Bytes that they take.
        allowed: Bytes that they may take.
    """

    def __init__(self, needed: int, allowed: int) -> None:
        super().__init__(needed, allowed)
        self.needed = needed
        self.allowed = allowed

    def __str__(self) -> str:
        return (
            f"its rows have to be kept as they are and take {self.needed / 2**20:,.0f} MB, more "
            f"than memory_budget allows ({self.allowed / 2**20:,.0f} MB)"
        )


@final
class StreamedJacobian(Jacobian):
    """Rows that the graph makes while its saved tensors are there, some samples at a time.

    Args:
        samples: N.
        parameter_shape: The parameter's shape.
        make: From indices of samples, shape (K,), to their rows, shape (K, *parameter_shape).
        dtype: What is computed in.
        device: Where.
        memory_budget: Bytes that temporaries may take.
    """

    def __init__(
        self,
        samples: int,
        parameter_shape: Sequence[int],
        make: Callable[[Tensor], Tensor],
        *,
        dtype: torch.dtype,
        device: torch.device,
        memory_budget: int,
    ) -> None:
        super().__init__(
            samples, parameter_shape, dtype=dtype, device=device, memory_budget=memory_budget
        )
        self._make = make

    def _rows(self, index: slice | Tensor) -> Tensor:
        if isinstance(index, slice):
            index = torch.arange(*index.indices(self.samples), device=self.device)
        return self._make(index).to(self.dtype)
