"""Sums of outer products against a loop over samples, groups and terms."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jacoscope.jacobian import WANTS, OuterJacobian, _inner_products, _outer_products, measure
from jacoscope.jacobian._inner_products import is_fast

Agree = Callable[..., None]


def _rows(left: Tensor, right: Tensor) -> Tensor:
    samples, groups, terms, p = left.shape
    rows = torch.zeros(samples, groups, p, right.shape[3], dtype=torch.double)
    for i in range(samples):
        for g in range(groups):
            for t in range(terms):
                rows[i, g] += torch.outer(left[i, g, t].double(), right[i, g, t].double())
    return rows


def _factors(seed: int, *sizes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    samples, groups, terms, p, q = sizes
    return (
        torch.randn(samples, groups, terms, p, dtype=torch.double, generator=generator),
        torch.randn(samples, groups, terms, q, dtype=torch.double, generator=generator),
    )


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, most) for most in (5, 3, 6, 5, 5)]),
    seed=st.integers(0, 2**16),
)
def test_any_sizes(agree: Agree, sizes: tuple[int, ...], seed: int) -> None:
    left, right = _factors(seed, *sizes)
    _, groups, _, p, q = sizes
    rows = _rows(left, right)
    for shape in ((groups, p, q), (groups * p, q), (groups * p * q,), (groups, p * q)):
        agree(
            lambda budget, shape=shape: OuterJacobian(left, right, shape, memory_budget=budget),
            rows.view(-1, *shape),
        )


@pytest.mark.parametrize("sizes", [(3, 2, 0, 4, 5), (3, 1, 0, 4, 5), (1, 1, 1, 1, 1)])
def test_edges(agree: Agree, sizes: tuple[int, ...]) -> None:
    left, right = _factors(0, *sizes)
    shape = (sizes[1] * sizes[3], sizes[4])
    rows = _rows(left, right).view(-1, *shape)
    agree(lambda budget: OuterJacobian(left, right, shape, memory_budget=budget), rows)


@pytest.mark.parametrize("terms", [1, 5])
@pytest.mark.parametrize("dtypes", [(torch.half, torch.half), (torch.bfloat16, torch.float32)])
def test_half_precision(agree: Agree, terms: int, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    left, right = _factors(1, 4, 2, terms, 3, 5)
    left, right = left.to(dtypes[0]), right.to(dtypes[1])
    rows = _rows(left, right).view(4, 6, 5)
    agree(lambda budget: OuterJacobian(left, right, (6, 5), memory_budget=budget), rows)


def test_scalar_parameter(agree: Agree) -> None:
    left, right = _factors(2, 4, 1, 3, 1, 1)
    rows = _rows(left, right).view(4)
    agree(lambda budget: OuterJacobian(left, right, (), memory_budget=budget), rows)


def test_memory_in_any_order(agree: Agree) -> None:
    left, right = _factors(3, 4, 2, 5, 3, 6)
    rows = _rows(left, right).view(4, 6, 6)
    left = left.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
    right = right.mT.contiguous().mT
    agree(lambda budget: OuterJacobian(left, right, (6, 6), memory_budget=budget), rows)


@pytest.mark.parametrize("sizes", [(6, 1, 40, 8, 9), (6, 3, 4, 30, 20), (20, 1, 3, 40, 2)])
def test_every_way_is_taken(agree: Agree, sizes: tuple[int, ...]) -> None:
    """Sizes at which rows are made, and sizes at which they are not; slabs in several cuts."""
    left, right = _factors(4, *sizes)
    shape = (sizes[1] * sizes[3], sizes[4])
    rows = _rows(left, right).view(-1, *shape)
    agree(lambda budget: OuterJacobian(left, right, shape, memory_budget=budget), rows)
    for budget in (2_000, 10_000, 40_000):
        jacobian = OuterJacobian(left, right, shape, memory_budget=budget)
        rows_NP = rows.flatten(1)
        torch.testing.assert_close(jacobian.gram(), rows_NP @ rows_NP.T)
        torch.testing.assert_close(jacobian.column_sq_norms(), rows.square().sum(0))


def test_chooses_by_work() -> None:
    few = OuterJacobian(*_factors(5, 4, 1, 2, 64, 64), (64, 64))
    many = OuterJacobian(*_factors(5, 4, 1, 200, 4, 4), (4, 4))
    assert few._plan(("row_sq_norms",))[1] == ()
    assert many._plan(("row_sq_norms",))[1] == ("row_sq_norms",)
    assert "column_sq_norms" in few._plan(("row_sq_norms", "column_sq_norms"))[1]
    assert set(many._plan(("gram", "row_sq_norms"))[1]) == {"gram", "row_sq_norms"}


def test_terms_of_several_together(agree: Agree) -> None:
    parts = [_factors(seed, 4, 2, terms, 3, 5) for seed, terms in enumerate((1, 4, 2))]
    rows = sum(_rows(*part) for part in parts).view(4, 6, 5)

    def make(budget: int) -> OuterJacobian:
        each = [OuterJacobian(*part, (6, 5), memory_budget=budget) for part in parts]
        return OuterJacobian.concatenate(each)

    agree(make, rows)
    assert make(1).terms == 7


def test_keeps_no_graph() -> None:
    left, right = (factor.requires_grad_() for factor in _factors(6, 2, 1, 3, 4, 5))
    jacobian = OuterJacobian(left, right, (4, 5))
    assert not jacobian.left.requires_grad
    assert not jacobian.gram().requires_grad
    assert not jacobian.matvec(torch.ones(4, 5, requires_grad=True)).requires_grad


def test_shapes_that_do_not_fit() -> None:
    left, right = _factors(7, 2, 1, 3, 4, 5)
    with pytest.raises(ValueError, match="left and right must have shapes"):
        OuterJacobian(left, right[:, :, :2], (4, 5))
    with pytest.raises(ValueError, match="does not have G·p·q"):
        OuterJacobian(left, right, (4, 6))


@pytest.mark.parametrize("budget", [2**28, 2**20])
@pytest.mark.parametrize("wants", [WANTS, ("row_sq_norms", "column_sq_norms"), ("row_sq_norms",)])
@pytest.mark.parametrize("slighted", [True, False])
def test_large_layers_in_single_precision(
    slighted: bool, wants: tuple[str, ...], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where products are left to oneDNN, sample by sample, and where they are not."""
    monkeypatch.setattr(_inner_products, "_is_slighted", lambda: slighted)
    monkeypatch.setattr(_outer_products, "_CALL", 2**16)
    monkeypatch.setattr(_outer_products, "_CALL_OF_ROWS", 2**16)
    left, right = _factors(3, 5, 1, 40, 70, 90)
    left, right = left.float(), right.float()
    rows_NP = _rows(left, right).flatten(1)
    expected = {
        "row_sq_norms": rows_NP.square().sum(1),
        "column_sq_norms": rows_NP.square().sum(0).view(70, 90),
        "gram": rows_NP @ rows_NP.T,
        "sum": rows_NP.sum(0).view(70, 90),
    }
    made = OuterJacobian(left, right, (70, 90), memory_budget=budget)
    for from_rows in (False, True):
        monkeypatch.setattr(_outer_products, "_CALL_OF_ROWS", 1 if from_rows else 2**62)
        found = made._from_rows(wants) if from_rows else measure(made, wants)
        for want in wants:
            size = float(expected[want].abs().max())
            torch.testing.assert_close(
                found[want].double(), expected[want], rtol=1e-4, atol=1e-5 * size
            )


def test_one_row_after_the_other_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inner_products, "_is_slighted", lambda: True)
    if not is_fast(torch.zeros(2, 2)):
        pytest.skip("PyTorch was built without oneDNN")
    monkeypatch.setattr(_outer_products, "_CALL_OF_ROWS", 1)
    monkeypatch.setattr(_outer_products, "_CALL", 1)
    made: list[torch.Size] = []

    def counted(first: Tensor, second: Tensor) -> Tensor:
        made.append(first.shape)
        return first @ second.T

    monkeypatch.setattr(_outer_products, "inner_products", counted)
    left, right = _factors(3, 5, 1, 4, 7, 9)
    jacobian = OuterJacobian(left.float(), right.float(), (7, 9))
    jacobian._from_rows(("row_sq_norms", "column_sq_norms"))
    assert made == [torch.Size((7, 4))] * 5
    made.clear()
    jacobian._closed(("row_sq_norms",))
    assert made == [torch.Size((4, 7)), torch.Size((4, 9))] * 5
    made.clear()
    OuterJacobian(left, right, (7, 9))._from_rows(("row_sq_norms",))
    assert not made  # double precision
