"""What is measured of Jacobians on the device, against their dense rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from jacoscope.config import DEFAULT_QUANTITIES, QuantityName
from jacoscope.jacobian import DenseJacobian, Jacobian, OuterJacobian, ScatterJacobian
from jacoscope.quantities import (
    QUANTITIES,
    SAMPLE_STATISTICS,
    STATISTICS,
    SampleNeeds,
    is_per_sample,
    is_probed,
    measure_samples,
    sample_needs,
    statistics_for,
)

ALL_NEEDS = [SampleNeeds(gram, columns) for gram in (False, True) for columns in (False, True)]


def _outer(dtype: torch.dtype) -> Jacobian:
    left, right = torch.randn(6, 1, 3, 4, dtype=dtype), torch.randn(6, 1, 3, 5, dtype=dtype)
    return OuterJacobian(left, right, (4, 5))


def _scatter(dtype: torch.dtype) -> Jacobian:
    return ScatterJacobian(torch.randint(9, (6, 4)), torch.randn(6, 4, 3, dtype=dtype), 9)


JACOBIANS: dict[str, Callable[[torch.dtype], Jacobian]] = {
    "dense": lambda dtype: DenseJacobian(torch.randn(6, 4, 5, dtype=dtype)),
    "scalar": lambda dtype: DenseJacobian(torch.randn(6, dtype=dtype)),
    "empty": lambda dtype: DenseJacobian(torch.randn(6, 0, dtype=dtype)),
    "outer": _outer,
    "scatter": _scatter,
}
GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "strided": lambda grad: grad,
    "sparse": lambda grad: grad.to_sparse(1) if grad.dim() == 2 else grad,
    "transposed": lambda grad: grad.t().contiguous().t() if grad.dim() == 2 else grad,
}


def column_scalars(rows: Any) -> dict[str, float]:
    ratios = []
    for column in rows.T:
        if (variance := np.var(column, ddof=1)) > 0:
            ratios.append(np.mean(column) ** 2 / variance - 1 / len(column))
    return {
        "column_max_sum": float((rows**2).sum(0).max(initial=0)),
        "column_snr_sum": float(sum(ratios)),
        "column_snr_count": float(len(ratios)),
    }


@pytest.mark.parametrize("needs", ALL_NEEDS, ids=str)
@pytest.mark.parametrize("form", GRADIENTS)
@pytest.mark.parametrize("kind", JACOBIANS)
def test_everything_equals_what_dense_rows_give(kind: str, form: str, needs: SampleNeeds) -> None:
    torch.manual_seed(2)
    jacobian = JACOBIANS[kind](torch.float64)
    rows = jacobian.dense().numpy().reshape(jacobian.shape)
    got = measure_samples(jacobian, GRADIENTS[form](jacobian.sum()), needs)
    np.testing.assert_allclose(got.sq_N, (rows**2).sum(1), rtol=1e-12)
    np.testing.assert_allclose(got.dot_N, rows @ rows.sum(0), rtol=1e-10, atol=1e-12)
    assert (got.gram_NN is not None) is needs.gram
    if got.gram_NN is not None:
        np.testing.assert_allclose(got.gram_NN, rows @ rows.T, rtol=1e-10, atol=1e-12)
    expected = column_scalars(rows) if needs.columns else {}
    assert set(got.scalars) == set(expected)
    for name, value in expected.items():
        assert got.scalars[name].shape == ()
        np.testing.assert_allclose(got.scalars[name], value, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_gradient_of_lower_precision_serves(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    jacobian = DenseJacobian(torch.randn(8, 40, 3) + 0.3)
    rows = jacobian.dense().flatten(1).double().numpy()
    got = measure_samples(jacobian, jacobian.sum().to(dtype), SampleNeeds(columns=True))
    rtol = 20 * torch.finfo(dtype).eps
    np.testing.assert_allclose(got.dot_N, rows @ rows.sum(0), rtol=rtol, atol=rtol * 40)
    for name, value in column_scalars(rows).items():
        np.testing.assert_allclose(got.scalars[name], value, rtol=rtol, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("samples", [2, 3, 100])
def test_scalars_that_do_not_vary_but_for_rounding_are_left_out(
    dtype: torch.dtype, samples: int
) -> None:
    torch.manual_seed(3)
    same = torch.randn(500).to(dtype).expand(samples, -1)
    got = measure_samples(DenseJacobian(same), same.sum(0), SampleNeeds(columns=True))
    assert float(got.scalars["column_snr_count"]) == 0
    assert float(got.scalars["column_snr_sum"]) == 0


@pytest.mark.parametrize("needs", ALL_NEEDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_gradient_is_left_as_it_is(dtype: torch.dtype, needs: SampleNeeds) -> None:
    torch.manual_seed(3)
    jacobian = DenseJacobian(torch.randn(4, 6, dtype=dtype))
    grad = jacobian.sum()
    before, rows = grad.clone(), jacobian.dense().clone()
    measure_samples(jacobian, grad, needs)
    assert torch.equal(grad, before)
    assert torch.equal(jacobian.dense(), rows)


class NoWaiting(TorchDispatchMode):
    """Fails on operators whose result's value or shape a device would be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "aten.equal")
        assert not any(name in str(func) for name in waits), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["dense", "outer", "scatter"])
def test_nothing_waits_for_the_device(kind: str) -> None:
    torch.manual_seed(3)
    jacobian = JACOBIANS[kind](torch.float32)
    grad = jacobian.sum()
    with NoWaiting():
        measure_samples(jacobian, grad, SampleNeeds(gram=True, columns=True))
        measure_samples(jacobian, grad, SampleNeeds())


def test_what_survives_is_small() -> None:
    jacobian = DenseJacobian(torch.randn(4, 1000))
    got = measure_samples(jacobian, jacobian.sum(), SampleNeeds(gram=True, columns=True))
    assert got.gram_NN is not None
    kept = (got.sq_N, got.dot_N, got.gram_NN, *got.scalars.values())
    assert sum(tensor.untyped_storage().nbytes() for tensor in kept) < 400


def test_needs_of_quantities() -> None:
    nothing = SampleNeeds(dots=False)
    assert sample_needs([]) == sample_needs(DEFAULT_QUANTITIES) == nothing
    assert sample_needs(["sample_grad_norm", "noise_scale"]) == nothing
    assert sample_needs(["sample_grad_norm", "coherence"]) == SampleNeeds()
    assert sample_needs(["pair_cosine"]) == SampleNeeds(gram=True, dots=False)
    assert sample_needs(["effective_rank", "gsnr"]) == SampleNeeds(True, True, False)
    assert sample_needs(["fisher_max", "grad_norm"]) == SampleNeeds(columns=True, dots=False)
    assert nothing.with_dots(True) == SampleNeeds()


def test_inner_products_that_nobody_needs_are_not_computed() -> None:
    jacobian = DenseJacobian(torch.randn(4, 10))
    got = measure_samples(jacobian, jacobian.sum(), SampleNeeds(dots=False))
    assert got.dot_N.isnan().all()
    assert got.sq_N.isfinite().all()


@pytest.mark.parametrize("name", get_args(QuantityName))
def test_every_need_is_a_statistic(name: QuantityName) -> None:
    running = {"noise_trace_mean", "noise_signal_mean"}
    known = {*STATISTICS, *SAMPLE_STATISTICS, *running, "histogram"}
    if is_probed(name):
        known = {name}  # a probe's own statistic
    assert set(QUANTITIES[name].needs) <= known
    assert is_per_sample(name) is not set(QUANTITIES[name].needs).isdisjoint(SAMPLE_STATISTICS)
    if is_per_sample(name):
        assert [s.name for s in statistics_for([name])] in ([], ["grad_sq"])
