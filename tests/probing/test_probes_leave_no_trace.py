"""A probe changes nothing: neither the model nor its inputs, nor torch, nor random numbers."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from capture.case import Net
from jacoscope.probing import (
    input_jacobian,
    layer_jacobian,
    neural_tangent_kernel,
    output_jacobian,
)
from probing.reference import by_input, by_parameters, distance, gram

PROBES: dict[str, Callable[..., Any]] = {
    "output_jacobian": lambda m, x, **s: output_jacobian(m, x, **s).dense("first.weight"),
    "neural_tangent_kernel": neural_tangent_kernel,
    "blocks": lambda m, x, **s: neural_tangent_kernel(m, x, memory_budget=1, **s),
    "input_jacobian": lambda m, x, **s: input_jacobian(m, x, **s).dense(),
    "columns": lambda m, x, **s: input_jacobian(m, x, max_outputs=4, **s),
    "layer_jacobian": lambda m, x, **s: layer_jacobian(m, x, "first", "last", **s).dense(),
}

every_probe = pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES.keys())


class Busy(nn.Module):
    """A model that does all the things that a forward may do besides computing."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.3)
        self.last = nn.Linear(6, 5)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("ring", torch.zeros(3), persistent=False)
        self.calls = 0
        self.history: list[Tensor] = []
        self.log: dict[str, Any] = {"sizes": [], "last": None}
        self.cache: Tensor | None = None
        self.fails = fails

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        self.ring[self.calls % 3] = self.calls
        h = self.dropout(self.norm(self.first(x)))
        self.history.append(h)
        self.log["sizes"].append(len(x))
        self.log["last"] = self.cache = h
        h = h * (1 + 0.01 * (random.random() + float(np.random.rand())))
        if self.fails and torch.is_grad_enabled():
            raise ArithmeticError("planted")
        return self.last(h)


def busy(**settings: Any) -> Busy:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = Busy(**settings).double()
    model.first.bias.requires_grad_(False)
    model.norm.eval()
    model(torch.randn(5, 4, dtype=torch.float64)).sum().backward() if not settings else None
    model.last.bias.grad = None
    model.first.register_forward_hook(lambda module, args, output: None)
    model.last.register_full_backward_hook(lambda module, *gradients: None)
    return model


def state_of(model: Busy) -> dict[str, Any]:
    """Everything that could have changed, as values."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "tensors": {name: t.detach().clone() for name, t in tensors.items()},
        "identities": {name: id(t) for name, t in tensors.items()},
        "versions": {name: t._version for name, t in tensors.items()},
        "grads": {
            n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()
        },
        "requires": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: [
                len(getattr(module, kind))
                for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
            ]
            for name, module in model.named_modules()
        },
        "parameter hooks": [bool(p._backward_hooks) for p in model.parameters()],
        "attributes": (model.calls, list(model.log["sizes"]), id(model.log["last"])),
        "history": [id(each) for each in model.history],
        "cache": id(model.cache),
        "keys": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()),
        "torch": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_default_dtype(),
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.mkldnn.enabled,
            torch.backends.cudnn.enabled,
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
        ),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def assert_unchanged(model: Busy, before: dict[str, Any]) -> None:
    after = state_of(model)
    for key in before:
        assert same(before[key], after[key]), key


@every_probe
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_model_is_as_it_was(probe: Callable[..., Any], mode: str) -> None:
    model = busy()
    x = torch.randn(5, 4, dtype=torch.float64)
    given = x.clone()
    before = state_of(model)
    probe(model, x, mode=mode)
    assert_unchanged(model, before)
    assert torch.equal(x, given)
    assert not x.requires_grad


@every_probe
def test_the_model_is_as_it_was_after_a_failure(probe: Callable[..., Any]) -> None:
    model = busy(fails=True)
    x = torch.randn(5, 4, dtype=torch.float64)
    before = state_of(model)
    with pytest.raises(ArithmeticError, match="planted"):
        probe(model, x, mode="train")
    assert_unchanged(model, before)


@every_probe
def test_training_goes_on_to_the_same_weights(probe: Callable[..., Any]) -> None:
    """Five steps with a probe between them, and five without, in the same bits."""

    def trained(probed: bool) -> dict[str, Tensor]:
        model = busy().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(5):
            x = torch.randn(5, 4, dtype=torch.float64)
            loss = model(x).square().mean()
            optimizer.zero_grad()
            if probed:
                probe(model, x)
            loss.backward()
            optimizer.step()
        return copy.deepcopy(model.state_dict())

    assert same(trained(True), trained(False))


def network(run: Callable[..., Any], **parts: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return Net(run, first=nn.Linear(4, 6), last=nn.Linear(6, 5), **parts).double()


def smooth(m: Net, x: Tensor) -> Tensor:
    return m.last(m.first(x).tanh())


def branching(m: Net, x: Tensor) -> Tensor:
    """What vmap refuses."""
    return m.last(m.first(x).tanh()) if x.sum() < 1e6 else m.first(x)


@every_probe
@pytest.mark.parametrize("run", [smooth, branching])
@pytest.mark.parametrize("context", ["no_grad", "inference_mode", "autocast", "batch"])
def test_any_mode_of_the_caller_gives_the_same(
    probe: Callable[..., Any], run: Callable[..., Any], context: str
) -> None:
    """Also a batch that was made under inference mode, as validation loops make it."""
    model = network(run).float()
    x = torch.randn(5, 4)
    plain = probe(model, x)
    if context == "batch":
        with torch.inference_mode():
            x = x.clone()
        found = probe(model, x)
    else:
        around = {
            "no_grad": torch.no_grad(),
            "inference_mode": torch.inference_mode(),
            "autocast": torch.autocast("cpu", dtype=torch.bfloat16),
        }[context]
        with around:
            found = probe(model, x)
    for one, other in zip(*map(numbers, (found, plain)), strict=True):
        assert torch.equal(one, other)


def numbers(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [result.gram()] if hasattr(result, "gram") else [result.sq_norms]


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_model_that_writes_over_its_input(recurrent: bool) -> None:
    """Every evaluation starts from the batch as it was given."""
    if recurrent:
        run = lambda m, x: m.last(m.gru(x.mul_(2).unsqueeze(1))[0][:, 0])  # noqa: E731
        model = network(run, gru=nn.GRU(4, 6, batch_first=True))
    else:
        model = network(lambda m, x: m.last(m.first(x.mul_(2)).tanh()))
    x = torch.randn(3, 4, dtype=torch.float64)
    given = x.clone()
    wanted = by_parameters(model, given.clone())
    name = "last.weight"
    jacobian = output_jacobian(model, x)
    assert torch.equal(x, given)
    assert distance(jacobian.dense(name), wanted[name]) <= 1e-10
    kernel = neural_tangent_kernel(model, x)
    assert distance(kernel.gram(), gram(wanted)) <= 1e-10

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x.clone())

    assert distance(input_jacobian(model, x).dense(), by_input(Plain(), (given,))) <= 1e-10
    assert torch.equal(x, given)


def test_evaluations_do_not_see_what_others_left_behind() -> None:
    """A model whose output follows from how often it was called is asked for its next call."""

    def run(m: Net, x: Tensor) -> Tensor:
        m.calls = getattr(m, "calls", 0) + 1
        return m.calls * m.last(m.first(x).tanh())

    model = network(run)
    x = torch.randn(3, 4, dtype=torch.float64)
    once = copy.deepcopy(model)
    wanted = by_parameters(once, x)
    jacobian = output_jacobian(model, x)
    assert distance(jacobian.dense("first.weight"), wanted["first.weight"]) <= 1e-10
    assert distance(jacobian.norms("last.bias"), wanted["last.bias"].flatten(1).norm(dim=1)) < 1e-10
