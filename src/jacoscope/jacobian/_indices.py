"""Which samples are meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Index", "as_index"]

Index: TypeAlias = slice | Tensor


def as_index(indices: Sequence[int] | slice | Tensor, samples: int, device: torch.device) -> Index:
    """What a tensor of ``samples`` rows can be indexed with.

    Args:
        indices: Integers (negative ones count from the end), a slice, or a tensor of integers.
        samples: How many samples there are.
        device: Where the rows are.

    Raises:
        IndexError: If there is no such sample.
        ValueError: If these are not one-dimensional integers.
    """
    if isinstance(indices, slice):
        chosen = range(samples)[indices]
        if chosen.step == 1:
            return slice(chosen.start, max(chosen.start, chosen.stop))
        return torch.tensor(list(chosen), dtype=torch.long, device=device)
    index = torch.as_tensor(indices)
    if index.numel() == 0 and index.dim() == 1:
        return torch.empty(0, dtype=torch.long, device=device)
    if index.dim() != 1 or index.dtype in (torch.bool,) or index.dtype.is_floating_point:
        raise ValueError(
            "rows() takes a one-dimensional sequence of integers, "
            f"got {index.dtype} of shape {tuple(index.shape)}"
        )
    low, high = (int(bound) for bound in index.aminmax())
    if low < -samples or high >= samples:
        wrong = low if low < -samples else high
        raise IndexError(f"there is no row {wrong}: the Jacobian has {samples} rows")
    return index.to(device, torch.long)
