"""The Jacobian of a view of a parameter, put back in its place.

Shape suffixes: N samples, K chosen samples, P scalars of the parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from jacoscope.jacobian._indices import Index
from jacoscope.jacobian._jacobian import Jacobian

__all__ = ["PlacedJacobian"]


@final
class PlacedJacobian(Jacobian):
    """A Jacobian whose parameter is a view of the parameter: a slice, a transpose, a reshape.

    Args:
        inner: The view's Jacobian.
        place: From a tensor (B, *parameter_shape) to its view (B, *inner.parameter_shape), in
            which no scalar stands twice.
        parameter_shape: The parameter's shape.
        memory_budget: Bytes that temporaries may take; by default ``inner``'s.

    Attributes:
        inner: The view's Jacobian.
        place: From a tensor (B, *parameter_shape) to its view.
        geometry: The view's offset, sizes and strides in the parameter's memory.
        extent: Where in the parameter's memory the view's scalars begin and end.
    """

    def __init__(
        self,
        inner: Jacobian,
        place: Callable[[Tensor], Tensor],
        parameter_shape: Sequence[int],
        *,
        memory_budget: int | None = None,
    ) -> None:
        super().__init__(
            inner.samples,
            parameter_shape,
            dtype=inner.dtype,
            device=inner.device,
            memory_budget=inner.memory_budget if memory_budget is None else memory_budget,
        )
        self.inner = inner
        self.place = place
        view = place(torch.empty(1, *self.parameter_shape, device="meta"))
        start, sizes, steps = view.storage_offset(), view.shape[1:], view.stride()[1:]
        reach = sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
        self.geometry = (start, tuple(sizes), steps)
        self.extent = (start, start + reach + 1) if view.numel() else (0, 0)
        if view.shape != (1, *inner.parameter_shape):
            raise ValueError(
                f"place must give a view of shape (B, {tuple(inner.parameter_shape)}), "
                f"got {tuple(view.shape)} for B = 1"
            )

    def select(self, index: Tensor) -> PlacedJacobian:
        """The Jacobian of some samples alone."""
        return PlacedJacobian(
            self.inner.select(index),
            self.place,
            self.parameter_shape,
            memory_budget=self.memory_budget,
        )

    def _scaled(self, factor: float) -> PlacedJacobian:
        return PlacedJacobian(
            self.inner._scaled(factor),
            self.place,
            self.parameter_shape,
            memory_budget=self.memory_budget,
        )

    def _rows(self, index: Index) -> Tensor:
        rows = self.inner._rows(index)
        buffer = rows.new_zeros(rows.shape[0], *self.parameter_shape)
        self.place(buffer).copy_(rows)
        return buffer

    def _plan(self, wants: Sequence[str]) -> tuple[float, tuple[str, ...]]:
        return self.inner._plan(wants)[0], ()

    def _evaluate(self, wants: Sequence[str]) -> dict[str, Tensor]:
        found = self.inner._evaluate(wants)
        return {
            want: self._put(result) if want in ("column_sq_norms", "sum") else result
            for want, result in found.items()
        }

    def _making_work(self) -> float:
        return self.inner._making_work() + super()._making_work()

    def _matvec(self, v: Tensor) -> Tensor:
        return self.inner._matvec(self.place(v.unsqueeze(0)).squeeze(0))

    def _rmatvec(self, u: Tensor) -> Tensor:
        return self._put(self.inner._rmatvec(u))

    def _magnitude(self) -> Tensor:
        return self.inner._magnitude()

    def _put(self, values: Tensor) -> Tensor:
        buffer = values.new_zeros(1, *self.parameter_shape)
        self.place(buffer).copy_(values.unsqueeze(0))
        return buffer.squeeze(0)

    @property
    def _row_bytes(self) -> int:
        return super()._row_bytes + self.inner._row_bytes
