"""What plain autograd says of a workload, sample by sample in double precision.

Shapes: N samples, K samples whose rows are kept, P scalars.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from benchmarking.workloads import Workload, sample_losses
from jacoscope.errors import nearest

__all__ = ["TOLERANCE", "Reference"]

# Beyond this a result counts as wrong; single precision comes to about 1e-6.
TOLERANCE = 1e-3
_KEPT_BYTES = 128 * 2**20


class Reference:
    """Every sample's contribution to the gradient, from a forward and backward of its own.

    Of the Gram matrix all rows are made for as many samples as fit into 128 MiB.

    Args:
        workload: The workload.
    """

    def __init__(self, workload: Workload) -> None:
        model = copy.deepcopy(workload.model).double()
        parameters = list(model.parameters())
        self.sizes = [parameter.numel() for parameter in parameters]
        count, scalars = workload.samples, sum(self.sizes)
        kept = max(1, min(count, _KEPT_BYTES // (8 * scalars)))
        rows_KP = torch.empty(kept, scalars, dtype=torch.float64, device=workload.inputs.device)
        self.columns_P = rows_KP.new_zeros(scalars)
        self.gradient_P = rows_KP.new_zeros(scalars)
        self.norms_N = rows_KP.new_zeros(count)
        self.gram_KN = rows_KP.new_zeros(kept, count)
        inputs = workload.inputs
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        for i in range(count):
            one = slice(i, i + 1)
            loss = sample_losses(model(inputs[one]), workload.targets[one]).sum() / count
            row_P = torch.cat([each.flatten() for each in torch.autograd.grad(loss, parameters)])
            if i < kept:
                rows_KP[i] = row_P
            self.columns_P.addcmul_(row_P, row_P)
            self.gradient_P += row_P
            self.norms_N[i] = row_P @ row_P
            filled = min(i + 1, kept)
            self.gram_KN[:filled, i] = rows_KP[:filled] @ row_P
        # Products with rows that came later are those of the transposed half.
        lower = self.gram_KN[:, :kept]
        lower.copy_(lower.triu() + lower.triu(1).T)

    def error(
        self, found: Mapping[str, Tensor], gradient_P: Tensor, needed: Sequence[str] = ()
    ) -> float:
        """The largest relative error of a contender's results and gradient.

        Norms are relative to themselves, products of a Gram matrix to the norms of both
        rows, columns and gradient, parameter by parameter, to their Euclidean norms. It is not a
        number where a result has such entries.

        Args:
            found: The results.
            gradient_P: The gradient.
            needed: Results that there must be.

        Raises:
            ValueError: A result is left out, unknown, or of another shape.
        """
        for name in needed:
            if name not in found:
                raise ValueError(f"its result has no {name}")
        checks = {
            "norms": (self._norms, self.norms_N.shape),
            "gram": (self._gram, 2 * self.norms_N.shape),
            "columns": (self._columns, self.columns_P.shape),
            "gradient norms": (self._gradient_norms, (len(self.sizes),)),
            "gradient sums": (self._gradient_sums, (len(self.sizes),)),
            "gradient": (self._gradient, self.gradient_P.shape),
        }
        errors = []
        for name, value in (*found.items(), ("gradient", gradient_P)):
            if name not in checks:
                raise ValueError(f"its result has {name!r}; {nearest(name, checks)}")
            check, shape = checks[name]
            if value.shape != shape:
                given = tuple(value.shape)
                raise ValueError(f"its {name} has the shape {given} instead of {tuple(shape)}")
            errors.append(check(value.to(self.gradient_P)))
        return float(torch.stack(errors).max())  # which is not a number where one of them is not

    def _norms(self, found_N: Tensor) -> Tensor:
        return _relative(found_N - self.norms_N, self.norms_N).max()

    def _gram(self, found_NN: Tensor) -> Tensor:
        kept = len(self.gram_KN)
        scale_KN = torch.outer(self.norms_N[:kept], self.norms_N).sqrt()
        return _relative(found_NN[:kept] - self.gram_KN, scale_KN).max()

    def _columns(self, found_P: Tensor) -> Tensor:
        return self._by_parameter(found_P, self.columns_P)

    def _gradient(self, found_P: Tensor) -> Tensor:
        return self._by_parameter(found_P, self.gradient_P)

    def _gradient_norms(self, found_L: Tensor) -> Tensor:
        norms_L = torch.stack([each.norm() for each in torch.split(self.gradient_P, self.sizes)])
        return _relative(found_L - norms_L, norms_L).max()

    def _gradient_sums(self, found_L: Tensor) -> Tensor:
        """Relative to the largest sum that a gradient of its norm can have."""
        each = torch.split(self.gradient_P, self.sizes)
        sums_L = torch.stack([one.sum() for one in each])
        scale_L = torch.stack([one.norm() * one.numel() ** 0.5 for one in each])
        return _relative(found_L - sums_L, scale_L).max()

    def _by_parameter(self, found_P: Tensor, wanted_P: Tensor) -> Tensor:
        pairs = zip(
            torch.split(found_P, self.sizes), torch.split(wanted_P, self.sizes), strict=True
        )
        norms = [((found - wanted).norm(), wanted.norm()) for found, wanted in pairs]
        off_L, scale_L = (torch.stack(each) for each in zip(*norms, strict=True))
        return _relative(off_L, scale_L).max()


def _relative(off: Tensor, scale: Tensor) -> Tensor:
    """Absolute differences in parts of a scale; none is none whatever the scale."""
    return torch.where(off == 0, off, off.abs() / scale)
