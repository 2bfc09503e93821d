"""Gradients that are made, kept or changed in unusual ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from conditions.condition import Condition, Gradients, Step, Subject, withheld
from conditions.expected import LOSS_PROBES
from conditions.rows_manual import slopes
from sample_training import cross_entropies, loader_of, perceptron, rows_of_pairs

__all__ = ["GRADIENTS"]

_GROUP = "Gradients"
_FIRST = "network.0.weight"
_WINDOW: Mapping[str, Any] = {
    "options": {"precision": "64-true", "accumulate_grad_batches": 2},
    "loader": lambda: loader_of(rows_of_pairs(32, torch.float64)),
}
_NOT_CLOSED = "the gradients of this step's batches do not add up to the one that the optimiser got"

_CHANGED = "weights were changed between a backward of this training step and the optimiser's step"


def _subject(kind: type[Subject] = Subject, **options: Any) -> Any:
    return lambda: kind(perceptron(torch.float64), **options)


def _batch_slopes(network: nn.Module, step: Step, place: int = -1) -> Gradients:
    batch = step.batches[place][1]
    return slopes(network, cross_entropies(network, batch).mean() / step.size)


class TensorHook(Subject):
    """A hook of a weight clamps its gradient."""

    def on_fit_start(self) -> None:
        weight: Any = self.network[0].weight  # type: ignore[index]
        weight.register_hook(lambda grad: grad.clamp(-0.01, 0.01))


def _clamped(network: nn.Module, step: Step) -> Gradients:
    found = _batch_slopes(network, step)
    return {**found, _FIRST: found[_FIRST].clamp(-0.01, 0.01)}


def _double(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.mul_(2)


class AccumulatedHook(Subject):
    """A hook of a weight doubles what has been accumulated."""

    def on_fit_start(self) -> None:
        weight: Any = self.network[0].weight  # type: ignore[index]
        weight.register_post_accumulate_grad_hook(_double)


def _doubled(network: nn.Module, step: Step) -> Gradients:
    found = _batch_slopes(network, step, 0)
    found[_FIRST] = found[_FIRST] * 2
    for place in range(1, len(step.batches)):
        more = _batch_slopes(network, step, place)
        found = {name: each + more[name] for name, each in found.items()}
        found[_FIRST] = found[_FIRST] * 2
    return found


class Halving(Subject):
    """Halves all gradients once the backward is over."""

    def on_after_backward(self) -> None:
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(0.5)


def _halved(network: nn.Module, step: Step) -> Gradients:
    found = {name: 0.5 * each for name, each in _batch_slopes(network, step, 0).items()}
    for place in range(1, len(step.batches)):
        more = _batch_slopes(network, step, place)
        found = {name: 0.5 * (each + more[name]) for name, each in found.items()}
    return found


class OwnClipping(Subject):
    """Clips in a way of its own."""

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.sign_()


class ZeroesInPlace(Subject):
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=False)


class NeverZeroes(Subject):
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Gradients go on adding up."""


def _all_so_far(network: nn.Module, step: Step) -> Gradients:
    found: Gradients = {}
    for state, batch, _ in step.history:
        network.load_state_dict(dict(state))
        more = slopes(network, cross_entropies(network, batch).mean() / step.size)
        found = {name: found.get(name, 0) + each for name, each in more.items()}
    return found


class OwnBackward(Subject):
    """Goes backward in a way of its own, which keeps the graph."""

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward(retain_graph=True)


def _penalised(network: nn.Module, batch: Any) -> Tensor:
    """As WGAN-GP does it: the norm of the slope by the inputs should be one."""
    features = batch[0].detach().requires_grad_()
    outputs = network(features)
    (slope,) = torch.autograd.grad(outputs.sum(), features, create_graph=True)
    losses = nn.functional.cross_entropy(outputs, batch[1], reduction="none")
    return losses + 0.1 * (slope.norm(dim=1) - 1).square()


class SlopePenalty(Subject):
    """Penalises the norm of the gradient by the parameters, which no sample has a part of."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return _with_slope_penalty(self.network, batch)


def _with_slope_penalty(network: nn.Module, batch: Any) -> Tensor:
    loss = cross_entropies(network, batch).mean()
    grads = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
    return loss + 0.5 * torch.stack([grad.square().sum() for grad in grads]).sum()


def _shares_of_penalty(network: nn.Module, batch: Any) -> Tensor:
    """Losses whose gradients are the samples' contributions to that of the loss."""
    losses = cross_entropies(network, batch)
    parameters = list(network.parameters())
    whole = torch.autograd.grad(losses.mean(), parameters, retain_graph=True)
    shares = []
    for loss in losses:
        own = torch.autograd.grad(loss, parameters, create_graph=True)
        along = [(a * b).sum() for a, b in zip(own, whole, strict=True)]
        shares.append(loss + torch.stack(along).sum())
    return torch.stack(shares)


class StepsInBackward(Subject):
    """Each weight is stepped, and its gradient freed, as soon as it is there."""

    def configure_optimizers(self) -> None:
        for parameter in self.parameters():
            optimizer = torch.optim.SGD([parameter], lr=0.05)

            def step(p: Tensor, optimizer: Any = optimizer) -> None:
                optimizer.step()
                optimizer.zero_grad()

            parameter.register_post_accumulate_grad_hook(step)


class StepsInBackwardToo(StepsInBackward):
    """The same, and an optimiser of these weights that finds no gradients any more."""

    def configure_optimizers(self) -> Any:
        super().configure_optimizers()
        return torch.optim.SGD(self.parameters(), lr=0.05)


def _summed(network: nn.Module, batch: Any) -> Tensor:
    outputs = network(batch[0])
    losses = nn.functional.cross_entropy(outputs, batch[1], reduction="none")
    return losses + 0.1 * outputs.square().sum(1) + 0.01 * outputs.abs().amax(1)


GRADIENTS = (
    Condition(_GROUP, "several losses summed", module=_subject(losses=_summed)),
    Condition(
        _GROUP,
        "gradient penalty by the inputs (double backward, create_graph)",
        module=_subject(losses=_penalised),
    ),
    Condition(
        _GROUP,
        "gradient penalty by the parameters (double backward, create_graph)",
        module=_subject(SlopePenalty, losses=_shares_of_penalty),
        loss=_with_slope_penalty,
        note="a sample's part of the penalty is its own slope along the batch's",
    ),
    Condition(
        _GROUP,
        "a tensor hook that changes a gradient",
        samples=withheld("a hook of it may change its gradient", _FIRST),
        module=_subject(TensorHook),
        gradients=_clamped,
    ),
    Condition(
        _GROUP,
        "a post-accumulate hook that changes a gradient",
        module=_subject(AccumulatedHook),
        gradients=_doubled,
        note="samples are those of the loss",
    ),
    Condition(
        _GROUP,
        "a post-accumulate hook that changes a gradient, with accumulation",
        samples=withheld(_NOT_CLOSED, _FIRST),
        module=_subject(AccumulatedHook),
        gradients=_doubled,
        **_WINDOW,
    ),
    Condition(
        _GROUP,
        "gradients changed in on_after_backward",
        module=_subject(Halving),
        gradients=_halved,
        note="samples are those of the loss",
    ),
    Condition(
        _GROUP,
        "gradients changed in on_after_backward, with accumulation",
        samples=withheld(_NOT_CLOSED),
        module=_subject(Halving),
        gradients=_halved,
        **_WINDOW,
    ),
    Condition(
        _GROUP,
        "gradients changed in configure_gradient_clipping",
        module=_subject(OwnClipping),
        note="gradients are those before it",
    ),
    Condition(_GROUP, "gradients set to zero in place", module=_subject(ZeroesInPlace)),
    Condition(
        _GROUP,
        "gradients never set to zero",
        module=_subject(NeverZeroes),
        gradients=_all_so_far,
        note="samples are those of the last batch",
    ),
    Condition(
        _GROUP,
        "gradients never set to zero, with accumulation",
        samples=withheld(_NOT_CLOSED, steps=(1,)),
        module=_subject(NeverZeroes),
        gradients=_all_so_far,
        **_WINDOW,
    ),
    Condition(
        _GROUP, "a backward of the module's own (retain_graph)", module=_subject(OwnBackward)
    ),
    Condition(
        _GROUP,
        "optimiser steps within the backward",
        withheld("no optimiser that stepped in this training step holds it"),
        probes=withheld(_CHANGED, quantities=LOSS_PROBES),
        module=_subject(StepsInBackward),
    ),
    Condition(
        _GROUP,
        "optimiser steps within the backward, and another optimiser",
        withheld("its weights were changed between a backward of this training step"),
        probes=withheld(_CHANGED, quantities=LOSS_PROBES),
        module=_subject(StepsInBackwardToo),
    ),
)
