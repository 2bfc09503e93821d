"""Losses without second derivatives, or of which autograd alone knows the derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from jacoscope.probing import AllElseEqual, LayerShare, all_else_equal
from probing.step_cases import OPTIMIZERS, X, linear, mean_square, started, stepped
from probing.step_reference import LossOf, expected


class Once(torch.autograd.Function):
    """Sine, differentiable once."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0].cos()


class Twice(Once):
    """Sine without a forward derivative."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0].cos()


class Forward(Once):
    """Sine with a forward derivative, its backward differentiable once."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent * ctx.saved_tensors[0].cos()


class OldStyle(torch.autograd.Function):
    """Sine as functions were written before setup_context."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0].cos()


def through(function: Callable[[Tensor], Tensor]) -> LossOf:
    return lambda model: model[2](function(model[0](X))).square().mean()


@pytest.mark.parametrize("function", [Once, Forward])
def test_without_second_derivatives_the_rest_is_there(function: Any) -> None:
    """PyTorch gives zero in silence for what is marked so, by either way."""
    model = linear()
    loss = through(function.apply)
    before, after = stepped(model, loss, OPTIMIZERS["sgd"])
    result = all_else_equal(model, loss, before)
    true = expected(model, through(torch.sin), before, after)
    assert result.missing is not None
    assert result.missing.startswith("the loss has no second derivative (")
    assert "once_differentiable" in result.missing
    assert result.method is None
    assert math.isnan(result.second_order)
    for share in result.layers:
        assert math.isnan(share.second_order)
        assert share.predicted == pytest.approx(true.predicted[share.layer], rel=1e-10)
        assert share.actual == pytest.approx(true.actual[share.layer], rel=1e-9)
    assert len(result.weights) == 5
    assert "nan" in str(result)


def test_reverse_over_reverse_where_there_is_no_forward_derivative() -> None:
    model = linear()
    before, after = stepped(model, through(Twice.apply), OPTIMIZERS["sgd"])
    result = all_else_equal(model, through(Twice.apply), before)
    true = expected(model, through(torch.sin), before, after)
    assert (result.method, result.missing) == ("reverse over reverse", None)
    assert result.second_order == pytest.approx(true.second_order[None], rel=1e-10)
    for share in result.layers:
        assert share.second_order == pytest.approx(true.second_order[share.layer], rel=1e-10)


@pytest.mark.parametrize("function", [torch.sin, Twice.apply], ids=["sin", "Twice"])
def test_a_parameter_that_moved_and_is_not_used(function: Callable[[Tensor], Tensor]) -> None:
    """Weight decay moves what the loss does not depend on, whichever way derivatives go."""
    model = linear()
    plain = all_else_equal(model, through(function), started(model))
    model.register_module("unused", nn.Linear(2, 2).double())
    result = all_else_equal(model, through(function), started(model))
    assert (result.missing, result.method) == (None, plain.method)
    assert result["unused"] == LayerShare("unused", 0.0, 0.0, 0.0)
    assert result["0"] == plain["0"]
    assert result["0"].second_order != 0


def penalty(model: nn.Module) -> Tensor:
    """The gradient penalty of Gulrajani et al., arXiv:1704.00028."""
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return (slope.norm(dim=1) - 1).square().mean()


def checkpointed(model: Any) -> Tensor:
    """Its first layer runs once more in the backward."""
    hidden = checkpoint(lambda x: model[1](model[0](x)), X, use_reentrant=False)
    return model[2](hidden).square().mean()


NOT_FUNCTIONAL: dict[str, LossOf] = {
    "gradient penalty": penalty,
    "function of the old style": through(OldStyle.apply),
    "checkpoint": checkpointed,
}


@pytest.mark.parametrize(
    "name",
    NOT_FUNCTIONAL,
)
def test_losses_that_function_transforms_refuse(name: str) -> None:
    model, loss = linear(), NOT_FUNCTIONAL[name]
    plain = {"gradient penalty": penalty, "checkpoint": mean_square}.get(name, through(torch.sin))
    before, after = stepped(model, loss, OPTIMIZERS["sgd"])
    result = all_else_equal(model, loss, before)
    true = expected(model, plain, before, after)
    for share in result.layers:
        assert share.predicted == pytest.approx(true.predicted[share.layer], rel=1e-9)
        assert share.second_order == pytest.approx(true.second_order[share.layer], rel=1e-9)
    assert result.actual == pytest.approx(true.actual[None], rel=1e-9)


def test_sparse_gradients() -> None:
    ids = torch.tensor([1, 2, 2])
    results: list[AllElseEqual] = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Embedding(5, 2, sparse=sparse).double()
        results.append(all_else_equal(model, lambda m: m(ids).square().sum(), started(model)))
    assert results[0] == results[1]
