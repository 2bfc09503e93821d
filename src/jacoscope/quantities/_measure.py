"""From captured tensors to additive statistics, on the device, without waiting for it.

Shape suffixes: L parameters, K statistics, R rows of a block, B scalars in a row, N histogram bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jacoscope.capturing import ParameterTensors
from jacoscope.quantities._blocks import BLOCK_WIDTH, BlockLayout, Chunk, accumulation_dtype
from jacoscope.quantities._statistics import Block, Statistic
from jacoscope.quantities.histogram import HISTOGRAM_BINS, count_codes, fold_codes

__all__ = ["Measured", "Meter"]


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
    CPU its buffers (2 MB for each of g, θ, Δθ and a result), since fresh pages from the system
    would cost more than filling them; accelerators have an allocator that keeps them anyway.

    Args:
        chunk_rows: Most rows of a chunk; by default what suits the device.
    """

    def __init__(self, chunk_rows: int | None = None) -> None:
        self._chunk_rows = chunk_rows
        self._kept: dict[str, Tensor] = {}
        self._layouts: dict[tuple[tuple[int, ...], torch.device], BlockLayout] = {}

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
        layout = self._layout(tensors)
        dtype = accumulation_dtype(tensors.device)
        inputs = tensors.inputs
        count = len(tensors.names)
        sums = [statistic for statistic in statistics if statistic.combine == "sum"]
        maxima = [statistic for statistic in statistics if statistic.combine == "max"]
        sums_KL = torch.zeros(len(sums), count, dtype=dtype, device=tensors.device)
        maxima_KL = torch.zeros(len(maxima), count, dtype=dtype, device=tensors.device)
        codes = count_codes(count, tensors.device) if histogram else None
        buffers = {
            name: self._buffer(name, layout.buffer_rows, dtype, tensors.device)
            for name in (*inputs, "scratch")
        }
        for chunk in layout.chunks:
            block = _fill(chunk, tensors, buffers)
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

    def _buffer(self, name: str, rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        kept_RB = self._kept.get(name)
        if kept_RB is not None and kept_RB.shape[0] >= rows and device.type == "cpu":
            return kept_RB
        buffer_RB = torch.empty(rows, BLOCK_WIDTH, dtype=dtype, device=device)
        if device.type == "cpu":
            self._kept[name] = buffer_RB
        return buffer_RB

    def _layout(self, tensors: ParameterTensors) -> BlockLayout:
        key = (tensors.sizes, tensors.device)
        if key not in self._layouts:
            self._layouts[key] = BlockLayout(*key, self._chunk_rows)
        return self._layouts[key]


def _fill(chunk: Chunk, tensors: ParameterTensors, buffers: Mapping[str, Tensor]) -> Block:
    gradient_RB = weight_RB = update_RB = None
    if tensors.gradients is not None:
        gradient_RB = chunk.pack(tensors.gradients, buffers["gradient"])
        if tensors.gradient_scale is not None:
            gradient_RB.div_(tensors.gradient_scale)
    if tensors.weights is not None:
        weight_RB = chunk.pack(tensors.weights, buffers["weight"])
    if tensors.moved is not None:
        assert weight_RB is not None
        update_RB = chunk.pack(tensors.moved, buffers["update"]).sub_(weight_RB)
    return Block(gradient_RB, weight_RB, update_RB, buffers["scratch"][: chunk.rows])
