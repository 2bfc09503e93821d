"""Conditions of real training, and what the monitor is to make of each.

A condition is a row of the compatibility table in the documentation: a small real training, and
for each of parameter quantities, per-sample quantities and probes whether they are exact in it, or
withheld with which reason. ``test_conditions.py`` trains it with and without the monitor, and
holds the row to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from sample_training import cross_entropies, loader_of, perceptron, rows_of_pairs

__all__ = ["EXACT", "Condition", "Subject", "Verdict", "measured", "not_run", "withheld"]

Loss = Callable[[nn.Module, Any], Tensor]
"""From a network and a batch to the loss of each sample, shape (N,)."""


@dataclass(frozen=True)
class Verdict:
    """What comes of a family of quantities under a condition.

    Args:
        word: ``exact``, ``withheld``, ``measured`` or ``not run here``.
        reason: Why it is withheld, as the record says it or a part of that; or why it is not run.
        rows: The parameters that are withheld, where others are exact; all of them if empty.
        quantities: The quantities that are withheld, where others are exact; all of them if empty.
        steps: The steps at which they are withheld, where they are exact at others; all if empty.
    """

    word: str
    reason: str = ""
    rows: tuple[str, ...] = ()
    quantities: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()

    @property
    def is_partly_exact(self) -> bool:
        """Whether there is something that is exact."""
        is_partial = bool(self.rows or self.quantities or self.steps)
        return self.word == "exact" or (self.word == "withheld" and is_partial)

    def withholds(self, step: int, quantity: str) -> bool:
        """Whether something of this quantity is withheld at this step."""
        of_quantity = not self.quantities or quantity in self.quantities
        return self.word == "withheld" and of_quantity and (not self.steps or step in self.steps)


EXACT = Verdict("exact")


def withheld(
    reason: str, *rows: str, quantities: tuple[str, ...] = (), steps: tuple[int, ...] = ()
) -> Verdict:
    """Withheld with this reason: of these parameters, quantities and steps, or of all."""
    return Verdict("withheld", reason, rows, quantities, steps)


def measured(note: str = "") -> Verdict:
    """Recorded, but no test compares its numbers under this condition."""
    return Verdict("measured", note)


def not_run(why: str) -> Verdict:
    """Cannot be run on a machine like this."""
    return Verdict("not run here", why)


class Subject(pl.LightningModule):
    """Trains a network on the mean of losses per sample; most conditions are of this one."""

    def __init__(
        self,
        network: nn.Module,
        losses: Loss = cross_entropies,
        optimizer: Callable[..., Any] = torch.optim.SGD,
        **options: Any,
    ) -> None:
        super().__init__()
        self.network = network
        self.losses = losses
        self._optimizer = optimizer
        self._options = {"lr": 0.05, **options}

    def forward(self, inputs: Any) -> Any:
        return self.network(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.losses(self, batch).mean()

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        return self._optimizer(trained, **self._options)


@dataclass(frozen=True)
class Step:
    """What an optimiser step was made of.

    Args:
        batches: Of each batch of its window: the weights and buffers before it, the batch, and the
            random numbers' state before it.
        before: Weights right before the optimiser's step.
        after: Weights after it.
        end: Weights at the end of the training step.
        size: Batches that the loss of each was divided by.
        history: The batches of all steps so far and of this one.
    """

    batches: Sequence[tuple[Mapping[str, Tensor], Any, Tensor]]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    end: Mapping[str, Tensor]
    size: int
    history: Sequence[tuple[Mapping[str, Tensor], Any, Tensor]] = ()


Gradients = dict[str, Tensor]
"""By parameter, the gradient."""


@dataclass(frozen=True, eq=False)
class Condition:
    """One row.

    Args:
        group: The part of the table that it stands in.
        name: What it is called there.
        parameters: Of parameter quantities.
        samples: Of per-sample quantities.
        probes: Of probes.
        note: What else the table says of it.
        module: Makes the module, the same each time; its weights are those of ``network``.
        loader: Makes the loader of training batches, each with features and labels.
        options: Of the Trainer.
        config: Of the monitor, beside the quantities.
        callbacks: Makes further callbacks.
        plugins: Makes plugins of the Trainer.
        plain: Makes the same network out of plain layers: what the reference evaluates. By default
            the module's own network, in the precision of the reference.
        precision: Of the reference.
        gradients: The gradient of a step where it is not the mean of samples' own, from the plain
            network with the weights of the step.
        loss: The loss of a batch where it is not the mean of the losses per sample.
        contributions: What each sample adds to the gradient, from the plain network and a batch, by
            parameter, shape (N, *parameter), where that is not the gradient of its own loss.
        tolerance: Largest error relative to the largest value of its quantity.
        is_identical: Whether training is deterministic, so that it can be compared bit by bit.
        steps: Steps recorded, at least.
        shown_by: Tests elsewhere, as ``file.py::test``, that hold this row to what it says; nothing
            is trained for it here.
        within: What both trainings are run in.
        first: The first step that is compared.
    """

    group: str
    name: str
    parameters: Verdict = EXACT
    samples: Verdict = EXACT
    probes: Verdict = EXACT
    note: str = ""
    module: Callable[[], Any] = lambda: Subject(perceptron(torch.float64))
    loader: Callable[[], Any] = lambda: loader_of(rows_of_pairs(20, torch.float64))
    options: Mapping[str, Any] = field(default_factory=lambda: {"precision": "64-true"})
    config: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Any]] = list
    plugins: Callable[[], list[Any]] = list
    plain: Callable[[], nn.Module] | None = None
    precision: torch.dtype = torch.float64
    gradients: Callable[[nn.Module, Step], Gradients] | None = None
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    contributions: Callable[[nn.Module, Any], Gradients] | None = None
    tolerance: float = 1e-8
    is_identical: bool = True
    steps: int = 2
    shown_by: tuple[str, ...] = ()
    within: Callable[[], AbstractContextManager[Any]] = nullcontext
    first: int = 0

    @property
    def id(self) -> str:
        """Its name among the tests."""
        return f"{self.group}: {self.name}"

    def network(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The plain network with these weights, in the precision of the reference."""
        made = self.plain() if self.plain is not None else self.module().network
        made = made._apply(lambda tensor: _to(tensor, self.precision))
        made.load_state_dict({name: _to(value, self.precision) for name, value in state.items()})
        return made.train()


def _to(value: Tensor, precision: torch.dtype) -> Tensor:
    if value.is_complex():
        return value.to(torch.promote_types(precision, torch.complex32))
    return value.to(precision) if value.is_floating_point() else value
