"""Several uses of one parameter against the sum of their rows."""

from collections.abc import Callable
from itertools import combinations_with_replacement

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jacoscope.jacobian import (
    ConvolutionJacobian,
    DenseJacobian,
    Jacobian,
    OuterJacobian,
    PlacedJacobian,
    ScatterJacobian,
    SumJacobian,
)

Agree = Callable[..., None]
Make = Callable[[int], Jacobian]
_SAMPLES, _SHAPE = 4, (6, 4)


def _normal(*sizes: int) -> torch.Tensor:
    return torch.randn(*sizes, dtype=torch.double)


def _outer(terms: int, groups: int = 1) -> Make:
    p = _SHAPE[0] // groups
    left, right = _normal(_SAMPLES, groups, terms, p), _normal(_SAMPLES, groups, terms, 4)
    return lambda budget: OuterJacobian(left, right, _SHAPE, memory_budget=budget)


def _scatter(terms: int) -> Make:
    indices, values = torch.randint(-1, 6, (_SAMPLES, terms)), _normal(_SAMPLES, terms, 4)
    return lambda budget: ScatterJacobian(indices, values, 6, memory_budget=budget)


def _dense() -> Make:
    rows = _normal(_SAMPLES, *_SHAPE)
    return lambda budget: DenseJacobian(rows, memory_budget=budget)


def _slice(start: int, stop: int) -> Make:
    left, right = _normal(_SAMPLES, 1, 2, stop - start), _normal(_SAMPLES, 1, 2, 4)

    def make(budget: int) -> Jacobian:
        inner = OuterJacobian(left, right, (stop - start, 4), memory_budget=budget)
        return PlacedJacobian(inner, lambda whole: whole[:, start:stop], _SHAPE)

    return make


def _transpose() -> Make:
    left, right = _normal(_SAMPLES, 1, 3, 4), _normal(_SAMPLES, 1, 3, 6)

    def make(budget: int) -> Jacobian:
        inner = OuterJacobian(left, right, (4, 6), memory_budget=budget)
        return PlacedJacobian(inner, lambda whole: whole.mT, _SHAPE)

    return make


_PARTS: dict[str, Callable[[], Make]] = {
    "outer": lambda: _outer(3),
    "outer of one term": lambda: _outer(1),
    "outer in groups": lambda: _outer(2, groups=3),
    "scatter": lambda: _scatter(5),
    "dense": _dense,
    "first rows": lambda: _slice(0, 4),
    "last rows": lambda: _slice(4, 6),
    "middle rows": lambda: _slice(2, 5),
    "transpose": _transpose,
}


def _sum(makes: list[Make]) -> Make:
    return lambda budget: SumJacobian([make(budget) for make in makes], memory_budget=budget)


@pytest.mark.parametrize(("one", "other"), list(combinations_with_replacement(_PARTS, 2)))
def test_two(agree: Agree, one: str, other: str) -> None:
    torch.manual_seed(0)
    makes = [_PARTS[one](), _PARTS[other]()]
    rows = sum(make(2**20).rows(slice(None)) for make in makes)
    agree(_sum(makes), rows)


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(_PARTS)), min_size=1, max_size=5),
    seed=st.integers(0, 2**16),
)
def test_several(agree: Agree, names: list[str], seed: int) -> None:
    torch.manual_seed(seed)
    makes = [_PARTS[name]() for name in names]
    rows = sum(make(2**20).rows(slice(None)) for make in makes)
    agree(_sum(makes), rows)
    if len(makes) > 2:
        agree(_sum([_sum(makes[:2]), *makes[2:]]), rows)


def test_convolution_used_twice(agree: Agree) -> None:
    torch.manual_seed(0)
    sizes = [(3, 1, 2, 6, 6), (3, 1, 2, 4, 5)]
    pairs = [(_normal(*size), _normal(3, 1, 4, size[3] - 2, size[4] - 2)) for size in sizes]
    geometry = ((1, 1), (0, 0), (1, 1))

    def make(budget: int) -> Jacobian:
        return SumJacobian(
            [
                ConvolutionJacobian(*pair, (4, 2, 3, 3), *geometry, memory_budget=budget)
                for pair in pairs
            ]
        )

    weight = torch.zeros(4, 2, 3, 3, dtype=torch.double, requires_grad=True)
    rows = []
    for i in range(3):
        loss = sum((torch.conv2d(x[i], weight) * grad[i]).sum() for x, grad in pairs)
        rows.append(torch.autograd.grad(loss, weight)[0])
    agree(make, torch.stack(rows))


def test_joins_what_is_alike() -> None:
    make = [_PARTS[name]() for name in ("outer", "outer of one term", "transpose", "dense")]
    parts = SumJacobian([each(2**20) for each in [*make, *make]]).parts
    assert sorted(type(part).__name__ for part in parts) == ["DenseJacobian", "OuterJacobian"]
    slices = SumJacobian([_PARTS["first rows"]()(1), _PARTS["first rows"]()(1)]).parts
    assert len(slices) == 1


def test_tied_embedding_needs_no_rows() -> None:
    """A table of look-ups that is also the last layer's weight."""
    rows, width = 10**7, 4
    outer = OuterJacobian(
        torch.randn(1, 1, 2, 1).expand(2, 1, 2, rows), torch.randn(2, 1, 2, 4), (rows, width)
    )
    scatter = ScatterJacobian(torch.randint(0, rows, (2, 3)), torch.randn(2, 3, 4), rows)
    both = SumJacobian([outer, scatter])
    assert both._plan(("row_sq_norms", "gram"))[1] == ()


def test_single_and_double_precision(agree: Agree) -> None:
    torch.manual_seed(0)
    makes = [_outer(3), _scatter(5), _slice(0, 4)]
    rows = sum(make(2**20).rows(slice(None)) for make in makes)
    outer, scatter, placed = (make(2**20) for make in makes)
    assert isinstance(outer, OuterJacobian)
    single = OuterJacobian(outer.left.float(), outer.right.float(), _SHAPE)
    both = SumJacobian([single, scatter, placed])
    assert both.dtype == torch.double
    gram = rows.flatten(1) @ rows.flatten(1).T
    torch.testing.assert_close(both.gram(), gram, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both.row_sq_norms(), gram.diagonal(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both.sum(), rows.sum(0), rtol=1e-4, atol=1e-4)


def test_parts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="at least one"):
        SumJacobian([])
    with pytest.raises(ValueError, match="the same samples and parameter"):
        SumJacobian([DenseJacobian(torch.zeros(2, 3)), DenseJacobian(torch.zeros(2, 4))])
