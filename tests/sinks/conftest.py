"""A small model that is watched for a few steps, and its event file as TensorBoard reads it."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from jacoscope import Monitor, MonitorConfig
from jacoscope.record import StepRecord
from jacoscope.sinks import MemorySink, Sink, TensorBoardSink

Train = Callable[..., list[StepRecord]]
Write = Callable[..., list[StepRecord]]
Values = Callable[..., list[tuple[int, Any]]]


class Tiny(nn.Module):
    """Two layers, a parameter that no loss depends on, and one that cannot be watched.

    Args:
        skips: Forward passes, by number, that leave the second layer out.
    """

    def __init__(self, skips: Iterable[int] = ()) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 4)
        self.unused = nn.Parameter(torch.ones(2))
        self.counts = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
        self.skips = set(skips)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        self.passes += 1
        return x if self.passes - 1 in self.skips else self.second(x)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tiny() -> type[Tiny]:
    return Tiny


def _train(
    model: nn.Module,
    config: dict[str, Any] | None = None,
    sinks: Sequence[Sink] = (),
    steps: Iterable[int] = range(3),
    loss: Callable[[nn.Module], Tensor] | None = None,
    state: dict[str, Any] | None = None,
) -> list[StepRecord]:
    """Train by plain gradient descent while a monitor watches; what it recorded."""
    memory = MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dtype = next(model.parameters()).dtype
    with Monitor(model, {"on_error": "raise", **(config or {})}, sinks=[memory, *sinks]) as monitor:
        if state is not None:
            monitor.load_state_dict(state)
        for step in steps:
            monitor.begin_step(step, epoch=step // 2)
            optimizer.zero_grad()
            value = loss(model) if loss else model(torch.randn(5, 3, dtype=dtype)).square().mean()
            value.backward()
            monitor.before_optimizer_step(optimizer)
            optimizer.step()
            monitor.end_step()
    return memory.records


@pytest.fixture
def train() -> Train:
    return _train


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Train as :func:`_train` does, with a TensorBoard sink too that writes into ``tmp_path``."""

    def run(model: nn.Module, config: dict[str, Any] | None = None, **options: Any) -> Any:
        output = MonitorConfig(**(config or {})).output
        sink = TensorBoardSink(SummaryWriter(str(tmp_path)), output, owns_writer=True)
        return _train(model, config, [sink], **options)

    return run


@pytest.fixture
def values(tmp_path: Path) -> Values:
    """Every summary value under ``tmp_path`` with its step, as TensorBoard's loader gives it."""

    def read(plugin: str | None = None) -> list[tuple[int, Any]]:
        plugins: dict[str, str] = {}
        found = []
        for file in sorted(tmp_path.glob("*tfevents*")):
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    name = value.metadata.plugin_data.plugin_name
                    plugins.setdefault(value.tag, name)
                    if plugin in (None, plugins[value.tag]):
                        found.append((event.step, value))
        return found

    return read
