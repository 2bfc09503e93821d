"""Trains with parameters split over two gloo processes, by the strategies of Lightning.

Lightning starts the second process by running this again. Of each situation a process keeps, in
``SITUATION-RANK.pkl``, the records, what was warned of, and a fingerprint of all that the training
could have changed, with the monitor and without.
"""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader

import jacoscope.callback
from helpers import fingerprint, trainer
from jacoscope import MonitorWarning, SensitivityMonitor
from jacoscope.sharding import local
from jacoscope.sinks import MemorySink
from sharded_loops_script import (
    OF_PARAMETERS,
    STEPS,
    Even,
    Network,
    inputs_of,
    loss_of,
    optimizer_of,
)

RANK = int(os.environ.get("LOCAL_RANK", "0"))
FOLDER = Path(sys.argv[1]) if __name__ == "__main__" else Path()
Split = Callable[[nn.Module, Any], nn.Module]


class Planted(Exception):
    """Planted."""


class Module(pl.LightningModule):
    """Trains a network on the batches of the loops, and validates it in between."""

    def __init__(self, make: Callable[[], nn.Module], split: Split, parts: int, each: int) -> None:
        super().__init__()
        self.make, self.split = make, split
        self.parts, self.each = parts, each

    def configure_model(self) -> None:
        if "network" not in self._modules:
            self.network = self.split(self.make(), self.device_mesh)

    def loader(self, batches: int) -> Any:
        return DataLoader(range(batches), batch_size=None)  # type: ignore[arg-type]

    def train_dataloader(self) -> Any:
        return self.loader(STEPS * self.each)

    def val_dataloader(self) -> Any:
        return self.loader(1)

    def inputs(self, batch: int) -> Tensor:
        own = inputs_of(batch // self.each).chunk(self.parts)[RANK % self.parts]
        return own.to(self.network.norm.weight.dtype)

    def training_step(self, batch: int, batch_idx: int) -> Any:
        return loss_of(self.network, self.inputs(batch))

    def validation_step(self, batch: int, batch_idx: int) -> None:
        loss_of(self.network, self.inputs(99))

    def configure_optimizers(self) -> Any:
        return optimizer_of(self)


class Manual(Module):
    """Steps its optimiser every so many batches."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.automatic_optimization = False

    def training_step(self, batch: int, batch_idx: int) -> Any:
        self.manual_backward(super().training_step(batch, batch_idx) / self.each)
        if batch_idx % self.each == self.each - 1:
            optimizer: Any = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()


class OnCPU(FSDPStrategy):
    """Lightning refuses its own on a CPU."""


def wholly(network: nn.Module, mesh: Any) -> nn.Module:
    fully_shard(network.a, mesh=mesh["data_parallel"])
    return fully_shard(network, mesh=mesh["data_parallel"])


def by_rows(network: nn.Module, mesh: Any) -> nn.Module:
    plan = {"a": ColwiseParallel(), "b": RowwiseParallel()}
    return parallelize_module(network, mesh["tensor_parallel"], plan)


def train(
    name: str,
    strategy: Callable[[], Any],
    split: Split = lambda network, _: network,
    *callbacks: pl.Callback,
    make: Callable[[], nn.Module] = Network,
    kind: type[Module] = Module,
    parts: int = 2,
    each: int = 1,
    monitored: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    kept: dict[str, Any] = {}
    for way in ("plain", "monitored"):
        pl.seed_everything(7, verbose=False)
        sink, module = MemorySink(), kind(make, split, parts, each)
        config: Any = {"quantities": OF_PARAMETERS, "schedule": {"every": 1}, "on_error": "raise"}
        monitor = SensitivityMonitor(**{**config, **(monitored or {})})
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            patch.setattr(jacoscope.callback, "make_sinks", lambda *_, to=sink: ([to], None))
            fitting = trainer(
                pl,
                FOLDER / name,
                callbacks=[*([monitor] if way == "monitored" else []), *callbacks],
                logger=False,
                devices=2,
                strategy=strategy(),
                use_distributed_sampler=False,
                **{"max_epochs": 1, **options},
            )
            try:
                fitting.fit(module)
            except Planted:
                assert monitor._session is None
        kept[way] = fingerprint([local(p.detach()).clone() for p in module.parameters()])
        kept["records"] = sink.records
        kept["warnings"] = [str(w.message) for w in caught if w.category is MonitorWarning]
    (FOLDER / f"{name}-{RANK}.pkl").write_bytes(pickle.dumps(kept))


def of_data() -> Any:
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)


def of_tensors() -> Any:
    return ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2)


class Raising(pl.Callback):
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            raise Planted("planted")


def asked(step: int, epoch: int) -> bool:
    assert RANK == 0
    return step == 1


def wrapped() -> None:
    """By FSDPStrategy, told that the device is the CPU, as PyTorch itself allows it to be."""
    begin = FullyShardedDataParallel.__init__

    def on_cpu(*arguments: Any, **options: Any) -> None:
        begin(*arguments, **{**options, "device_id": torch.device("cpu")})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FullyShardedDataParallel, "__init__", on_cpu)
        train("wrapped", OnCPU, make=lambda: Network().float())
        whole = {"make": lambda: Network(freezes=False).float(), "num_sanity_val_steps": 0}
        train("flattened", lambda: OnCPU(use_orig_params=False), **whole)


SITUATIONS: Sequence[Callable[[], None]] = (
    lambda: train("data", of_data, wholly, val_check_interval=1, gradient_clip_val=0.1),
    lambda: train("accumulated", of_data, wholly, each=2, accumulate_grad_batches=2),
    lambda: train("manual", of_data, wholly, each=2, kind=Manual),
    lambda: train("tensors", of_tensors, by_rows, make=Even, parts=1),
    lambda: train("stopped", of_data, wholly, Raising()),
    lambda: train(
        "hook",
        of_data,
        wholly,
        monitored={"schedule": {"every": None, "first": 0, "hook": asked}},
    ),
    wrapped,
)


def recorded() -> None:
    """Into an event file, as users have it."""
    fitting = trainer(
        pl,
        FOLDER / "logged",
        callbacks=[SensitivityMonitor(schedule={"every": 1})],  # type: ignore[arg-type]
        devices=2,
        strategy=of_data(),
        max_epochs=1,
        use_distributed_sampler=False,
    )
    fitting.fit(Module(Network, wholly, 2, 1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for situation in SITUATIONS:
        situation()
    recorded()
    torch.distributed.destroy_process_group()
    print("DONE", RANK)
