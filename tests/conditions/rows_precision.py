"""Precisions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import Tensor, nn

from conditions.condition import Condition, Gradients, Step, Subject, withheld
from conditions.rows_manual import slopes
from sample_training import cross_entropies, loader_of, perceptron, rows_of_pairs

__all__ = ["PRECISION", "scaled"]

_SINGLE: Mapping[str, Any] = {
    "module": lambda: Subject(perceptron()),
    "loader": lambda: loader_of(rows_of_pairs(20)),
}
_COARSE: Mapping[str, Any] = {**_SINGLE, "tolerance": 3e-2}


def _fused(optimizer: type[torch.optim.Optimizer]) -> Callable[[], Subject]:
    return lambda: Subject(perceptron(), optimizer=optimizer, fused=True)


def scaled(**scaler: Any) -> Callable[[], list[Any]]:
    """Mixed precision with a real gradient scaler, whose scale changes as it goes."""
    options = {"init_scale": 2.0**12, "growth_interval": 1, **scaler}

    def make() -> list[Any]:
        return [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", **options))]

    return make


class Overflowing(Subject):
    """Has an infinite gradient on the second batch, as half precision may have."""

    def on_after_backward(self) -> None:
        if self.trainer.fit_loop.batch_idx == 1:
            gradient = self.network[0].weight.grad  # type: ignore[index,union-attr]
            assert isinstance(gradient, Tensor)
            gradient[0, 0] = math.inf


_SCALING = (
    "the precision plugin LayerScaling has a backward or an optimiser's step of its own, so that "
    "what it scales gradients by is not known"
)


class LayerScaling(Precision):
    """Scales the loss in a way of its own, and takes it out when the optimiser steps."""

    def pre_backward(self, tensor: Tensor, module: Any) -> Tensor:  # type: ignore[override]
        return super().pre_backward(tensor * 1024, module)

    def optimizer_step(self, optimizer: Any, model: Any, closure: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        def unscaled() -> Any:
            result = closure()
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad.div_(1024)
            return result

        return super().optimizer_step(optimizer, model, unscaled, **kwargs)


class Cast(nn.Linear):
    """A layer that rounds what comes in, as layers of eight bits do."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(_Rounded.apply(inputs))


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return (inputs * 64).round() / 64

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class LayerReplacing(Precision):
    """Replaces layers by its own, and scales nothing."""

    def convert_module(self, module: nn.Module) -> nn.Module:
        for place in (0, 2):
            old = module.network[place]
            new = Cast(old.in_features, old.out_features).to(old.weight)
            new.load_state_dict(old.state_dict())
            module.network[place] = new
        return module


class Quantised(nn.Module):
    """A layer whose weights are integers and do not train, and a part beside it that does."""

    def __init__(self, inner: nn.Linear, *, are_parameters: bool = True) -> None:
        super().__init__()
        scale = inner.weight.detach().abs().amax() / 127
        integers = (inner.weight.detach() / scale).round().to(torch.int8)
        if are_parameters:
            self.weight = nn.Parameter(integers, requires_grad=False)
        else:
            self.register_buffer("weight", integers)
        self.register_buffer("scale", scale)
        self.down = nn.Linear(inner.in_features, 2, bias=False, dtype=scale.dtype)
        self.up = nn.Linear(2, inner.out_features, dtype=scale.dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        fixed = nn.functional.linear(inputs, self.weight.to(inputs.dtype) * self.scale)
        adapted: Tensor = fixed + self.up(self.down(inputs))
        return adapted


def _quantised(*, are_parameters: bool = True) -> nn.Sequential:
    network = perceptron(torch.float64)
    inner = network[0]
    assert isinstance(inner, nn.Linear)
    network[0] = Quantised(inner, are_parameters=are_parameters)
    return network


_CAST = (Cast(6, 5), nn.Tanh(), Cast(5, 3))


def _slopes(network: nn.Module, step: Step) -> Gradients:
    features, labels = step.batches[-1][1]
    return slopes(network, cross_entropies(network, (features.double(), labels)).mean())


def _with_infinity(network: nn.Module, step: Step) -> Gradients:
    gradients = _slopes(network, step)
    if len(step.history) == 2:
        gradients["network.0.weight"][0, 0] = math.inf
    return gradients


def _after_overflow(network: nn.Module, step: Step) -> Gradients:
    found = _slopes(network, step)
    is_first = len(step.history) == 1
    return {n: torch.full_like(each, math.nan) if is_first else each for n, each in found.items()}


PRECISION = (
    Condition("Precision", "64-true"),
    Condition("Precision", "32-true", **_SINGLE, options={"precision": "32-true"}, tolerance=2e-4),
    Condition("Precision", "bf16-mixed", **_COARSE, options={"precision": "bf16-mixed"}),
    Condition("Precision", "bf16-true", **_COARSE, options={"precision": "bf16-true"}),
    Condition("Precision", "16-true", **_COARSE, options={"precision": "16-true"}),
    Condition(
        "Precision",
        "16-mixed with GradScaler",
        **_COARSE,
        options={},
        plugins=scaled(),
        note="the scale is taken out",
    ),
    Condition(
        "Precision",
        "16-mixed with GradScaler, a step skipped for an infinite gradient",
        **{**_COARSE, "module": lambda: Overflowing(perceptron())},
        options={},
        plugins=scaled(),
        gradients=_with_infinity,
        note="the update is 0; grad_nonfinite counts what was not finite",
    ),
    Condition(
        "Precision",
        "16-mixed with GradScaler, a scale too large at first",
        samples=withheld("its gradient is not finite", steps=(0,)),
        **_COARSE,
        options={},
        plugins=scaled(init_scale=2.0**30, backoff_factor=2.0**-20),
        gradients=_after_overflow,
        note="such a step's gradient is recorded as it is, not finite, and its update is 0",
    ),
    Condition(
        "Precision",
        "16-mixed with GradScaler and clipping",
        **_COARSE,
        options={"gradient_clip_val": 0.01},
        plugins=scaled(),
        note="gradients are those before clipping",
    ),
    Condition(
        "Precision",
        "16-mixed with GradScaler and accumulation",
        **_COARSE,
        options={"accumulate_grad_batches": 2},
        plugins=scaled(),
    ),
    Condition(
        "Precision",
        "16-mixed with GradScaler and fused SGD",
        **{**_COARSE, "module": _fused(torch.optim.SGD)},
        options={},
        plugins=scaled(),
    ),
    Condition(
        "Precision",
        "16-mixed with GradScaler and fused Adam",
        **{**_COARSE, "module": _fused(torch.optim.Adam)},
        options={},
        plugins=scaled(),
    ),
    Condition(
        "Precision",
        "a precision plugin of one's own that scales the loss",
        withheld(_SCALING),
        withheld(_SCALING),
        options={},
        plugins=lambda: [LayerScaling()],
    ),
    Condition(
        "Precision",
        "a precision plugin of one's own that replaces layers",
        samples=withheld(
            "its gradient comes through the autograd function _Rounded",
            *("network.0.weight", "network.0.bias"),
        ),
        options={},
        plugins=lambda: [LayerReplacing()],
        plain=lambda: nn.Sequential(*_CAST),
    ),
    Condition(
        "Precision",
        "integer weights without gradient (bitsandbytes)",
        module=lambda: Subject(_quantised()),
        plain=lambda: _quantised(are_parameters=False),
    ),
)
