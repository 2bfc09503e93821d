"""Checks that need no trust in any rule: against the gradient, and against the graph.

Both compare along one random direction per parameter and capture, drawn anew each time, as in
Freivalds' check of a matrix product (Probabilistic machines can use less running time, 1977): a
wrong Jacobian agrees there with probability zero, and a rank-one direction costs a reading of the
gradient, not another product.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from jacoscope.capturing._backward import Arrival
from jacoscope.capturing._complex import as_real

__all__ = [
    "Check",
    "Closure",
    "Direction",
    "Directions",
    "Sum",
    "closure_errors",
    "closures",
    "tolerance",
]

_SLACK = 16.0
_CLOSE = 0.01
"""The part of the tolerance within which nobody asks what rounding explains."""


@dataclass(frozen=True, eq=False)
class Direction:
    """A rank-one direction in a parameter's space, which is seen as a matrix.

    Args:
        left: Along its first dimension, shape (p,).
        right: Along all others, shape (q,); ``None`` if there are no others.
        factors: Along its second dimension and all others, of which ``right`` is the Kronecker
            product, where it has more than two.
    """

    left: Tensor
    right: Tensor | None
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
        return cls(drawn[:rows], drawn[rows:] if parameter.dim() > 1 else None)

    def along(self, grad: Tensor) -> Tensor:
        """The component of a gradient of the parameter's shape, without dimensions."""
        grad = as_real(grad)
        if grad.is_sparse:
            grad = grad.coalesce()
            values = grad.values().to(self.left.dtype).flatten(1)
            summed = values.sum(1) if self.right is None else values @ self.right
            return summed @ self.left[grad.indices()[0]]
        grad = grad.to(self.left.dtype)
        if self.right is None:
            return self.left @ grad.reshape(-1)
        if grad.dim() > 2:
            grad = grad.reshape(len(self.left), -1)
        return self.left @ (grad @ self.right)


class Directions:
    """One direction for each parameter, all drawn in one go when the first is asked for.

    Parameters of one length have a vector in common: what is worked out along it for a layer's
    weight serves its bias. First and other dimensions have vectors of their own, or a square matrix
    would have the component that its transpose has.

    Args:
        parameters: The parameters by name.
        seed: Tells apart the directions of captures.
    """

    def __init__(self, parameters: Mapping[str, Tensor], seed: int) -> None:
        self._parameters = parameters
        self._seed = seed
        self._drawn: dict[str, Direction] = {}

    def __getitem__(self, name: str) -> Direction:
        if not self._drawn:
            self._draw()
        return self._drawn[name]

    def _draw(self) -> None:
        groups: dict[tuple[torch.device, bool], dict[str, tuple[int, ...]]] = {}
        for name, parameter in self._parameters.items():
            parameter = as_real(parameter)
            alike = groups.setdefault((parameter.device, parameter.dtype is torch.float64), {})
            alike[name] = _lengths(parameter.shape)
        generator = torch.Generator().manual_seed(self._seed)
        for (device, is_double), lengths in groups.items():
            dtype = torch.float64 if is_double else torch.float32
            needed = dict.fromkeys(key for each in lengths.values() for key in enumerate(each))
            sizes = [size for _, size in needed]
            drawn = torch.randn(sum(sizes), generator=generator, dtype=dtype).to(device)
            vectors = dict(zip(needed, torch.split(drawn, sizes), strict=True))
            made: dict[tuple[int, ...], Direction] = {}
            for name, each in lengths.items():
                if each not in made:
                    made[each] = _direction([vectors[key] for key in enumerate(each)])
                self._drawn[name] = made[each]


def _direction(vectors: Sequence[Tensor]) -> Direction:
    if len(vectors) < 3:
        return Direction(vectors[0], vectors[1] if len(vectors) == 2 else None)
    left, *factors = vectors
    return Direction(left, torch.outer(*factors).flatten(), (factors[0], factors[1]))


def _lengths(shape: torch.Size) -> tuple[int, ...]:
    """Lengths of the vectors that make up a direction for a parameter."""
    if len(shape) < 3:
        return tuple(shape) or (1,)
    return (*shape[:2], shape[2:].numel())


@dataclass(frozen=True, eq=False)
class Check:
    """What a capture keeps of one parameter for its checks; on the device.

    Args:
        samples: Each sample's component, shape (N,).
        total: The gradient's component.
        magnitude: What rounding errors are relative to: a number, or shape (N,) to be added up;
            zero where it does not matter.
        epsilon: Rounding unit of the precision that the layer was computed in.
        added: The component of what was added to ``.grad``, where that is compared as well.
    """

    samples: Tensor
    total: Tensor
    magnitude: Tensor
    epsilon: float
    added: Tensor | None = None

    @classmethod
    def of(cls, arrival: Arrival, direction: Direction, *, lazily: bool = False) -> Check:
        """Look at a Jacobian and the gradient that it should add up to.

        Args:
            arrival: The two.
            direction: Along which.
            lazily: Whether to leave out the magnitude, which takes another reading of all that
                rows are made of, where the sums agree without it. Only where looking at a number
                does not wait for a device.
        """
        total, epsilon = direction.along(arrival.grad), arrival.epsilon
        settled: Callable[[Tensor], bool] | None = None
        if lazily and total.device.type == "cpu":
            takes_time = arrival.scales or not arrival.jacobian.knows_magnitude
            settled = functools.partial(_agree, total, epsilon) if takes_time else None
        samples, magnitude = arrival.jacobian.checked(
            direction.left, direction.right, direction.factors, settled
        )
        if magnitude is None:
            return cls(samples, total, total.new_zeros(()), epsilon)
        for scale in arrival.scales:
            magnitude = magnitude.sum() + scale()
        return cls(samples, total, magnitude, epsilon)

    def error(self) -> float:
        """|Σᵢ cᵢ − ∂L/∂θ| relative to Σᵢ |cᵢ|, or to what rounding explains."""
        return Closure.of({"": self}).read()[0].error

    def against(self, grad: Tensor, direction: Direction) -> Check:
        """The same, compared with a gradient that has arrived since."""
        return replace(self, total=direction.along(grad))

    def also(self, added: Tensor, before: Tensor) -> Check:
        """The same, compared with what was added to a ``.grad`` that was ``before`` as well."""
        return replace(self, added=added, magnitude=self.magnitude.sum() + before.abs())

    def error_of(self, sample: int, expected: Tensor) -> Tensor:
        """One sample's error relative to the largest, or to what rounding explains."""
        difference = (self.samples[sample] - expected).abs()
        scale = torch.maximum(self.samples.abs().max(), expected.abs())
        return _relative(
            difference, torch.maximum(scale, self.magnitude.sum() * _room(self.epsilon))
        )


class Sum(NamedTuple):
    """How the rows of one parameter add up.

    Args:
        error: |Σᵢ cᵢ − ∂L/∂θ| relative to the size.
        total: The gradient's component.
        size: Σᵢ |cᵢ|, or what rounding explains.
        along: Σᵢ |cᵢ|.
    """

    error: float
    total: float
    size: float
    along: float


@dataclass(frozen=True, eq=False)
class Closure:
    """How rows of some parameters add up: what the device tells of it, read on the host.

    Args:
        names: The parameters.
        epsilon: Rounding unit of the precision that they were computed in.
        told: Σᵢ cᵢ, Σᵢ |cᵢ|, what rounding errors are relative to, the gradient's component, and
            the component of what was added to ``.grad`` where that is compared: shape (4 or 5, L).
    """

    names: tuple[str, ...]
    epsilon: float
    told: Tensor

    @classmethod
    def of(cls, checks: Mapping[str, Check]) -> Closure:
        """Look at checks of one kind, without waiting for the device."""
        each = list(checks.values())
        count = len(each)
        vectors = [check.samples for check in each]
        scalars = [check.magnitude for check in each]
        if scalars[0].dim():
            vectors, scalars = vectors + scalars, []
        scalars += [check.total for check in each]
        scalars += [check.added for check in each if check.added is not None]
        vectors_LN = torch.stack(vectors)
        sums_L = vectors_LN[:count].sum(1)
        told = torch.cat((sums_L, vectors_LN.abs_().sum(1), torch.stack(scalars)))
        return cls(tuple(checks), each[0].epsilon, told.view(-1, count))

    def read(self, told: Sequence[Sequence[float]] | None = None) -> list[Sum]:
        """How each adds up.

        Args:
            told: What the device told, on the host; it is waited for if it is not given.
        """
        room = _room(self.epsilon)
        rows = self.told.tolist() if told is None else told
        return [_sum(room, *each) for each in zip(*rows, strict=True)]


def _sum(
    room: float,
    summed: float,
    size: float,
    magnitude: float,
    total: float,
    added: float | None = None,
) -> Sum:
    difference = abs(summed - total)
    if added is not None:
        difference = max(difference, abs(summed - added))
    along, size = size, max(size, abs(total))
    if magnitude < math.inf:  # its squares may overflow where nothing else does
        size = max(size, room * magnitude)
    if not math.isfinite(size + difference + (added or 0.0)) or math.isnan(magnitude):
        return Sum(math.nan, total, size, along)
    if difference == 0:
        return Sum(0.0, total, size, along)
    return Sum(difference / size if size else math.inf, total, size, along)


def _room(epsilon: float) -> float:
    """What rounding explains stays within the tolerance, however small the sums are."""
    return _SLACK * epsilon / tolerance(epsilon)


def _agree(total: Tensor, epsilon: float, samples: Tensor) -> bool:
    """Whether components add up so well that it does not matter what rounding explains."""
    values: list[float] = samples.tolist()
    whole = float(total)
    size = max(sum(map(abs, values)), abs(whole))
    return abs(sum(values) - whole) <= _CLOSE * tolerance(epsilon) * size < math.inf


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
        kind = (check.epsilon, check.magnitude.dim(), check.added is None, check.samples.device)
        kinds.setdefault(kind, {})[name] = check
    return [Closure.of(alike) for alike in kinds.values()]


def closure_errors(checks: Mapping[str, Check]) -> dict[str, float]:
    """Relative closure error by parameter; one transfer for checks of a kind."""
    found: dict[str, float] = {}
    for closure in closures(checks):
        for name, each in zip(closure.names, closure.read(), strict=True):
            found[name] = each.error
    return {name: found[name] for name in checks}
