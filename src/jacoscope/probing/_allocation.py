"""Loss-change allocation: a run's change of the loss, shared out among layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from jacoscope.probing._function import Tensors
from jacoscope.probing._loss import Loss, dot, moved

__all__ = ["Allocation", "allocate"]


@dataclass(frozen=True)
class Allocation:
    """A change of the loss along a straight path, by layer.

    Args:
        by_layer: ∫ g·dθ over each layer.
        change: The true change, L at the end minus L at the start.
        before: L at the start.
        after: L at the end.
    """

    by_layer: Mapping[str, float]
    change: float
    before: float
    after: float

    @property
    def gap(self) -> float:
        """What the integral's rule misses: the true change minus all that was allocated."""
        return self.change - math.fsum(self.by_layer.values())


def allocate(
    loss: Loss, starts: Tensors, ends: Tensors, layers: Mapping[str, Sequence[str]]
) -> Allocation:
    """Share the change of the loss from one point to another out among layers.

    Lan et al., LCA: loss change allocation for neural network training, arXiv:1909.01440, equation
    3: the path integral of g·dθ along the straight line, by Simpson's rule (three gradients; the
    fourth-order Runge-Kutta rule of section 2 is Simpson's where the slope depends on the place
    alone).

    Args:
        loss: The loss, of the same batch at either end.
        starts: Every parameter at the start, by name.
        ends: Every parameter at the end.
        layers: Names of parameters by layer; together, all that moved.
    """
    steps: dict[str, Tensor] = {name: ends[name] - starts[name] for name in starts}
    moving = [name for name, step in steps.items() if bool(step.any())]
    if not moving:
        value = loss.value(starts)
        return Allocation(dict.fromkeys(layers, 0.0), 0.0, value, value)
    along = {name: steps[name] for name in moving}
    total = dict.fromkeys(layers, 0.0)
    values: list[float] = []
    for point, weight in ((starts, 1 / 6), (moved(starts, along, 0.5), 4 / 6), (ends, 1 / 6)):
        slope, value = loss.gradient(point, moving)
        values.append(value)
        for layer, names in layers.items():
            mine = [name for name in names if name in slope]
            total[layer] += weight * dot(slope, steps, mine)
    return Allocation(total, values[-1] - values[0], values[0], values[-1])
