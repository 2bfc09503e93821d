"""A step's promised and actual change of the loss, against plain autograd and closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from jacoscope.probing import AllElseEqual, all_else_equal
from probing.step_cases import CASES, OPTIMIZERS, Case, normal, stepped
from probing.step_reference import LossOf, Parameters, by_owner, copies_of, expected

BY_NAME = {case.name: case for case in CASES}
MLP = BY_NAME["mlp"]


def close(value: float, reference: float) -> bool:
    return math.isclose(value, reference, rel_tol=1e-10, abs_tol=1e-10)


def check(
    result: AllElseEqual,
    model: nn.Module,
    loss: LossOf,
    before: Parameters,
    after: Parameters,
    layers: Mapping[str, list[str]] | None = None,
) -> None:
    """All that a result says against the reference, at the present random state."""
    true = expected(model, loss, before, after, layers)
    names = list(layers or by_owner(model))
    assert [share.layer for share in result.layers] == names
    for name in names:
        share = result[name]
        assert close(share.predicted, true.predicted[name]), name
        assert close(share.second_order, true.second_order[name]), name
        assert close(share.actual, true.actual[name]), name
    assert close(result.before, true.before)
    assert close(result.actual, true.actual[None])
    assert close(result.predicted, true.predicted[None])
    assert close(result.second_order, true.second_order[None])
    assert close(result.interaction, true.actual[None] - sum(true.actual[n] for n in names))
    assert result.missing is None


@pytest.mark.parametrize(
    "case",
    CASES,
    ids=lambda case: case.name,
)
def test_architectures(case: Case) -> None:
    model, loss = case.built()
    before, after = stepped(model, loss, OPTIMIZERS["adam"])
    torch.manual_seed(5)
    result = all_else_equal(model, loss, before, weights=0)
    check(result, model, loss, before, after)
    assert abs(result.actual) > 1e-4
    assert result.method is not None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str) -> None:
    model, loss = MLP.built()
    before, after = stepped(model, loss, OPTIMIZERS[name], steps=3)
    check(all_else_equal(model, loss, before), model, loss, before, after)


def test_layers_of_ones_own() -> None:
    model, loss = MLP.built()
    before, after = stepped(model, loss, OPTIMIZERS["sgd"])
    names = list(before)
    layers = {"weights": names[::2], "biases": names[1::2]}
    check(all_else_equal(model, loss, before, layers=layers), model, loss, before, after, layers)


def test_another_step_than_the_one_that_the_model_took() -> None:
    """Both ends given, each in part; what ``before`` leaves out did not move."""
    model, loss = MLP.built()
    now = copies_of(model)
    before = {"0.weight": normal(5, 4), "3.bias": normal(3)}
    after = {"0.weight": normal(5, 4), "5.bias": normal(2)}
    result = all_else_equal(model, loss, before, after)
    check(result, model, loss, {**now, **after, **before}, {**now, **after})
    assert result["3"].actual != 0
    for still in ("2", "5"):
        share = result[still]
        assert (share.predicted, share.second_order, share.actual) == (0, 0, 0)


def test_dropout_drops_the_same_in_every_evaluation() -> None:
    """Nothing but the random state tells two evaluations at one point apart."""
    model, loss = BY_NAME["dropout"].built()
    before, _ = stepped(model, loss, OPTIMIZERS["sgd"])
    values = set()
    for seed in (5, 6, 5):
        torch.manual_seed(seed)
        values.add(all_else_equal(model, loss, before, weights=0).before)
    assert len(values) == 2


def test_dropout_in_attention_drops_the_same_for_derivatives() -> None:
    """Attention gives transposed tensors, whose masks are drawn in the order of their memory."""
    model, loss = BY_NAME["transformer"].built()
    before, after = stepped(model, loss, OPTIMIZERS["sgd"])
    for seed in range(4):
        torch.manual_seed(seed)
        check(all_else_equal(model, loss, before), model, loss, before, after)


def test_evaluation_mode_is_kept() -> None:
    model, loss = BY_NAME["convolutions and BatchNorm"].built()
    before, after = stepped(model, loss, OPTIMIZERS["sgd"])
    model.eval()
    check(all_else_equal(model, loss, before), model, loss, before, after)


class Additive(nn.Module):
    """Linear in its parameters: each layer sees the input through a function of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.two(x.sin()) + self.three(x.square())


def test_a_quadratic_loss_in_closed_form() -> None:
    """L = |Φθ − y|²/N, whose Hessian is 2ΦᵀΦ/N: the second order leaves nothing over."""
    torch.manual_seed(1)
    model, x, y = Additive().double(), normal(7, 3), normal(7, 1)
    before, after = stepped(model, lambda m: (m(x) - y).square().mean(), OPTIMIZERS["adam"])
    result = all_else_equal(model, lambda m: (m(x) - y).square().mean(), before)
    moves = {
        name: phi @ (after[f"{name}.weight"] - before[f"{name}.weight"])[0]
        + (after[f"{name}.bias"] - before[f"{name}.bias"])
        for name, phi in (("one", x), ("two", x.sin()), ("three", x.square()))
    }
    for share in result.layers:
        assert share.predicted + share.second_order == pytest.approx(share.actual, abs=1e-9)
        own = float(moves[share.layer].square().sum()) / 7
        assert share.second_order == pytest.approx(own, rel=1e-9)
    assert result.predicted + result.second_order == pytest.approx(result.actual, abs=1e-9)
    pairs = itertools.combinations(moves.values(), 2)
    crossed = sum(2 * float(left @ right) / 7 for left, right in pairs)
    assert result.interaction == pytest.approx(crossed, rel=1e-9)
    assert abs(crossed) > 1e-4


def test_the_interaction_of_small_steps_is_that_of_the_hessian() -> None:
    """Σ Δ_lᵀ H Δ_m over pairs, up to the third order of the step."""
    model, loss = MLP.built()
    now = copies_of(model)
    direction = {name: normal(*p.shape) for name, p in now.items()}
    errors = []
    for size in (1e-2, 5e-3):
        after = {name: now[name] + size * direction[name] for name in now}
        true = expected(model, loss, now, after)
        crossed = sum(true.pairs[pair] for pair in itertools.combinations(by_owner(model), 2))
        found = all_else_equal(model, loss, now, after).interaction
        errors.append(abs(found - crossed) / size**2)
    assert errors[1] < 0.6 * errors[0] < 0.1
