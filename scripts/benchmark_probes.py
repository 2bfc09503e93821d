"""What probes cost: seconds of each family, in training steps, and the memory of a large layer.

    python scripts/benchmark_probes.py                 # on the processor
    python scripts/benchmark_probes.py --device cuda

A plain step and the probes take turns in one process; figures are medians over rounds of the ratio
within a round. The workloads are those of ``benchmark.py``.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarking.workloads import batch_loss, make
from jacoscope import Monitor, neural_tangent_kernel
from jacoscope.sinks import MemorySink

WORKLOADS = ("MLP", "CNN", "GPT-tied")
FAMILIES = {
    "∂f/∂θ norms": ["output_jacobian_norm"],
    "tangent kernel": ["ntk_top_eigenvalue", "ntk_alignment", "ntk_drift"],
    "∂f/∂x": ["input_jacobian_norm"],
    "all else equal": ["predicted_change", "second_order_change", "actual_change"],
    "allocation": ["allocated_change"],
}


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    """The mean cross-entropy of a batch."""
    return batch_loss(model(batch[0]), batch[1])


def step(
    model: nn.Module,
    batch: Any,
    optimizer: torch.optim.Optimizer,
    monitor: Monitor | None,
    index: int,
) -> float:
    """One training step, with or without its probes; returns its seconds."""
    start = time.perf_counter()
    if monitor is not None:
        monitor.begin_step(index)
        monitor.begin_batch(batch)
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    if monitor is not None:
        monitor.before_optimizer_step(optimizer)
    optimizer.step()
    if monitor is not None:
        monitor.end_step()
    if batch[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ratios(device: str, rounds: int) -> Iterator[tuple[str, float, dict[str, float]]]:
    """Of each workload, the plain step's seconds, and each family's in plain steps."""
    for name in WORKLOADS:
        workload = make(name, device)
        model, batch = workload.model, (workload.inputs, workload.targets)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        monitors = {
            family: Monitor(
                model,
                {"quantities": asked, "probes": {"schedule": {"every": 1}, "saliency": 0}},
                sinks=[MemorySink()],
                loss=loss_of,
            )
            for family, asked in FAMILIES.items()
        }
        found: dict[str, list[float]] = {family: [] for family in monitors}
        plain: list[float] = []
        for index in range(rounds + 1):
            seconds = step(model, batch, optimizer, None, index)
            times = {
                family: step(model, batch, optimizer, monitor, index) - seconds
                for family, monitor in monitors.items()
            }
            if index:
                plain.append(seconds)
                for family, taken in times.items():
                    found[family].append(taken / seconds)
        medians = {family: statistics.median(each) for family, each in found.items()}
        yield name, statistics.median(plain), medians


def large_layer(width: int = 4096, samples: int = 2, outputs: int = 160) -> tuple[float, float]:
    """Bytes of a dense Jacobian, and those by which the process grows over its tangent kernel."""
    model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    neural_tangent_kernel(
        model, torch.randn(samples, width), parameters=["0.weight"], max_outputs=outputs
    )
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return samples * outputs * width**2 * 4, after - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what probes cost.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    dense, grown = large_layer()
    print(f"a dense Jacobian of {dense / 1e9:.1f} GB: the process grew by {grown / 1e9:.2f} GB")
    print(f"\n| workload | plain step | {' | '.join(FAMILIES)} |")
    print("|---|---|" + "---|" * len(FAMILIES))
    for name, plain, medians in ratios(options.device, options.rounds):
        cells = " | ".join(f"{ratio:.0f}" for ratio in medians.values())
        print(f"| {name} | {plain * 1e3:.0f} ms | {cells} |", flush=True)


if __name__ == "__main__":
    main()
