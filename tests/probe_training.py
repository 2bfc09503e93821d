"""Small trainings that are probed, a witness of their weights, and what the records say."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import torch
from torch import Tensor, nn

from helpers import trainer
from jacoscope import MonitorConfig, MonitorWarning, SensitivityMonitor
from jacoscope.config import LayerRule, Output, Probes, QuantityName, Schedule
from jacoscope.probe_record import ProbeRecord
from jacoscope.quantities import PROBES, QUANTITIES, is_probed
from probe_expected import Values, weights

PROBED: tuple[QuantityName, ...] = tuple(name for name in QUANTITIES if is_probed(name))
OF_OUTPUTS = tuple(name for name in PROBED if name not in PROBES["All else equal"])
OF_LOSS = tuple(name for name in PROBED if name in PROBES["All else equal"])
EACH: dict[str, Any] = {"schedule": {"every": 1}}


def learner_class(package: Any) -> Any:
    """A module that classifies by a network, which is also what it is as a function."""

    class Learner(package.LightningModule):  # type: ignore[misc]
        def __init__(
            self,
            network: nn.Module,
            optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
            lr: float = 0.2,
        ) -> None:
            super().__init__()
            self.network = network
            self._optimizer = optimizer
            self._lr = lr

        def forward(self, features: Tensor) -> Tensor:
            return self.network(features)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            trained = [p for p in self.parameters() if p.requires_grad]
            return self._optimizer(trained, lr=self._lr)

    return Learner


Learner = learner_class(lightning.pytorch)


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


class Witness(lightning.pytorch.Callback):
    """Keeps weights before and after each optimiser step, and the last batch before it."""

    def __init__(self) -> None:
        self.before: dict[int, dict[str, Tensor]] = {}
        self.after: dict[int, dict[str, Tensor]] = {}
        self.batches: dict[int, Any] = {}
        self._step = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, _: int) -> None:
        self._step = trainer.fit_loop.epoch_loop._batches_that_stepped
        self.batches[self._step] = copy.deepcopy(batch)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.before.setdefault(self._step, weights(pl_module))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if self._step in self.before:
            self.after[self._step] = weights(pl_module)


# What they found.


def values_of(record: ProbeRecord) -> Values:
    """By quantity, then by row; without what is missing."""
    found: Values = defaultdict(dict)
    for item in record.records:
        for row, value in zip(item.axis.names, item.values.tolist(), strict=True):
            if row not in item.missing:
                found[item.quantity][row] = value
    return dict(found)


def missing_of(record: ProbeRecord) -> dict[str, dict[str, str]]:
    return {str(each.quantity): dict(each.missing) for each in record.records if each.missing}


def watching(
    quantities: Sequence[QuantityName] = PROBED,
    *,
    layers: Sequence[LayerRule] = (),
    captured: Schedule = Schedule(every=1, first=0),
    on_error: Any = "raise",
    every: int = 1,
    shown: Output = Output(),
    **probes: Any,
) -> SensitivityMonitor:
    return SensitivityMonitor(
        MonitorConfig(
            quantities=tuple(quantities),
            layers=tuple(layers),
            schedule=captured,
            probes=Probes(**{"schedule": {"every": every}, **probes}),
            on_error=on_error,
            output=shown,
        )
    )


def fit(
    folder: Path,
    module: Any,
    loader: Any,
    monitor: SensitivityMonitor | None,
    *callbacks: Any,
    package: Any = lightning.pytorch,
    **options: Any,
) -> Any:
    """Train; the monitor's hooks run before those of the other callbacks."""
    ours = [monitor] if monitor is not None else []
    given = {"logger": False, "max_epochs": 1, **options}
    fitting = trainer(package, folder, callbacks=[*ours, *callbacks], **given)
    fitting.fit(module, loader)
    return fitting


def quietly(*args: Any, **options: Any) -> list[str]:
    """Train, and return what the monitor warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(*args, **options)
    return [str(each.message) for each in caught if each.category is MonitorWarning]


def into_memory(patch: pytest.MonkeyPatch) -> Any:
    """Let the callback's records go to memory."""
    from jacoscope.sinks import MemorySink

    sink = MemorySink()
    patch.setattr("jacoscope.callback.make_sinks", lambda *_: ([sink], None))
    return sink
