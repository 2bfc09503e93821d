"""What a captured optimiser step hands on: tensors of the watched parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ParameterTensors"]


@dataclass(frozen=True, eq=False)
class ParameterTensors:
    """Gradients, weights and updates of some parameters, all on one device.

    Lists run in the order of ``names``; those that were not captured are ``None``.

    Args:
        names: The parameters' names.
        device: Where the tensors are.
        gradients: ∂L/∂θ as the optimiser gets it, before clipping, times ``gradient_scale``.
        weights: θ before the step.
        moved: θ after the step; given only together with ``weights``.
        gradient_scale: Factor that the gradients still carry (an AMP scaler's), a tensor without
            dimensions; ``None`` for 1.
    """

    names: tuple[str, ...]
    device: torch.device
    gradients: list[Tensor] | None = None
    weights: list[Tensor] | None = None
    moved: list[Tensor] | None = None
    gradient_scale: Tensor | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of scalars of each parameter."""
        tensors = self.gradients if self.gradients is not None else self.weights
        assert tensors is not None
        return tuple(tensor.numel() for tensor in tensors)

    @property
    def inputs(self) -> frozenset[str]:
        """Which of ``gradient``, ``weight`` and ``update`` were captured."""
        given = {
            "gradient": self.gradients is not None,
            "weight": self.weights is not None,
            "update": self.moved is not None,
        }
        return frozenset(name for name, present in given.items() if present)
