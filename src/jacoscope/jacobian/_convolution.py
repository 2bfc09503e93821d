"""What convolutions make of their inputs and of their outputs' gradients.

Shape suffixes: N samples, K rows of the convolution per sample, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from jacoscope.jacobian._arithmetic import compute_dtype, lengths
from jacoscope.jacobian._geometry import Geometry
from jacoscope.jacobian._indices import Index
from jacoscope.jacobian._jacobian import DEFAULT_MEMORY_BUDGET, Jacobian
from jacoscope.jacobian._outer import OuterJacobian
from jacoscope.jacobian._outer_products import closed_work, making_work
from jacoscope.jacobian._rowwise import add, join, measure_slabs

__all__ = ["ConvolutionJacobian"]

_CACHED = 2**20
"""Scalars of rows that are made at once."""
_SLAB = 2**21
"""Scalars of rows that are looked at at once, where all of them are too many."""
_FAR = 2**23
"""Scalars of rows from which on writing them out costs more than making them in slabs."""


def _at_once(scalars: int) -> int:
    """Of how many samples rows of so many scalars are made at once."""
    return _power_below(_CACHED // max(scalars, 1))


def _power_below(number: int) -> int:
    """The largest power of two up to a number, at least 1."""
    return 1 << max(0, number.bit_length() - 1)


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

    def _closed_work(self, want: str) -> float:
        if want == "gram" and not self._fits:
            return math.inf
        return closed_work(want, self.samples, self._terms, self._form)

    def _closed(self, wants: Sequence[str]) -> dict[str, Tensor]:
        results = {"sum": self._weighted_sum(None)} if "sum" in wants else {}
        others = tuple(want for want in wants if want != "sum")
        if not others:
            return results
        chunks = self._chunks(self._patch_bytes)
        found = [self._unfold(chunk)._closed(others) for chunk in chunks]
        return results | {want: _COMBINE[want]([part[want] for part in found]) for want in others}

    def _making_work(self) -> float:
        return making_work(self.samples, self._terms, self._form)

    def _from_rows(self, wants: Sequence[str]) -> dict[str, Tensor]:
        if "gram" in wants and self._direct and self._geometry.groups == 1:
            samples, scalars = self.shape
            if samples * scalars > _FAR and samples * self._channel_size <= _SLAB:
                return measure_slabs(self._slabs(), wants, samples, self.parameter_shape)
        if self._fits and not self._direct:
            return self._unfold(slice(0, self.samples))._from_rows(wants)
        return super()._from_rows(wants)

    def _rows(self, index: Index) -> Tensor:
        if self._direct:
            return self._rows_side_by_side(index)
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
        """By a convolution with one kernel for each group.

        Args:
            left: Shape (G · p,).
            kernel: Shape (1, w, *kernel).
            width: Shape (w,), by which channels are added up first; then w is 1 in ``kernel``.
        """
        groups, p, _ = self._form
        kernels = kernel.expand(groups, *kernel.shape[1:])
        parts: list[Tensor] = []
        for chunk in self._chunks(2 * self._cast_bytes):
            patched_NKC, paired_NKC = self._cast(chunk)
            patched_BC = patched_NKC.flatten(0, 1)
            if width is not None:
                patched_BC = _contracted(patched_BC, width.expand(groups, -1))
            answers = self._geometry.correlate(patched_BC, kernels)
            scales = _contracted(paired_NKC.flatten(0, 1), left.view(groups, p))
            products = scales.flatten(1).mul_(answers.reshape(len(scales), -1))
            parts.append(products.view(len(paired_NKC), -1).sum(1))
        return join(parts)

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

    def _slabs(self) -> Iterator[tuple[slice, Tensor]]:
        """All samples' rows, some of the weight's first dimension at a time."""
        patched, paired = self._cast(slice(None))
        # Kernels are made for powers of two.
        lines = _power_below(_SLAB // (self.samples * self._channel_size))
        for start in range(0, self.parameter_shape[0], lines):
            part = slice(start, min(start + lines, self.parameter_shape[0]))
            slab = paired.new_empty(self.samples, part.stop - start, self._channel_size)
            step = _at_once(slab.shape[1] * slab.shape[2])
            for first in range(0, self.samples, step):
                chunk = slice(first, first + step)
                rows = self._side_by_side(patched[chunk], paired[chunk, :, part])
                slab[chunk] = rows.view(len(rows), *slab.shape[1:])
            yield part, slab

    def _rows_side_by_side(self, index: Index) -> Tensor:
        """Rows by one convolution, in which each sample has channels and groups of its own."""
        patched, paired = self._cast(index)
        samples, step = len(paired), self._rows_at_once
        if samples <= step:
            return self._side_by_side(patched, paired)
        rows = paired.new_empty(samples, *self.parameter_shape)
        for start in range(0, samples, step):
            part = slice(start, start + step)
            rows[part] = self._side_by_side(patched[part], paired[part])
        return rows

    def _side_by_side(self, patched: Tensor, paired: Tensor) -> Tensor:
        samples = len(paired)
        patched, paired = (factor.transpose(0, 1).flatten(1, 2) for factor in (patched, paired))
        rows = self._geometry.weight_gradient(patched, paired, samples)
        return rows.reshape(samples, -1, *self.parameter_shape[1:])

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
        """What stays in the processor's cache: beyond it, PyTorch's kernel is 2 to 6 times slower.

        Its time hardly depends on the number of samples below that.
        """
        if not self._direct:
            return self.samples
        return _at_once(self.shape[1])

    @property
    def _channel_size(self) -> int:
        """Scalars of the weight in one line of its first dimension."""
        return math.prod(self.parameter_shape[1:])

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


def _contracted(factor_BC: Tensor, weights_Gw: Tensor) -> Tensor:
    """Channels of each group added up with weights, shape (B, G, *space)."""
    rows, _, *space = factor_BC.shape
    groups, width = weights_Gw.shape
    if groups == 1:  # other ways to write it are up to twenty times slower on processors
        summed = torch.matmul(weights_Gw[0], factor_BC.flatten(2))
    else:
        grouped = factor_BC.reshape(rows, groups, width, -1)
        summed = torch.matmul(weights_Gw.unsqueeze(1), grouped).squeeze(2)
    return summed.reshape(rows, groups, *space)


_COMBINE: Mapping[str, Callable[[list[Tensor]], Tensor]] = {
    "row_sq_norms": join,
    "column_sq_norms": add,
    "gram": join,
}
