"""Rows that are given, and what all Jacobians have in common."""

from collections.abc import Callable

import pytest
import torch

from jacoscope.jacobian import DenseJacobian, OuterJacobian

Agree = Callable[..., None]


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (3, 1, 2), (0,)])
@pytest.mark.parametrize("samples", [1, 4])
def test_rows_as_given(agree: Agree, shape: tuple[int, ...], samples: int) -> None:
    rows = torch.randn(samples, *shape, dtype=torch.double)
    agree(lambda budget: DenseJacobian(rows, memory_budget=budget), rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_computes_in_single_precision(agree: Agree, dtype: torch.dtype) -> None:
    rows = torch.randn(3, 4, 5).to(dtype)
    agree(lambda budget: DenseJacobian(rows, memory_budget=budget), rows)
    assert DenseJacobian(rows).dtype == torch.float32


def test_leaves_what_it_is_given_as_it_is() -> None:
    rows = torch.randn(3, 4)
    before = rows.clone()
    jacobian = DenseJacobian(rows)
    for result in (jacobian.row_sq_norms(), jacobian.column_sq_norms(), jacobian.gram()):
        result.zero_()
    jacobian.sum().zero_()
    assert torch.equal(rows, before)


def test_no_samples() -> None:
    jacobian = DenseJacobian(torch.zeros(0, 2, 3))
    assert jacobian.row_sq_norms().shape == (0,)
    assert jacobian.gram().shape == (0, 0)
    assert torch.equal(jacobian.sum(), torch.zeros(2, 3))
    assert torch.equal(jacobian.column_sq_norms(), torch.zeros(2, 3))
    assert jacobian.rows([]).shape == (0, 2, 3)


def test_refuses_more_rows_than_the_budget_holds() -> None:
    jacobian = DenseJacobian(torch.zeros(8, 1000), memory_budget=4000)
    with pytest.raises(ValueError, match=r"32,000 bytes for 8 rows .* use rows\(\)"):
        jacobian.dense()
    assert jacobian.rows([7]).shape == (1, 1000)


@pytest.mark.parametrize("indices", [[3], [0, -4], slice(0, 9), torch.tensor([5])])
def test_indices_that_are_not_there(indices: object) -> None:
    jacobian = DenseJacobian(torch.zeros(3, 2))
    if isinstance(indices, slice):
        assert jacobian.rows(indices).shape == (3, 2)
        return
    with pytest.raises(IndexError, match="the Jacobian has 3 rows"):
        jacobian.rows(indices)  # type: ignore[arg-type]


@pytest.mark.parametrize("indices", [[0.5], [[0, 1]], torch.tensor([True, False, True])])
def test_indices_that_are_none(indices: object) -> None:
    with pytest.raises(ValueError, match="one-dimensional sequence of integers"):
        DenseJacobian(torch.zeros(3, 2)).rows(indices)  # type: ignore[arg-type]


def test_backward_slices() -> None:
    rows = torch.randn(5, 2)
    assert torch.equal(DenseJacobian(rows).rows(slice(None, None, -2)), rows.flip(0)[::2])


def test_directions_of_other_shapes() -> None:
    jacobian = DenseJacobian(torch.zeros(3, 2, 4))
    with pytest.raises(ValueError, match=r"shape \(2, 4\), got \(8,\)"):
        jacobian.matvec(torch.zeros(8))
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(2,\)"):
        jacobian.rmatvec(torch.zeros(2))
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(4,\), got \(4,\) and \(2,\)"):
        jacobian.probe(torch.zeros(4), torch.zeros(2))


def test_numbers_that_are_not_real() -> None:
    with pytest.raises(ValueError, match="real floating point"):
        DenseJacobian(torch.zeros(3, 2, dtype=torch.complex64))
    with pytest.raises(ValueError, match="leading dimension of samples"):
        DenseJacobian(torch.zeros(()))


def test_autocast_does_not_round() -> None:
    left, right = torch.randn(4, 1, 3, 5), torch.randn(4, 1, 3, 6)
    jacobian = OuterJacobian(left, right, (5, 6))
    expected = jacobian.gram(), jacobian.sum(), jacobian.dense()
    with torch.autocast("cpu", torch.bfloat16):
        found = jacobian.gram(), jacobian.sum(), jacobian.dense()
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_says_what_it_is() -> None:
    assert repr(DenseJacobian(torch.zeros(3, 2))) == (
        "DenseJacobian(samples=3, parameter_shape=(2,), dtype=torch.float32, device=cpu)"
    )
