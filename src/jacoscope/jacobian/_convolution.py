"""What convolutions make of their inputs and of their outputs' gradients.

Shape suffixes: N samples, K rows of the convolution per sample, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from jacoscope.jacobian._arithmetic import compute_dtype, lengths
from jacoscope.jacobian._blocks import by_blocks
from jacoscope.jacobian._convolution_probe import probe
from jacoscope.jacobian._convolution_rows import ConvolutionRows, power_below
from jacoscope.jacobian._geometry import Geometry
from jacoscope.jacobian._indices import Index
from jacoscope.jacobian._jacobian import DEFAULT_MEMORY_BUDGET, Jacobian
from jacoscope.jacobian._outer import OuterJacobian
from jacoscope.jacobian._outer_products import closed_work, making_work
from jacoscope.jacobian._pixel_pairs import PixelPairs
from jacoscope.jacobian._rowwise import ALONG, add, join, measure_rows, measure_slabs
from jacoscope.jacobian._scaled import scaled_factors

__all__ = ["ConvolutionJacobian"]

_PAIRS = 2**21
"""Scalars of pairs of pixels that are made at once."""
_FEW = 2**13
"""Scalars of a row below which a look at each takes longer than writing them side by side."""


@final
class ConvolutionJacobian(Jacobian):
    """The Jacobian of a convolution's weight: outer products of gradients and patches of inputs.

    A transposed convolution is the same with the roles of input and gradient exchanged.

    Args:
        input: Shape (N, K, input channels, *space); K rows of the convolution make one sample.
        grad: The gradient of the convolution's output, shape (N, K, output channels, *space).
        parameter_shape: (output channels, input channels / groups, *kernel), or, transposed,
            (input channels, output channels / groups, *kernel).
        stride: As in the convolution, one number per dimension of space.
        padding: Likewise.
        dilation: Likewise.
        groups: How many groups the channels fall into.
        transposed: Whether it is a transposed convolution.
        memory_budget: Bytes that temporaries may take.
    """

    def __init__(
        self,
        input: Tensor,  # noqa: A002 (the convolution's own name for it)
        grad: Tensor,
        parameter_shape: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int = 1,
        transposed: bool = False,
        *,
        memory_budget: int = DEFAULT_MEMORY_BUDGET,
    ) -> None:
        if input.dim() != grad.dim() or input.shape[:2] != grad.shape[:2] or input.dim() < 4:
            raise ValueError(
                "input and grad must have shapes (N, K, channels, *space), "
                f"got {tuple(input.shape)} and {tuple(grad.shape)}"
            )
        super().__init__(
            input.shape[0],
            parameter_shape,
            dtype=compute_dtype(input.dtype, grad.dtype),
            device=input.device,
            memory_budget=memory_budget,
        )
        patched, paired = (grad, input) if transposed else (input, grad)
        self._patched, self._paired = patched.detach(), paired.detach()
        self._geometry = Geometry(
            space=tuple(patched.shape[3:]),
            positions=tuple(paired.shape[3:]),
            kernel=tuple(self.parameter_shape[2:]),
            stride=tuple(stride),
            padding=tuple(padding),
            dilation=tuple(dilation),
            groups=groups,
        )
        channels = (paired.shape[2], patched.shape[2] // groups)
        if self.parameter_shape[:2] != channels:
            raise ValueError(
                f"a weight of shape {tuple(self.parameter_shape)} does not fit inputs and "
                f"gradients of shapes {tuple(input.shape)} and {tuple(grad.shape)} in {groups} "
                f"groups: its first lengths would have to be {channels}"
            )

    def select(self, index: Tensor) -> ConvolutionJacobian:
        """The Jacobian of some samples alone."""
        return self._alike(self._patched[index], self._paired[index])

    def _scaled(self, factor: float) -> ConvolutionJacobian:
        return self._alike(*scaled_factors(self._patched, self._paired, factor, self.dtype))

    def _alike(self, patched: Tensor, paired: Tensor) -> ConvolutionJacobian:
        geometry = self._geometry
        return ConvolutionJacobian(
            patched,
            paired,
            self.parameter_shape,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.groups,
            memory_budget=self.memory_budget,
        )

    @property
    def _sizes(self) -> Hashable:
        repeats = self._paired.shape[1]
        return self._geometry, self.parameter_shape, repeats, self.dtype, self.device.type

    def _plan(self, wants: Sequence[str]) -> tuple[float, tuple[str, ...]]:
        if not _NORMS_AND_GRAM.issubset(wants):
            return super()._plan(wants)
        # The norms are the Gram matrix's diagonal.
        work, from_rows = super()._plan(_without_norms(wants))
        return work, (*from_rows, "row_sq_norms") if "gram" in from_rows else from_rows

    def _closed_work(self, want: str) -> float:
        return min(self._patch_work(want), self._pixel_work(want))

    def _patch_work(self, want: str) -> float:
        if want == "gram" and not self._fits:
            return math.inf
        return closed_work(want, self.samples, self._terms, self._form)

    def _pixel_work(self, want: str) -> float:
        if want not in ("row_sq_norms", "gram") or self._terms == 1 or not self._pixels.overlap:
            return math.inf
        pairs = self.samples**2 if want == "gram" else self.samples
        return pairs * self._pixels.work

    def _closed(self, wants: Sequence[str]) -> dict[str, Tensor]:
        if _NORMS_AND_GRAM.issubset(wants):
            known = self._closed(_without_norms(wants))
            return {**known, "row_sq_norms": known["gram"].diagonal().clamp_min(0)}
        results = {"sum": self._weighted_sum(None)} if "sum" in wants else {}
        others: list[str] = []
        for want in wants:
            if want == "sum":
                continue
            if self._pixel_work(want) < self._patch_work(want):
                results[want] = self._gram_of_pixels() if want == "gram" else self._pixel_norms()
            else:
                others.append(want)
        if not others:
            return results
        chunks = self._chunks(self._patch_bytes)
        found = [self._unfold(chunk)._closed(others) for chunk in chunks]
        return results | {want: _COMBINE[want]([part[want] for part in found]) for want in others}

    def _pixel_norms(self) -> Tensor:
        pixels = self._pixels
        scalars = pixels.pair_scalars + 2 * pixels.sample_scalars
        at_once = power_below(_PAIRS // max(pixels.pair_scalars, 1))
        chunks = self._chunks(scalars * self.dtype.itemsize, at_once)
        return join([pixels.sq_norms(*self._cast(chunk)) for chunk in chunks])

    def _gram_of_pixels(self) -> Tensor:
        pixels = self._pixels

        def block_KJ(chunk: slice, other: slice) -> Tensor:
            second = None if chunk == other else self._cast(other)
            return pixels.gram(self._cast(chunk), second)

        pair = pixels.pair_scalars
        return by_blocks(
            self,
            (pair + 4 * pixels.sample_scalars) * self.dtype.itemsize,
            block_KJ,
            dtype=self.dtype,
            symmetric=True,
            most=power_below(math.isqrt(_PAIRS // max(pair, 1))),
        )

    def _making_work(self) -> float:
        return making_work(self.samples, self._terms, self._form)

    def _scan_work(self, want: str) -> float:
        samples, scalars = self.shape
        if want == "row_sq_norms" and self._direct:
            return 2 * samples * scalars  # they are still in the cache
        return super()._scan_work(want)

    def _from_rows(self, wants: Sequence[str]) -> dict[str, Tensor]:
        if "gram" in wants and self._direct and self._tiles_fit:
            found = self._gram_and_others(wants)
        elif "gram" not in wants and self._direct and self._by_sample:
            found = self._from_samples(wants)
        elif self._fits and not self._direct:
            found = self._unfold(slice(0, self.samples))._from_rows(wants)
        else:
            found = measure_rows(self, wants, self._looked_along)
        self._along_N = found.pop(ALONG, None)
        return found

    @property
    def _looked_along(self) -> Tensor | None:
        """A direction to look at rows along, shape (P,), if they are less than they are made of."""
        if self._direction is None or self.shape[1] * self.dtype.itemsize > self._cast_bytes:
            return None
        left, right = (self._in_type(vector) for vector in self._direction)
        return torch.outer(left, right).view(-1)

    def _gram_and_others(self, wants: Sequence[str]) -> dict[str, Tensor]:
        tiles = self._direct_rows.tiles(*self._cast(slice(None)))
        others, shape = _without_norms(wants), self.parameter_shape
        along = self._looked_along
        direction = None if along is None else along.view(shape)
        found = measure_slabs(tiles, others, self.samples, shape, direction)
        if "row_sq_norms" in wants:
            found["row_sq_norms"] = found["gram"].diagonal().clone()
        return found

    def _from_samples(self, wants: Sequence[str]) -> dict[str, Tensor]:
        parts = [
            self._direct_rows.measure(*self._cast(chunk), wants)
            for chunk in self._chunks(4 * self._cast_bytes)
        ]
        return {want: _COMBINE[want]([part[want] for part in parts]) for want in wants}

    def _rows(self, index: Index) -> Tensor:
        if self._direct:
            return self._direct_rows.of(*self._cast(index))
        if self._fits:
            return self._unfold(index)._rows(slice(None))
        chosen = torch.arange(self.samples, device=self.device)[index]
        most = max(1, self.memory_budget // self._patch_bytes)
        return join([self._unfold(part)._rows(slice(None)) for part in torch.split(chosen, most)])

    def _matvec(self, v: Tensor) -> Tensor:
        parts: list[Tensor] = []
        for chunk in self._chunks(2 * self._cast_bytes if self._native else self._patch_bytes):
            if not self._native:
                parts.append(self._unfold(chunk)._matvec(v))
                continue
            patched, paired = self._cast(chunk)
            answers = self._geometry.correlate(patched.flatten(0, 1), v)
            parts.append((answers.view(paired.shape) * paired).flatten(1).sum(1))
        return join(parts)

    def _rmatvec(self, u: Tensor) -> Tensor:
        return self._weighted_sum(u)

    def _weighted_sum(self, u_N: Tensor | None) -> Tensor:
        sums: list[Tensor] = []
        native = self._native and self._geometry.exact
        for chunk in self._chunks(2 * self._cast_bytes if native else self._patch_bytes):
            if not native:
                outer = self._unfold(chunk)
                sums.append(outer._weighted_sum(None if u_N is None else u_N[chunk]))
                continue
            patched, paired = self._cast(chunk)
            if u_N is not None:
                paired = paired * u_N[chunk].view(-1, *[1] * (paired.dim() - 1))
            sums.append(self._geometry.weight_gradient(patched.flatten(0, 1), paired.flatten(0, 1)))
        return add(sums)

    def _probe(self, left: Tensor, right: Tensor) -> Tensor:
        if not self._native:
            chunks = self._chunks(self._patch_bytes)
            return join([self._unfold(chunk)._probe(left, right) for chunk in chunks])
        kernel = right.view(1, -1, *self._geometry.kernel)
        return self._probe_natively(left, kernel)

    def _probe_by_factors(
        self, left: Tensor, right: Tensor, factors: tuple[Tensor, Tensor]
    ) -> Tensor:
        if not self._native:
            return super()._probe_by_factors(left, right, factors)
        return self._probe_natively(left, factors[1].view(1, 1, *self._geometry.kernel), factors[0])

    def _probe_natively(self, left: Tensor, kernel: Tensor, width: Tensor | None = None) -> Tensor:
        groups, p, _ = self._form
        chunks = map(self._cast, self._chunks(2 * self._cast_bytes))
        left_Gp = left.view(groups, p)
        return join([probe(self._geometry, *chunk, left_Gp, kernel, width) for chunk in chunks])

    def _magnitude(self) -> Tensor:
        """By Schwarz's inequality over the patches of a group, an element being in so many."""
        groups = self._geometry.groups
        norms = [
            lengths(
                torch.unflatten(factor, 2, (groups, -1)).transpose(1, 2).flatten(2), 2, self.dtype
            )
            for factor in (self._patched, self._paired)
        ]
        return norms[0].mul_(norms[1]).sum().mul_(self._geometry.overlap**0.5)

    def _unfold(self, index: Index) -> OuterJacobian:
        """The same for some samples, as outer products with patches."""
        groups, p, _ = self._form
        left = torch.unflatten(self._paired[index].flatten(3), 2, (groups, p))
        return OuterJacobian(
            left.permute(0, 2, 1, 4, 3).flatten(2, 3),
            self._geometry.patches(self._patched[index]).mT,
            self.parameter_shape,
            memory_budget=self.memory_budget // 2,
        )

    def _cast(self, index: Index) -> tuple[Tensor, Tensor]:
        return self._patched[index].to(self.dtype), self._paired[index].to(self.dtype)

    @property
    def _form(self) -> tuple[int, int, int]:
        """(G, p, q) of the outer products."""
        groups = self._geometry.groups
        width = self._patched.shape[2] // groups
        return groups, self._paired.shape[2] // groups, width * math.prod(self._geometry.kernel)

    @property
    def _terms(self) -> int:
        """T of the outer products."""
        return self._paired.shape[1] * math.prod(self._geometry.positions)

    @property
    def _native(self) -> bool:
        """Whether to leave it to PyTorch's convolutions where they do the same.

        Those of accelerators round single precision to TF32 unless told otherwise, which products
        of matrices do only if told so.
        """
        exact = self.device.type == "cpu" or self.dtype == torch.float64
        return exact and self._patched.numel() > 0

    @property
    def _direct(self) -> bool:
        """Whether rows are made faster by a convolution than through patches.

        Measured on processors in single precision: up to 17 times faster for convolutions of many
        groups, 1.1 to 7 times for others, slower where patches are free. Kernels for double
        precision and for accelerators take one group at a time.
        """
        geometry = self._geometry
        suits = geometry.groups > 1 or math.prod(geometry.kernel) > 1
        single = self.device.type == "cpu" and self.dtype == torch.float32
        return suits and single and geometry.exact and self._native

    @property
    def _rows_at_once(self) -> int:
        return self._direct_rows.at_once if self._direct else self.samples

    @property
    def _direct_rows(self) -> ConvolutionRows:
        return ConvolutionRows(self._geometry, self.parameter_shape)

    @property
    def _by_sample(self) -> bool:
        """Whether rows are looked at one by one, rather than written side by side first."""
        is_one = self._direct_rows.by_sample(self._paired.shape[1])
        return is_one and self.shape[1] >= _FEW

    @property
    def _tiles_fit(self) -> bool:
        """Whether all samples' rows can be made tile by tile under the memory budget."""
        tile = self._direct_rows.tile(self.samples)
        if tile is None:
            return False
        scalars = self.samples * math.prod((*tile, *self._geometry.kernel))
        needed = 2 * scalars * self.dtype.itemsize + self.samples * self._cast_bytes
        return needed <= self.memory_budget

    @cached_property
    def _pixels(self) -> PixelPairs:
        _, p, _ = self._form
        width = self._patched.shape[2] // self._geometry.groups
        return PixelPairs(self._geometry, self._paired.shape[1], (width, p))

    @property
    def _fits(self) -> bool:
        """Whether all samples' patches fit the memory budget."""
        return self.samples * self._patch_bytes <= self.memory_budget

    @property
    def _patch_bytes(self) -> int:
        """Bytes per sample that padding, patches and rows take."""
        groups, p, q = self._form
        return max(1, 2 * groups * (p + q) * self._terms * self.dtype.itemsize)

    @property
    def _cast_bytes(self) -> int:
        """Bytes per sample that casting both factors takes."""
        return (self._patched[:1].numel() + self._paired[:1].numel()) * self.dtype.itemsize


def _without_norms(wants: Sequence[str]) -> tuple[str, ...]:
    return tuple(want for want in wants if want != "row_sq_norms")


_NORMS_AND_GRAM = {"row_sq_norms", "gram"}
_COMBINE: Mapping[str, Callable[[list[Tensor]], Tensor]] = {
    "row_sq_norms": join,
    "column_sq_norms": add,
    "sum": add,
    "gram": join,
}
