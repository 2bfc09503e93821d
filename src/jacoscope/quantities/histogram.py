"""Histograms of gradients, made on the device.

Shape suffixes: L parameters, C codes, N bins, R rows of a block, B scalars in a row.

The bins are fixed, so that histograms add up over chunks, devices, ranks and steps: a number falls
into the bin of its leading bits. The top eleven bits of a 32-bit float are its sign, its exponent
and two bits of its mantissa, which cuts every octave [2ᵏ, 2ᵏ⁺¹) into four equal bins (as in an HDR
histogram). No logarithm is taken and no minimum or maximum has to be known first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["HISTOGRAM_BINS", "HISTOGRAM_EDGES", "CodeCounts", "count_codes", "fold_codes"]

_LOWEST, _HIGHEST = -36, 16  # octaves: 2⁻³⁶ ≈ 1.5e-11 up to 2¹⁶ = 65536
_PER_OCTAVE = 4
_CODES = 2048
_FIRST = (_LOWEST + 127) * _PER_OCTAVE
_LAST = (_HIGHEST + 127) * _PER_OCTAVE
_NONFINITE = 255 * _PER_OCTAVE
_SIDE = _LAST - _FIRST + 1  # the octaves' bins and one for all that lies beyond

HISTOGRAM_BINS: int = 2 * _SIDE + 1
"""Number of bins: those of the octaves on either side, one beyond each end, one around zero."""


def _edges() -> npt.NDArray[np.float64]:
    octaves = np.arange(_LOWEST, _HIGHEST, dtype=np.float64)
    quarters = 1 + np.arange(_PER_OCTAVE) / _PER_OCTAVE
    positive = np.append((2.0 ** octaves[:, None] * quarters).ravel(), 2.0**_HIGHEST)
    ends = float(np.finfo(np.float32).max)
    return np.concatenate([[-ends], -positive[::-1], positive, [ends]])


HISTOGRAM_EDGES: npt.NDArray[np.float64] = _edges()
"""Edges of the bins, ascending, shape (N + 1,); the bin in the middle holds zero and all below
1.5e-11 in magnitude, the outermost bins hold all beyond 65536."""


_AT_ONCE = 512
"""Rows that are counted at once on processors: with more, what is made on the way leaves the
cache, and takes fresh pages."""


class CodeCounts:
    """How many gradients of each parameter have each code (their eleven leading bits).

    Args:
        parameters: Number of parameters.
        device: Where the gradients are.
    """

    def __init__(self, parameters: int, device: torch.device) -> None:
        self.counts_LC = torch.zeros(parameters, _CODES, dtype=torch.int64, device=device)

    def add(self, gradient_RB: Tensor, owners_R: Tensor) -> None:
        """Count a block of gradients, zero padding included.

        Args:
            gradient_RB: The gradients, shape (R, B).
            owners_R: Which parameter each row belongs to, shape (R,).
        """
        step = _AT_ONCE if gradient_RB.device.type == "cpu" else max(len(gradient_RB), 1)
        for start in range(0, len(gradient_RB), step):
            part = slice(start, start + step)
            self._add(gradient_RB[part], owners_R[part])

    def _add(self, gradient_RB: Tensor, owners_R: Tensor) -> None:
        bits_RB = gradient_RB.to(torch.float32).view(torch.int32) >> 21
        index_RB = bits_RB.add_(_CODES // 2) + (owners_R * _CODES).unsqueeze(1)
        flat = index_RB.view(-1)
        self.counts_LC.view(-1).scatter_add_(0, flat, torch.ones_like(flat))


def count_codes(parameters: int, device: torch.device) -> CodeCounts:
    """Counts of zero, to be added to."""
    return CodeCounts(parameters, device)


def fold_codes(codes: CodeCounts, sizes: Sequence[int]) -> Tensor:
    """Counts by bin from counts by code.

    Args:
        codes: The counts by code.
        sizes: Number of scalars of each parameter.

    Returns:
        Counts, shape (L, N), int64. Non-finite gradients are in no bin, so that a parameter's row
        sums to its size less their number.
    """
    counts_LC = codes.counts_LC
    # As integers, negative floats count downwards from -1024 (-0.0) to -1 (the largest nan).
    negative_LC, positive_LC = counts_LC.chunk(2, dim=1)
    positive_LS, negative_LS = _side(positive_LC), _side(negative_LC)
    nonfinite_L = positive_LC[:, _NONFINITE:].sum(1) + negative_LC[:, _NONFINITE:].sum(1)
    sizes_L = torch.tensor(sizes, dtype=torch.int64, device="cpu").to(
        counts_LC.device, non_blocking=True
    )
    # The rest, rather than a count of zeros, which would include the padding of the blocks.
    zero_L = sizes_L - nonfinite_L - positive_LS.sum(1) - negative_LS.sum(1)
    return torch.cat([negative_LS.flip(1), zero_L.unsqueeze(1), positive_LS], dim=1)


def _side(counts_LC: Tensor) -> Tensor:
    beyond_L = counts_LC[:, _LAST:_NONFINITE].sum(1, keepdim=True)
    return torch.cat([counts_LC[:, _FIRST:_LAST], beyond_L], dim=1)
