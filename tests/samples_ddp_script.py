"""Trains under DDP with two gloo processes, one situation after the other, and keeps what came.

Lightning starts the second process by running this again. Of each situation a process keeps, in
``SITUATION-RANK.pkl``, what it saw (weights and batches), what was recorded, what was warned of,
and a fingerprint of all that the training could have changed.
"""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.nn.functional import all_reduce
from torch.utils.data import DataLoader, DistributedSampler

import jacoscope.callback
import jacoscope.processes
from helpers import fingerprint, trainer
from jacoscope import Monitor, MonitorWarning, SensitivityMonitor
from jacoscope.config import LayerRule, Output, QuantityName, Schedule
from jacoscope.processes import Processes
from jacoscope.sinks import MemorySink
from sample_training import (
    EVERY,
    PER_SAMPLE,
    Learner,
    Witness,
    cross_entropies,
    loader_of,
    perceptron,
    rows_of_pairs,
    watching,
)

RANK = int(os.environ.get("LOCAL_RANK", "0"))
FOLDER = Path(sys.argv[1]) if __name__ == "__main__" else Path()
OF_GRADIENTS: tuple[QuantityName, ...] = ("grad_norm", "grad_max", "grad_mean")
RULES = (
    LayerRule(kind="bias", group="biases"),
    LayerRule(match="network.2.*", group="head"),
    LayerRule(),
)
Patch = pytest.MonkeyPatch
Planting = Callable[[Patch], None]


class Planted(Exception):
    """Planted."""


class Dealt(DistributedSampler[Any]):
    """Deals samples out in turn without padding, so that a process may have fewer than another."""

    def __iter__(self) -> Iterator[int]:
        yield from range(len(self.dataset))[self.rank :: self.num_replicas]  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(range(len(self.dataset))[self.rank :: self.num_replicas])  # type: ignore[arg-type]


def dealt(samples: int) -> DataLoader[Any]:
    dataset: Any = rows_of_pairs(samples, torch.float64)
    return loader_of(dataset, sampler=Dealt(dataset, 2, RANK))


def shuffled(samples: int = 40, **options: Any) -> DataLoader[Any]:
    """Lightning puts its own distributed sampler in."""
    return loader_of(rows_of_pairs(samples, torch.float64), shuffle=True, **options)


def keep(name: str, **kept: Any) -> None:
    (FOLDER / f"{name}-{RANK}.pkl").write_bytes(pickle.dumps(kept))


def train(
    name: str,
    loader: Any,
    *callbacks: pl.Callback,
    module: Any = None,
    monitor: SensitivityMonitor | None = None,
    planted: Planting | None = None,
    strategy: dict[str, Any] | None = None,
    ckpt_path: Any = None,
    **options: Any,
) -> Any:
    """One situation; without a monitor, the training alone."""
    pl.seed_everything(7, verbose=False)
    sink, witness = MemorySink(), Witness()
    module = module or Learner(perceptron(torch.float64))
    fitting = trainer(
        pl,
        FOLDER / name,
        callbacks=[*([monitor] if monitor else []), witness, *callbacks],
        logger=False,
        devices=2,
        strategy=DDPStrategy(timeout=timedelta(seconds=60), **(strategy or {})),
        precision="64-true",
        **{"max_epochs": 1, **options},
    )
    with Patch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr(jacoscope.callback, "make_sinks", lambda *_: ([sink], None))
        if planted is not None:
            planted(patch)
        try:
            fitting.fit(module, loader, ckpt_path=ckpt_path)
        except Planted:
            assert monitor is None or monitor._session is None
    states = [optimizer.state_dict() for optimizer in fitting.optimizers]
    keep(
        name,
        records=sink.records,
        boards=sink.boards,
        seen=dict(witness.seen),
        fingerprint=fingerprint(module.state_dict(), states),
        warnings=[str(each.message) for each in caught if each.category is MonitorWarning],
    )
    return fitting


def watched(**options: Any) -> SensitivityMonitor:
    return watching(**{"quantities": (*OF_GRADIENTS, *PER_SAMPLE), "layers": RULES, **options})


# The numbers.


def uneven() -> None:
    train("uneven", dealt(43), monitor=watched(), use_distributed_sampler=False, max_epochs=2)


def accumulated() -> None:
    options = {"accumulate_grad_batches": 3, "use_distributed_sampler": False}
    train("accumulated", dealt(53), monitor=watched(), **options)


def summed() -> None:
    train(
        "summed",
        dealt(43),
        module=Learner(perceptron(torch.float64), reduction="sum"),
        monitor=watched(loss_reduction="sum"),
        accumulate_grad_batches=2,
        use_distributed_sampler=False,
    )


class WithOutputs(Learner):
    """Returns more than the loss, all of which goes through DDP's own node."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        logits = self.network(batch[0])
        loss = nn.functional.cross_entropy(logits, batch[1])
        return {"logits": logits, "loss": loss}


class WithSpare(WithOutputs):
    """Has a parameter that only the loss of rank zero depends on, or that of none."""

    def __init__(self, users: tuple[int, ...] = (0,)) -> None:
        super().__init__(perceptron(torch.float64))
        self.users = users
        self.spare = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        outputs = super().training_step(batch, batch_idx)
        if RANK in self.users:
            outputs["loss"] = outputs["loss"] + self.spare.square().sum()
        return outputs


def looking_for_unused() -> None:
    module = WithSpare()
    strategy = {"find_unused_parameters": True, "gradient_as_bucket_view": True}
    train("unused", shuffled(), module=module, monitor=watched(), strategy=strategy)
    module = WithSpare(users=())
    train("unused by all", shuffled(), module=module, monitor=watched(), strategy=strategy)


def static_graph() -> None:
    module = WithOutputs(perceptron(torch.float64))
    train("static", shuffled(), module=module, monitor=watched(), strategy={"static_graph": True})
    module = WithOutputs(perceptron(torch.float64))
    train("static alone", shuffled(), module=module, strategy={"static_graph": True})


def workers() -> None:
    monitor = watched(quantities=("sample_grad_norm",))
    train("workers", shuffled(42, num_workers=1), monitor=monitor, max_epochs=2)


def separate_datasets() -> None:
    """Each process has a dataset of its own, so that indices say nothing of the others'."""
    monitor = watched(quantities=("sample_grad_norm",))
    dataset = rows_of_pairs(32, torch.float64)[RANK::2]
    train("separate", loader_of(dataset), monitor=monitor, use_distributed_sampler=False)


def unnamed() -> None:
    """Without ids, positions must not be taken for one another's."""

    def planted(patch: Patch) -> None:
        patch.setattr("jacoscope._sampler.SampledIndices.of_batch", lambda *_: None)

    monitor = watched(quantities=("sample_grad_norm",))
    train("unnamed", shuffled(16), monitor=monitor, planted=planted)


class Images(list[Any]):
    """Images, each of a brightness of its own."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(48, 1, 4, 4, generator=generator, dtype=torch.float64)
        super().__init__((image, int(image.mean() > 0)) for image in images)


def pictures() -> None:
    torch.manual_seed(11)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    monitor = watched(quantities=PER_SAMPLE, layers=(), leaderboard=4)
    loader = loader_of(Images(), shuffle=True)
    train("pictures", loader, module=Learner(network), monitor=monitor)


def asked_by_a_hook() -> None:
    """Rank zero's answer counts; the others are not even asked."""

    def hook(step: int, epoch: int) -> bool:
        assert RANK == 0
        return step % 2 == 1

    schedule = Schedule(every=None, first=0, hook=hook)
    train("hook", shuffled(64), monitor=watched(schedule=schedule), accumulate_grad_batches=2)


def failing_hook() -> None:
    def hook(step: int, epoch: int) -> bool:
        if step == 1:
            raise Planted("planted")
        return True

    schedule = Schedule(every=None, first=0, hook=hook)
    train("failing hook", shuffled(), monitor=watched(schedule=schedule, on_error="warn"))


# That nothing is changed.


def normalised() -> nn.Module:
    torch.manual_seed(2)
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)]
    return nn.Sequential(*layers).double()


def unchanged() -> None:
    for name, monitor in (("without", None), ("with", watched(layers=()))):
        train(
            name,
            shuffled(),
            module=Learner(normalised(), optimizer=torch.optim.AdamW),
            monitor=monitor,
            accumulate_grad_batches=2,
            max_epochs=2,
        )


class Communicating(Learner):
    """Its loss depends on the samples of all processes, and its backward asks them."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        hidden = self.network[:2](batch[0])
        mean = all_reduce(hidden.mean(0)) / 2
        return nn.functional.cross_entropy(self.network[2](hidden - mean), batch[1])


def communicating() -> None:
    for name, monitor in (
        ("communicating alone", None),
        ("communicating", watched(custom_functions="run")),
    ):
        module = Communicating(perceptron(torch.float64))
        train(name, shuffled(), module=module, monitor=monitor)


# Faults.


def explode(*_: Any, **__: Any) -> Any:
    raise Planted("planted")


def exhaust(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("planted")


def on(rank: int, path: str, what: Any = explode) -> Planting:
    def planted(patch: Patch) -> None:
        if rank == RANK:
            patch.setattr(path, what)

    return planted


def sometimes(rank: int, path: str, call: int) -> Planting:
    """Fail at one call, the first being 1."""
    inner: Any = resolve_name(path)
    calls: list[int] = []

    def failing(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return explode() if len(calls) == call else inner(*arguments, **options)

    return on(rank, path, failing)


FAULTS: dict[str, Planting] = {
    "groups 1": on(1, "jacoscope.opening.groups_of"),
    "walking 1": on(1, "jacoscope.capturing._capture.walk"),
    "memory 1": on(1, "jacoscope.sample_backward.measure_samples", exhaust),
    "unpacking 1": on(1, "jacoscope.reduction.Parcel.unpack"),
    "statistics 1": on(1, "jacoscope.sample_results.sample_statistics"),
    "statistics 0": on(0, "jacoscope.sample_results.sample_statistics"),
    "optimiser 0": on(0, "jacoscope.capturing.OptimizerStepCapture.before_step"),
    "sampler 1": on(1, "jacoscope._sampler.SampledIndices.of_batch"),
    "things 1": on(1, "jacoscope.leaderboard.ShownSamples.of"),
    "exchange 1": sometimes(1, "jacoscope.processes.Processes.share", 3),
    "exchange 0": sometimes(0, "jacoscope.processes.Processes.hand_over", 2),
    "once 1": sometimes(1, "jacoscope.captured_samples.attach_samples", 2),
    "joining": lambda patch: patch.setattr("jacoscope._lightning.Processes", explode),
}


def faults() -> None:
    loader = shuffled(64)
    train("fault free", loader)
    for name, planted in FAULTS.items():
        monitor = watched(on_error="warn", layers=())
        train(f"fault {name}", shuffled(64), monitor=monitor, planted=planted)


class Raising(pl.Callback):
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            raise Planted("planted")


def stopped_by_an_exception() -> None:
    train("stopped", shuffled(64), Raising(), monitor=watched())


class Validated(Learner):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def val_dataloader(self) -> Any:
        return loader_of(rows_of_pairs(8, torch.float64))


def validated() -> None:
    """Also in the middle of a window of accumulated batches."""
    module = Validated(perceptron(torch.float64))
    options = {"accumulate_grad_batches": 2, "val_check_interval": 1}
    train("validated", shuffled(64), module=module, monitor=watched(), **options)


def resumed() -> None:
    """The checkpoint of an epoch, written while it is validated, has all of its steps."""

    def fit(name: str, *callbacks: pl.Callback, **options: Any) -> None:
        module = Validated(perceptron(torch.float64))
        options["enable_checkpointing"] = True
        monitor = watched(quantities=("noise_scale",), layers=())
        train(name, shuffled(48), *callbacks, module=module, monitor=monitor, **options)

    fit("straight", max_epochs=2)
    saving = ModelCheckpoint(FOLDER / "saved", filename="one", save_on_train_epoch_end=False)
    fit("first half", saving, max_epochs=1)
    fit("second half", max_epochs=2, ckpt_path=FOLDER / "saved" / "one.ckpt")


# Elsewhere.


def loop(
    name: str,
    window: int = 1,
    *,
    gathers: bool = True,
    dropped: int = -1,
    hook: Any = None,
    counts_batches: bool = False,
    **options: Any,
) -> None:
    """PyTorch alone, with DistributedDataParallel."""
    network = perceptron(torch.float64)
    inner = nn.ModuleDict({"network": network})
    model = nn.parallel.DistributedDataParallel(network)
    if hook is not None:
        model.register_comm_hook(None, hook)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    seen: dict[int, Any] = {}
    processes = Processes() if gathers else None
    sink = MemorySink()
    config = {"quantities": (*OF_GRADIENTS, *PER_SAMPLE), "schedule": {"every": 1}, **options}
    with Monitor(inner, config, sinks=[sink], processes=processes) as monitor:
        for place, batch in enumerate(dealt(60)):
            step = place if counts_batches else place // window
            state = {key: value.clone() for key, value in network.state_dict().items()}
            seen.setdefault(step, []).append((state, batch, None))
            monitor.begin_step(step)
            monitor.begin_batch(batch)
            loss = cross_entropies(model, batch).mean() / window
            monitor.before_backward(loss, window=window)
            loss.backward()
            monitor.after_backward()
            if place == dropped and RANK == 1:
                monitor.abandon_step()
            if place % window == window - 1:
                monitor.before_optimizer_step(optimizer)
                optimizer.step()
                optimizer.zero_grad()
                monitor.end_step()
        monitor.gather(step + 1)
    if processes is not None:
        processes.close()
    keep(name, records=sink.records, seen=seen)


def loops() -> None:
    loop("loop", on_error="raise")
    loop("loop with windows", 2, on_error="raise")
    loop("loop with a step dropped", 2, dropped=0, on_error="raise")
    loop("loop that counts batches", 4, counts_batches=True, on_error="raise")
    loop("loop compressed", hook=fp16_compress_hook, on_error="raise")
    loop("loop alone", gathers=False, on_error="raise")
    with Patch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        on(1, "jacoscope.opening.groups_of")(patch)
        schedule = {"every": None, "first": 0, "hook": lambda step, epoch: True}
        loop("loop with faults", 2, schedule=schedule)


def recorded(strategy: str) -> None:
    """Into an event file, as users have it."""
    pl.seed_everything(7, verbose=False)
    monitor = SensitivityMonitor(
        quantities=("grad_norm", *PER_SAMPLE),
        schedule=EVERY,
        output=Output(directory=str(FOLDER / strategy)),
    )
    fitting = trainer(
        pl,
        FOLDER,
        callbacks=[monitor],
        devices=2,
        strategy=strategy,
        precision="64-true",
        max_epochs=1,
    )
    fitting.fit(Learner(perceptron(torch.float64)), shuffled())


SITUATIONS: Sequence[Callable[[], None]] = (
    uneven,
    accumulated,
    summed,
    looking_for_unused,
    static_graph,
    workers,
    separate_datasets,
    unnamed,
    pictures,
    asked_by_a_hook,
    failing_hook,
    unchanged,
    communicating,
    faults,
    stopped_by_an_exception,
    validated,
    resumed,
    lambda: recorded("ddp"),
    loops,
)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[2:] == ["ddp_spawn"]:
        recorded("ddp_spawn")
    else:
        jacoscope.processes._TIMEOUT = timedelta(seconds=30)
        for situation in SITUATIONS:
            situation()
        torch.distributed.destroy_process_group()
        print("DONE", RANK)
