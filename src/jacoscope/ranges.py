"""Squares of contributions that leave the range of the type that they are computed in.

A square has twice its root's exponent. In single precision a sample's norm of 1e-21 has a square
of 1e-42, which is rounded to a multiple of 1e-45, and one of 1e-23 a square of nothing, though the
gradient itself is known to seven digits: as in the first layers of a deep network in which
gradients vanish. What is linear in contributions, as the comparison with the gradient is, cannot
show it. So squares are looked at on the host: a parameter whose squares cannot be known is withheld
once, and from the next capture on its contributions are multiplied by a power of two first, which
rounds nothing.
"""

from __future__ import annotations

import math

import torch

from jacoscope.quantities import FloatArray

__all__ = ["Ranges", "lowest_square"]


def lowest_square(dtype: torch.dtype) -> float:
    """The least square that is known to the type's precision, whether or not small ones count."""
    info = torch.finfo(dtype)
    return info.tiny / info.eps


class Ranges:
    """By parameter, what its contributions are multiplied by before they are squared."""

    def __init__(self) -> None:
        self._factors: dict[str, float] = {}

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
        if math.isnan(largest) or not math.isfinite(along):
            return None
        info, lowest = torch.finfo(dtype), lowest_square(dtype)
        # Known are those of all samples down to √ε of the largest.
        is_over, is_under = math.isinf(largest), largest < lowest / info.eps
        norm = math.sqrt(largest) / factor if lowest < largest < math.inf else along
        if norm > 0:
            self._choose(name, norm, info)
        # A component along the direction is at most as long as the contribution times the
        # direction. One that is longer is of samples that were not measured.
        most = len(sq_N) * math.sqrt(lowest / info.eps * numel) / factor
        if is_over or (is_under and 0 < along <= most):
            how = "too large" if is_over else "too small"
            return (
                f"its samples' gradients are {how} for squares in {str(dtype)[6:]} (about "
                f"{norm:.0e} in all): from the next capture on they are multiplied by a power of "
                "two first"
            )
        return None

    def _choose(self, name: str, norm: float, info: torch.finfo) -> None:
        """The factor that brings a norm to about one, if it is far from it."""
        if info.tiny**0.25 <= norm <= info.max**0.25:
            self._factors.pop(name, None)
            return
        most = int(0.9 * math.log2(info.max))
        self._factors[name] = 2.0 ** max(-most, min(most, -round(math.log2(norm))))
