"""One comparison for all structures: everything they tell against rows that a plain loop made."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from jacoscope.jacobian import WANTS, Jacobian, measure

_BUDGETS = (1, 700, 2**28)


def _agree(jacobian: Jacobian, rows: Tensor) -> None:
    tolerance = 1e-12 if jacobian.dtype == torch.float64 else 1e-5
    rows = rows.double()
    samples, shape = rows.shape[0], rows.shape[1:]
    rows_NP = rows.reshape(samples, shape.numel())
    scale = max(1.0, float(rows_NP.norm()))

    def same(actual: Tensor, expected: Tensor, power: float = 1.0) -> None:
        assert actual.dtype == jacobian.dtype
        assert not actual.requires_grad
        atol = tolerance * scale**power
        torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=atol)

    expected = {
        "row_sq_norms": rows_NP.square().sum(1),
        "column_sq_norms": rows.square().sum(0),
        "gram": rows_NP @ rows_NP.T,
        "sum": rows.sum(0),
    }
    assert jacobian.shape == rows_NP.shape
    assert jacobian.parameter_shape == shape
    for found in _everything(jacobian):
        for want, value in found.items():
            same(value, expected[want], 1 if want == "sum" else 2)

    torch.manual_seed(0)
    same(jacobian.rows(slice(None)), rows)
    if rows.numel() * 8 <= jacobian.memory_budget:
        same(jacobian.dense(), rows)
    same(jacobian.rows(slice(None, None, 2)), rows[::2])
    same(jacobian.rows([-1, 0, 0][: 3 * samples]), rows[[-1, 0, 0][: 3 * samples]])
    v, u = torch.randn(shape, dtype=torch.double), torch.randn(samples, dtype=torch.double)
    same(jacobian.matvec(v), rows_NP @ v.reshape(-1), 1.5)
    same(jacobian.rmatvec(u), (u @ rows_NP).view(shape), 1.5)
    left = torch.randn(shape[0] if shape else 1, dtype=torch.double)
    right = torch.randn(shape[1:].numel(), dtype=torch.double)
    same(jacobian.probe(left, right), rows_NP @ torch.outer(left, right).reshape(-1), 1.5)
    chosen = torch.arange(samples).flip(0)[::2]
    some, of_some = jacobian.select(chosen), rows_NP[chosen]
    assert some.samples == len(chosen)
    same(some.row_sq_norms(), of_some.square().sum(1), 2)
    same(some.gram(), of_some @ of_some.T, 2)
    same(some.sum(), of_some.sum(0).view(shape))
    same(some.matvec(v), of_some @ v.reshape(-1), 1.5)
    for factor in (4.0, 2.0**-12):
        _agree_scaled(jacobian.scaled(factor), factor * rows_NP, same, v)
        _agree_scaled(some.scaled(factor), factor * of_some, same, v)
        _agree_scaled(jacobian.scaled(factor).select(chosen), factor * of_some, same, v)
    assert jacobian.magnitude().shape == ()
    assert jacobian.magnitude() >= rows_NP.norm(dim=1).sum() * (1 - tolerance) - tolerance


def _agree_scaled(
    jacobian: Jacobian, rows_NP: Tensor, same: Callable[..., None], v: Tensor
) -> None:
    assert jacobian.shape == rows_NP.shape
    found = measure(jacobian, WANTS)
    same(found["row_sq_norms"], rows_NP.square().sum(1), 2)
    same(found["gram"], rows_NP @ rows_NP.T, 2)
    same(found["column_sq_norms"].reshape(-1), rows_NP.square().sum(0), 2)
    same(found["sum"].reshape(-1), rows_NP.sum(0))
    same(jacobian.matvec(v), rows_NP @ v.reshape(-1), 1.5)


def _everything(jacobian: Jacobian) -> Iterator[dict[str, Tensor]]:
    """Each want alone, all together, and by each way whether or not it would be chosen."""
    yield {want: getattr(jacobian, want)() for want in WANTS}
    yield measure(jacobian, WANTS)
    with torch.no_grad():
        yield jacobian._from_rows(WANTS)
        closed = [want for want in WANTS if jacobian._closed_work(want) < float("inf")]
        if closed:
            yield jacobian._closed(closed)


@pytest.fixture(scope="session")
def agree() -> Callable[[Callable[[int], Jacobian], Tensor], None]:
    """Checks a Jacobian, made for a memory budget, against its rows."""

    def check(make: Callable[[int], Jacobian], rows: Tensor) -> None:
        for budget in _BUDGETS:
            jacobian = make(budget)
            assert jacobian.memory_budget == budget
            _agree(jacobian, rows)

    return check
