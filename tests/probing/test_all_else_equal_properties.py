"""What holds of all_else_equal whatever the loss: linearity, order, splitting, differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from jacoscope.probing import AllElseEqual, all_else_equal
from probing.step_cases import CASES, OPTIMIZERS, Case, mlp, normal, stepped
from probing.step_reference import LossOf, Parameters, loss_at

LAYERS = {name: [f"{name}.weight", f"{name}.bias"] for name in ("0", "2", "3", "5")}
CALM = settings(derandomize=True, deadline=None, max_examples=12)


def square(model: nn.Module) -> Tensor:
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
    return model(x).square().mean()


def cosine(model: nn.Module) -> Tensor:
    x = torch.linspace(0, 2, 8, dtype=torch.float64).view(2, 4)
    return model(x).cos().sum()


def moved(seed: int) -> tuple[nn.Module, Parameters]:
    torch.manual_seed(seed)
    model = mlp().double()
    return model, {n: p.detach() + 0.1 * normal(*p.shape) for n, p in model.named_parameters()}


def measured(loss: LossOf, seed: int, layers: Any = LAYERS) -> AllElseEqual:
    model, before = moved(seed)
    return all_else_equal(model, loss, before, layers=layers)


def numbers(result: AllElseEqual) -> Tensor:
    """All that is said of layers and of the whole, shape (rows, 3)."""
    rows = [(s.predicted, s.second_order, s.actual) for s in result.layers]
    rows.append((result.predicted, result.second_order, result.actual))
    rows.append((result.interaction, 0.0, 0.0))
    return torch.tensor(rows, dtype=torch.float64)


_factors = st.floats(-10, 10)
_seeds = st.integers(0, 3)


@CALM
@given(a=_factors, b=_factors, seed=_seeds)
def test_linear_in_the_loss(a: float, b: float, seed: int) -> None:
    combined = measured(lambda m: a * square(m) + b * cosine(m) + 1, seed)
    apart = a * numbers(measured(square, seed)) + b * numbers(measured(cosine, seed))
    torch.testing.assert_close(numbers(combined), apart, rtol=1e-9, atol=1e-10)


@CALM
@given(order=st.permutations(list(LAYERS)), seed=_seeds)
def test_layers_in_any_order_have_the_same_numbers(order: list[str], seed: int) -> None:
    plain = measured(square, seed)
    mixed = measured(square, seed, {name: LAYERS[name] for name in order})
    assert [share.layer for share in mixed.layers] == order
    assert {s.layer: s for s in mixed.layers} == {s.layer: s for s in plain.layers}
    assert mixed.interaction == plain.interaction
    assert mixed.second_order == plain.second_order


@CALM
@given(still=st.sets(st.sampled_from(list(LAYERS)), max_size=4), seed=_seeds)
def test_layers_that_did_not_move_have_exact_zeros(still: set[str], seed: int) -> None:
    model, before = moved(seed)
    before = {n: p for n, p in before.items() if n.partition(".")[0] not in still}
    result = all_else_equal(model, square, before)
    for share in result.layers:
        row = (share.predicted, share.second_order, share.actual)
        assert (row == (0.0, 0.0, 0.0)) == (share.layer in still)


@CALM
@given(split=st.sampled_from(list(LAYERS)), seed=_seeds)
def test_splitting_a_layer_changes_its_own_rows_alone(split: str, seed: int) -> None:
    plain = measured(square, seed)
    weight, bias = LAYERS[split]
    others = {name: names for name, names in LAYERS.items() if name != split}
    apart = measured(square, seed, {**others, "w": [weight], "b": [bias]})
    for name in others:
        assert apart[name] == plain[name]
    whole = apart["w"].predicted + apart["b"].predicted
    assert whole == pytest.approx(plain[split].predicted, rel=1e-12, abs=1e-15)
    assert apart.second_order == plain.second_order
    assert (apart.before, apart.after) == (plain.before, plain.after)


@CALM
@given(watched=st.sets(st.sampled_from(list(LAYERS)), max_size=3), seed=_seeds)
def test_what_is_in_no_layer_has_a_row_of_its_own(watched: set[str], seed: int) -> None:
    plain = measured(square, seed)
    result = measured(square, seed, {name: LAYERS[name] for name in sorted(watched)})
    assert [s.layer for s in result.layers] == [*sorted(watched), "(not watched)"]
    rest = sum(s.predicted for s in plain.layers if s.layer not in watched)
    assert result["(not watched)"].predicted == pytest.approx(rest, rel=1e-12, abs=1e-15)
    assert result.predicted == pytest.approx(plain.predicted, rel=1e-12)
    for name in watched:
        assert result[name] == plain[name]


def test_no_such_row_if_what_is_in_no_layer_did_not_move() -> None:
    model, before = moved(0)
    given_before = {name: before[name] for name in LAYERS["2"]}
    result = all_else_equal(model, square, given_before, layers={"2": LAYERS["2"]})
    assert [share.layer for share in result.layers] == ["2"]


# Single weights.


def test_the_weights_are_those_that_promised_most() -> None:
    model, before = moved(1)
    result = all_else_equal(model, square, before, weights=7)
    leaves = {name: p.clone().requires_grad_() for name, p in before.items()}
    slopes = torch.autograd.grad(
        square(lambda x: torch.func.functional_call(model, leaves, x)),  # type: ignore[arg-type]
        list(leaves.values()),
    )
    promised = {
        (name, tuple(index)): float(slope[tuple(index)] * step[tuple(index)])
        for (name, p), slope in zip(model.named_parameters(), slopes, strict=True)
        for step in [p.detach() - before[name]]
        for index in torch.ones_like(p).nonzero().tolist()
    }
    best = sorted(promised, key=lambda at: -abs(promised[at]))[:7]
    assert [(w.parameter, w.index) for w in result.weights] == best
    for w in result.weights:
        assert w.predicted == pytest.approx(promised[w.parameter, w.index], rel=1e-9)
        now = model.get_parameter(w.parameter).detach()
        assert w.step == float((now - before[w.parameter])[w.index])


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.stops_gradients], ids=lambda case: case.name
)
def test_differences_agree_with_derivatives(case: Case) -> None:
    """Within the rounding that they state and a truncation of about the same size."""
    model, loss = case.built()
    before, _ = stepped(model, loss, OPTIMIZERS["sgd"])
    result = all_else_equal(model, loss, before, second_order=False, weights=6)
    assert len(result.weights) == min(6, sum(p.numel() for p in before.values()))
    for w in result.weights:
        assert 0 < w.error < 1e-7
        assert w.h > 0
        assert abs(w.difference - w.derivative) < 4 * w.error + 10 * w.h**2, w


def test_a_difference_sees_through_what_stops_gradients() -> None:
    """A weight that also moves a moving average: the loss moves as the difference says."""
    case = next(case for case in CASES if case.name == "momentum encoder")
    model, loss = case.built()
    before, _ = stepped(model, loss, OPTIMIZERS["sgd"])
    state = torch.get_rng_state()
    for w in all_else_equal(model, loss, before, second_order=False).weights:
        sides = []
        for sign in (1, -1):
            at = {name: p.clone() for name, p in before.items()}
            at[w.parameter][w.index] += sign * 1e-5
            sides.append(loss_at(model, loss, at, state))
        assert w.difference == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=1e-8)
        assert abs(w.difference - w.derivative) > 1e-3


def test_differences_in_single_precision() -> None:
    model, before = moved(2)
    single = {name: p.float() for name, p in before.items()}
    x = torch.linspace(-1, 1, 12).view(3, 4)
    result = all_else_equal(model.float(), lambda m: m(x).square().mean(), single)
    assert len(result.weights) == 5
    for w in result.weights:
        assert w.error == pytest.approx(torch.finfo(torch.float32).eps * result.before / w.h)
        assert abs(w.difference - w.derivative) < 4 * w.error + 10 * w.h**2
        assert w.h > 1e-4


def test_a_difference_tells_a_wrong_derivative() -> None:
    """A function whose backward is off by a factor is what the check is for."""

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.square()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(inputs[0])

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * ctx.saved_tensors[0]

    model, before = moved(0)
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
    result = all_else_equal(model, lambda m: Wrong.apply(m(x)).mean(), before)
    for w in result.weights:
        assert w.difference == pytest.approx(2 * w.derivative, rel=1e-5)


@pytest.mark.parametrize("weights", [0, 1, 10_000])
def test_as_many_weights_as_asked_for_and_moved(weights: int) -> None:
    model, before = moved(0)
    only = {"3.bias": before["3.bias"]}
    result = all_else_equal(model, square, only, weights=weights, second_order=False)
    assert len(result.weights) == min(weights, 3)
    assert all(w.parameter == "3.bias" for w in result.weights)
    assert math.isnan(result.second_order)
    assert result.missing is None
