"""Checks that need no trust in any rule: against the gradient, and against the graph.

Both compare along one random direction per parameter and capture, drawn anew each time, as in
Freivalds' check of a matrix product (Probabilistic machines can use less running time, 1977): a
wrong Jacobian agrees there with probability zero, and a rank-one direction costs a reading of the
gradient, not another product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jacoscope.capturing._backward import Arrival

__all__ = ["Check", "Direction", "closure_errors", "tolerance"]

_SLACK = 16.0


@dataclass(frozen=True, eq=False)
class Direction:
    """A rank-one direction in a parameter's space, which is seen as a matrix.

    Args:
        left: Along its first dimension, shape (p,).
        right: Along all others, shape (q,).
    """

    left: Tensor
    right: Tensor

    @classmethod
    def drawn(cls, parameter: Tensor, dtype: torch.dtype, seed: int) -> Direction:
        """A standard normal direction; the training's own random numbers are left alone."""
        rows = parameter.shape[0] if parameter.dim() else 1
        columns = parameter.numel() // max(rows, 1)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(rows + columns, generator=generator, dtype=torch.float64)
        drawn = drawn.to(parameter.device, dtype)
        return cls(drawn[:rows], drawn[rows:])

    def along(self, grad: Tensor) -> Tensor:
        """The component of a gradient of the parameter's shape, without dimensions."""
        if grad.is_sparse:
            grad = grad.coalesce()
            values = grad.values().to(self.right.dtype).flatten(1) @ self.right
            return values @ self.left[grad.indices()[0]]
        matrix = grad.to(self.left.dtype).reshape(len(self.left), len(self.right))
        return self.left @ (matrix @ self.right)


@dataclass(frozen=True, eq=False)
class Check:
    """What a capture keeps of one parameter for its checks; on the device.

    Args:
        samples: Each sample's component, shape (N,).
        total: The gradient's component.
        magnitude: What rounding errors are relative to.
        epsilon: Rounding unit of the precision that the layer was computed in.
        added: The component of what was added to ``.grad``, where that is compared as well.
    """

    samples: Tensor
    total: Tensor
    magnitude: Tensor
    epsilon: float
    added: Tensor | None = None

    @classmethod
    def of(cls, arrival: Arrival, direction: Direction) -> Check:
        """Look at a Jacobian and the gradient that it should add up to."""
        return cls(
            arrival.jacobian.probe(direction.left, direction.right),
            direction.along(arrival.grad),
            arrival.magnitude,
            arrival.epsilon,
        )

    def error(self) -> Tensor:
        """|Σᵢ cᵢ − ∂L/∂θ| relative to Σᵢ |cᵢ|, or to what rounding explains; no dimensions."""
        total = self.samples.sum()
        difference = (total - self.total).abs()
        if self.added is not None:
            difference = torch.maximum(difference, (total - self.added).abs())
        scale = torch.maximum(self.samples.abs().sum(), self.total.abs())
        return self._relative(difference, scale)

    def against(self, grad: Tensor, direction: Direction) -> Check:
        """The same, compared with a gradient that has arrived since."""
        return replace(self, total=direction.along(grad))

    def also(self, added: Tensor, before: Tensor) -> Check:
        """The same, compared with what was added to a ``.grad`` that was ``before`` as well."""
        return replace(self, added=added, magnitude=self.magnitude + before.abs())

    def error_of(self, sample: int, expected: Tensor) -> Tensor:
        """One sample's error relative to the largest, or to what rounding explains."""
        difference = (self.samples[sample] - expected).abs()
        scale = torch.maximum(self.samples.abs().max(), expected.abs())
        return self._relative(difference, scale)

    def _relative(self, difference: Tensor, scale: Tensor) -> Tensor:
        # What rounding explains stays within the tolerance, however small the sums are.
        explained = _SLACK * self.epsilon * self.magnitude / tolerance(self.epsilon)
        relative = difference / torch.maximum(scale, explained)
        return torch.where(difference == 0, torch.zeros_like(relative), relative)


def tolerance(epsilon: float) -> float:
    """The largest relative error that a sound result may have, by rounding unit."""
    if epsilon > 1e-4:
        return 5e-2
    return 1e-3 if epsilon > 1e-10 else 1e-9


def closure_errors(checks: Mapping[str, Check]) -> dict[str, float]:
    """Relative closure error by parameter; one transfer per device."""
    groups: dict[torch.device, list[str]] = {}
    for name, check in checks.items():
        groups.setdefault(check.total.device, []).append(name)
    found: dict[str, float] = {}
    for names in groups.values():
        errors = torch.stack([checks[name].error().double() for name in names]).tolist()
        found.update(zip(names, errors, strict=True))
    return {name: found[name] for name in checks}
