"""What the monitor costs: captured steps, other steps, writing and memory.

    python scripts/benchmark_overhead.py                 # on the processor
    python scripts/benchmark_overhead.py --device cuda

Plain and captured steps take turns in one process, so that a noisy machine disturbs both alike;
figures are medians over rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from jacoscope import Monitor, MonitorConfig, Samples, Schedule, SensitivityMonitor, capture
from jacoscope._training_loss import TrainingLoss
from jacoscope.callback import _Session
from jacoscope.config import Output
from jacoscope.demos import Transformer
from jacoscope.quantities import QUANTITIES, is_per_sample, is_probed
from jacoscope.record import Axis, GradientInfo, Record, StepRecord
from jacoscope.sinks import TensorBoardSink

EVERY_STEP = Schedule(every=1)
NO_BOARDS = Samples(leaderboard=0)
CONTENDERS: dict[str, MonitorConfig] = {
    "headline (3 quantities)": MonitorConfig(
        quantities=("grad_norm", "grad_nonfinite", "update_ratio"), schedule=EVERY_STEP
    ),
    "default": MonitorConfig(schedule=EVERY_STEP),
    "all of parameters": MonitorConfig(
        quantities=tuple(n for n in QUANTITIES if not (is_per_sample(n) or is_probed(n))),
        schedule=EVERY_STEP,
    ),
    "sample norms": MonitorConfig(
        quantities=("sample_grad_norm", "noise_scale"), schedule=EVERY_STEP, samples=NO_BOARDS
    ),
    "sample norms, Gram": MonitorConfig(
        quantities=("sample_grad_norm", "pair_cosine"), schedule=EVERY_STEP, samples=NO_BOARDS
    ),
}
WANTS: dict[str, tuple[str, ...]] = {
    "norms": ("row_sq_norms",),
    "norms, Gram": ("row_sq_norms", "gram"),
    "norms, columns": ("row_sq_norms", "column_sq_norms"),
    "all three": ("row_sq_norms", "gram", "column_sq_norms"),
}
SAMPLES = {"MLP": 256, "CNN": 64, "GPT": 16}


def mlp(device: str) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """An MLP 784-512-512-10 on 256 samples."""
    inputs = torch.randn(256, 784, device=device)
    labels = torch.randint(10, (256,), device=device)
    sizes = (784, 512, 512, 10)
    layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1]), lambda m: nn.functional.cross_entropy(m(inputs), labels)


def cnn(device: str) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """Four 3×3 convolutions on 64 images of 32×32."""
    images = torch.randn(64, 3, 32, 32, device=device)
    labels = torch.randint(10, (64,), device=device)
    widths, strides = (3, 32, 64, 128, 128), (1, 2, 2, 1)
    layers: list[nn.Module] = []
    for (i, o), stride in zip(pairwise(widths), strides, strict=True):
        layers += [nn.Conv2d(i, o, 3, stride, padding=1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(*layers, *head), lambda m: nn.functional.cross_entropy(m(images), labels)


def gpt(device: str) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """Four transformer blocks of width 256 on 16 sequences of 128 tokens."""
    model = Transformer(vocabulary_size=512, context=128, width=256, blocks=4, heads=4)
    tokens = torch.randint(512, (16, 128), device=device)

    def loss(m: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(m(tokens).flatten(0, 1), tokens.flatten())

    return model, loss


WORKLOADS = {"MLP": mlp, "CNN": cnn, "GPT": gpt}


def step(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    optimizer: torch.optim.Optimizer,
    monitor: Monitor | None,
    index: int,
    samples: int,
) -> float:
    """One training step, with or without a monitor; returns its seconds."""
    start = time.perf_counter()
    if monitor is not None:
        monitor.begin_step(index)
    optimizer.zero_grad()
    value = loss(model)
    if monitor is not None:
        monitor.before_backward(value, samples)
    value.backward()
    if monitor is not None:
        monitor.after_backward()
        monitor.before_optimizer_step(optimizer)
    optimizer.step()
    if monitor is not None:
        monitor.end_step()
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def captured_steps(device: str, rounds: int) -> list[dict[str, Any]]:
    """Ratios of captured to plain steps, one row per workload."""
    rows = []
    for name, make in WORKLOADS.items():
        model, loss = make(device)
        model.to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        monitors = {label: Monitor(model, config) for label, config in CONTENDERS.items()}
        ratios: dict[str, list[float]] = {label: [] for label in monitors}
        plain_times = []
        for index in range(rounds + 3):
            count = SAMPLES[name]
            plain = step(model, loss, optimizer, None, index, count)
            times = {k: step(model, loss, optimizer, m, index, count) for k, m in monitors.items()}
            if index >= 3:
                plain_times.append(plain)
                for label, seconds in times.items():
                    ratios[label].append(seconds / plain)
        scalars = sum(p.numel() for p in model.parameters())
        row: dict[str, Any] = {"workload": name, "scalars": scalars}
        row["plain ms"] = round(1e3 * statistics.median(plain_times), 1)
        row |= {label: round(statistics.median(values), 3) for label, values in ratios.items()}
        rows.append(row)
    return rows


def captured_jacobians(device: str, rounds: int) -> list[dict[str, Any]]:
    """Ratios of forward and backward with :func:`jacoscope.capture` to without."""
    rows = []
    for name, make in WORKLOADS.items():
        model, loss = make(device)
        model.to(device)
        ratios: dict[str, list[float]] = {label: [] for label in WANTS}
        plain_times = []
        for index in range(rounds + 3):
            times = {"": _passed(model, loss, None, SAMPLES[name])}
            times |= {k: _passed(model, loss, w, SAMPLES[name]) for k, w in WANTS.items()}
            if index >= 3:
                plain_times.append(times[""])
                for label, values in ratios.items():
                    values.append(times[label] / times[""])
        row: dict[str, Any] = {"workload": name, "N": SAMPLES[name]}
        row["plain ms"] = round(1e3 * statistics.median(plain_times), 1)
        row |= {label: round(statistics.median(values), 2) for label, values in ratios.items()}
        rows.append(row)
    return rows


def _passed(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    want: tuple[str, ...] | None,
    samples: int,
) -> float:
    """Seconds of a forward and backward, captured or not."""
    model.zero_grad()
    start = time.perf_counter()
    value = loss(model)
    if want is None:
        value.backward()
    else:
        with capture(value, model, samples, want) as jacobians:
            value.backward()
        assert jacobians.coverage == 1
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def other_steps() -> float:
    """The callback's own time on a step that is not captured, in microseconds."""
    callback = SensitivityMonitor(schedule=Schedule(every=10**9))
    model = nn.Linear(3, 3)
    loops = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=10**6))
    trainer: Any = SimpleNamespace(fit_loop=loops, accumulate_grad_batches=1, current_epoch=0)
    callback._session = _Session(Monitor(model, callback.config), TrainingLoss(trainer))
    module: Any = model
    callback.on_train_batch_start(trainer, module, None, 0)
    count, best = 20_000, float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for index in range(count):
            callback.on_train_batch_start(trainer, module, None, index)
            callback.on_before_optimizer_step(trainer, module, None)  # type: ignore[arg-type]
            callback.on_train_batch_end(trainer, module, None, None, index)
        best = min(best, (time.perf_counter() - start) / count)
    return 1e6 * best


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


def main() -> None:
    """Print the figures, and write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of plain and captured steps")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    rows = captured_steps(options.device, options.rounds)
    print("Captured step / plain step (forward, backward, AdamW), median of rounds\n")
    _print_table(rows)
    jacobians = captured_jacobians(options.device, options.rounds)
    print("\nForward and backward with jacoscope.capture / without, median of rounds\n")
    _print_table(jacobians)
    microseconds = other_steps()
    seconds, megabytes = writing()
    print(f"\nA step that is not captured: {microseconds:.2f} µs")
    print(f"Writing 200 layers × 2000 steps × 6 quantities: {seconds:.2f} s, {megabytes:.1f} MB")
    if options.json:
        figures = {
            "captured": rows,
            "jacobians": jacobians,
            "other_us": microseconds,
            "write_s": seconds,
            "write_mb": megabytes,
        }
        options.json.write_text(json.dumps(figures, indent=2))


def _print_table(rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        cells = (f"{row[c]:,}" if c == "scalars" else str(row[c]) for c in columns)
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
