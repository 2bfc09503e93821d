"""Manual optimisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from conditions.condition import Condition, Gradients, Step, Subject, withheld
from conditions.expected import LOSS_PROBES
from sample_training import cross_entropies, loader_of, perceptron, rows_of_pairs

__all__ = ["MANUAL", "slopes"]

SAMPLES = withheld("under manual optimisation a batch may go backward more than once")
PROBES = withheld(
    "under manual optimisation training_step steps the optimisers itself", quantities=LOSS_PROBES
)
_GROUP = "Manual optimisation"


def slopes(network: nn.Module, loss: Tensor) -> Gradients:
    """The gradient of a loss by each parameter that trains."""
    named = {n: p for n, p in network.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return {
        f"network.{name}": torch.zeros_like(named[name]) if each is None else each
        for name, each in zip(named, found, strict=True)
    }


class Manual(Subject):
    """One backward and one step per batch, unless a subclass does otherwise."""

    def __init__(self, network: nn.Module | None = None, **options: Any) -> None:
        super().__init__(network or perceptron(torch.float64), **options)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.losses(self, batch).mean())
        self.before_step(optimizer, batch)
        optimizer.step()

    def before_step(self, optimizer: Any, batch: Any) -> None:
        """Do something to the gradients."""


class Probed(Manual):
    """Says how its loss is had without a step."""

    def probe_loss(self, batch: Any) -> Tensor:
        return self.losses(self, batch).mean()


class Clipping(Manual):
    def before_step(self, optimizer: Any, batch: Any) -> None:
        self.clip_gradients(optimizer, 0.01, "norm")


def _clipped(network: nn.Module, step: Step) -> Gradients:
    gradients = slopes(network, cross_entropies(network, step.batches[-1][1]).mean())
    norm = sum(each.square().sum() for each in gradients.values()) ** 0.5
    return {name: each * min(1.0, 0.01 / (norm + 1e-6)) for name, each in gradients.items()}


class Accumulating(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.losses(self, batch).mean() / 2)
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()


def _accumulated(network: nn.Module, step: Step) -> Gradients:
    losses = [cross_entropies(network, batch).mean() / 2 for _, batch, _ in step.history[-2:]]
    return slopes(network, losses[0] + losses[1])


class TwoBackwards(Manual):
    """Two losses of one graph, each backward by itself."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        outputs = self(batch[0])
        loss = nn.functional.cross_entropy(outputs, batch[1])
        self.manual_backward(loss, retain_graph=True)
        self.manual_backward(0.1 * outputs.square().mean())
        optimizer.step()


def _of_both(network: nn.Module, step: Step) -> Gradients:
    features, labels = step.batches[-1][1]
    outputs = network(features)
    loss = nn.functional.cross_entropy(outputs, labels) + 0.1 * outputs.square().mean()
    return slopes(network, loss)


class TwoSteps(Manual):
    """Steps twice on each batch."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        super().training_step(batch, batch_idx)


class Adversaries(nn.Module):
    """A generator and a critic."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.generator = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 6)).double()
        self.critic = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()

    def forward(self, features: Tensor) -> Tensor:
        judged: Tensor = self.critic(self.generator(features))
        return judged

    def critics(self, features: Tensor) -> Tensor:
        """The loss of the critic."""
        fake = self.generator(features).detach()
        found: Tensor = self.critic(fake).mean() - self.critic(features).mean()
        return found


class Gan(Subject):
    """Two optimisers, of which each steps on its own loss."""

    def __init__(self) -> None:
        super().__init__(Adversaries(), lambda network, batch: network(batch[0]).squeeze(1))
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        features = batch[0]
        first, second = self.optimizers()  # type: ignore[misc]
        network: Any = self.network
        self.toggle_optimizer(second)
        second.zero_grad()
        self.manual_backward(network.critics(features))
        second.step()
        self.untoggle_optimizer(second)
        self.toggle_optimizer(first)
        first.zero_grad()
        self.manual_backward(-network(features).mean())
        first.step()
        self.untoggle_optimizer(first)

    def configure_optimizers(self) -> Any:
        network: Any = self.network
        return [
            torch.optim.Adam(network.generator.parameters(), lr=1e-2),
            torch.optim.RMSprop(network.critic.parameters(), lr=1e-2),
        ]


def _of_adversaries(network: nn.Module, step: Step) -> Gradients:
    features = step.batches[-1][1][0]
    given: Any = network
    found = slopes(network, given.critics(features))
    state = {n: step.after[n] if "critic" in n else each for n, each in step.before.items()}
    network.load_state_dict(state)
    later = slopes(network, -network(features).mean())
    return {n: later[n] if "generator" in n else each for n, each in found.items()}


def _row(name: str, module: Callable[[], Any], **options: Any) -> Condition:
    given: Mapping[str, Any] = {"samples": SAMPLES, "probes": PROBES, **options}
    return Condition(_GROUP, name, module=module, **given)


MANUAL = (
    Condition(
        _GROUP,
        "one optimiser, one backward, and a probe_loss",
        samples=SAMPLES,
        module=Probed,
        note="the method probe_loss is what probes of the loss go by",
    ),
    _row("no probe_loss", Manual),
    _row(
        "clip_gradients by hand",
        Clipping,
        gradients=_clipped,
        note="gradients are those after clipping",
    ),
    _row(
        "accumulation by hand",
        Accumulating,
        gradients=_accumulated,
        loader=lambda: loader_of(rows_of_pairs(32, torch.float64)),
    ),
    _row("several backward calls in one step (retain_graph)", TwoBackwards, gradients=_of_both),
    _row(
        "several optimiser steps per batch",
        TwoSteps,
        note="gradient, weights and update are those of an optimiser's first step",
    ),
    _row("GAN with two optimisers and toggle_optimizer", Gan, gradients=_of_adversaries),
    Condition(
        _GROUP,
        "an optimiser stepped past the Trainer",
        *[withheld("nothing was recorded, since no optimiser stepped through the Trainer")] * 3,
        note="step those of self.optimizers()",
        shown_by=("test_callback.py::test_optimisers_that_bypass_the_trainer_are_pointed_out",),
    ),
)
