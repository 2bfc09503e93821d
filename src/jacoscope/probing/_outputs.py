"""What Jacobians of a model's outputs have in common, whatever they are taken by."""

from __future__ import annotations

from abc import ABC

from torch import Tensor

from jacoscope.probing._rows import Rows

__all__ = ["OfOutputs"]


class OfOutputs(ABC):
    """Tells of the outputs and of the way that the rows are made.

    Attributes:
        rows: Makes rows.
    """

    rows: Rows

    @property
    def samples(self) -> int:
        """N."""
        return self.rows.function.samples

    @property
    def outputs(self) -> int:
        """C, the number of outputs per sample."""
        return self.rows.function.outputs

    @property
    def values(self) -> Tensor:
        """The outputs f, shape (N, C)."""
        return self.rows.function.values

    @property
    def method(self) -> str:
        """``vmap``, or ``loop`` for a model that vmap refuses."""
        return self.rows.method

    @property
    def fallback(self) -> str | None:
        """Why it is a loop, if it is."""
        return self.rows.fallback
