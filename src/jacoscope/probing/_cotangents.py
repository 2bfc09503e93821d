"""Cotangents: one per output, or random ones where outputs are too many.

Shape suffixes: K cotangents, C outputs per sample, N samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Cotangents", "cotangents"]


@dataclass(frozen=True, eq=False)
class Cotangents:
    """What rows are taken along, the same for every sample.

    Args:
        vectors: v, shape (K, C).
        is_exact: Whether they are the C unit vectors, so that rows are those of the Jacobian.
    """

    vectors: Tensor
    is_exact: bool

    def __len__(self) -> int:
        return len(self.vectors)

    def total(self, values: Tensor) -> Tensor:
        """Sum over outputs of something quadratic in the row, from its values along each cotangent.

        Of random cotangents with E[v vᵀ] = 1 the mean is an unbiased estimate of the sum over
        outputs (Hutchinson, 1989).

        Args:
            values: Values, shape (K, …).
        """
        return values.sum(0) if self.is_exact else values.mean(0)

    def error(self, values: Tensor) -> Tensor:
        """Standard error of :meth:`total`, zero where it is exact.

        Args:
            values: Values, shape (K, …).
        """
        if self.is_exact:
            return torch.zeros_like(values[0])
        deviation: Tensor = values.std(0)
        error: Tensor = deviation / float(len(values)) ** 0.5
        return error


def cotangents(outputs: int, most: int, sketches: int, like: Tensor, seed: int = 0) -> Cotangents:
    """One cotangent per output, or random signs where there are too many outputs.

    Args:
        outputs: C.
        most: The largest C that is enumerated.
        sketches: K, the number of random cotangents otherwise.
        like: A tensor of the dtype and device to use.
        seed: Seed of the random signs, which a generator of their own draws.
    """
    if outputs <= most:
        eye = torch.eye(outputs, dtype=like.dtype, device=like.device)
        return Cotangents(eye, True)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (sketches, outputs), generator=generator) * 2 - 1
    return Cotangents(signs.to(like), False)
