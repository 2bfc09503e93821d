"""Jacobians of views of a parameter against rows written into the parameter's shape."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jacoscope.jacobian import DenseJacobian, OuterJacobian, PlacedJacobian

Agree = Callable[..., None]
_VIEWS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "rows": ((7, 4), lambda whole: whole[:, 2:5]),
    "columns": ((3, 6), lambda whole: whole[:, :, 1:5]),
    "every other": ((6, 4), lambda whole: whole[:, ::2]),
    "transpose": ((4, 3), lambda whole: whole.mT),
    "reshape": ((12,), lambda whole: whole.view(-1, 3, 4)),
    "one of several": ((2, 3, 4), lambda whole: whole[:, 1]),
    "all": ((3, 4), lambda whole: whole),
    "diagonal": ((3, 3, 4), lambda whole: whole.diagonal(0, 1, 2).mT),
}


@pytest.mark.parametrize("structure", ["dense", "outer", "outer of one term"])
@pytest.mark.parametrize("name", _VIEWS)
def test_views(agree: Agree, name: str, structure: str) -> None:
    torch.manual_seed(0)
    shape, place = _VIEWS[name]
    terms = 1 if structure == "outer of one term" else 5
    left = torch.randn(4, 1, terms, 3, dtype=torch.double)
    right = torch.randn(4, 1, terms, 4, dtype=torch.double)
    inner_rows = torch.einsum("ngtp,ngtq->npq", left, right)
    rows = torch.zeros(4, *shape, dtype=torch.double)
    for row, inner_row in zip(rows, inner_rows, strict=True):
        place(row.unsqueeze(0))[0] = inner_row

    def make(budget: int) -> PlacedJacobian:
        inner = (
            DenseJacobian(inner_rows, memory_budget=budget)
            if structure == "dense"
            else OuterJacobian(left, right, (3, 4), memory_budget=budget)
        )
        return PlacedJacobian(inner, place, shape)

    agree(make, rows)


def test_place_within_a_place(agree: Agree) -> None:
    inner_rows = torch.randn(3, 2, 4, dtype=torch.double)
    rows = torch.zeros(3, 4, 5, dtype=torch.double)
    rows[:, :, 1:3] = inner_rows.mT

    def make(budget: int) -> PlacedJacobian:
        inner = DenseJacobian(inner_rows, memory_budget=budget)
        columns = PlacedJacobian(inner, lambda whole: whole.mT, (4, 2))
        return PlacedJacobian(columns, lambda whole: whole[:, :, 1:3], (4, 5))

    agree(make, rows)


def test_where_it_stands() -> None:
    placed = PlacedJacobian(DenseJacobian(torch.zeros(2, 3, 4)), lambda w: w[:, 2:5], (7, 4))
    assert placed.geometry == (8, (3, 4), (4, 1))
    assert placed.extent == (8, 20)


def test_views_that_do_not_fit() -> None:
    inner = DenseJacobian(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="place must give a view of shape"):
        PlacedJacobian(inner, lambda whole: whole[:, :2], (7, 4))
