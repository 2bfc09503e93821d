"""Per-sample gradients of a convolution's weight as PyTorch's own convolutions make them.

Shape suffixes: N samples, K rows of the convolution per sample, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias, final

import torch
from torch import Tensor

from jacoscope.jacobian._geometry import Geometry
from jacoscope.jacobian._inner_products import inner_products
from jacoscope.jacobian._rowwise import measure_each

__all__ = ["ConvolutionRows", "power_below"]

_CACHED = 2**20
"""Scalars that are made at once: the processor's cache, and what the allocator keeps, hold them."""
_FAR = 2**22
"""Scalars of rows from which on writing them out costs more than making them in tiles."""
_BLOCK = 8
"""oneDNN's convolutions are made for channels in such blocks; others take twice as long."""
_PATCHES = 2**18
"""Scalars of patches that are made at once."""
_CALL = 2**18
"""Multiplications per thread that are worth a call for each sample."""
_CALL_OF_LARGE = 2**21
"""The same for large weights."""
_LARGE = 2**16
"""Scalars of a weight from which on oneDNN's convolutions are slow to make its gradients."""
_WIDTHS = (32, 16, 8)
"""Channels of a tile of rows, as many as leave it some lines."""
_LINES = 16
"""Lines of a tile of rows, at least."""

Tile: TypeAlias = tuple[slice, slice]


@final
class ConvolutionRows:
    """Makes rows on processors in single precision.

    Args:
        geometry: The convolution's, of which all patches are taken.
        parameter_shape: The weight's.
    """

    def __init__(self, geometry: Geometry, parameter_shape: Sequence[int]) -> None:
        self._geometry = geometry
        self._shape = tuple(parameter_shape)
        self._kernel = math.prod(self._shape[2:])
        self._scalars = math.prod(self._shape)

    @property
    def at_once(self) -> int:
        """Of how many samples rows are made at once.

        Beyond what stays in the processor's cache, PyTorch's kernel is 2 to 6 times slower; its
        time hardly depends on the number of samples below that.
        """
        geometry = self._geometry
        pixels = math.prod(geometry.space) * self._shape[1] * geometry.groups
        return _at_once(self._scalars + pixels)

    def by_sample(self, repeats: int) -> bool:
        """Whether a product of matrices for each sample is faster than a convolution for many.

        Measured: up to twice for channels that are not made in blocks, up to three times for large
        weights, whose gradients oneDNN's convolutions make in an order of their own and then turn.

        Args:
            repeats: K.
        """
        if self._geometry.groups > 1:
            return False
        width = self._shape[1]
        patches = width * self._kernel * repeats * math.prod(self._geometry.positions)
        work = self._shape[0] * patches / torch.get_num_threads()
        if self._scalars >= _LARGE:
            return work >= _CALL_OF_LARGE and patches <= _CACHED
        in_blocks = width == 1 or width >= 2 * _BLOCK or width % _BLOCK == 0
        return not in_blocks and work >= _CALL and patches <= _PATCHES

    def measure(
        self, patched_NKC: Tensor, paired_NKC: Tensor, wants: Sequence[str]
    ) -> dict[str, Tensor]:
        """What is wanted of rows that are made sample by sample, each looked at while it is there.

        Args:
            patched_NKC: What patches are taken of.
            paired_NKC: What stands beside them.
            wants: Some of ``row_sq_norms``, ``column_sq_norms`` and ``sum``.
        """
        rows = self._each(patched_NKC, paired_NKC)
        return measure_each(rows, wants, len(paired_NKC), self._shape)

    def of(self, patched_NKC: Tensor, paired_NKC: Tensor) -> Tensor:
        """Rows of samples, shape (N, *parameter_shape)."""
        samples, step = len(paired_NKC), self.at_once
        by_sample = self._scalars < _LARGE and self.by_sample(paired_NKC.shape[1])
        if samples <= step and not by_sample:
            return self._side_by_side(patched_NKC, paired_NKC)
        rows = paired_NKC.new_empty(samples, *self._shape)
        if by_sample:
            rows_Npq = rows.flatten(2)
            for sample, row_pq in enumerate(self._each(patched_NKC, paired_NKC)):
                rows_Npq[sample] = row_pq
            return rows
        for start in range(0, samples, step):
            part = slice(start, start + step)
            rows[part] = self._side_by_side(patched_NKC[part], paired_NKC[part])
        return rows

    def tile(self, samples: int) -> tuple[int, int] | None:
        """Of how many lines and channels of the weight all samples' rows are made at once.

        Returns:
            All of them where their rows are few; ``None`` if there is no tile of a useful size.
        """
        lines, channels = self._shape[:2]
        if samples * self._scalars <= _FAR:
            return lines, channels
        if self._geometry.groups > 1:
            return None
        for width in _WIDTHS:
            most = _at_once(samples * min(channels, width) * self._kernel)
            if most >= _LINES:
                return min(lines, most), min(channels, width)
        return None

    def tiles(self, patched_NKC: Tensor, paired_NKC: Tensor) -> Iterator[tuple[Tile, Tensor]]:
        """All samples' rows, tile by tile, each shape (N, lines, channels, *kernel)."""
        tile = self.tile(len(paired_NKC))
        assert tile is not None
        if tile == self._shape[:2]:
            yield (slice(tile[0]), slice(tile[1])), self.of(patched_NKC, paired_NKC)
            return
        lines, channels = tile
        for start in range(0, self._shape[0], lines):
            part = slice(start, min(start + lines, self._shape[0]))
            for first in range(0, self._shape[1], channels):
                width = slice(first, min(first + channels, self._shape[1]))
                rows = self._side_by_side(patched_NKC[:, :, width], paired_NKC[:, :, part])
                yield (part, width), rows

    def _side_by_side(self, patched_NKC: Tensor, paired_NKC: Tensor) -> Tensor:
        """By one convolution, in which each sample has channels and groups of its own."""
        samples, _, lines = paired_NKC.shape[:3]
        patched, paired = (
            factor.transpose(0, 1).flatten(1, 2) for factor in (patched_NKC, paired_NKC)
        )
        rows = self._geometry.weight_gradient(patched, paired, samples)
        width = patched_NKC.shape[2] // self._geometry.groups
        return rows.reshape(samples, lines, width, *self._shape[2:])

    def _each(self, patched_NKC: Tensor, paired_NKC: Tensor) -> Iterator[Tensor]:
        """Sample by sample, its row as a product of matrices, shape (p, q)."""
        grads_NpT = paired_NKC.transpose(1, 2).flatten(2).contiguous()
        _, p, terms = grads_NpT.shape
        q = self._scalars // p
        step = max(1, _PATCHES // (q * terms))
        for start in range(0, len(grads_NpT), step):
            part = slice(start, start + step)
            patches_KqT = self._geometry.patches(patched_NKC[part]).flatten(0, 1)
            for grads_pT, patches_qT in zip(grads_NpT[part], patches_KqT, strict=True):
                if q < p:  # the smaller one first is faster
                    yield inner_products(patches_qT, grads_pT).T
                else:
                    yield inner_products(grads_pT, patches_qT)


def _at_once(scalars: int) -> int:
    """How many parts of so many scalars are made at once; kernels are made for powers of two."""
    return power_below(_CACHED // max(scalars, 1))


def power_below(number: int) -> int:
    """The largest power of two up to a number, at least 1."""
    return 1 << max(0, number.bit_length() - 1)
