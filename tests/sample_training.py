"""Small trainings whose per-sample gradients are known, by plain autograd one sample at a time."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from helpers import trainer
from jacoscope import MonitorConfig, SensitivityMonitor
from jacoscope.config import LayerRule, QuantityName, Samples, Schedule
from jacoscope.quantities import QUANTITIES, is_per_sample
from jacoscope.record import StepRecord
from jacoscope.sinks import MemorySink
from quantities.sample_reference import defined

Array = Any
Losses = Callable[[nn.Module, Any], Tensor]
"""From a network and a batch to the loss of each sample, shape (N,)."""

PER_SAMPLE: tuple[QuantityName, ...] = tuple(n for n in QUANTITIES if is_per_sample(n))
EVERY = Schedule(every=1, first=0)
DECAY = 0.9


def rows_of_pairs(samples: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Any]:
    """A dataset of features and labels; the first feature is the row's place in it."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(samples, 6, generator=generator, dtype=torch.float64)
    features[:, 0] = torch.arange(samples) / samples
    labels = (features[:, 1] + features[:, 2]).gt(0).long() + features[:, 3].gt(0.5)
    return list(zip(features.to(dtype), labels, strict=True))


def places(batch: Any, samples: int) -> list[int]:
    """Where the rows of a batch stand in that dataset."""
    return (batch[0][:, 0].double() * samples).round().long().tolist()


def perceptron(dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(11)
    middle: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), *middle, nn.Linear(5, 3)).to(dtype)


def cross_entropies(network: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(network(batch[0]), batch[1], reduction="none")


class Learner(pl.LightningModule):
    """Trains any network on the mean, or the sum, of losses per sample."""

    def __init__(
        self,
        network: nn.Module,
        losses: Losses = cross_entropies,
        reduction: str = "mean",
        optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
    ) -> None:
        super().__init__()
        self.network = network
        self._losses = losses
        self._reduction = reduction
        self._optimizer = optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = self._losses(self.network, batch)
        return losses.mean() if self._reduction == "mean" else losses.sum()

    def configure_optimizers(self) -> Any:
        return self._optimizer(self.network.parameters(), lr=0.05)


class Witness(pl.Callback):
    """Keeps weights, batches and random numbers' state as each batch finds them."""

    def __init__(self) -> None:
        self.seen: dict[int, list[Any]] = defaultdict(list)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, _: int) -> None:
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        state = {k: v.detach().clone() for k, v in pl_module.network.state_dict().items()}
        kept = copy.deepcopy(batch)
        self.seen[step].append((state, kept, torch.get_rng_state()))


def one_of(batch: Any, sample: int) -> Any:
    return tree_map(lambda leaf: leaf[sample : sample + 1], batch)


def alone(
    network: nn.Module,
    losses: Losses,
    batch: Any,
    samples: int,
    share: float,
    within: AbstractContextManager[Any] | None = None,
    pick: Callable[[Any, int], Any] = one_of,
) -> dict[str, Array]:
    """Contribution of each sample, run through the network by itself; name -> (N, P)."""
    parameters = {f"network.{name}": p for name, p in network.named_parameters()}
    rows: dict[str, list[Array]] = {name: [] for name in parameters}
    for sample in range(samples):
        with within or nullcontext():
            loss = losses(network, pick(batch, sample)).sum()
        grads = torch.autograd.grad(loss * share, list(parameters.values()))
        for name, grad in zip(rows, grads, strict=True):
            rows[name].append(grad.double().flatten().numpy())
    return {name: np.stack(each) for name, each in rows.items()}


def together(network: nn.Module, losses: Losses, batch: Any, share: float) -> dict[str, Array]:
    """Contribution of each sample, out of one forward of the whole batch; name -> (N, P)."""
    parameters = {f"network.{name}": p for name, p in network.named_parameters()}
    rows: dict[str, list[Array]] = {name: [] for name in parameters}
    for loss in losses(network, batch):
        grads = torch.autograd.grad(loss * share, list(parameters.values()), retain_graph=True)
        for name, grad in zip(rows, grads, strict=True):
            rows[name].append(grad.double().flatten().numpy())
    return {name: np.stack(each) for name, each in rows.items()}


class Expected:
    """Every per-sample quantity by its definition, step by step, with the running noise scale.

    Args:
        members: By row, the names of its parameters.
        reduction: Of the loss over samples.
    """

    def __init__(self, members: dict[str, tuple[str, ...]], reduction: str = "mean") -> None:
        self._members = members
        self._reduction = reduction
        self._running: dict[str, list[float]] = {name: [0.0, 0.0] for name in members}

    def of_step(
        self, step: Sequence[dict[str, Array]], labels: Sequence[Array] | None
    ) -> dict[str, dict[str, float]]:
        """The values of a step by row, then by quantity; a step is a list of backwards."""
        found = {}
        for row, names in self._members.items():
            parts = [np.concatenate([each[name] for name in names], axis=1) for each in step]
            samples = sum(len(part) for part in parts)
            if self._reduction == "sum":
                parts = [part / samples for part in parts]
            found[row] = defined(parts, None if labels is None else list(labels))
            whole = sum(part.sum(0) for part in parts)
            trace = found[row]["grad_variance"]
            signal = float(whole @ whole) - trace / samples
            sums = self._running[row]
            sums[0] = DECAY * sums[0] + trace
            sums[1] = DECAY * sums[1] + signal
            found[row]["noise_scale"] = sums[0] / sums[1]
        return found


def watching(
    *,
    quantities: Sequence[QuantityName] = PER_SAMPLE,
    layers: Sequence[LayerRule] = (),
    schedule: Schedule = EVERY,
    on_error: Any = "raise",
    **samples: Any,
) -> SensitivityMonitor:
    return SensitivityMonitor(
        MonitorConfig(
            quantities=tuple(quantities),
            layers=tuple(layers),
            schedule=schedule,
            samples=Samples(**samples),
            on_error=on_error,
        )
    )


def fit(
    folder: Path,
    module: Any,
    loader: Any,
    monitor: SensitivityMonitor | None,
    *callbacks: pl.Callback,
    **options: Any,
) -> Any:
    """Train; the monitor's hooks run before those of the other callbacks."""
    ours = [monitor] if monitor is not None else []
    fitting = trainer(
        pl, folder, callbacks=[*ours, *callbacks], **{"logger": False, "max_epochs": 1, **options}
    )
    fitting.fit(module, loader)
    return fitting


def loader_of(dataset: Any, batch_size: int = 8, **options: Any) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=batch_size, **options)


def values_of(record: StepRecord) -> dict[str, dict[str, float]]:
    """By row, then by quantity."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for each in record.records:
        for name, value in zip(each.axis.names, each.values.tolist(), strict=True):
            found[name][each.quantity] = value
    return dict(found)


def into_memory(monkeypatch: Any) -> MemorySink:
    """Let the callback's records go to memory."""
    sink = MemorySink()
    monkeypatch.setattr("jacoscope.callback.make_sinks", lambda *_: ([sink], None))
    return sink


def compare(
    got: dict[str, dict[str, float]],
    expected: dict[str, dict[str, float]],
    rtol: float,
    atol: float = 0.0,
    skip: Sequence[str] = (),
) -> None:
    for row, quantities in expected.items():
        for name in PER_SAMPLE:
            if name not in skip:
                np.testing.assert_allclose(
                    got[row][name],
                    quantities[name],
                    rtol=rtol,
                    atol=atol,
                    err_msg=f"{name} of {row}",
                )
