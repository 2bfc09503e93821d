"""Checks that need no trust in any rule: against the gradient, and against the graph.

Both compare along one random direction per parameter and capture, drawn anew each time, as in
Freivalds' check of a matrix product (Probabilistic machines can use less running time, 1977): a
wrong Jacobian agrees there with probability zero, and a rank-one direction costs a reading of the
gradient, not another product.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jacoscope.capturing._backward import Arrival
from jacoscope.capturing._complex import as_real

__all__ = ["Check", "Closure", "Direction", "Directions", "closure_errors", "closures", "tolerance"]

_SLACK = 16.0


@dataclass(frozen=True, eq=False)
class Direction:
    """A rank-one direction in a parameter's space, which is seen as a matrix.

    Args:
        left: Along its first dimension, shape (p,).
        right: Along all others, shape (q,).
        factors: Along its second dimension and all others, of which ``right`` is the Kronecker
            product, where it has more than two.
    """

    left: Tensor
    right: Tensor
    factors: tuple[Tensor, Tensor] | None = None

    @classmethod
    def drawn(cls, parameter: Tensor, dtype: torch.dtype, seed: int) -> Direction:
        """A standard normal direction; the training's own random numbers are left alone."""
        parameter = as_real(parameter)
        rows = parameter.shape[0] if parameter.dim() else 1
        columns = parameter.numel() // max(rows, 1)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(rows + columns, generator=generator, dtype=torch.float64)
        drawn = drawn.to(parameter.device, dtype)
        return cls(drawn[:rows], drawn[rows:])

    def along(self, grad: Tensor) -> Tensor:
        """The component of a gradient of the parameter's shape, without dimensions."""
        grad = as_real(grad)
        if grad.is_sparse:
            grad = grad.coalesce()
            values = grad.values().to(self.right.dtype).flatten(1) @ self.right
            return values @ self.left[grad.indices()[0]]
        matrix = grad.to(self.left.dtype).reshape(len(self.left), len(self.right))
        return self.left @ (matrix @ self.right)


class Directions:
    """One direction for each parameter, all drawn in one go when the first is asked for.

    Args:
        parameters: The parameters by name.
        seed: Tells apart the directions of captures.
    """

    def __init__(self, parameters: Mapping[str, Tensor], seed: int) -> None:
        self._parameters = parameters
        self._seed = seed
        self._drawn: dict[str, Direction] | None = None

    def __getitem__(self, name: str) -> Direction:
        if self._drawn is None:
            self._drawn = self._draw()
        return self._drawn[name]

    def _draw(self) -> dict[str, Direction]:
        groups: dict[tuple[torch.device, bool], dict[str, tuple[int, ...]]] = {}
        for name, parameter in self._parameters.items():
            parameter = as_real(parameter)
            alike = groups.setdefault((parameter.device, parameter.dtype is torch.float64), {})
            alike[name] = _lengths(parameter.shape)
        generator = torch.Generator().manual_seed(self._seed)
        found: dict[str, Direction] = {}
        for (device, is_double), sizes in groups.items():
            dtype = torch.float64 if is_double else torch.float32
            count = sum(map(sum, sizes.values()))
            drawn = torch.randn(count, generator=generator, dtype=dtype).to(device)
            lengths = [size for each in sizes.values() for size in each]
            pieces = iter(torch.split(drawn, lengths))
            for name, each in sizes.items():
                left, right = next(pieces), next(pieces)
                factors = (right, next(pieces)) if len(each) == 3 else None
                if factors is not None:
                    right = torch.outer(*factors).flatten()
                found[name] = Direction(left, right, factors)
        return found


def _lengths(shape: torch.Size) -> tuple[int, ...]:
    """Lengths of the vectors that make up a direction for a parameter."""
    if len(shape) < 2:
        return shape.numel() if shape else 1, 1
    return shape[:2] if len(shape) == 2 else (*shape[:2], shape[2:].numel())


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
            arrival.jacobian.probe(direction.left, direction.right, direction.factors),
            direction.along(arrival.grad),
            arrival.magnitude(),
            arrival.epsilon,
        )

    def error(self) -> Tensor:
        """|Σᵢ cᵢ − ∂L/∂θ| relative to Σᵢ |cᵢ|, or to what rounding explains; no dimensions."""
        return Closure.of({"": self}).errors_L[0]

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
        return _relative(difference, torch.maximum(scale, _explained(self.magnitude, self.epsilon)))

    @property
    def kind(self) -> Hashable:
        """What checks have in common that can be looked at together."""
        tensors = (self.samples, self.total, self.magnitude, self.added)
        dtypes = tuple(None if tensor is None else tensor.dtype for tensor in tensors)
        return self.samples.device, self.samples.shape, dtypes, self.epsilon


@dataclass(frozen=True, eq=False)
class Closure:
    """How rows of some parameters add up, on the device.

    Args:
        names: The parameters.
        errors_L: |Σᵢ cᵢ − ∂L/∂θ| relative to the sizes, shape (L,).
        totals_L: The gradients' components, shape (L,).
        sizes_L: Σᵢ |cᵢ|, or what rounding explains, shape (L,).
    """

    names: tuple[str, ...]
    errors_L: Tensor
    totals_L: Tensor
    sizes_L: Tensor

    @classmethod
    def of(cls, checks: Mapping[str, Check]) -> Closure:
        """Look at checks of one kind."""
        each = list(checks.values())
        samples_LN = torch.stack([check.samples for check in each])
        totals_L = torch.stack([check.total for check in each])
        sums_L = samples_LN.sum(1)
        difference_L = (sums_L - totals_L).abs_()
        added = [check.added for check in each if check.added is not None]
        if added:
            difference_L = torch.maximum(difference_L, (sums_L - torch.stack(added)).abs_())
        sizes_L = torch.maximum(samples_LN.abs_().sum(1), totals_L.abs())
        magnitudes_L = torch.stack([check.magnitude for check in each])
        sizes_L = torch.maximum(sizes_L, _explained(magnitudes_L, each[0].epsilon))
        return cls(tuple(checks), _relative(difference_L, sizes_L), totals_L, sizes_L)


def _explained(magnitude: Tensor, epsilon: float) -> Tensor:
    """What rounding explains stays within the tolerance, however small the sums are."""
    return magnitude * (_SLACK * epsilon / tolerance(epsilon))


def _relative(difference: Tensor, size: Tensor) -> Tensor:
    return (difference / size).masked_fill_(difference == 0, 0.0)


def tolerance(epsilon: float) -> float:
    """The largest relative error that a sound result may have, by rounding unit."""
    if epsilon > 1e-4:
        return 5e-2
    return 1e-3 if epsilon > 1e-10 else 1e-9


def closures(checks: Mapping[str, Check]) -> list[Closure]:
    """How all of them add up, without waiting for the device."""
    kinds: dict[Hashable, dict[str, Check]] = {}
    for name, check in checks.items():
        kinds.setdefault(check.kind, {})[name] = check
    return [Closure.of(alike) for alike in kinds.values()]


def closure_errors(checks: Mapping[str, Check]) -> dict[str, float]:
    """Relative closure error by parameter; one transfer for checks of a kind."""
    found: dict[str, float] = {}
    for closure in closures(checks):
        found.update(zip(closure.names, closure.errors_L.tolist(), strict=True))
    return {name: found[name] for name in checks}
