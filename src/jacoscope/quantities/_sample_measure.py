"""From a parameter's Jacobian to what per-sample statistics need, without waiting for the device.

Shape suffixes: N samples, P scalars of the parameter, C scalars of a chunk of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jacoscope.config import QuantityName
from jacoscope.jacobian import Jacobian, measure
from jacoscope.quantities._blocks import accumulation_dtype
from jacoscope.quantities._sample_statistics import OF_ALL_SAMPLES
from jacoscope.quantities._table import QUANTITIES

__all__ = ["SampleNeeds", "SampleTensors", "measure_samples", "sample_needs"]

_OF_DOTS = ("sample_cosine", "sample_opposed", "sample_cross")
_CHUNK = 2**21
_NOISE = 16
"""Rounding units of a tensor's largest gradients below which a scalar's may be rounding alone."""


@dataclass(frozen=True)
class SampleNeeds:
    """What has to be asked of the Jacobians beyond each sample's norm.

    Args:
        gram: The samples' inner products.
        columns: Each scalar's sum of squares.
        dots: Each sample's inner product with the gradient, which takes another pass where there
            is no Gram matrix.
    """

    gram: bool = False
    columns: bool = False
    dots: bool = True

    def with_dots(self, wanted: bool) -> SampleNeeds:
        """The same, with inner products with the gradient if these are wanted besides."""
        return replace(self, dots=self.dots or wanted)


@dataclass(frozen=True, eq=False)
class SampleTensors:
    """What one backward says of one parameter's samples, on its device.

    Args:
        sq_N: |c_i|², shape (N,).
        dot_N: c_i·G_b, shape (N,), where G_b is this backward's own gradient; ``nan`` if it was
            not asked for.
        gram_NN: c_i·c_k, shape (N, N), if it was asked for.
        scalars: What was reduced from the columns, one number by statistic.
        grad_sq: |G_b|², without dimensions.
        factor: What contributions and gradient were multiplied by, so that their squares are
            within range.
        dtype: What squares were computed in.
    """

    sq_N: Tensor
    dot_N: Tensor
    gram_NN: Tensor | None
    scalars: Mapping[str, Tensor]
    grad_sq: Tensor
    factor: float
    dtype: torch.dtype


def sample_needs(names: Iterable[QuantityName]) -> SampleNeeds:
    """What these quantities need; those that are not per sample need nothing."""
    needs = {need for name in names for need in QUANTITIES[name].needs}
    return SampleNeeds(
        gram=any(need.startswith(("pair_", "gram_")) for need in needs),
        columns=any(need.startswith("column_") for need in needs),
        dots=any(need.startswith(_OF_DOTS) for need in needs),
    )


@torch.no_grad()
def measure_samples(
    jacobian: Jacobian,
    grad: Tensor,
    needs: SampleNeeds,
    *,
    is_part: bool = False,
    factor: float = 1.0,
) -> SampleTensors:
    """All that is needed in one go, so that rows are made at most once for it.

    Args:
        jacobian: The parameter's contributions in one backward.
        grad: That backward's gradient, in the parameter's shape and with the same loss scale, if
            there is one; it may be sparse or of lower precision.
        needs: What is needed.
        is_part: Whether the contributions are those of some samples, which add up to less than the
            gradient.
        factor: What to multiply contributions and gradient by first.
    """
    dense = (grad if grad.layout is torch.strided else grad.to_dense()).detach()
    if factor != 1:
        jacobian, dense = jacobian.scaled(factor), dense.to(jacobian.dtype) * factor
    wants = ["row_sq_norms"]
    wants += ["gram"] if needs.gram else []
    wants += ["column_sq_norms"] if needs.columns else []
    wants += ["sum"] if needs.columns and is_part else []
    measured = measure(jacobian, wants)
    gram_NN = measured.get("gram")
    own_NN = None if is_part else gram_NN
    scalars: dict[str, Tensor] = {}
    if needs.columns:
        total = measured["sum"] if is_part else dense
        scalars = _of_columns(measured["column_sq_norms"], total, jacobian)
    if is_part:
        scalars = {name: each for name, each in scalars.items() if name not in OF_ALL_SAMPLES}
    return SampleTensors(
        sq_N=measured["row_sq_norms"],
        dot_N=_dots(jacobian, dense, own_NN, needs, measured["row_sq_norms"]),
        gram_NN=gram_NN,
        scalars=scalars,
        grad_sq=torch.linalg.vector_norm(dense, dtype=accumulation_dtype(dense.device)).square(),
        factor=factor,
        dtype=jacobian.dtype,
    )


def _dots(
    jacobian: Jacobian, grad: Tensor, gram_NN: Tensor | None, needs: SampleNeeds, sq_N: Tensor
) -> Tensor:
    if gram_NN is not None:
        return gram_NN.sum(dim=1)
    return jacobian.matvec(grad) if needs.dots else torch.full_like(sq_N, torch.nan)


def _of_columns(column_sq: Tensor, grad: Tensor, jacobian: Jacobian) -> dict[str, Tensor]:
    """The columns' statistics, a chunk of scalars at a time, so that temporaries stay small."""
    dtype = accumulation_dtype(column_sq.device)
    samples = jacobian.samples
    # What rounding may have added to a sum of squares over the samples, and to a squared gradient.
    unit = torch.finfo(jacobian.dtype).eps
    slack = samples * unit, 2 * torch.finfo(grad.dtype).eps
    total, count = torch.zeros(2, dtype=dtype, device=column_sq.device).unbind()
    sq_P, grad_P = column_sq.reshape(-1), grad.reshape(-1)
    largest = torch.linalg.vector_norm(sq_P, torch.inf).to(dtype) if len(sq_P) else total
    # What is zero but for rounding, as the gradient of an attention's key bias, which cancels over
    # positions, has the size of rounding and a direction of its own.
    noise = (_NOISE * unit) ** 2 * largest
    for start in range(0, sq_P.numel(), _CHUNK):
        sq_C = sq_P[start : start + _CHUNK].to(dtype)
        mean_sq_C = grad_P[start : start + _CHUNK].to(dtype).div(samples).square_()
        spread_C = sq_C - samples * mean_sq_C
        constant_C = spread_C <= slack[0] * sq_C + slack[1] * samples * mean_sq_C
        constant_C |= sq_C <= noise
        ratio_C = mean_sq_C.mul_(samples - 1).div_(spread_C).sub_(1 / max(samples, 1))
        total = total + ratio_C.masked_fill_(constant_C, 0.0).sum()
        count = count + constant_C.logical_not().sum()
    return {"column_max_sum": largest, "column_snr_sum": total, "column_snr_count": count}
