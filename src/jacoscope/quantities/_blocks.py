"""Packing many parameters into few blocks, so that one kernel serves them all.

Shape suffixes: R rows of a block, B scalars in a row, L parameters.

Peers launch a kernel per quantity and parameter. Here the parameters are copied side by side into
rows of a fixed width (one fused copy that also widens to double), a statistic is one reduction
over all rows, and rows are added up by parameter. The number of kernels grows with the number of
scalars over the chunk size, not with the number of parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = [
    "BLOCK_WIDTH",
    "BlockLayout",
    "Buffer",
    "Chunk",
    "accumulation_dtype",
    "block_buffer_bytes",
    "rows_per_chunk",
]

BLOCK_WIDTH = 512


@dataclass(frozen=True)
class Piece:
    """A stretch of one parameter inside a chunk.

    Args:
        index: Which parameter.
        start: First scalar of the stretch.
        stop: One past its last scalar.
        offset: Where it begins in the chunk's flat buffer.
    """

    index: int
    start: int
    stop: int
    offset: int

    @property
    def end(self) -> int:
        """One past where it ends in the chunk's flat buffer."""
        return self.offset + self.stop - self.start

    @property
    def padded_end(self) -> int:
        """The end of the row that it ends in."""
        return -(-self.end // BLOCK_WIDTH) * BLOCK_WIDTH


@dataclass(frozen=True, eq=False)
class Chunk:
    """Pieces that are reduced together.

    Args:
        pieces: The stretches of parameters.
        owners_R: Which parameter each row belongs to, shape (R,), int64, on the device.
    """

    pieces: tuple[Piece, ...]
    owners_R: Tensor

    @property
    def rows(self) -> int:
        """Number of rows that the pieces take."""
        return self.owners_R.numel()

    def pack(self, tensors: Sequence[Tensor], buffer: Buffer) -> Tensor:
        """Copy the pieces of ``tensors`` into rows, zero where a row is not filled.

        Without a graph: call it where none is recorded.

        Args:
            tensors: One tensor per parameter, any shape, floating point.
            buffer: With at least as many rows as the chunk.

        Returns:
            The chunk's rows, shape (R, B), a view of the buffer.
        """
        given = self._given(tensors)
        views = buffer.views(self, [tensor.shape for tensor in given])
        dense = [t if t.layout is torch.strided else t.to_dense() for t in given]
        for place in views.partial:
            piece = self.pieces[place]
            dense[place] = dense[place].flatten()[piece.start : piece.stop]
        torch._foreach_copy_(views.filled, dense)
        if views.padding:
            torch._foreach_zero_(views.padding)
        return views.rows_RB

    def filled(self, tensors: Sequence[Tensor], buffer: Buffer) -> list[Tensor]:
        """The places of tensors, all of which are in this chunk; those without scalars have none.

        Args:
            tensors: One tensor per parameter.
            buffer: What they have been copied to.
        """
        filled = list(tensors)
        views = buffer.views(self, [tensor.shape for tensor in self._given(tensors)])
        for piece, place in zip(self.pieces, views.filled, strict=True):
            filled[piece.index] = place
        return filled

    def _given(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[piece.index] for piece in self.pieces]

    def views(self, out_RB: Tensor, shapes: list[torch.Size]) -> Views:
        """Where its pieces go in a buffer.

        Args:
            out_RB: The buffer's rows.
            shapes: Of the tensors that pieces are taken of.
        """
        rows_RB = out_RB[: self.rows]
        # One call for all views: made one by one they take longer than copying small parameters.
        parts = rows_RB.view(-1).split_with_sizes(self._lengths)
        filled, partial = list(parts[::2]), []
        for place, (piece, shape) in enumerate(zip(self.pieces, shapes, strict=True)):
            if piece.stop - piece.start == shape.numel():
                filled[place] = filled[place].view(shape)
            else:
                partial.append(place)
        return Views(shapes, rows_RB, filled, partial, [parts[place] for place in self._padded])

    @cached_property
    def _lengths(self) -> list[int]:
        """Of each piece, and of what its last row lacks."""
        ends = [(piece.end - piece.offset, piece.padded_end - piece.end) for piece in self.pieces]
        return list(itertools.chain.from_iterable(ends))

    @cached_property
    def _padded(self) -> list[int]:
        """Where among the lengths those are that are padding."""
        return [place for place in range(1, len(self._lengths), 2) if self._lengths[place]]


@dataclass(frozen=True, eq=False)
class Views:
    """Where the pieces of a chunk go in a buffer.

    Args:
        shapes: Of the tensors that pieces are taken of.
        rows_RB: The chunk's rows.
        filled: By piece, its place, in the shape of the tensor if it is all of it.
        partial: Which pieces are not all of their tensor.
        padding: What is not filled.
    """

    shapes: list[torch.Size]
    rows_RB: Tensor
    filled: list[Tensor]
    partial: list[int]
    padding: list[Tensor]


class Buffer:
    """Room for the rows of any chunk of some layouts.

    Where it is used again and again it remembers where pieces go: to find that out takes twice as
    long as to copy them.

    Args:
        rows_RB: The room.
    """

    def __init__(self, rows_RB: Tensor) -> None:
        self.rows_RB = rows_RB
        self._views: dict[Chunk, Views] = {}

    def views(self, chunk: Chunk, shapes: list[torch.Size]) -> Views:
        """Where the pieces of a chunk go.

        Args:
            chunk: The chunk.
            shapes: Of the tensors that its pieces are taken of.
        """
        known = self._views.get(chunk)
        if known is None or known.shapes != shapes:
            known = self._views[chunk] = chunk.views(self.rows_RB, shapes)
        return known


class BlockLayout:
    """Where each of some parameters lies in the chunks.

    Args:
        sizes: Number of scalars of each parameter.
        device: Where they are.
        chunk_rows: Most rows in a chunk; by default what suits the device.
    """

    def __init__(
        self, sizes: Sequence[int], device: torch.device, chunk_rows: int | None = None
    ) -> None:
        self.sizes = tuple(sizes)
        self.chunk_rows = chunk_rows or rows_per_chunk(device)
        self.chunks = tuple(self._chunks(device))

    @property
    def buffer_rows(self) -> int:
        """Rows of a buffer that any of the chunks fits in."""
        return max((chunk.rows for chunk in self.chunks), default=0)

    def _chunks(self, device: torch.device) -> list[Chunk]:
        chunks: list[Chunk] = []
        pieces: list[Piece] = []
        owners: list[int] = []
        for index, size in enumerate(self.sizes):
            start = 0
            while start < size:
                room = self.chunk_rows - len(owners)
                stop = min(size, start + room * BLOCK_WIDTH)
                pieces.append(Piece(index, start, stop, len(owners) * BLOCK_WIDTH))
                owners.extend([index] * -(-(stop - start) // BLOCK_WIDTH))
                start = stop
                if len(owners) == self.chunk_rows:
                    chunks.append(_chunk(pieces, owners, device))
                    pieces, owners = [], []
        if pieces:
            chunks.append(_chunk(pieces, owners, device))
        return chunks


def _chunk(pieces: list[Piece], owners: list[int], device: torch.device) -> Chunk:
    # Made on the host and sent without waiting: a tensor made on the device would wait for it.
    owners_R = torch.tensor(owners, device="cpu").to(device, non_blocking=True)
    return Chunk(tuple(pieces), owners_R)


def rows_per_chunk(device: torch.device) -> int:
    """Rows that suit a device: what stays in a CPU's cache, or enough to fill an accelerator."""
    return 1024 if device.type == "cpu" else 8192


def block_buffer_bytes(sizes: Sequence[int], device: torch.device) -> int:
    """Memory that measuring parameters of these sizes takes: three buffers and two temporaries."""
    rows = min(sum(-(-size // BLOCK_WIDTH) for size in sizes), rows_per_chunk(device))
    return 5 * rows * BLOCK_WIDTH * accumulation_dtype(device).itemsize


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """The precision that sums are taken in: double, but for Apple's GPUs, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64
