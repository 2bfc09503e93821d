"""Trains with parameters split over four gloo processes, one way after the other, by plain loops.

Of each situation every process keeps, in ``SITUATION-RANK.pkl``, the records, what was warned of,
and a fingerprint of all that the training could have changed, with the monitor and without.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from helpers import fingerprint
from jacoscope import Monitor, MonitorWarning
from jacoscope.processes import Processes
from jacoscope.quantities import QUANTITIES, is_per_sample, is_probed
from jacoscope.sharding import local
from jacoscope.sinks import MemorySink

WORLD = 4
SAMPLES = 16
STEPS = 3
OF_PARAMETERS = tuple(name for name in QUANTITIES if not (is_per_sample(name) or is_probed(name)))
Patch = pytest.MonkeyPatch


class Planted(Exception):
    """Planted."""


class Network(nn.Module):
    """No size can be divided by four, and some parameters have fewer rows than that."""

    def __init__(self, freezes: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.norm = nn.LayerNorm(6)
        self.a = nn.Linear(6, 7)
        self.b = nn.Linear(7, 5)
        self.head = nn.Linear(5, 1)
        self.scale = nn.Parameter(torch.rand(3))
        self.unused = nn.Parameter(torch.rand(2, 3))
        self.frozen = nn.Parameter(torch.rand(5), requires_grad=not freezes)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.b(self.a(self.norm(inputs)).tanh()).relu() + self.frozen
        return self.head(hidden) * self.scale.sum()


class Even(nn.Module):
    """What tensor parallelism can split: whole rows and columns for all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.norm = nn.LayerNorm(6)
        self.a = nn.Linear(6, 8)
        self.b = nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.rand(3))
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.b(self.a(self.norm(inputs)).tanh()) * self.scale


def inputs_of(step: int, shape: tuple[int, ...] = (6,)) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(SAMPLES, *shape, generator=generator, dtype=torch.float64)


def loss_of(network: nn.Module, inputs: Tensor) -> Tensor:
    return (network(inputs) - inputs.sum(-1, keepdim=True)).square().mean()


def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.03)


def train(
    folder: Path,
    name: str,
    make: Callable[[], nn.Module],
    *,
    groups: int = WORLD,
    shape: tuple[int, ...] = (6,),
    options: Mapping[str, Any] | None = None,
    planted: Callable[[Patch], None] | None = None,
    each: int = 1,
    evaluates: bool = False,
    gathers: bool = True,
    watched: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> None:
    """One situation, with the monitor and without.

    Args:
        folder: Where to keep what came.
        name: The situation.
        make: Makes the network.
        groups: Into how many parts the samples are dealt.
        shape: Of a sample.
        options: Of the monitor.
        planted: Plants a fault.
        each: Steps of the loop to one of the optimiser.
        evaluates: Whether the network is evaluated before each step.
        gathers: Whether the monitor is told of the other processes.
        watched: From what was made to what is watched.
    """
    rank = dist.get_rank()
    part = rank * groups // WORLD
    kept: dict[str, Any] = {}
    for kind in ("plain", "monitored"):
        torch.manual_seed(5)
        network = make()
        optimizer = optimizer_of(network)
        sink, processes = MemorySink(), None
        config = {"quantities": OF_PARAMETERS, "schedule": {"every": 1}, "on_error": "raise"}
        with Patch.context() as patch, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            monitor = None
            if kind == "monitored":
                processes = Processes() if gathers else None
                sinks = [] if rank else [sink]
                given: Any = {**config, **(options or {})}
                inner = watched(network)
                monitor = Monitor(inner, given, sinks=sinks, processes=processes, wrapper=network)
                if planted is not None:
                    planted(patch)
            for step in range(STEPS * each):
                if evaluates:
                    with torch.no_grad():
                        network(inputs_of(99, shape))
                inputs = inputs_of(step // each, shape).chunk(groups)[part]
                if monitor is not None:
                    monitor.begin_step(step)
                    monitor.begin_batch(inputs)
                loss = loss_of(network, inputs) / each
                if monitor is not None:
                    monitor.before_backward(loss, batch_size=len(inputs))
                loss.backward()
                if monitor is not None:
                    monitor.after_backward()
                if step % each == each - 1:
                    if monitor is not None:
                        monitor.before_optimizer_step(optimizer)
                    optimizer.step()
                    optimizer.zero_grad()
                if monitor is not None:
                    monitor.end_step()
            if monitor is not None:
                monitor.gather(step + 1)
                monitor.close()
            if processes is not None:
                processes.close()
        state = [local(p.detach()).clone() for p in network.parameters()]
        kept[kind] = fingerprint(state)
        kept["records"], kept["probes"] = sink.records, sink.probes
        kept["warnings"] = [str(w.message) for w in caught if w.category is MonitorWarning]
    (folder / f"{name}-{rank}.pkl").write_bytes(pickle.dumps(kept))
    dist.barrier()


def sharded(mesh: Any, *parts: str, **options: Any) -> Callable[[], nn.Module]:
    """By ``fully_shard``, the parts first; the whole where ``whole`` is not given as ``False``."""
    whole = options.pop("whole", True)

    def make() -> nn.Module:
        network = Network()
        for part in parts:
            fully_shard(network.get_submodule(part), mesh=mesh, **options)
        return fully_shard(network, mesh=mesh, **options) if whole else network

    return make


def parallel(tensor: Any, data: Any = None, *, in_sequence: bool = False) -> Callable[..., Any]:
    def make() -> nn.Module:
        network = Even()
        plan: dict[str, Any] = {"a": ColwiseParallel(), "b": RowwiseParallel()}
        if in_sequence:
            plan["norm"] = SequenceParallel()
            plan["a"] = ColwiseParallel(input_layouts=Shard(1))

            def split(_: nn.Module, given: tuple[Tensor]) -> DTensor:
                whole = DTensor.from_local(given[0], tensor, [Replicate()])
                return whole.redistribute(placements=[Shard(1)])

            network.norm.register_forward_pre_hook(split)
        parallelize_module(network, tensor, plan)
        return network if data is None else fully_shard(network, mesh=data)

    return make


def wrapped(strategy: ShardingStrategy, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        if strategy is ShardingStrategy.HYBRID_SHARD:
            options["device_mesh"] = init_device_mesh("cpu", (2, 2))
        given = {"use_orig_params": True, "device_id": torch.device("cpu"), **options}
        network = Network(freezes=given["use_orig_params"])
        network.b = FullyShardedDataParallel(network.b, sharding_strategy=strategy, **given)
        return FullyShardedDataParallel(network, sharding_strategy=strategy, **given)

    return make


def explode(*_: Any, **__: Any) -> Any:
    raise Planted("planted")


def on(rank: int, path: str, call: int | None = None) -> Callable[[Patch], None]:
    """Fail in one process: at every call, or at one, the first being 1."""

    def planted(patch: Patch) -> None:
        if dist.get_rank() != rank:
            return
        inner: Any = resolve_name(path)
        calls: list[int] = []

        def failing(*arguments: Any, **options: Any) -> Any:
            calls.append(1)
            return explode() if call in (None, len(calls)) else inner(*arguments, **options)

        patch.setattr(path, failing)

    return planted


FAULTS: dict[str, Callable[[Patch], None]] = {
    "before 1": on(1, "jacoscope.capturing.OptimizerStepCapture.before_step", 2),
    "before 0": on(0, "jacoscope.capturing.OptimizerStepCapture.before_step", 2),
    "opening 2": on(2, "jacoscope.opening.CapturedStep", 2),
    "measuring 1": on(1, "jacoscope.quantities._measure.fold_codes"),
    "unpacking 3": on(3, "jacoscope.reduction.Transfer.result", 2),
    "exchange 1": on(1, "jacoscope.processes.Processes.hand_over", 2),
    "exchange 0": on(0, "jacoscope.processes.Processes.hand_over", 2),
    "joining 0": on(0, "jacoscope.shard_gathering._wholes", 2),
}


def situations(folder: Path) -> None:
    flat = init_device_mesh("cpu", (WORLD,))
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))

    def situation(name: str, make: Callable[[], nn.Module], **options: Any) -> None:
        train(folder, name, make, **options)

    situation("fully_shard", sharded(flat, "a", "b"), evaluates=True)
    situation("kept whole", sharded(flat, "a", reshard_after_forward=False), each=4)
    situation("replicated", sharded(square, "a"))
    situation("tensor", parallel(flat), groups=1)
    situation("sequence", parallel(flat, in_sequence=True), groups=1, shape=(4, 6))
    situation("both", parallel(square["tensor"], square["data"]), groups=2)
    situation("in part", parallel(square["tensor"]), groups=2)
    situation("half", sharded(flat, "a", "b", whole=False))
    for strategy in ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD"):
        make = wrapped(ShardingStrategy[strategy])
        situation(strategy, make, evaluates=strategy == "SHARD_GRAD_OP")
    situation("flat", wrapped(ShardingStrategy.FULL_SHARD, use_orig_params=False))
    situation("inner", wrapped(ShardingStrategy.FULL_SHARD), watched=lambda model: model.module)
    situation("alone", sharded(flat, "a"), gathers=False)
    asked = {"quantities": ("grad_norm", "sample_grad_norm", "output_jacobian_norm")}
    situation("samples", sharded(flat, "a"), options=asked)
    for name, planted in FAULTS.items():
        situation(f"fault {name}", sharded(flat), planted=planted, options={"on_error": "warn"})


def run(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    method = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=WORLD)
    try:
        situations(Path(folder))
    except BaseException:
        traceback.print_exc()
        raise
    dist.destroy_process_group()
    print("DONE", rank, flush=True)


if __name__ == "__main__":
    torch.multiprocessing.start_processes(
        run, (sys.argv[1], int(os.environ["MASTER_PORT"])), WORLD, start_method="fork"
    )
