"""Squares of contributions that leave the range of the type that they are computed in.

A square has twice its root's exponent. In single precision a sample's norm of 1e-21 has a square
of 1e-42, which is rounded to a multiple of 1e-45, and one of 1e-23 a square of nothing, though the
gradient itself is known to seven digits: as in the first layers of a deep network in which
gradients vanish. What is linear in contributions, as the comparison with the gradient is, cannot
show it. So squares are looked at, and where they cannot be known contributions are multiplied by a
power of two first, which rounds nothing: at once where a parameter is met for the first time and
looking does not wait for a device; else the parameter is withheld once, and measured so from the
next capture on.
"""

from __future__ import annotations

import math

import torch

from jacoscope.quantities import FloatArray, SampleTensors

__all__ = ["Ranges", "lowest_square"]


def lowest_square(dtype: torch.dtype) -> float:
    """The least square that is known to the type's precision, whether or not small ones count."""
    info = torch.finfo(dtype)
    return info.tiny / info.eps


class Ranges:
    """By parameter, what its contributions are multiplied by before they are squared."""

    def __init__(self) -> None:
        self._factors: dict[str, float] = {}
        self._met: set[str] = set()

    def at_first(self, name: str, found: SampleTensors) -> float:
        """The power of two for a capture whose squares are there to be looked at.

        Args:
            name: The parameter.
            found: What was measured of it.

        Returns:
            What its contributions have to be multiplied by: where it was met before, or looking
            would wait for a device, by what they were.
        """
        if name in self._met or found.sq_N.device.type != "cpu":
            return found.factor
        self._met.add(name)
        info = torch.finfo(found.dtype)
        largest = float(found.sq_N.max())
        is_known = lowest_square(found.dtype) / info.eps <= largest <= info.max * info.eps
        norm = math.sqrt(largest if is_known else float(found.grad_sq)) / found.factor
        if 0 < norm < math.inf:
            self._choose(name, norm, info)
        return self.factor(name)

    def factor(self, name: str) -> float:
        """The power of two for a parameter's next capture; 1 for almost all."""
        return self._factors.get(name, 1.0)

    def judge(
        self,
        name: str,
        sq_N: FloatArray,
        along: float,
        *,
        factor: float,
        dtype: torch.dtype,
        numel: int,
    ) -> str | None:
        """See whether the squares of a capture can be known, and choose the next one's factor.

        Args:
            name: The parameter.
            sq_N: The samples' squared norms, after multiplication, shape (N,).
            along: Σᵢ |cᵢ| along a random direction of unit variance, before multiplication.
            factor: What contributions were multiplied by.
            dtype: What the squares were computed in.
            numel: Number of scalars of the parameter.

        Returns:
            Why they cannot be known, or ``None`` if they can.
        """
        largest = float(sq_N.max(initial=0.0))
        if not math.isfinite(along):
            return None
        info, lowest = torch.finfo(dtype), lowest_square(dtype)
        # Known are those of all samples down to √ε of the largest, and sums over the samples. What
        # is finite along the direction has squares that are no numbers only where these overflow.
        is_over, is_under = not largest <= info.max * info.eps, largest < lowest / info.eps
        norm = math.sqrt(largest) / factor if lowest < largest < math.inf else along
        if norm > 0:
            self._choose(name, norm, info)
        # A component along the direction is at most as long as the contribution times the
        # direction. One that is longer is of samples that were not measured.
        most = len(sq_N) * math.sqrt(lowest / info.eps * numel) / factor
        if is_over or (is_under and 0 < along <= most):
            how = "too large" if is_over else "too small"
            return (
                f"its samples' gradients have become {how} for squares in {str(dtype)[6:]}; from "
                "the next capture on they are multiplied by a power of two first"
            )
        return None

    def _choose(self, name: str, norm: float, info: torch.finfo) -> None:
        """The factor that brings a norm to about one, if it is far from it."""
        if info.tiny**0.25 <= norm <= info.max**0.25:
            self._factors.pop(name, None)
            return
        most = int(0.9 * math.log2(info.max))
        self._factors[name] = 2.0 ** max(-most, min(most, -round(math.log2(norm))))
