"""A training loop by hand that is probed, and the check of every value that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from jacoscope import Monitor
from jacoscope.probe_record import ProbeRecord
from jacoscope.sinks import MemorySink
from probe_expected import (
    Values,
    compare,
    expected_outputs,
    expected_step,
    kernels,
    members_of,
    simpson,
    twin,
    weights,
)
from probe_training import EACH, PROBED, cross_entropy, missing_of, values_of

Batch = tuple[Tensor, Tensor]
NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")
LAYERS = {"layer 0": ("0.weight", "0.bias"), "layer 2": ("2.weight", "2.bias")}
CHAIN = ("0", "2")


def batches(count: int, samples: int = 8, features: int = 6, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    shape = count, samples, features
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, shape[:2], generator=generator)
    return list(zip(inputs, labels, strict=True))


class Trained:
    """A training by hand: its records, and the weights that each step went from and to."""

    def __init__(
        self,
        model: nn.Module,
        config: dict[str, Any] | None = None,
        *,
        count: int = 3,
        loss: Callable[[Any, Any], Tensor] = cross_entropy,
        given: Any = cross_entropy,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        begin: bool = True,
        window: int = 1,
        after: Callable[[nn.Module], Any] = lambda model: None,
        data: list[Batch] | None = None,
        closure: bool = False,
    ) -> None:
        self.sink, self.model = MemorySink(), model
        self.batches = batches(count * window) if data is None else data
        self.starts: list[dict[str, Tensor]] = []
        self.ends: list[dict[str, Tensor]] = []
        options = {"quantities": PROBED, "probes": EACH, "on_error": "raise", **(config or {})}
        stepping = optimizer([p for p in model.parameters() if p.requires_grad], lr=0.3)
        with Monitor(model, options, sinks=[self.sink], loss=given) as monitor:
            for step in range(len(self.batches) // window):
                monitor.begin_step(step)
                stepping.zero_grad()
                for batch in self.batches[step * window :][:window]:
                    monitor.begin_step(step)
                    if begin and monitor.wants_batch:
                        monitor.begin_batch(batch)
                    (loss(model, batch) / window).backward()
                    monitor.end_step()  # nothing yet, as no optimiser has stepped
                self.starts.append(weights(model))
                monitor.before_optimizer_step(stepping)
                stepping.step(self._closure(stepping, loss, step) if closure else None)
                monitor.end_step()
                self.ends.append(weights(model))
            after(model)

    def _closure(self, optimizer: Any, loss: Any, step: int) -> Callable[[], Tensor]:
        def evaluate() -> Tensor:
            optimizer.zero_grad()
            value: Tensor = loss(self.model, self.batches[step])
            value.backward()
            return value

        return evaluate

    @property
    def probes(self) -> list[ProbeRecord]:
        return self.sink.probes

    def at(self, state: dict[str, Tensor]) -> nn.Module:
        return twin(self.model, state)

    def check(
        self,
        rtol: float = 1e-9,
        groups: dict[str, str] | None = None,
        layers: dict[str, Any] = LAYERS,
        each: bool = False,
    ) -> None:
        """Compare every value of every record; the batch has as many samples as are probed."""
        allocated: Values = {}
        members = members_of(NAMES, groups)
        inputs, labels = self.batches[0]
        first = kernels(self.at(self.ends[0]), inputs, members)
        for step, record in enumerate(self.probes):
            if each:
                inputs, labels = self.batches[step]
            batch, now = self.batches[step], self.at(self.ends[step])
            wanted = expected_outputs(now.eval(), inputs, labels, members, first, CHAIN)
            if each:
                del wanted["ntk_drift"]
            start, end = self.starts[step], self.ends[step]

            def loss(model: nn.Module, batch: Any = batch) -> Tensor:
                return cross_entropy(model, batch)

            wanted |= expected_step(self.model, loss, start, end, layers)
            part = simpson(self.model, lambda m: loss(m, self.batches[0]), start, end, layers)
            for quantity, rows in part.items():
                so_far = allocated.setdefault(quantity, {})
                for row, value in rows.items():
                    so_far[row] = so_far.get(row, 0.0) + value
            got = values_of(record)
            compare(got, wanted | allocated, rtol, atol=1e-11)
            assert not missing_of(record)
            assert set(got) | set(record.withheld) == set(PROBED)
            assert {q: set(rows) for q, rows in got.items()} == {
                q: set(rows) for q, rows in (wanted | allocated).items()
            }


def rows_of(record: ProbeRecord) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in record.records:
        found.setdefault(item.quantity, []).extend(item.axis.names)
    return found
