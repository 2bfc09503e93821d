"""Some rows of a Jacobian.

Shape suffixes: K chosen samples.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from jacoscope.jacobian._indices import Index
from jacoscope.jacobian._jacobian import Jacobian

__all__ = ["SelectedJacobian"]


@final
class SelectedJacobian(Jacobian):
    """The rows of some samples, which the whole Jacobian makes.

    Args:
        whole: The Jacobian of all samples.
        index: Which samples, shape (K,).
    """

    def __init__(self, whole: Jacobian, index: Tensor) -> None:
        super().__init__(
            len(index),
            whole.parameter_shape,
            dtype=whole.dtype,
            device=whole.device,
            memory_budget=whole.memory_budget,
        )
        self._whole = whole
        self._index = index

    def _scaled(self, factor: float) -> SelectedJacobian:
        return SelectedJacobian(self._whole._scaled(factor), self._index)

    def _rows(self, index: Index) -> Tensor:
        return self._whole._rows(self._index[index])

    @property
    def _row_bytes(self) -> int:
        return self._whole._row_bytes
