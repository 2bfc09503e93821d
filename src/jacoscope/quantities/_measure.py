"""From captured tensors to additive statistics, on the device, without waiting for it.

Shape suffixes: L parameters, K statistics, R rows of a block, B scalars in a row, N histogram bins.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from jacoscope.capturing import ParameterTensors
from jacoscope.quantities._blocks import (
    BLOCK_WIDTH,
    BlockLayout,
    Buffer,
    Chunk,
    accumulation_dtype,
)
from jacoscope.quantities._statistics import Block, Statistic
from jacoscope.quantities.histogram import HISTOGRAM_BINS, count_codes, fold_codes

__all__ = ["Held", "Measured", "Meter"]


class Held(list[Tensor]):
    """Copies in a meter's own room, which is theirs until they are let go of.

    Args:
        views: The copies.
        rows_RB: They as rows.
    """

    def __init__(self, views: Sequence[Tensor], rows_RB: Tensor) -> None:
        super().__init__(views)
        self.rows_RB = rows_RB


@dataclass(frozen=True, eq=False)
class Measured:
    """Statistics of some parameters, on their device.

    Args:
        names: The parameters' names.
        device: Where the statistics are.
        values_L: Each statistic's values, by its name, shape (L,).
        histogram_LN: Counts of gradients in the bins of
            :data:`~jacoscope.quantities.histogram.HISTOGRAM_EDGES`, shape (L, N), if asked for.
    """

    names: tuple[str, ...]
    device: torch.device
    values_L: Mapping[str, Tensor]
    histogram_LN: Tensor | None = None


class Meter:
    """Computes statistics of many parameters at once.

    It keeps the layouts that it has worked out, which hold a few integers per parameter, and on a
    CPU its buffers (up to 4 MB for each of g, θ, Δθ, a result, and what is held), since fresh pages
    from the system would cost more than filling them; accelerators have an allocator that keeps
    them anyway.

    Args:
        chunk_rows: Most rows of a chunk; by default what suits the device.
    """

    def __init__(self, chunk_rows: int | None = None) -> None:
        self._chunk_rows = chunk_rows
        self._kept: dict[str, Buffer] = {}
        self._layouts: dict[tuple[tuple[int, ...], torch.device], BlockLayout] = {}
        self._held: dict[str, weakref.ReferenceType[Held]] = {}

    @torch.no_grad()
    def hold(self, name: Literal["gradient", "weight"], tensors: list[Tensor]) -> Held | None:
        """Copy tensors to where :meth:`measure` would copy them, of small models on processors.

        Copies are then made once rather than twice.

        Args:
            name: What they are.
            tensors: One tensor per parameter, all on one device.

        Returns:
            Views of the copies, in double precision; ``None`` where there is no room for all of
            them, or others have it.
        """
        device = tensors[0].device
        lent = self._held.get(name)
        if device.type != "cpu" or (lent is not None and lent() is not None):
            return None
        layout = self._layout(tuple(tensor.numel() for tensor in tensors), device)
        if len(layout.chunks) != 1:
            return None
        dtype = accumulation_dtype(device)
        buffer = self._buffer(f"held {name}", layout.buffer_rows, dtype, device)
        rows_RB = layout.chunks[0].pack(tensors, buffer)
        held = Held(layout.chunks[0].filled(tensors, buffer), rows_RB)
        self._held[name] = weakref.ref(held)
        return held

    @torch.no_grad()
    def measure(
        self, tensors: ParameterTensors, statistics: Sequence[Statistic], *, histogram: bool = False
    ) -> Measured:
        """The statistics of each parameter.

        Args:
            tensors: What was captured.
            statistics: What to compute; each needs only inputs that were captured.
            histogram: Whether to count gradients in bins too.

        Returns:
            One value per parameter and statistic, in double precision, still on the device.
        """
        layout = self._layout(tensors.sizes, tensors.device)
        dtype = accumulation_dtype(tensors.device)
        count = len(tensors.names)
        sums = [statistic for statistic in statistics if statistic.combine == "sum"]
        maxima = [statistic for statistic in statistics if statistic.combine == "max"]
        sums_KL = torch.zeros(len(sums), count, dtype=dtype, device=tensors.device)
        maxima_KL = torch.zeros(len(maxima), count, dtype=dtype, device=tensors.device)
        codes = count_codes(count, tensors.device) if histogram else None

        buffers: dict[str, Buffer] = {}

        def buffer(name: str) -> Buffer:
            if name not in buffers:
                buffers[name] = self._buffer(name, layout.buffer_rows, dtype, tensors.device)
            return buffers[name]

        for chunk in layout.chunks:
            block = _fill(chunk, tensors, buffer)
            if sums:
                rows_KR = torch.stack([statistic.rows(block) for statistic in sums])
                sums_KL.index_add_(1, chunk.owners_R, rows_KR)
            if maxima:
                rows_KR = torch.stack([statistic.rows(block) for statistic in maxima])
                owners_KR = chunk.owners_R.expand(len(maxima), -1)
                maxima_KL.scatter_reduce_(1, owners_KR, rows_KR, "amax")
            if codes is not None:
                codes.add(block.g, chunk.owners_R)
        names = [statistic.name for statistic in (*sums, *maxima)]
        values = dict(zip(names, (*sums_KL, *maxima_KL), strict=True))
        histogram_LN = fold_codes(codes, tensors.sizes).to(dtype) if codes is not None else None
        assert histogram_LN is None or histogram_LN.shape == (count, HISTOGRAM_BINS)
        return Measured(tensors.names, tensors.device, values, histogram_LN)

    def _buffer(self, name: str, rows: int, dtype: torch.dtype, device: torch.device) -> Buffer:
        kept = self._kept.get(name)
        if kept is not None and kept.rows_RB.shape[0] >= rows and device.type == "cpu":
            return kept
        buffer = Buffer(torch.empty(rows, BLOCK_WIDTH, dtype=dtype, device=device))
        if device.type == "cpu":
            self._kept[name] = buffer
        return buffer

    def _layout(self, sizes: tuple[int, ...], device: torch.device) -> BlockLayout:
        key = (sizes, device)
        if key not in self._layouts:
            self._layouts[key] = BlockLayout(*key, self._chunk_rows)
        return self._layouts[key]


def _fill(chunk: Chunk, tensors: ParameterTensors, buffer: Callable[[str], Buffer]) -> Block:
    gradient_RB = weight_RB = update_RB = None
    scale = tensors.gradient_scale
    if tensors.gradients is not None:
        # Divided in rows of their own, since what is held may be measured once more.
        gradient_RB = _rows(
            chunk, tensors.gradients, "gradient", buffer, is_changed=scale is not None
        )
        if scale is not None:
            gradient_RB.div_(scale)
    if tensors.weights is not None:
        weight_RB = _rows(chunk, tensors.weights, "weight", buffer)
    if tensors.moved is not None:
        assert weight_RB is not None
        update_RB = chunk.pack(tensors.moved, buffer("update")).sub_(weight_RB)
    return Block(gradient_RB, weight_RB, update_RB, buffer("scratch").rows_RB[: chunk.rows])


def _rows(
    chunk: Chunk,
    tensors: list[Tensor],
    name: str,
    buffer: Callable[[str], Buffer],
    *,
    is_changed: bool = False,
) -> Tensor:
    """Tensors as rows, which are there already if they are held."""
    if isinstance(tensors, Held) and not is_changed:
        return tensors.rows_RB
    return chunk.pack(tensors, buffer(name))
