"""Optimisers, and when they step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from conditions.condition import Condition, Gradients, Step, Subject, withheld
from conditions.expected import LOSS_PROBES
from conditions.rows_manual import slopes
from sample_training import cross_entropies, loader_of, perceptron, rows_of_pairs

__all__ = ["OPTIMISERS"]

_GROUP = "Optimisers"
_SEVERAL = "the loss of one batch went backward more than once in this step"
_FOUR: Mapping[str, Any] = {"loader": lambda: loader_of(rows_of_pairs(32, torch.float64))}


def _subject(kind: type[Subject] = Subject, **options: Any) -> Any:
    return lambda: kind(perceptron(torch.float64), **options)


class Groups(Subject):
    """Groups with a learning rate and a weight decay each."""

    def configure_optimizers(self) -> Any:
        first, last = self.network[0], self.network[2]  # type: ignore[index]
        groups = [
            {"params": first.parameters(), "lr": 0.1, "weight_decay": 0.1},  # type: ignore[union-attr]
            {"params": last.parameters()},  # type: ignore[union-attr]
        ]
        return torch.optim.AdamW(groups, lr=0.01)


class Scheduled(Subject):
    """The learning rate changes with each step."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=10)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class Frozen(Subject):
    """Its first layer does not train."""

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        network[0].requires_grad_(False)  # type: ignore[index]


class Lookahead(torch.optim.Optimizer):
    """Wraps another optimiser, and does not call the constructor, as several that are about."""

    def __init__(self, optimizer: torch.optim.Optimizer, every: int = 2) -> None:
        self.optimizer = optimizer
        self.every = every
        self.param_groups = optimizer.param_groups
        self.defaults = optimizer.defaults
        self.state = defaultdict(dict)
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        self.steps = 0

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = self.optimizer.step(closure)
        self.steps += 1
        fast = [p for group in self.param_groups for p in group["params"]]
        if self.steps % self.every == 0:
            with torch.no_grad():
                for slow, parameter in zip(self.slow, fast, strict=True):
                    slow.lerp_(parameter, 0.5)
                    parameter.copy_(slow)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()


class LookingAhead(Subject):
    def configure_optimizers(self) -> Any:
        return Lookahead(torch.optim.SGD(self.parameters(), lr=0.05))


class SharpnessAware(torch.optim.SGD):
    """Evaluates the closure, climbs, and steps by what the closure says there."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        with torch.enable_grad():
            closure()
        moved = _climb(self)
        with torch.enable_grad():
            loss = closure()
        _descend(moved)
        super().step()
        return loss


def _climb(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, Tensor]]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moved = [(p, 0.05 * p.grad) for p in parameters]
    with torch.no_grad():
        for parameter, by in moved:
            parameter.add_(by)
    return moved


def _descend(moved: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for parameter, by in moved:
            parameter.sub_(by)


class SharpnessAwareStep(Subject):
    """The same in the module's optimizer_step, where the Trainer sees the second closure alone."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        optimizer_closure()
        moved = _climb(optimizer)

        def again() -> Any:
            found = optimizer_closure()
            _descend(moved)
            return found

        optimizer.step(closure=again)


class EverySecondBatch(Subject):
    """Goes backward on every batch, and steps on every second."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        if batch_idx % 2:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()


class KeepsAdding(EverySecondBatch):
    """Sets gradients to zero only after a step."""

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        if batch_idx % 2 == 0:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)


def _last(network: nn.Module, step: Step) -> Gradients:
    return slopes(network, cross_entropies(network, step.batches[-1][1]).mean())


def _sum(network: nn.Module, step: Step) -> Gradients:
    losses = [cross_entropies(network, batch).mean() for _, batch, _ in step.history[-2:]]
    return slopes(network, losses[0] + losses[1])


OPTIMISERS = (
    Condition(
        _GROUP,
        "LBFGS",
        samples=withheld(_SEVERAL),
        module=_subject(optimizer=torch.optim.LBFGS, lr=0.1, max_iter=3),
        note="gradients are those of its first closure, updates those of the whole step",
    ),
    Condition(_GROUP, "parameter groups", module=_subject(Groups)),
    Condition(_GROUP, "learning rate scheduler", module=_subject(Scheduled)),
    Condition(_GROUP, "momentum", module=_subject(momentum=0.9, nesterov=True)),
    Condition(_GROUP, "foreach", module=_subject(optimizer=torch.optim.Adam, foreach=True)),
    Condition(_GROUP, "fused", module=_subject(optimizer=torch.optim.AdamW, fused=True)),
    Condition(_GROUP, "frozen layers", module=_subject(Frozen)),
    Condition(_GROUP, "an optimiser that wraps another (Lookahead)", module=_subject(LookingAhead)),
    Condition(
        _GROUP,
        "SAM as an optimiser",
        samples=withheld(_SEVERAL),
        module=_subject(optimizer=SharpnessAware),
        note="gradients are those of its first closure, updates those of the whole step",
    ),
    Condition(
        _GROUP,
        "SAM in optimizer_step",
        withheld("its weights were changed between a backward of this training step"),
        withheld(_SEVERAL),
        withheld("weights were changed between a backward", quantities=LOSS_PROBES),
        module=_subject(SharpnessAwareStep),
    ),
    Condition(
        _GROUP,
        "a step on every second batch, each with a backward",
        module=_subject(EverySecondBatch),
        gradients=_last,
        note="the batch of the step is recorded, the other one's gradient is never used",
        **_FOUR,
    ),
    Condition(
        _GROUP,
        "a step on every second batch, gradients adding up",
        module=_subject(KeepsAdding),
        gradients=_sum,
        note="samples are those of the last batch",
        **_FOUR,
    ),
)
