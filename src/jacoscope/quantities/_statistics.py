"""The additive statistics that all parameter quantities are made of.

Shape suffixes: R rows of a block, B scalars in a row.

Each statistic turns a block of packed parameters into one number per row; rows, chunks, devices
and ranks then combine by addition or by maximum, and only afterwards does anything get divided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["STATISTICS", "Block", "Input", "Statistic"]

Input = Literal["gradient", "weight", "update"]


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of packed parameters, zero where a row has no element.

    Args:
        gradient_RB: g, unscaled, before clipping.
        weight_RB: θ before the optimiser's step.
        update_RB: Δθ, what the optimiser's step added.
        scratch_RB: Room for one intermediate result.
    """

    gradient_RB: Tensor | None
    weight_RB: Tensor | None
    update_RB: Tensor | None
    scratch_RB: Tensor

    @property
    def g(self) -> Tensor:
        """The gradients."""
        assert self.gradient_RB is not None
        return self.gradient_RB

    @property
    def w(self) -> Tensor:
        """The weights."""
        assert self.weight_RB is not None
        return self.weight_RB

    @property
    def u(self) -> Tensor:
        """The updates."""
        assert self.update_RB is not None
        return self.update_RB

    def product(self, x_RB: Tensor, y_RB: Tensor) -> Tensor:
        """The product of two blocks, in the scratch room."""
        return torch.mul(x_RB, y_RB, out=self.scratch_RB)


@dataclass(frozen=True)
class Statistic:
    """A number per parameter that combines over its parts.

    Args:
        name: What quantities call it.
        inputs: What it is computed from.
        combine: How parts combine.
        rows: From a block to its row values, shape (R,).
    """

    name: str
    inputs: frozenset[Input]
    combine: Literal["sum", "max"]
    rows: Callable[[Block], Tensor]


def _sum_of_squares(x_RB: Tensor) -> Tensor:
    norms_R: Tensor = torch.linalg.vector_norm(x_RB, dim=1)
    return norms_R.square_()


def _count_nonfinite(b: Block) -> Tensor:
    # Where looking at a number does not wait for a device: a finite sum has finite terms.
    if b.g.device.type == "cpu" and math.isfinite(b.g.sum()):
        return b.g.new_zeros(len(b.g))
    # x - x is 0 for a finite number and nan otherwise; several times faster than isfinite.
    return torch.sub(b.g, b.g, out=b.scratch_RB).ne_(0).sum(dim=1)


def _count_nonzero(b: Block) -> Tensor:
    # Written as numbers: adding up booleans takes longer, and so does a norm of order 0.
    return torch.ne(b.g, 0, out=b.scratch_RB).sum(dim=1)


def _abs_max(b: Block) -> Tensor:
    # Two readings are faster than one that writes and one that reads again.
    return torch.maximum(b.g.amax(dim=1), b.g.amin(dim=1).neg_())


def _table(*statistics: Statistic) -> dict[str, Statistic]:
    return {statistic.name: statistic for statistic in statistics}


_G: frozenset[Input] = frozenset({"gradient"})
_W: frozenset[Input] = frozenset({"weight"})
_U: frozenset[Input] = frozenset({"update"})

STATISTICS: dict[str, Statistic] = _table(
    Statistic("grad_sq", _G, "sum", lambda b: _sum_of_squares(b.g)),
    Statistic("grad_sum", _G, "sum", lambda b: b.g.sum(dim=1)),
    Statistic("grad_abs_max", _G, "max", _abs_max),
    Statistic("grad_nonzero", _G, "sum", _count_nonzero),
    Statistic("grad_nonfinite", _G, "sum", _count_nonfinite),
    Statistic("weight_sq", _W, "sum", lambda b: _sum_of_squares(b.w)),
    Statistic("weight_grad_abs", _G | _W, "sum", lambda b: b.product(b.w, b.g).abs_().sum(dim=1)),
    Statistic("weight_grad_sq", _G | _W, "sum", lambda b: _sum_of_squares(b.product(b.w, b.g))),
    Statistic("update_sq", _U, "sum", lambda b: _sum_of_squares(b.u)),
    Statistic("update_grad", _U | _G, "sum", lambda b: b.product(b.u, b.g).sum(dim=1)),
)
"""Every statistic by name."""
