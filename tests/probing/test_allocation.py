"""Loss-change allocation: exact on polynomials, telescoping over a real training run."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import Polynomial
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from jacoscope.probing._allocation import Allocation, allocate
from jacoscope.probing._isolation import isolated
from jacoscope.probing._loss import Loss
from probing.step_cases import dropping, normal
from probing.step_reference import LossOf, Parameters, by_owner, copies_of, loss_at

CALM = settings(derandomize=True, deadline=None, max_examples=25)


class Two(nn.Module):
    """Two numbers, each a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.b = nn.Parameter(torch.zeros((), dtype=torch.float64))


def shared_out(
    model: nn.Module,
    loss: LossOf,
    starts: Parameters,
    ends: Parameters,
    layers: dict[str, list[str]],
) -> Allocation:
    with isolated():
        return allocate(Loss(copy.deepcopy(model), loss), starts, ends, layers)


def of_two(loss: LossOf, start: tuple[float, float], end: tuple[float, float]) -> Allocation:
    ends = [
        {
            name: torch.tensor(value, dtype=torch.float64)
            for name, value in zip("ab", at, strict=True)
        }
        for at in (start, end)
    ]
    return shared_out(Two(), loss, *ends, {"a": ["a"], "b": ["b"]})


# A loss, and its two partial derivatives.
Terms = tuple[Callable[..., object], Callable[..., object], Callable[..., object]]
POLYNOMIALS: dict[str, Terms] = {
    "quadratic": (
        lambda a, b: 3 * a**2 - 2 * a * b + b**2 + a,
        lambda a, b: 6 * a - 2 * b + 1,
        lambda a, b: -2 * a + 2 * b,
    ),
    "cubic": (
        lambda a, b: a**3 - 2 * a**2 * b + b**2,
        lambda a, b: 3 * a**2 - 4 * a * b,
        lambda a, b: -2 * a**2 + 2 * b,
    ),
    "quartic": (
        lambda a, b: a**4 - a * b**3,
        lambda a, b: 4 * a**3 - b**3,
        lambda a, b: -3 * a * b**2,
    ),
}
_number = st.floats(-3, 3)
_point = st.tuples(_number, _number)


@pytest.mark.parametrize("name", POLYNOMIALS)
@CALM
@given(start=_point, end=_point)
def test_exact_up_to_the_fourth_degree(
    name: str, start: tuple[float, float], end: tuple[float, float]
) -> None:
    loss, by_a, by_b = POLYNOMIALS[name]
    result = of_two(lambda m: loss(m.a, m.b), start, end)  # type: ignore[arg-type, return-value]
    a, b = (Polynomial([x, y - x]) for x, y in zip(start, end, strict=True))
    for layer, slope, step in (("a", by_a, end[0] - start[0]), ("b", by_b, end[1] - start[1])):
        integral = (slope(a, b) * step).integ()  # type: ignore[operator]
        assert result.by_layer[layer] == pytest.approx(integral(1) - integral(0), abs=1e-10)
    change = float(loss(*end)) - float(loss(*start))  # type: ignore[arg-type]
    assert result.change == pytest.approx(change, abs=1e-10)
    assert result.gap == pytest.approx(0, abs=1e-10)
    assert (result.before, result.after) == pytest.approx((loss(*start), loss(*end)), abs=1e-12)


def test_the_rule_is_simpsons() -> None:
    """∫ 5 a⁴ from 0 to 1 is 1; three gradients give (0 + 4 · 5/16 + 5)/6 = 25/24."""
    result = of_two(lambda m: m.a**5, (0.0, 7.0), (1.0, 7.0))
    assert result.by_layer == pytest.approx({"a": 25 / 24, "b": 0.0})
    assert result.gap == pytest.approx(-1 / 24)


@CALM
@given(start=_point, end=_point)
def test_the_way_back_gives_the_opposite(
    start: tuple[float, float], end: tuple[float, float]
) -> None:
    loss: LossOf = lambda m: (m.a * m.b).sin() + m.a.exp()  # noqa: E731
    there, back = of_two(loss, start, end), of_two(loss, end, start)
    for layer in "ab":
        assert there.by_layer[layer] == pytest.approx(-back.by_layer[layer], rel=1e-9, abs=1e-12)
    assert there.gap + math.fsum(there.by_layer.values()) == pytest.approx(there.change, abs=1e-12)


def test_no_move_is_nothing() -> None:
    result = of_two(lambda m: m.a + 2, (1.0, 1.0), (1.0, 1.0))
    assert result == Allocation({"a": 0.0, "b": 0.0}, 0.0, 3.0, 3.0)
    assert result.gap == 0


def test_what_is_in_no_layer_is_in_the_gap() -> None:
    ends = [{n: torch.full((), v, dtype=torch.float64) for n in "ab"} for v in (0.0, 1.0)]
    result = shared_out(Two(), lambda m: m.a**2 + 5 * m.b, *ends, {"a": ["a"]})
    assert result.by_layer == pytest.approx({"a": 1.0})
    assert result.gap == pytest.approx(5.0)


def test_dropout_drops_the_same_along_the_path() -> None:
    torch.manual_seed(0)
    model, x = dropping().double(), normal(5, 4)
    starts = copies_of(model)
    ends = {name: p + 0.01 * normal(*p.shape) for name, p in starts.items()}
    loss: LossOf = lambda m: m(x).square().mean()  # noqa: E731
    result = shared_out(model, loss, starts, ends, by_owner(model))
    state = torch.get_rng_state()
    true = loss_at(model, loss, ends, state) - loss_at(model, loss, starts, state)
    assert result.change == pytest.approx(true, rel=1e-12)
    assert abs(result.gap) < 1e-3 * abs(true)


# A training run on digits.


@cache
def run() -> tuple[nn.Module, LossOf, list[Parameters]]:
    """Parameters along thirty steps of SGD, and a loss that is fixed."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.as_tensor(digits.data / 16, dtype=torch.float64)
    y = torch.as_tensor(digits.target, dtype=torch.long)
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.8)
    path = [copies_of(model)]
    for picked in torch.randperm(len(x))[: 30 * 32].split(32):
        optimizer.zero_grad()
        functional.cross_entropy(model(x[picked]), y[picked]).backward()
        optimizer.step()
        path.append(copies_of(model))
    return model, lambda m: functional.cross_entropy(m(x[:300]), y[:300]), path


@pytest.mark.parametrize("length", [1, 5])
def test_a_run_telescopes(length: int) -> None:
    model, loss, path = run()
    points = path[::length]
    pairs = pairwise(points)
    parts = [shared_out(model, loss, *pair, by_owner(model)) for pair in pairs]
    assert len(parts) == 30 // length
    state = torch.get_rng_state()
    change = loss_at(model, loss, path[-1], state) - loss_at(model, loss, path[0], state)
    allocated = sum(sum(part.by_layer.values()) for part in parts)
    gap = sum(part.gap for part in parts)
    assert allocated + gap == pytest.approx(change, abs=1e-6)
    assert change < -0.5, "the run learns something"
    assert sum(abs(part.gap) for part in parts) < (0.005 if length == 1 else 0.02) * abs(change)
    for part, following in pairwise(parts):
        assert part.after == following.before


def test_a_segment_against_an_integral_in_many_steps() -> None:
    model, loss, path = run()
    starts, ends = path[3], path[4]
    result = shared_out(model, loss, starts, ends, by_owner(model))
    nodes, weights = np.polynomial.legendre.leggauss(12)
    total = {"0": 0.0, "2": 0.0}
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        twin = copy.deepcopy(model)
        twin.load_state_dict({n: starts[n] + float(node) * (ends[n] - starts[n]) for n in starts})
        slopes: tuple[Tensor, ...] = torch.autograd.grad(loss(twin), list(twin.parameters()))
        for name, slope in zip(starts, slopes, strict=True):
            total[name[0]] += float(weight * (slope * (ends[name] - starts[name])).sum())
    assert result.by_layer == pytest.approx(total, rel=2e-3)
