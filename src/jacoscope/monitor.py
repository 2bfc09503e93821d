"""The whole pipeline, without a trainer: model and configuration in, records out.

config → selection → schedule → capture → quantities → reduction → record → sinks
"""

from __future__ import annotations

import importlib.metadata
import math
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from jacoscope._version import __version__
from jacoscope.captured_step import CapturedStep
from jacoscope.config import MonitorConfig, resolve_config
from jacoscope.faults import Faults, MonitorWarning
from jacoscope.measuring import Gauge
from jacoscope.plan import Lane, headline_lane, lanes_of
from jacoscope.record import GradientInfo, StepRecord
from jacoscope.reduction import Transfer
from jacoscope.selection import select
from jacoscope.sinks import RunInfo, Sink

__all__ = ["Monitor"]


class Monitor:
    """Watches a model's parameters while it trains, by any loop.

    A training step goes: :meth:`begin_step`; backward; :meth:`before_optimizer_step` before
    clipping; the optimiser's own step; :meth:`end_step`. On steps that are not captured all of
    these return at once. Records go to the sinks.

    Args:
        model: The model.
        config: The configuration: a dataclass, a mapping, a YAML file's path, or ``None``.
        sinks: Where records go.
        withheld: Why no parameter can be measured in this run, if that is so.

    Raises:
        ConfigError: If the configuration cannot be used on this model.

    Example:
        >>> import torch
        >>> from jacoscope import Monitor
        >>> from jacoscope.sinks import MemorySink
        >>> model, sink = torch.nn.Linear(3, 1), MemorySink()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with Monitor(model, sinks=[sink]) as monitor:
        ...     for step in range(2):
        ...         _ = monitor.begin_step(step)
        ...         optimizer.zero_grad()
        ...         model(torch.ones(4, 3)).square().mean().backward()
        ...         monitor.before_optimizer_step(optimizer)
        ...         _ = optimizer.step()
        ...         monitor.end_step()
        >>> [record.step for record in sink.records]
        [0, 1]
    """

    def __init__(
        self,
        model: nn.Module,
        config: MonitorConfig | Mapping[str, Any] | str | Path | None = None,
        *,
        sinks: Sequence[Sink] = (),
        withheld: str | None = None,
    ) -> None:
        self.config = resolve_config(config)
        self.faults = Faults(self.config.on_error)
        self._model = model
        self._withheld = withheld
        self._sinks = list(sinks)
        self._gauge = Gauge(self.faults)
        self._open: CapturedStep | None = None
        self._in_transit: deque[tuple[CapturedStep, Transfer]] = deque()
        self.captures = 0
        self._select()
        self._warn_of_what_has_no_effect()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin_step(self, step: int, epoch: int = 0, epoch_start: int = 0) -> bool:
        """Decide whether the training step that now begins is captured.

        Args:
            step: Optimiser steps before this one.
            epoch: Epochs completed.
            epoch_start: The step at which this epoch began.

        Returns:
            Whether it is captured.
        """
        self._drain(wait=False)
        if self._open is not None and not self._open.capture.has_seen_a_step:
            self._open.step, self._open.epoch = step, epoch  # still accumulating
            return True
        self.abandon_step()
        with self.faults.contain("deciding what to capture"):
            due = self._due(step, epoch, epoch_start)
            if (due or not self._lanes) and self._selected_from != _parameters(self._model):
                self._select()
                due = self._due(step, epoch, epoch_start)
            if due:
                # Headlines are always on all that is watched, or their charts would jump.
                everything = self._lanes if self._headline_lane in due else ()
                self._open = CapturedStep(step, epoch, due, everything, self._gauge, self.faults)
        return self._open is not None

    @property
    def has_seen_no_optimizer(self) -> bool:
        """Whether steps were to be captured, but none had an optimiser that steps."""
        waiting = self._open is not None and not self._open.capture.has_seen_a_step
        return waiting and not self.captures

    def next_due(self, step: int, epoch_start: int = 0) -> float:
        """The first step from ``step`` on at which :meth:`begin_step` has something to do."""
        if self._in_transit or self._open is not None or not self._lanes:
            return step
        with self.faults.contain("deciding when to capture next"):
            dues = [lane.timetable.next_due(step, epoch_start) for lane in self._lanes]
            return min(dues, default=math.inf)
        return step

    def before_optimizer_step(
        self,
        optimizer: Optimizer,
        gradient: GradientInfo | None = None,
        gradient_scale: Tensor | None = None,
    ) -> None:
        """Capture the gradients that this optimiser is about to use; call it before clipping.

        Args:
            optimizer: The optimiser.
            gradient: Which gradient it is, for the record.
            gradient_scale: Factor that the gradients still carry, a tensor without dimensions.
        """
        if self._open is None:
            return
        self._open.gradient = gradient or GradientInfo()
        with self._containing_capture():
            self._open.capture.before_step(optimizer, gradient_scale)

    def end_step(self) -> None:
        """Close the training step; its record follows as soon as the device has delivered it."""
        closing = self._open
        if closing is None or not closing.capture.has_seen_a_step:
            return
        with self._containing_capture():
            closing.capture.finish()
            transfer = closing.send()
            if transfer is not None:
                self._in_transit.append((closing, transfer))
        self._open = None
        self._drain(wait=False)

    def abandon_step(self) -> None:
        """Drop a training step under way and remove all that is attached; safe at any time."""
        if self._open is not None:
            self._open.capture.detach()
        self._open = None

    def close(self) -> None:
        """Write what is still under way, let go of everything, and close the sinks."""
        self.abandon_step()
        self._drain(wait=True)
        for sink in self._sinks:
            with self.faults.contain(sink.subject):
                sink.close()
        self._sinks.clear()

    def state_dict(self) -> dict[str, Any]:
        """Counters and the sinks' histories, as plain values for a checkpoint."""
        self._drain(wait=True)
        sinks = {}
        for sink in self._sinks:
            with self.faults.contain("saving the monitor's state"):
                sinks[type(sink).__name__] = sink.state_dict()
        return {"captures": self.captures, "sinks": sinks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept; what cannot be understood is left aside."""
        with self.faults.contain("resuming the monitor's state"):
            self.captures = int(state.get("captures", 0))
            for sink in self._sinks:
                sink.load_state_dict(state.get("sinks", {}).get(type(sink).__name__, {}))

    def _due(self, step: int, epoch: int, epoch_start: int) -> list[Lane]:
        return [lane for lane in self._lanes if lane.timetable.is_due(step, epoch, epoch_start)]

    def _warn_of_what_has_no_effect(self) -> None:
        for index in self.selection.shadowed:
            warnings.warn(
                f"jacoscope: rule layers[{index}] decides nothing, since earlier rules match all "
                "that it matches; move it up to give it effect",
                MonitorWarning,
                stacklevel=3,
            )
        if not self.selection.targets and self.selection.is_final:
            left_out = self.selection.left_out
            reason = left_out[0].reason if left_out else "the model has none"
            warnings.warn(
                f"jacoscope: no parameter is watched, so nothing will be recorded: {reason}",
                MonitorWarning,
                stacklevel=3,
            )

    def _select(self) -> None:
        self._selected_from = _parameters(self._model)
        self.selection = select(self._model, self.config, withheld=self._withheld)
        self._lanes = lanes_of(self.selection)
        self._headline_lane = headline_lane(self._lanes, self.config.schedule)
        for sink in list(self._sinks):
            with self._containing_sink(sink):
                sink.open(RunInfo(self.config, self.selection, _versions()))

    def _containing_capture(self) -> AbstractContextManager[None]:
        return self.faults.contain("capturing a training step", self.abandon_step)

    def _containing_sink(self, sink: Sink) -> AbstractContextManager[None]:
        return self.faults.contain(sink.subject, lambda: self._sinks.remove(sink))

    def _drain(self, *, wait: bool) -> None:
        while self._in_transit and (wait or self._in_transit[0][1].is_done):
            closed, transfer = self._in_transit.popleft()
            with self.faults.contain("writing a captured step"):
                self._write(closed.record(transfer.result(), self._model))

    def _write(self, record: StepRecord) -> None:
        self.captures += 1
        for sink in list(self._sinks):
            with self._containing_sink(sink):
                sink.write(record)


def _parameters(model: nn.Module) -> list[tuple[int, bool]]:
    """What tells whether a model's parameters were added to, replaced, or got their shape."""
    return [(id(parameter), is_lazy(parameter)) for parameter in model.parameters()]


def _versions() -> dict[str, str]:
    names = ("torch", "lightning", "pytorch-lightning", "tensorboard")
    found = {"jacoscope": __version__}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
