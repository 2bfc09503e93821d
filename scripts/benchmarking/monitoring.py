"""The monitor's whole steps: captured ones, other ones, and writing."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.tensorboard import SummaryWriter

from benchmarking.rounds import WARM_UP
from benchmarking.workloads import Workload, make
from jacoscope import Monitor, MonitorConfig, Samples, Schedule, SensitivityMonitor
from jacoscope.config import Output
from jacoscope.quantities import QUANTITIES, is_per_sample, is_probed
from jacoscope.record import Axis, GradientInfo, Record, StepRecord
from jacoscope.sinks import TensorBoardSink

__all__ = ["PARAMETER_QUANTITIES", "captured_steps", "other_steps", "writing"]

PARAMETER_QUANTITIES = tuple(n for n in QUANTITIES if not (is_per_sample(n) or is_probed(n)))
_EVERY_STEP = Schedule(every=1)
_NO_BOARDS = Samples(leaderboard=0)
_CONFIGS: dict[str, MonitorConfig] = {
    "3 quantities": MonitorConfig(
        quantities=("grad_norm", "grad_nonfinite", "update_ratio"), schedule=_EVERY_STEP
    ),
    "default": MonitorConfig(schedule=_EVERY_STEP),
    "all of parameters": MonitorConfig(quantities=PARAMETER_QUANTITIES, schedule=_EVERY_STEP),
    "sample norms, noise scale": MonitorConfig(
        quantities=("sample_grad_norm", "noise_scale"), schedule=_EVERY_STEP, samples=_NO_BOARDS
    ),
    "norms, Gram, cosines": MonitorConfig(
        quantities=("sample_grad_norm", "pair_cosine"), schedule=_EVERY_STEP, samples=_NO_BOARDS
    ),
}


def captured_steps(names: Sequence[str], device: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Ratios of captured to plain steps (forward, backward, AdamW), by workload."""
    rows = {}
    for name in names:
        workload = make(name, device)
        optimizer = torch.optim.AdamW(workload.model.parameters(), lr=1e-4)
        monitors = {label: Monitor(workload.model, config) for label, config in _CONFIGS.items()}
        ratios: dict[str, list[float]] = {label: [] for label in monitors}
        plain_times = []
        for index in range(WARM_UP + rounds):
            print(f"{name}: step {index - WARM_UP + 1} of {rounds}", file=sys.stderr, flush=True)
            plain = _step(workload, optimizer, None, index)
            times = {k: _step(workload, optimizer, m, index) for k, m in monitors.items()}
            if index >= WARM_UP:
                plain_times.append(plain)
                for label, seconds in times.items():
                    ratios[label].append(seconds / plain)
        rows[name] = {
            "about": workload.about,
            "scalars": workload.scalars,
            "plain_ms": 1e3 * statistics.median(plain_times),
            "plain_seconds": plain_times,
            "ratios": {label: statistics.median(each) for label, each in ratios.items()},
            "rounds": ratios,
        }
    return rows


def _step(
    workload: Workload, optimizer: torch.optim.Optimizer, monitor: Monitor | None, index: int
) -> float:
    """One training step, with or without a monitor; returns its seconds."""
    on_cuda = workload.inputs.is_cuda
    if on_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    if monitor is not None:
        monitor.begin_step(index)
    optimizer.zero_grad()
    loss = workload.loss(workload.model)
    if monitor is not None:
        monitor.before_backward(loss, workload.samples)
    torch.autograd.backward(loss)
    if monitor is not None:
        monitor.after_backward()
        monitor.before_optimizer_step(optimizer)
    optimizer.step()
    if monitor is not None:
        monitor.end_step()
    if on_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


class _HookTimer(Callback):
    """Calls the monitor's hooks of a step again and again within a real ``fit``.

    Args:
        monitor: The callback to time, on whose schedule no step is due.
    """

    def __init__(self, monitor: SensitivityMonitor) -> None:
        self.monitor = monitor
        self.best = float("inf")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Time the hooks; the fastest of a few trials counts."""
        if batch_idx != 3:
            return
        optimizer, loss = trainer.optimizers[0], torch.zeros(())
        hooks, count = self.monitor, 5_000
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(count):
                hooks.on_train_batch_start(trainer, pl_module, batch, batch_idx)
                hooks.on_before_backward(trainer, pl_module, loss)
                hooks.on_after_backward(trainer, pl_module)
                hooks.on_before_optimizer_step(trainer, pl_module, optimizer)
                hooks.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self.best = min(self.best, (time.perf_counter() - start) / count)


def other_steps() -> float:
    """The callback's own time on a step that is not captured, in microseconds."""
    monitor = SensitivityMonitor(
        quantities=("grad_norm", "sample_grad_norm"), schedule=Schedule(first=1, every=10**9)
    )
    timer = _HookTimer(monitor)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_steps=5,
            callbacks=[monitor, timer],
            default_root_dir=folder,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(BoringModel())
    assert monitor.state_dict()["captures"] == 1  # it was at work, and not on the step timed
    return 1e6 * timer.best


def writing(layers: int = 200, steps: int = 2000, quantities: int = 6) -> tuple[float, float]:
    """Seconds and megabytes for a long run's records."""
    names = tuple(f"model.blocks.{index}.attention.projection.weight" for index in range(layers))
    axis = Axis(names, names, ("weight",) * layers, (1,) * layers)
    values = torch.rand(layers).double().numpy()
    chosen = [name for name in QUANTITIES if name != "grad_histogram"][:quantities]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        sink = TensorBoardSink(SummaryWriter(folder), Output(pictures=()), owns_writer=True)
        for index in range(steps):
            records = tuple(Record(name, axis, values, {}) for name in chosen)
            sink.write(StepRecord(index, 0, records, {}, GradientInfo()))
        sink.close()
        seconds = time.perf_counter() - start
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return seconds, size / 1e6
