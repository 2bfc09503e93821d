"""What a step promised and did, by plain autograd on copies of a model, and a dense Hessian."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

LossOf = Callable[[Any], Tensor]
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Expected:
    """The plain numbers of one step; by layer, and in all under ``None``."""

    before: float
    predicted: dict[str | None, float]
    second_order: dict[str | None, float]
    actual: dict[str | None, float]
    pairs: dict[tuple[str, str], float]
    """Δ_lᵀ H Δ_m of every two layers."""


def copies_of(model: nn.Module) -> Parameters:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def by_owner(model: nn.Module) -> dict[str, list[str]]:
    """Names of parameters by the module that owns them."""
    found: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        found.setdefault(name.rpartition(".")[0] or "(model)", []).append(name)
    return found


def twin_of(model: nn.Module) -> nn.Module:
    """A copy, whose tensors that hang in a graph are cut from it."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


def loss_at(model: nn.Module, loss: LossOf, parameters: Parameters, state: Tensor) -> float:
    """The loss of a copy of the model that these parameters were loaded into."""
    twin = twin_of(model)
    twin.load_state_dict(parameters, strict=False)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(state)
        return float(loss(twin).detach())


def expected(
    model: nn.Module,
    loss: LossOf,
    before: Parameters,
    after: Parameters,
    layers: Mapping[str, Sequence[str]] | None = None,
    state: Tensor | None = None,
) -> Expected:
    """All of it, at a random state, by default the present one."""
    layers = by_owner(model) if layers is None else layers
    state = torch.get_rng_state() if state is None else state
    with sdpa_kernel(SDPBackend.MATH):
        start = loss_at(model, loss, before, state)
        reached: dict[str | None, float] = {None: loss_at(model, loss, after, state)}
        for layer, names in layers.items():
            only = {**before, **{name: after[name] for name in names}}
            reached[layer] = loss_at(model, loss, only, state)
        slope, hessian = derivatives(model, loss, before, state)
    steps: dict[str | None, Tensor] = {None: flat(after) - flat(before)}
    for layer, names in layers.items():
        only = {**before, **{name: after[name] for name in names}}
        steps[layer] = flat(only) - flat(before)
    return Expected(
        before=start,
        predicted={layer: float(slope @ d) for layer, d in steps.items()},
        second_order={layer: float(d @ hessian @ d) / 2 for layer, d in steps.items()},
        actual={layer: value - start for layer, value in reached.items()},
        pairs={(a, b): float(steps[a] @ hessian @ steps[b]) for a in layers for b in layers},
    )


def derivatives(
    model: nn.Module, loss: LossOf, at: Parameters, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient and dense Hessian by all parameters in a row; other random states stay as given."""

    def function(vector: Tensor) -> Tensor:
        torch.set_rng_state(state)
        return loss(with_parameters(model, at, vector)).reshape(())

    start = flat(at).requires_grad_()
    with torch.random.fork_rng(devices=[]):
        (slope,) = torch.autograd.grad(function(start), start)
        hessian = torch.autograd.functional.hessian(function, start.detach())
    assert isinstance(hessian, Tensor)
    return slope, hessian


def flat(parameters: Parameters) -> Tensor:
    return torch.cat([parameter.flatten() for parameter in parameters.values()])


def with_parameters(model: nn.Module, like: Parameters, vector: Tensor) -> nn.Module:
    """A copy of the model whose parameters are pieces of a vector, tied ones still tied."""
    twin = twin_of(model)
    sizes = [parameter.numel() for parameter in like.values()]
    pieces = dict(zip(like, vector.split(sizes), strict=True))
    made = {name: piece.view(like[name].shape).clone() for name, piece in pieces.items()}
    first = {id(p): name for name, p in twin.named_parameters()}
    for name, parameter in list(twin.named_parameters(remove_duplicate=False)):
        if first[id(parameter)] not in made:
            continue
        path, _, own = name.rpartition(".")
        owner = twin.get_submodule(path)
        del owner._parameters[own]
        setattr(owner, own, made[first[id(parameter)]])  # recurrent layers keep a list of theirs
        owner._parameters[own] = owner.__dict__.pop(own)
    return twin
