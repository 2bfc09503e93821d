"""What convolutions make of their inputs and of their outputs' gradients.

Shape suffixes: N samples, K rows of the convolution per sample, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from jacoscope.jacobian._arithmetic import compute_dtype, lengths
from jacoscope.jacobian._geometry import Geometry
from jacoscope.jacobian._indices import Index
from jacoscope.jacobian._jacobian import DEFAULT_MEMORY_BUDGET, Jacobian
from jacoscope.jacobian._outer import OuterJacobian
from jacoscope.jacobian._outer_products import closed_work, making_work
from jacoscope.jacobian._rowwise import add, join

__all__ = ["ConvolutionJacobian"]


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
        groups, p, _ = self._form
        kernel = right.view(1, -1, *self._geometry.kernel)
        kernels = kernel.expand(groups, *kernel.shape[1:])
        parts: list[Tensor] = []
        for chunk in self._chunks(2 * self._cast_bytes if self._native else self._patch_bytes):
            if not self._native:
                parts.append(self._unfold(chunk)._probe(left, right))
                continue
            patched, paired = self._cast(chunk)
            answers = self._geometry.correlate(patched.flatten(0, 1), kernels)
            grouped = torch.unflatten(paired.flatten(3), 2, (groups, p))
            scales = torch.einsum("nkgpl,gp->nkgl", grouped, left.view(groups, p))
            parts.append((scales.flatten(1) * answers.reshape(scales.shape).flatten(1)).sum(1))
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

    def _rows_side_by_side(self, index: Index) -> Tensor:
        """Rows by one convolution, in which each sample has channels and groups of its own."""
        patched, paired = (factor.transpose(0, 1).flatten(1, 2) for factor in self._cast(index))
        samples = paired.shape[1] // self._paired.shape[2]
        rows = self._geometry.weight_gradient(patched, paired, samples)
        return rows.reshape(samples, *self.parameter_shape)

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
        groups and 3 times for small weights, slower for large ones and where patches are free.
        Kernels for double precision and for accelerators take one group at a time.
        """
        groups, geometry = self._geometry.groups, self._geometry
        suits = groups > 1 or (math.prod(geometry.kernel) > 1 and self.shape[1] <= 2**17)
        single = self.device.type == "cpu" and self.dtype == torch.float32
        return suits and single and geometry.exact and self._native

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


_COMBINE: Mapping[str, Callable[[list[Tensor]], Tensor]] = {
    "row_sq_norms": join,
    "column_sq_norms": add,
    "gram": join,
}
