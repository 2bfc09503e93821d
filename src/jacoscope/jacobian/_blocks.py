"""N × N matrices computed in blocks of samples by samples.

Shape suffixes: N samples, K samples of a chunk, J samples of another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jacoscope.jacobian._jacobian import Jacobian

__all__ = ["by_blocks"]


def by_blocks(
    jacobian: Jacobian,
    pair_bytes: int,
    block: Callable[[slice, slice], Tensor],
    *,
    dtype: torch.dtype,
    symmetric: bool,
    most: int | None = None,
) -> Tensor:
    """A matrix of samples by samples, in square blocks under the memory budget.

    Args:
        jacobian: Whose samples, and budget.
        pair_bytes: What the temporaries take for one pair of samples.
        block: From two slices of samples to their block, shape (K, J).
        dtype: The blocks' type.
        symmetric: Whether the matrix is symmetric, so that half of the blocks are mirrored.
        most: Of how many samples a block is at most.

    Returns:
        Shape (N, N).
    """
    samples = jacobian.samples
    side = max(1, int((jacobian.memory_budget / max(pair_bytes, 1)) ** 0.5))
    side = min(side, most or side)
    chunks = [slice(start, min(start + side, samples)) for start in range(0, max(samples, 1), side)]
    if len(chunks) == 1:
        return block(chunks[0], chunks[0])
    whole_NN = torch.empty(samples, samples, dtype=dtype, device=jacobian.device)
    for position, chunk in enumerate(chunks):
        for other in chunks[position if symmetric else 0 :]:
            block_KJ = block(chunk, other)
            whole_NN[chunk, other] = block_KJ
            if symmetric:
                whole_NN[other, chunk] = block_KJ.T
    return whole_NN
