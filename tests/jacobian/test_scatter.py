"""Look-ups against a loop over samples and terms."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jacoscope.jacobian import ScatterJacobian

Agree = Callable[..., None]


def _rows(indices: Tensor, values: Tensor, table: int, ignore: int | None = None) -> Tensor:
    samples, terms = indices.shape
    rows = torch.zeros(samples, table, *values.shape[2:], dtype=torch.double)
    for i in range(samples):
        for t in range(terms):
            index = int(indices[i, t])
            if index >= 0 and index != ignore:
                rows[i, index] += values[i, t].double()
    return rows


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(1, 5),
    terms=st.integers(0, 6),
    table=st.integers(1, 8),
    rest=st.sampled_from([(), (1,), (4,), (2, 3)]),
    lowest=st.sampled_from([0, -1, -3]),
    ignore=st.sampled_from([None, 0]),
    seed=st.integers(0, 2**16),
)
def test_any_sizes(
    agree: Agree,
    samples: int,
    terms: int,
    table: int,
    rest: tuple[int, ...],
    lowest: int,
    ignore: int | None,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    indices = torch.randint(lowest, table, (samples, terms))
    values = torch.randn(samples, terms, *rest, dtype=torch.double)
    agree(
        lambda budget: ScatterJacobian(indices, values, table, ignore, memory_budget=budget),
        _rows(indices, values, table, ignore),
    )


@pytest.mark.parametrize(
    ("samples", "terms", "table", "width"),
    [(3, 40, 5, 2), (3, 4, 500, 30), (6, 30, 1000, 3), (2, 64, 20, 1)],
)
def test_every_way_is_taken(agree: Agree, samples: int, terms: int, table: int, width: int) -> None:
    torch.manual_seed(0)
    indices = torch.randint(-1, table, (samples, terms))
    values = torch.randn(samples, terms, width, dtype=torch.double)
    rows = _rows(indices, values, table)
    agree(lambda budget: ScatterJacobian(indices, values, table, memory_budget=budget), rows)
    jacobian = ScatterJacobian(indices, values, table, memory_budget=10_000)
    norms, columns = rows.flatten(1).square().sum(1), rows.square().sum(0)
    gram = rows.flatten(1) @ rows.flatten(1).T
    with torch.no_grad():
        torch.testing.assert_close(jacobian._gram_by_pairs(), gram)
        torch.testing.assert_close(jacobian._ranked_gram(), gram)
    torch.testing.assert_close(jacobian.row_sq_norms(), norms)
    torch.testing.assert_close(jacobian.column_sq_norms(), columns)


@pytest.mark.parametrize("dtype", [torch.float32, torch.half])
def test_single_and_half_precision(agree: Agree, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    indices = torch.randint(-1, 6, (4, 5), dtype=torch.int32)
    values = torch.randn(4, 5, 3).to(dtype)
    rows = _rows(indices, values, 6)
    agree(lambda budget: ScatterJacobian(indices, values, 6, memory_budget=budget), rows)


def test_padding_need_not_be_finite(agree: Agree) -> None:
    indices = torch.tensor([[0, -1, 2], [-1, -1, 1]])
    values = torch.randn(2, 3, 4, dtype=torch.double)
    values[indices < 0] = float("inf")
    rows = _rows(indices, values, 3)
    agree(lambda budget: ScatterJacobian(indices, values, 3, memory_budget=budget), rows)


def test_norms_never_make_the_table() -> None:
    indices = torch.randint(0, 10**9, (3, 5))
    values = torch.randn(3, 5, 8)
    jacobian = ScatterJacobian(indices, values, 10**9)
    assert jacobian.row_sq_norms().shape == (3,)
    assert jacobian.gram().shape == (3, 3)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="indices and values must have shapes"):
        ScatterJacobian(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 4, 5), 6)
