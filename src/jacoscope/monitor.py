"""The whole pipeline, without a trainer: model and configuration in, records out.

config → selection → schedule → capture → quantities → reduction → record → sinks
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from jacoscope._version import __version__
from jacoscope.alerts import Messenger
from jacoscope.captured_samples import CapturedSamples
from jacoscope.captured_step import CapturedStep
from jacoscope.capturing import Calibrations, Versions
from jacoscope.config import MonitorConfig, resolve_config
from jacoscope.faults import Faults, MonitorWarning
from jacoscope.gathering import SampleGathering
from jacoscope.groups import groups_of
from jacoscope.leaderboard import Leaderboard, SampleBatch
from jacoscope.loss_probe import LossFunction
from jacoscope.measuring import Gauge
from jacoscope.memory import SampleThrift
from jacoscope.pacing import PROBE, Budget, Overhead
from jacoscope.plan import Lane, headline_lane, lanes_of, sample_targets_of
from jacoscope.probe_plan import probe_plan
from jacoscope.probe_record import ProbeRecord
from jacoscope.prober import Prober
from jacoscope.processes import Processes, are_several
from jacoscope.quantities import RunningMeans
from jacoscope.record import GradientInfo, StepRecord
from jacoscope.reduction import Transfer
from jacoscope.selection import select
from jacoscope.shard_gathering import GatheredTransfer, ShardGathering
from jacoscope.sharding import Sharding
from jacoscope.sinks import RunInfo, Sink

__all__ = ["Monitor"]

_log = logging.getLogger("jacoscope")

_GATHERED_AFTER = 2
"""Steps after which samples are gathered over processes: by then their devices are done with them,
and nothing has to wait."""
_ALONE = (
    "of several processes this one's samples alone are known; give the Monitor of each "
    "processes=jacoscope.processes.Processes()"
)
_TIMING = "measuring the monitor's own time"
_TOO_LATE = "the run ended before its processes had exchanged their samples"
_MOVED_ON = "the step's number moved on before an optimiser stepped"
_SHARDS_ALONE = (
    "it is split over processes, and their parts are brought together only where the Monitor of "
    "each has processes=jacoscope.processes.Processes()"
)
_SHARDS_TOO_LATE = "the run ended before its processes had brought their shards together"
_SAMPLES_OF_SHARDS = (
    "of a model that is split over processes (FSDP, tensor parallel) per-sample gradients cannot "
    "be captured"
)
_PROBES_OF_SHARDS = (
    "a model that is split over processes (FSDP, tensor parallel) runs in all of them together, "
    "and one alone would wait for the others"
)


P = ParamSpec("P")
Result = TypeVar("Result")


def _timed(
    method: Callable[Concatenate[Monitor, P], Result],
) -> Callable[Concatenate[Monitor, P], Result]:
    """Count the time of a method as the monitor's."""

    @functools.wraps(method)
    def timed(self: Monitor, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        with self._overhead:
            return method(self, *args, **kwargs)

    return timed


class Monitor:
    """Watches a model's parameters while it trains, by any loop.

    A training step goes: :meth:`begin_step`; backward, with :meth:`before_backward` and
    :meth:`after_backward` around it where samples are watched; :meth:`before_optimizer_step` before
    clipping; the optimiser's own step; :meth:`end_step`. On steps that are not captured all of
    these return at once. Records go to the sinks.

    It measures what share of the training time it takes, and keeps it within ``overhead`` where
    that is configured. Of validations and other pauses it is told by :meth:`pause`.

    Where several processes train together and samples are watched, or parameters are split over
    processes, each has a monitor, and all make the same calls. That of rank zero records; the
    others send it what their samples and shards say.

    Args:
        model: The model.
        config: The configuration: a dataclass, a mapping, a YAML file's path, or ``None``.
        sinks: Where records go.
        withheld: Why no parameter can be measured in this run, if that is so.
        loss: From a copy of the model and a batch to the batch's loss; needed where all else equal
            is asked for.
        loss_withheld: Why the loss cannot be evaluated again in this run, if that is so.
        prepare: Called with each copy of the model that probes evaluate.
        context: What its outputs are evaluated in.
        processes: The processes that train together; needed where parameters are split over them,
            and where samples are watched: then each has batches of its own, and their gradients are
            averaged. Whoever made it closes it.
        wrapper: What ``FullyShardedDataParallel`` has wrapped around the model, if that is not a
            part of it.

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
        loss: LossFunction | None = None,
        loss_withheld: str | None = None,
        prepare: Callable[[nn.Module], None] | None = None,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        processes: Processes | None = None,
        wrapper: nn.Module | None = None,
    ) -> None:
        self._context = context
        self.config = resolve_config(config)
        self._is_first = processes is None or processes.rank == 0
        self.faults = Faults(self.config.on_error, is_quiet=not self._is_first)
        self._model = model
        self._wrapper = wrapper if wrapper is not None else model
        self._withheld = withheld
        self._loss = loss
        self._loss_withheld = loss_withheld
        self._prepare = prepare
        self._prober: Prober | None = None
        self._last: tuple[int, int] = (0, 0)
        self._sinks = list(sinks)
        self._overhead = Overhead()
        share = self.config.overhead
        self._budget = None if share is None else Budget(share, self._overhead)
        self._rest = 0
        self._gauge = Gauge(self.faults, self._overhead)
        told = self.config.samples
        self._calibrations = Calibrations(
            told.memory_budget * 2**20, told.verify, told.custom_functions == "run"
        )
        self._thrift = SampleThrift(
            told.memory_budget * 2**20,
            keeps_gram=processes is not None and processes.size > 1,
        )
        self._running = RunningMeans()
        self._gathering: SampleGathering | None = None
        if processes is not None and processes.size > 1:
            self._gathering = SampleGathering(processes, self.faults, told.leaderboard)
        self._processes = processes
        self._shards: ShardGathering | None = None
        self._decided: int | None = None
        self._sampled = 0
        self._messenger = Messenger(self.config, self.faults)
        self._board = Leaderboard(told.leaderboard or 1, told.layer_leaderboard)
        self._told: set[str] = set()
        self._board_epoch: tuple[int, int] | None = None
        self._open: CapturedStep | None = None
        self._versions: Versions | None = None
        self._in_transit: deque[tuple[CapturedStep, Transfer | GatheredTransfer]] = deque()
        self.captures = 0
        self._select()
        if self._is_first:
            self._warn_of_what_has_no_effect()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @_timed
    def begin_step(self, step: int, epoch: int = 0, epoch_start: int = 0) -> bool:
        """Decide whether the training step that now begins is captured.

        Args:
            step: Optimiser steps before this one.
            epoch: Epochs completed.
            epoch_start: The step at which this epoch began.

        Returns:
            Whether it is captured.
        """
        self.gather(step - _GATHERED_AFTER + 1)
        self._last = step, epoch
        with self.faults.contain(_TIMING):
            self._overhead.begin_step(step, is_idle=self._is_idle)
        is_captured = self._begin_capture(step, epoch, epoch_start)
        return self._begin_probe(step, epoch, epoch_start) or is_captured

    def _begin_capture(self, step: int, epoch: int, epoch_start: int) -> bool:
        if self._shards is not None and self._shards.is_open:
            # In all processes, even where the capture was given up.
            self._shards.postpone(step)
            if self._open is not None:
                self._open.step, self._open.epoch = step, epoch
            return True
        if self._open is not None and not self._open.capture.has_seen_a_step:
            if self._gathering is not None and step != self._open.step and self._open.samples:
                self._open.samples.give_up(_MOVED_ON)
            self._open.step, self._open.epoch = step, epoch  # still accumulating
            return True
        self._abandon_capture()
        if self._gathering is not None and step == self._decided:
            return False  # what all have decided together stands, whatever has become of it here
        self._decided = step
        with self.faults.contain("deciding what to capture"):
            due = self._due(step, epoch, epoch_start)
            is_expected = self._expect_shards(step, due)
            if (due or not self._lanes) and self._selected_from != self._parameters():
                self._select()
                due = self._due(step, epoch, epoch_start)
                is_expected = is_expected or self._expect_shards(step, due)
            if due:
                # Headlines are always on all that is watched, or their charts would jump.
                everything = self._lanes if self._headline_lane in due else ()
                self._open = self._opened(step, epoch, due, everything)
                self._overhead.begin_capture(_kind([lane in due for lane in self._lanes]))
        return self._open is not None or (self._shards is not None and self._shards.is_open)

    def _expect_shards(self, step: int, due: Sequence[Lane]) -> bool:
        """Expect the step in all processes, before anything can fail in one of them."""
        if self._shards is None or not due:
            return False
        self._shards.expect(step)
        return True

    def _parameters(self) -> list[tuple[int, bool]]:
        """What tells whether parameters were added to, replaced, or got their shape."""
        sharding = Sharding(self._wrapper)
        kept = [sharding.kept(parameter) for parameter in self._model.parameters()]
        return [(id(parameter), is_lazy(parameter)) for parameter in kept]

    def _begin_probe(self, step: int, epoch: int, epoch_start: int) -> bool:
        prober = self._prober
        if prober is None:
            return False
        if not (prober.is_open and not prober.has_seen_a_step):
            prober.abandon()
            with self.faults.contain("deciding what to probe"):
                if not prober.plan.timetable.is_due(step, epoch, epoch_start):
                    return False
                if self._budget is not None and not self._budget.allows(PROBE, step):
                    return False
                if self._selected_from != self._parameters():
                    self._select()
            self._overhead.begin_capture(PROBE)
        prober.begin(step, epoch)
        return True

    @property
    def may_want_samples(self) -> bool:
        """Whether any step of the run captures samples."""
        return bool(sample_targets_of(self._lanes))

    @property
    def wants_samples(self) -> bool:
        """Whether the step under way captures samples."""
        return self._open is not None and self._open.samples is not None

    @property
    def may_want_batches(self) -> bool:
        """Whether any step of the run takes batches, for samples or probes."""
        return self.may_want_samples or self._prober is not None

    @property
    def wants_batch(self) -> bool:
        """Whether the step under way takes batches."""
        return self.wants_samples or (self._prober is not None and self._prober.is_open)

    def begin_window(self) -> None:
        """Tell that gradients of earlier batches are set to zero before the next backward.

        Call it where a step under way may have ended without an optimiser's step.
        """
        self._versions = None
        if self._open is not None and self._open.samples is not None:
            self._open.samples.begin_window()

    @_timed
    def begin_batch(self, batch: Any, ids: tuple[str, Sequence[str | int]] | None = None) -> None:
        """Tell which batch's backward comes next, where samples are watched or probes are run.

        Args:
            batch: The batch: tensors, mappings, sequences and dataclasses, nested.
            ids: Where the samples' ids come from, in words, and the ids, in order.
        """
        if self._prober is not None:
            self._prober.begin_batch(batch, ids[1] if ids is not None else ())
        samples = self._open.samples if self._open is not None else None
        if samples is not None and samples.withheld is None:
            samples.begin_batch(batch, ids)

    @_timed
    def before_backward(
        self,
        loss: Tensor,
        batch_size: int | None = None,
        scale: Tensor | None = None,
        window: int = 1,
    ) -> None:
        """Capture the samples of this loss during its backward; call it right before.

        Args:
            loss: The loss, of one element.
            batch_size: Number of samples; by default as configured or as the batch tells.
            scale: A factor that the loss carries (a gradient scaler's), without dimensions.
            window: Batches that the loss was divided by for accumulation.
        """
        is_busy = self._open is not None or (self._prober is not None and self._prober.is_open)
        if is_busy and self._versions is None and not self._sharding.is_any:
            with self.faults.contain("watching the weights"):
                self._versions = Versions(self._model.parameters())
        if self._open is not None and self._open.samples is not None:
            self._open.samples.before_backward(loss, scale, batch_size, window)

    @_timed
    def after_backward(self) -> None:
        """Let go of the graph; call it right after the backward."""
        if self._open is not None and self._open.samples is not None:
            self._overhead.add(self._open.samples.hook_seconds)
            self._open.samples.after_backward()

    def withhold_samples(self, reason: str) -> None:
        """Capture no samples in the step under way.

        Args:
            reason: Why, for the record.
        """
        if self._open is not None and self._open.samples is not None:
            self._open.samples.abandon()
            self._open.samples.withheld = reason

    @_timed
    def gather(self, before: float) -> None:
        """Bring the samples and shards of captured steps together, where several processes train.

        All of them have to call it, with the same step: best where they wait for one another
        anyway, such as at the end of an epoch and before :meth:`close`. It waits for the device.

        Args:
            before: Of the steps before this one.
        """
        if self._gathering is not None:
            self._gathering.gather(before)
        if self._shards is not None:
            self._shards.gather(before)
        self._drain(wait=False)

    def pause(self, step: int) -> None:
        """Tell that training pauses until the next :meth:`begin_step`, as for a validation.

        What passes until then is no training time, of which the monitor may take a share.

        Args:
            step: Optimiser steps so far.
        """
        with self.faults.contain(_TIMING):
            self._overhead.pause(step)

    @property
    def stop_reason(self) -> str | None:
        """What an alert that asks to stop the training has told of, if one has."""
        return self._messenger.stop_reason

    @property
    def has_seen_no_optimizer(self) -> bool:
        """Whether steps were to be captured, but none had an optimiser that steps."""
        capture, prober = self._open, self._prober
        waiting = capture is not None and not capture.capture.has_seen_a_step
        probing = prober is not None and prober.is_open and not prober.has_seen_a_step
        return (waiting or probing) and not self.captures and self._is_first

    def next_due(self, step: int, epoch_start: int = 0) -> float:
        """The first step from ``step`` on at which :meth:`begin_step` has something to do."""
        prober = self._prober
        if not self._is_idle or not (self._lanes or prober):
            return step
        with self.faults.contain("deciding when to capture next"):
            asks_always = any(lane.timetable.has_hook for lane in self._lanes)
            first = step if asks_always else max(step, self._rest)
            dues = [lane.timetable.next_due(first, epoch_start) for lane in self._lanes]
            if prober is not None:
                dues.append(prober.plan.timetable.next_due(step, epoch_start))
            return min(dues, default=math.inf)
        return step

    @property
    def _is_idle(self) -> bool:
        """Whether nothing of a captured step is under way any more."""
        return not (
            self._in_transit
            or self._open is not None
            or (self._gathering is not None and self._gathering.is_waiting)
            or (self._shards is not None and self._shards.is_waiting)
            or (self._prober is not None and self._prober.is_open)
        )

    @_timed
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
        if self._shards is not None:
            self._shards.optimizer_steps()
        versions, self._versions = self._versions, None
        changed = versions.changed() if versions is not None else set()
        if self._prober is not None:
            self._prober.before_step(self._model, is_changed=bool(changed))
        if self._open is None:
            return
        self._open.gradient = gradient or GradientInfo()
        with self._containing_capture():
            if self._open.samples is not None and not self._open.capture.has_seen_a_step:
                self._open.samples.before_step(gradient_scale)
            self._open.capture.before_step(optimizer, gradient_scale, changed)

    @_timed
    def end_step(self) -> None:
        """Close the training step, and run its probes.

        The record follows as soon as the device has delivered it.
        """
        self._end_capture()
        prober = self._prober
        if prober is None or not prober.is_open:
            return
        begun = self._overhead.own
        with self.faults.contain("probing", prober.abandon):
            self._write_probe(prober.finish(self._model))
        if not prober.is_open:
            self._overhead.probed(self._overhead.own - begun)

    def _end_capture(self) -> None:
        closing = self._open
        if closing is not None and closing.samples is not None:
            closing.samples.forward_is_over()
        if closing is not None and closing.capture.has_seen_a_step:
            with self._containing_capture():
                closing.capture.finish()
                self._send(closing)
            self._open = None
        if self._shards is not None:
            self._shards.end_step()
        if closing is not None and self._open is None:
            self._drain(wait=False)

    def _send(self, closing: CapturedStep) -> None:
        shards = self._shards
        transfer = closing.send(always=shards is not None)
        if transfer is None:
            return
        coming: Transfer | GatheredTransfer = transfer
        if shards is not None:
            coming = shards.fulfil(closing, transfer, self.selection.targets)
        if self._is_first:
            self._in_transit.append((closing, coming))

    def note_last_step(self, step: int, epoch: int) -> None:
        """Tell which step was the run's last, where not every step was begun here.

        Args:
            step: The last step.
            epoch: Epochs completed before it.
        """
        self._last = max(self._last, (step, epoch))

    def abandon_step(self) -> None:
        """Drop a training step under way and remove all that is attached; safe at any time."""
        self._abandon_capture()
        if self._prober is not None:
            self._prober.abandon()

    def _abandon_capture(self) -> None:
        if self._open is not None:
            self._open.capture.detach()
            if self._open.samples is not None:
                self._open.samples.give_up("the capture of its step was given up")
        self._open = None

    def close(self) -> None:
        """Write what is still under way, let go of everything, and close the sinks."""
        self.abandon_step()
        if self._gathering is not None:
            self._gathering.give_up(_TOO_LATE)
        if self._shards is not None:
            self._shards.give_up(_SHARDS_TOO_LATE)
        self._drain(wait=True)
        self._close_epoch()
        if self._prober is not None:
            prober, self._prober = self._prober, None
            with self.faults.contain("allocating the change of the loss"):
                self._write_probe(prober.conclude(self._model, *self._last))
        for sink in self._sinks:
            with self.faults.contain(sink.subject):
                sink.close()
        self._sinks.clear()

    @_timed
    def state_dict(self) -> dict[str, Any]:
        """Counters and the sinks' histories, as plain values for a checkpoint.

        Steps whose samples other processes still have are not in it: it waits for no one.
        """
        self._drain(wait=True)
        sinks = {}
        for sink in self._sinks:
            with self.faults.contain("saving the monitor's state"):
                sinks[type(sink).__name__] = sink.state_dict()
        return {
            "captures": self.captures,
            "sinks": sinks,
            "running": self._running.state_dict(),
            "leaderboard": self._board.state_dict(),
            "alerts": self._messenger.state_dict(),
            "probes": self._prober.state_dict() if self._prober is not None else {},
            "overhead": self._overhead.state_dict(),
            "budget": self._budget.state_dict() if self._budget is not None else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept; what cannot be understood is left aside."""
        with self.faults.contain("resuming the monitor's state"):
            self.captures = int(state.get("captures", 0))
            self._running.load_state_dict(state.get("running", {}))
            self._board.load_state_dict(state.get("leaderboard", {}))
            self._messenger.load_state_dict(state.get("alerts", {}))
            self._overhead.load_state_dict(state.get("overhead", {}))
            if self._budget is not None:
                self._budget.load_state_dict(state.get("budget", {}))
            if self._prober is not None:
                self._prober.load_state_dict(state.get("probes", {}))
            for sink in self._sinks:
                sink.load_state_dict(state.get("sinks", {}).get(type(sink).__name__, {}))

    def _due(self, step: int, epoch: int, epoch_start: int) -> list[Lane]:
        def due() -> list[bool]:
            return [lane.timetable.is_due(step, epoch, epoch_start) for lane in self._lanes]

        def answers() -> list[int]:
            return self._within_budget(due(), step)

        has_hook = any(lane.timetable.has_hook for lane in self._lanes)
        if self._budget is not None and not has_hook and (step < self._rest or not any(due())):
            return []  # in all processes
        asks = (has_hook or self._budget is not None) and (
            self.may_want_samples or self._shards is not None
        )
        found = self._gathering.decide(answers) if self._gathering and asks else answers()
        if len(found) > len(self._lanes):
            self._rest = found[-1]
        return [lane for lane, is_due in zip(self._lanes, found, strict=False) if is_due]

    def _within_budget(self, due: Sequence[bool], step: int) -> list[int]:
        """Of the lanes that are due, those that are captured; after them, when to ask again."""
        if self._budget is None or not any(due) or self._budget.allows(_kind(due), step):
            return [*due]
        return [*[False] * len(due), self._budget.rests_until(step)]

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
        self._selected_from = self._parameters()
        processes = self._processes
        are_brought_together = processes is not None and processes.size > 1
        self._sharding = Sharding(self._wrapper)
        self.selection = select(
            self._model,
            self.config,
            withheld=self._withheld,
            sharding=self._sharding,
            shards_withheld=None if are_brought_together else _SHARDS_ALONE,
        )
        if self._sharding.is_any and self._shards is None and are_brought_together:
            assert processes is not None
            self._shards = ShardGathering(processes, self.faults)
        self._lanes = lanes_of(self.selection)
        self._headline_lane = headline_lane(self._lanes, self.config.schedule)
        if self._budget is not None:
            self._budget.forget_refused()
        plan = probe_plan(self.selection, self.config, self._model) if self._is_first else None
        if plan is None:
            self._prober = None
        elif self._prober is not None:
            self._prober.plan = plan
        else:
            self._prober = Prober(
                plan,
                self.config,
                self._loss,
                self.faults,
                self._loss_withheld,
                self._prepare,
                self._context,
            )
        if self._prober is not None and self._sharding.is_any:
            self._prober.withhold(_PROBES_OF_SHARDS)
        axes = plan.axes.items() if plan is not None else ()
        probed = [(name, axis) for name, several in axes for axis in several]
        for sink in list(self._sinks):
            with self._containing_sink(sink):
                sink.open(RunInfo(self.config, self.selection, _versions(), probed))

    def _containing_capture(self) -> AbstractContextManager[None]:
        return self.faults.contain("capturing a training step", self._abandon_capture)

    def _containing_sink(self, sink: Sink) -> AbstractContextManager[None]:
        return self.faults.contain(sink.subject, lambda: self._sinks.remove(sink))

    def _drain(self, *, wait: bool) -> None:
        while self._in_transit:
            closed, transfer = self._in_transit[0]
            awaits_others = closed.awaits_others or transfer.awaits_others
            if not (closed.is_done and transfer.is_done) and (awaits_others or not wait):
                return
            self._in_transit.popleft()
            with self.faults.contain("writing a captured step"):
                trainable = _trainable(self._model, self._sharding)
                self._write(closed.record(transfer.result(), trainable))
                self._rank(closed.batches, closed.step, closed.epoch)
                self._tell_withheld(closed.samples_missing)

    def _opened(
        self, step: int, epoch: int, due: Sequence[Lane], everything: Sequence[Lane]
    ) -> CapturedStep:
        targets = sample_targets_of(everything or due)
        if not self._is_first and self._shards is None:
            due = everything = ()  # what is not per sample is the same in all processes
        share = self._overhead.share
        if not targets:
            return CapturedStep(
                step, epoch, due, everything, self._gauge, self.faults, overhead=share
            )
        if self._gathering is not None:
            self._gathering.expect(step, epoch)
        rules = self.config.layers
        named = [None if t.rule is None else rules[t.rule].group for t in targets]
        groups = groups_of(targets, named)
        told = self.config.samples
        wants_gram = told.gram_every is not None and self._sampled % told.gram_every == 0
        self._sampled += 1
        samples = CapturedSamples(
            step,
            targets,
            groups,
            told,
            self._calibrations,
            self.faults,
            self._thrift,
            wants_gram and self._is_first,
            process=self._gathering.rank if self._gathering is not None else None,
        )
        if self._gathering is not None:
            self._gathering.fulfil(samples)
        elif are_several():
            samples.withheld = _ALONE
        if self._sharding.is_any:
            samples.withheld = _SAMPLES_OF_SHARDS
        return CapturedStep(
            step,
            epoch,
            due,
            everything,
            self._gauge,
            self.faults,
            samples,
            groups,
            self._running,
            share,
        )

    def _tell_withheld(self, missing: Mapping[str, str]) -> None:
        """Log, once each, parameters whose samples cannot be had; the record has all of them."""
        parameters = {name for lane in self._lanes for name in (t.name for t in lane.targets)}
        new = [name for name in missing if name in parameters and name not in self._told]
        self._told.update(new)
        if new:
            more = f", and {len(new) - 1} more" if len(new) > 1 else ""
            _log.warning("no per-sample gradients of %s%s: %s", new[0], more, missing[new[0]])

    def _rank(self, batches: Sequence[SampleBatch], step: int, epoch: int) -> None:
        if not batches:
            return
        if self._board_epoch is not None and self._board_epoch[0] != epoch:
            self._close_epoch()
        for batch in batches:
            self._board.add(batch)
        self._board_epoch = epoch, step

    def _close_epoch(self) -> None:
        """Write the leaderboards of the epoch that has ended."""
        if self._board_epoch is None:
            return
        (epoch, step), self._board_epoch = self._board_epoch, None
        with self.faults.contain("ranking samples"):
            boards = self._board.close_epoch(epoch, step)
            if boards is None:
                return
            for sink in list(self._sinks):
                with self._containing_sink(sink):
                    sink.write_boards(boards)

    def _write_probe(self, record: ProbeRecord | None) -> None:
        if record is None:
            return
        self.captures += 1
        for sink in list(self._sinks):
            with self._containing_sink(sink):
                sink.write_probe(record)
        self._alert(record)

    def _write(self, record: StepRecord) -> None:
        self.captures += 1
        for sink in list(self._sinks):
            with self._containing_sink(sink):
                sink.write(record)
        self._alert(record)

    def _alert(self, record: StepRecord | ProbeRecord) -> None:
        """Tell of what the record has beyond its bounds."""
        alerts = self._messenger.tell(record)
        if not alerts:
            return
        for sink in list(self._sinks):
            with self._containing_sink(sink):
                sink.write_alerts(alerts)


def _kind(due: Sequence[bool]) -> str:
    """What a capture of these lanes is called, by its place among those that cost alike."""
    return ",".join(str(place) for place, is_due in enumerate(due) if is_due)


def _trainable(model: nn.Module, sharding: Sharding) -> float:
    """Number of a model's trainable scalars, ``nan`` if it has none."""
    shaped = (p for p in model.parameters() if not is_lazy(p))
    return sum(sharding.numel(p) for p in shaped if p.requires_grad) or math.nan


def _versions() -> dict[str, str]:
    names = ("torch", "lightning", "pytorch-lightning", "tensorboard")
    found = {"jacoscope": __version__}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
