"""What plain autograd says of a workload, sample by sample in double precision.

Shapes: N samples, K samples whose rows are kept, P scalars.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarking.workloads import Workload, sample_losses

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

    def error(self, found: Mapping[str, Tensor], gradient_P: Tensor) -> float:
        """The largest relative error of a contender's results and gradient.

        Norms are relative to themselves, products of a Gram matrix to the norms of both
        rows, columns and gradient, parameter by parameter, to their Euclidean norms.
        """
        errors = [self._by_parameter(gradient_P.double(), self.gradient_P)]
        for name, value in found.items():
            errors.append(getattr(self, "_" + name.replace(" ", "_"))(value))
        return max(errors)

    def _norms(self, found_N: Tensor) -> float:
        return float(((found_N - self.norms_N).abs() / self.norms_N).max())

    def _gram(self, found_NN: Tensor) -> float:
        kept = len(self.gram_KN)
        scale_KN = torch.outer(self.norms_N[:kept], self.norms_N).sqrt()
        return float(((found_NN[:kept] - self.gram_KN).abs() / scale_KN).max())

    def _columns(self, found_P: Tensor) -> float:
        return self._by_parameter(found_P, self.columns_P)

    def _gradient_norms(self, found_L: Tensor) -> float:
        norms_L = torch.stack([each.norm() for each in torch.split(self.gradient_P, self.sizes)])
        return float(((found_L.to(norms_L.device) - norms_L).abs() / norms_L).max())

    def _gradient_sums(self, found_L: Tensor) -> float:
        """Relative to the largest sum that a gradient of its norm can have."""
        each = torch.split(self.gradient_P, self.sizes)
        sums_L = torch.stack([one.sum() for one in each])
        scale_L = torch.stack([one.norm() * one.numel() ** 0.5 for one in each])
        return float(((found_L.to(sums_L.device) - sums_L).abs() / scale_L).max())

    def _by_parameter(self, found_P: Tensor, wanted_P: Tensor) -> float:
        pairs = zip(
            torch.split(found_P, self.sizes), torch.split(wanted_P, self.sizes), strict=True
        )
        return max(float((found - wanted).norm() / wanted.norm()) for found, wanted in pairs)
