"""A callback that keeps what a training saw, and what it all came to."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from conditions.condition import Step
from helpers import fingerprint

__all__ = ["Witness", "clean"]

_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "module")


def clean(name: str) -> str:
    """The name of a parameter without what wrappers of its network add."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


class Witness(pl.Callback):
    """Keeps weights, batches and random states of each step, and digests of what has changed."""

    def __init__(self) -> None:
        self.digests: list[str] = []
        self._batches: dict[int, list[Any]] = defaultdict(list)
        self._before: dict[int, dict[str, Tensor]] = {}
        self._after: dict[int, dict[str, Tensor]] = {}
        self._sizes: dict[int, int] = {}
        self._first_steps: dict[int, dict[str, Tensor]] = {}
        self._stepped: set[tuple[int, int]] = set()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, _: int) -> None:
        self._step = trainer.fit_loop.epoch_loop._batches_that_stepped
        self._sizes[self._step] = trainer.accumulate_grad_batches
        kept = copy.deepcopy(batch)
        self._batches[self._step].append((_weights(pl_module), kept, torch.get_rng_state()))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if (self._step, id(optimizer)) in self._stepped and not pl_module.automatic_optimization:
            self._first_steps.setdefault(self._step, _weights(pl_module))
        self._stepped.add((self._step, id(optimizer)))
        self._before.setdefault(self._step, _weights(pl_module))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self._after[self._step] = _weights(pl_module)
        states = [optimizer.state_dict() for optimizer in trainer.optimizers]
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.digests.append(fingerprint(pl_module.state_dict(), states, gradients))

    def step(self, number: int) -> Step:
        """What is known of a step."""
        batches = self._batches[number]
        after = self._first_steps.get(number, self._after[number])
        steps = [step for step in sorted(self._batches) if step <= number]
        history = [one for step in steps for one in self._batches[step]]
        end = self._after[number]
        return Step(batches, self._before[number], after, end, self._sizes[number], history)


def _weights(module: Any) -> dict[str, Tensor]:
    state = module.network.state_dict()
    made = {name: value for name, value in state.items() if not is_lazy(value)}
    return {clean(name): value.detach().clone() for name, value in made.items()}
