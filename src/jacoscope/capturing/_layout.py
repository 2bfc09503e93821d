"""Layouts: which sample each element of a tensor belongs to."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jacoscope.capturing._walk import Shape

__all__ = ["Constant", "Irregular", "Layout", "LayoutError", "Regular", "Rows", "regular_layouts"]


class LayoutError(Exception):
    """A rule cannot use this layout; the generic rule can."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a tensor, told apart by sample.

    Args:
        data: Shape (N, T, …) where ``samples`` is ``None``, otherwise (R, …).
        samples: The sample of each row, shape (R,); −1 for rows of none.
    """

    data: Tensor
    samples: Tensor | None


class Layout(ABC):
    """Which sample each element of a tensor belongs to, by its place."""

    is_stable = True
    """Whether it follows from the graph's structure and shapes alone."""

    @abstractmethod
    def describe(self) -> str:
        """Itself, in a few words."""

    @abstractmethod
    def samples(self, shape: Shape, device: torch.device) -> Tensor:
        """The sample of each element: same number of dimensions as ``shape``, broadcastable."""

    def with_index(self, index: Tensor) -> Layout:
        """The same layout where the user's index is another one."""
        return self

    def rows(self, tensor: Tensor, shape: Shape, dims: Sequence[int]) -> Rows:
        """A tensor's rows, told apart by sample.

        Args:
            tensor: Its dimensions ``dims`` are those of the tensor that this layout is of.
            shape: The shape of the tensor that this layout is of.
            dims: The dimensions that rows run over; the others are features.

        Raises:
            LayoutError: If samples are told apart by other dimensions as well.
        """
        samples = self.samples(shape, tensor.device)
        if any(size != 1 for dim, size in enumerate(samples.shape) if dim not in dims):
            raise LayoutError(f"{self.describe()} is not by rows {tuple(dims)}")
        sizes = [shape[dim] for dim in dims]
        kept = samples.permute(*dims, *_others(len(shape), dims)).reshape(
            [samples.shape[dim] for dim in dims]
        )
        front = tensor.movedim(tuple(dims), tuple(range(len(dims))))
        return Rows(front.flatten(0, len(dims) - 1), kept.expand(sizes).flatten())


@dataclass(frozen=True, eq=False)
class Regular(Layout):
    """Samples take turns along one dimension: element ``i`` belongs to ``(i // inner) % count``.

    Args:
        dim: The dimension.
        inner: How many neighbours belong to one sample.
        count: Number of samples; of rows, where ``index`` is given.
        index: Sample of each row of the batch, where the user gave one, shape (count,).
    """

    dim: int
    inner: int
    count: int
    index: Tensor | None = None

    def describe(self) -> str:
        """Itself, in a few words."""
        along = f"along dimension {self.dim}"
        whose = "rows given by samples=" if self.index is not None else "samples"
        return f"{whose} {along}" + (f", {self.inner} each" if self.inner > 1 else "")

    def samples(self, shape: Shape, device: torch.device) -> Tensor:
        """The sample of each element along ``dim``."""
        along = torch.arange(shape[self.dim], device=device) // self.inner % self.count
        if self.index is not None:
            along = self.index.to(device)[along]
        return along.view([-1 if dim == self.dim else 1 for dim in range(len(shape))])

    def with_index(self, index: Tensor) -> Layout:
        """The same, with another index of the same length."""
        return self if self.index is None else replace(self, index=index)

    def rows(self, tensor: Tensor, shape: Shape, dims: Sequence[int]) -> Rows:
        """As views where there is no index: shape (N, T, …)."""
        if self.index is not None:
            return super().rows(tensor, shape, dims)
        if self.dim not in dims:
            raise LayoutError(f"{self.describe()} is not by rows {tuple(dims)}")
        if self.inner == 1 and len(dims) == 1 and tensor.shape[dims[0]] == self.count:
            return Rows(tensor.movedim(dims[0], 0).unsqueeze(1), None)
        front = tensor.movedim(tuple(dims), tuple(range(len(dims))))
        place = list(dims).index(self.dim)
        sizes = front.shape
        front = front.reshape(*sizes[:place], -1, self.count, self.inner, *sizes[place + 1 :])
        front = front.movedim(place + 1, 0)
        return Rows(front.flatten(1, len(dims) + 1), None)


@dataclass(frozen=True, eq=False)
class Constant(Layout):
    """Every element belongs to one sample, as where a model is run sample by sample."""

    sample: int

    def describe(self) -> str:
        """Itself, in a few words."""
        return f"sample {self.sample} alone"

    def samples(self, shape: Shape, device: torch.device) -> Tensor:
        """The sample, once."""
        return torch.full([1] * len(shape), self.sample, device=device)


@dataclass(frozen=True, eq=False)
class Irregular(Layout):
    """Samples as found element by element; found anew at each capture.

    Args:
        map: Sample of each element, broadcastable, −1 where none was seen.
    """

    map: Tensor
    is_stable = False

    def describe(self) -> str:
        """Itself, in a few words."""
        dims = [dim for dim, size in enumerate(self.map.shape) if size > 1]
        return "found element by element along dimensions " + ", ".join(map(str, dims))

    def samples(self, shape: Shape, device: torch.device) -> Tensor:
        """The map itself."""
        return self.map.to(device)

    @classmethod
    def of(cls, full: Tensor) -> Irregular:
        """The layout of a full map, without the dimensions along which it does not change."""
        for dim in range(full.dim()):
            first = full.amax(dim, keepdim=True)
            if bool(((full == first) | (full < 0)).all()):
                full = first
        return cls(full)


def regular_layouts(shape: Shape, count: int, index: Tensor | None) -> Iterator[Regular]:
    """Every regular layout that a tensor of this shape may have, the usual ones first."""
    sizes = [(count, None)] if index is None else [(len(index), index), (count, None)]
    for rows, given in sizes:
        for dim, size in enumerate(shape):
            if size % rows:
                continue
            repeat = size // rows
            inners = [inner for inner in range(1, math.isqrt(repeat) + 1) if repeat % inner == 0]
            inners += [repeat // inner for inner in reversed(inners) if inner * inner != repeat]
            for inner in sorted(inners, key=lambda inner: (inner not in (1, repeat), inner)):
                yield Regular(dim, inner, rows, given)


def _others(ndim: int, dims: Sequence[int]) -> list[int]:
    return [dim for dim in range(ndim) if dim not in dims]
