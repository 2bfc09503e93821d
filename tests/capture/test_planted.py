"""Planted faults: what is wrong must be withheld with its reason, never reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jacoscope
from capture.case import Net, normal, param, wave
from jacoscope.capturing import _planner, _straight
from jacoscope.capturing._coding import Reading
from jacoscope.capturing._layout import Regular, Rows
from jacoscope.capturing.rules import RULES, Use
from jacoscope.jacobian import Factor, RankOneJacobian

SAMPLES = 4


def captured(model: nn.Module, *inputs: Tensor, want: Any = ("row_sq_norms", "sum")) -> Any:
    loss = wave(model(*inputs))
    with jacoscope.capture(
        loss, model, batch_size=SAMPLES, want=want, custom_functions="run"
    ) as jacobians:
        loss.backward()
    return jacobians


def withheld(jacobians: Any, name: str) -> str:
    """The reason why the parameter is missing."""
    assert name not in jacobians
    reason = jacobians.missing[name]
    assert isinstance(reason, str)
    assert len(reason) > 10
    assert jacobians.coverage < 1
    with pytest.raises(KeyError):
        jacobians[name]
    return reason


def model() -> Net:
    """A Linear, a weight W, and a head."""
    torch.manual_seed(0)
    return Net(
        lambda m, x: m.head((m.body(x).tanh() @ m.W).tanh()),
        body=nn.Linear(5, 4),
        W=param(4, 4),
        head=nn.Linear(4, 2),
    ).double()


def others_are_there(jacobians: Any) -> None:
    assert {"body.weight", "body.bias", "head.weight", "head.bias"} <= set(jacobians)


# --- behind the graph's back


def test_a_parameter_used_through_data_alone_is_missing() -> None:
    net = model()
    net.run = lambda m, x: m.head((m.body(x).tanh() @ m.W.data).tanh())
    jacobians = captured(net, normal(SAMPLES, 5))
    withheld(jacobians, "W")
    others_are_there(jacobians)


class Hidden(torch.autograd.Function):
    """x @ W, where W's gradient is written to `.grad` by the backward itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: nn.Parameter) -> Tensor:
        ctx.weight = weight
        ctx.save_for_backward(x)
        return x @ weight.data

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        weight = ctx.weight
        increment = x.t() @ gradient
        weight.grad = increment if weight.grad is None else weight.grad + increment
        return gradient @ weight.data.t(), None


def test_a_gradient_written_by_a_backward_itself_is_missing() -> None:
    """As fused gradient accumulation does: `.grad` is there, the graph never reaches W."""
    net = model()

    def run(m: Net, x: Tensor) -> Tensor:
        return m.head(Hidden.apply(m.body(x).tanh(), _Box(m.W)).tanh())

    net.run = run
    jacobians = captured(net, normal(SAMPLES, 5))
    assert net.W.grad is not None
    withheld(jacobians, "W")
    others_are_there(jacobians)


class _Box:
    """Carries a parameter into an autograd function without an edge of the graph."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight

    @property
    def data(self) -> Tensor:
        return self.weight.data

    @property
    def grad(self) -> Tensor | None:
        return self.weight.grad

    @grad.setter
    def grad(self, value: Tensor) -> None:
        self.weight.grad = value


def test_a_gradient_that_the_graph_sees_only_in_part_is_withheld() -> None:
    net = model()

    def run(m: Net, x: Tensor) -> Tensor:
        hidden = m.body(x).tanh()
        return m.head((hidden @ m.W + Hidden.apply(hidden, _Box(m.W))).tanh())

    net.run = run
    jacobians = captured(net, normal(SAMPLES, 5))
    withheld(jacobians, "W")
    others_are_there(jacobians)


HOOKS: dict[str, Callable[[Tensor], Tensor]] = {
    "scaled": lambda gradient: 2 * gradient,
    "zeroed": torch.zeros_like,
    "one entry changed": lambda gradient: gradient.index_fill(1, torch.tensor([1]), 0.0),
    "sign turned": lambda gradient: -gradient,
}


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize("want", [("row_sq_norms",), ("gram", "sum"), "operator"], ids=str)
def test_a_gradient_changed_by_a_hook_is_withheld(
    hook: Callable[[Tensor], Tensor], want: Any
) -> None:
    net = model()
    net.W.register_hook(hook)
    jacobians = captured(net, normal(SAMPLES, 5), want=want)
    withheld(jacobians, "W")
    others_are_there(jacobians)


def test_a_gradient_changed_after_it_is_accumulated_is_withheld() -> None:
    net = model()

    def halve(parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad.mul_(0.5)

    net.W.register_post_accumulate_grad_hook(halve)
    jacobians = captured(net, normal(SAMPLES, 5))
    withheld(jacobians, "W")
    others_are_there(jacobians)


def test_a_parameter_that_is_not_used_is_missing() -> None:
    net = model()
    net.spare = nn.Linear(3, 3).double()
    jacobians = captured(net, normal(SAMPLES, 5))
    withheld(jacobians, "spare.weight")
    used, spare = 5 * 4 + 4 + 16 + 8 + 2, 12
    assert jacobians.coverage == pytest.approx(used / (used + spare))


# --- samples that are not what was said


def coupled_softmax(m: Net, x: Tensor) -> Tensor:
    """Attention among the samples: nothing is a sample's own from there on."""
    hidden = m.body(x)
    return m.head((hidden @ hidden.t()).softmax(-1) @ hidden @ m.W)


def wrong_or_missing(jacobians: Any, net: nn.Module) -> None:
    """What is reported sums to `.grad`, and coupling does not go unsaid."""
    for name in jacobians:
        gradient = net.get_parameter(name).grad
        torch.testing.assert_close(jacobians[name].sum(), gradient, rtol=1e-9, atol=1e-12)
    assert jacobians.missing or jacobians.coupled


def test_attention_among_samples_is_not_passed_over() -> None:
    net = model()
    net.run = coupled_softmax
    wrong_or_missing(captured(net, normal(SAMPLES, 5)), net)


def test_features_centred_over_the_batch_are_not_passed_over() -> None:
    net = model()
    net.run = lambda m, x: m.head((m.body(x) - m.body(x).mean(0)).tanh() @ m.W)
    wrong_or_missing(captured(net, normal(SAMPLES, 5)), net)


def test_a_batch_size_that_is_wrong_is_not_reported() -> None:
    net = model()
    loss = wave(net(normal(6, 5)))
    with jacoscope.capture(loss, net, batch_size=SAMPLES) as jacobians:
        loss.backward()
    assert len(jacobians) == 0
    assert set(jacobians.missing) == dict(net.named_parameters()).keys()


# --- a wrong rule and a wrong layout, planted into capture
#
# Each fixture puts a fault into capture and returns the name of the parameter that it hits.


@pytest.fixture
def wrong_rule(monkeypatch: pytest.MonkeyPatch) -> str:
    """The rule of the product x @ W gives the gradient of another input."""
    right = RULES["Mm", 1]

    def wrong(use: Use) -> Any:
        term = right(use)
        return replace(term, left=Rows(term.left.data.flip(-1), term.left.samples))

    monkeypatch.setitem(RULES, ("Mm", 1), wrong)
    monkeypatch.setattr(_straight, "_MATRIX", {})
    return "W"


@pytest.fixture(params=["gradients of other samples", "rows of other samples"])
def wrong_layer(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A linear layer whose rows are the samples mixes them up; rows of others still add up."""
    right = _straight.Taken.jacobian

    def wrong(taken: Any, name: str, budget: int) -> Any:
        found = right(taken, name, budget)
        if name != "W":
            return found
        assert isinstance(found, RankOneJacobian)
        inputs, grads = (factor.rows_NP for factor in (found.left, found.right))
        if request.param == "rows of other samples":
            inputs = inputs.flip(0)
        return RankOneJacobian(Factor(inputs), Factor(grads.flip(0)), found.parameter_shape)

    monkeypatch.setattr(_straight.Taken, "jacobian", wrong)
    return "W"


@pytest.fixture
def wrong_layout(monkeypatch: pytest.MonkeyPatch) -> str:
    """W's rows are taken for (T, B) where they are (B, T), so that sums still close."""
    right = _planner.read_layouts

    def wrong(flow: Any, samples: int, index: Any, asked: Any, *, half: bool) -> Any:
        readings = right(flow, samples, index, asked, half=half)
        for node in asked:
            if flow._graph.names[node].startswith("Mm") and node in readings:
                readings[node] = (Reading(Regular(0, 1, samples), True),)
        return readings

    monkeypatch.setattr(_planner, "read_layouts", wrong)
    return "W"


def test_a_wrong_rule_is_withheld(wrong_rule: str) -> None:
    jacobians = captured(model(), normal(SAMPLES, 5))
    withheld(jacobians, wrong_rule)
    others_are_there(jacobians)


def test_a_wrong_layer_is_withheld(wrong_layer: str) -> None:
    jacobians = captured(model(), normal(SAMPLES, 5))
    withheld(jacobians, wrong_layer)
    others_are_there(jacobians)


def test_a_wrong_layout_is_withheld_although_it_closes(wrong_layout: str) -> None:
    jacobians = captured(model(), normal(SAMPLES, SAMPLES, 5))
    withheld(jacobians, wrong_layout)


class UsesUp(torch.autograd.Function):
    """Its backward can be run once: it lets go of what it has kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.kept = x
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        kept = ctx.kept
        del ctx.kept
        return grad * kept.cos()


class Draws(torch.autograd.Function):
    """Its backward draws random numbers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad + 1e-3 * torch.randn_like(grad)


@pytest.mark.parametrize("function", [UsesUp, Draws])
def test_a_function_of_the_users_own_runs_once(function: Any) -> None:
    net = model()
    net.run = lambda m, x: m.head(function.apply(m.body(x)) @ m.W)
    x = normal(SAMPLES, 5)
    loss = wave(net(x))
    torch.manual_seed(3)
    expected = torch.autograd.grad(loss, list(net.parameters()))
    loss = wave(net(x))
    torch.manual_seed(3)
    with jacoscope.capture(loss, net, batch_size=SAMPLES) as jacobians:
        loss.backward()
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)
    for name in ("body.weight", "body.bias"):
        assert "custom_functions" in withheld(jacobians, name)
    assert {"W", "head.weight", "head.bias"} == set(jacobians)
