"""The whole pipeline, without a trainer: model and configuration in, records out.

config → selection → schedule → capture → quantities → reduction → record → sinks

The stages are elsewhere: what is watched and when in :mod:`~jacoscope.agenda`, what a captured step
measures in :mod:`~jacoscope.opening` and :mod:`~jacoscope.captured_step`, how its parts arrive in
:mod:`~jacoscope.transit`, where its record goes in :mod:`~jacoscope.recorder`, and probes in
:mod:`~jacoscope.prober`. Here is the order in which a training step meets them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from jacoscope.agenda import Agenda
from jacoscope.alerts import check_alerts
from jacoscope.captured_samples import CapturedSamples
from jacoscope.captured_step import CapturedStep
from jacoscope.capturing import Versions
from jacoscope.config import MonitorConfig, resolve_config
from jacoscope.faults import Faults
from jacoscope.loss_probe import LossFunction
from jacoscope.opening import StepOpening
from jacoscope.pacing import PROBE, Overhead
from jacoscope.probe_plan import ProbePlan, probe_plan
from jacoscope.prober import Prober
from jacoscope.processes import Processes
from jacoscope.record import GradientInfo
from jacoscope.recorder import Recorder
from jacoscope.selection import Selection
from jacoscope.sinks import Sink
from jacoscope.transit import Transit

__all__ = ["Monitor"]

_GATHERED_AFTER = 2
"""Steps after which samples are gathered over processes: by then their devices are done with them,
and nothing has to wait."""
_SAVING = "saving the monitor's state"
_TIMING = "measuring the monitor's own time"
_GIVEN_UP = "the capture of its step was given up"
_MOVED_ON = "the step's number moved on before an optimiser stepped"
_PROBES_OF_SHARDS = (
    "a model that is split over processes (FSDP, tensor parallel) runs in all of them together, "
    "and one alone would wait for the others"
)


P = ParamSpec("P")
Result = TypeVar("Result")


def _stage(
    subject: str, otherwise: Result
) -> Callable[
    [Callable[Concatenate[Monitor, P], Result]], Callable[Concatenate[Monitor, P], Result]
]:
    """Count the time of a method as the monitor's, and let no fault in it reach the training.

    Args:
        subject: What is lost if it fails, in the words of the warning. The training step under way
            is then dropped.
        otherwise: What to return in that case.
    """

    def decorate(
        method: Callable[Concatenate[Monitor, P], Result],
    ) -> Callable[Concatenate[Monitor, P], Result]:
        @functools.wraps(method)
        def contained(self: Monitor, /, *args: P.args, **kwargs: P.kwargs) -> Result:
            with self.faults.contain(subject, self.abandon_step), self._overhead:
                return method(self, *args, **kwargs)
            return otherwise

        return contained

    return decorate


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
        self.config = resolve_config(config)
        is_quiet = processes is not None and processes.rank > 0
        self.faults = Faults(self.config.on_error, is_quiet=is_quiet)
        self._model = model
        self._loss = loss
        self._loss_withheld = loss_withheld
        self._prepare = prepare
        self._context = context
        self._overhead = Overhead()
        self._transit = Transit(processes, self.faults, self.config.samples.leaderboard)
        self._agenda = Agenda(
            model,
            wrapper if wrapper is not None else model,
            self.config,
            self._overhead,
            self._transit,
            withheld,
        )
        self._opening = StepOpening(
            self.config, self._agenda, self._transit, self._overhead, self.faults
        )
        self._recorder = Recorder(self.config, sinks, self.faults)
        self._open: CapturedStep | None = None
        self._prober: Prober | None = None
        self._versions: Versions | None = None
        self._decided: int | None = None
        self._last: tuple[int, int] = (0, 0)
        self._was_due = False
        self._told: int | None = None  # the step of the last record that has the overhead
        with self._overhead.around_training():
            self._select()
        check_alerts(self.selection, self.config)
        if self._transit.is_first:
            self._agenda.warn_of_what_has_no_effect()

    @property
    def selection(self) -> Selection:
        """What is watched, and what is left out."""
        return self._agenda.selection

    @property
    def captures(self) -> int:
        """Number of records so far."""
        return self._recorder.captures

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @_stage("beginning a training step", False)
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
        is_due = self._begin_probe(step, epoch, epoch_start) or is_captured
        self._was_due = self._was_due or is_due
        return is_due

    def _begin_capture(self, step: int, epoch: int, epoch_start: int) -> bool:
        shards, gathering, agenda = self._transit.shards, self._transit.samples, self._agenda
        if shards is not None and shards.is_open:
            # In all processes, even where the capture was given up.
            shards.postpone(step)
            if self._open is not None:
                self._open.step, self._open.epoch = step, epoch
            return True
        if self._open is not None and not self._open.capture.has_seen_a_step:
            if gathering is not None and step != self._open.step and self._open.samples:
                self._open.samples.give_up(_MOVED_ON)
            self._open.step, self._open.epoch = step, epoch  # still accumulating
            return True
        self._abandon_capture()
        if gathering is not None and step == self._decided:
            return False  # what all have decided together stands, whatever has become of it here
        self._decided = step
        with self.faults.contain("deciding what to capture"):
            due = agenda.due(step, epoch, epoch_start)
            is_expected = bool(due) and self._transit.expect_shards(step)
            if (due or not agenda.lanes) and agenda.is_outdated:
                self._select()
                due = agenda.due(step, epoch, epoch_start)
                is_expected = is_expected or (bool(due) and self._transit.expect_shards(step))
            if due:
                self._open = self._opening.open(step, epoch, due)
                self._count_capture(agenda.kind_of(due))
        shards = self._transit.shards
        return self._open is not None or (shards is not None and shards.is_open)

    def _begin_probe(self, step: int, epoch: int, epoch_start: int) -> bool:
        prober = self._prober
        if prober is None:
            return False
        if not (prober.is_open and not prober.has_seen_a_step):
            prober.abandon()
            with self.faults.contain("deciding what to probe"):
                if not prober.plan.timetable.is_due(step, epoch, epoch_start):
                    return False
                if not self._agenda.allows(PROBE, step):
                    return False
                if self._agenda.is_outdated:
                    self._select()
            self._count_capture(PROBE)
        prober.begin(step, epoch)
        return True

    def _count_capture(self, kind: str) -> None:
        is_asynchronous = self._agenda.is_asynchronous
        self._overhead.begin_capture(kind, is_asynchronous=is_asynchronous)

    @property
    def may_want_samples(self) -> bool:
        """Whether any step of the run captures samples."""
        return self._agenda.may_want_samples

    @property
    def wants_samples(self) -> bool:
        """Whether the step under way captures samples."""
        return self._samples is not None

    @property
    def may_want_batches(self) -> bool:
        """Whether any step of the run takes batches, for samples or probes."""
        return self.may_want_samples or self._prober is not None

    @property
    def wants_batch(self) -> bool:
        """Whether the step under way takes batches."""
        return self.wants_samples or self._is_probing

    @_stage("beginning a window of batches", None)
    def begin_window(self) -> None:
        """Tell that gradients of earlier batches are set to zero before the next backward.

        Call it where a step under way may have ended without an optimiser's step.
        """
        self._versions = None
        if self._samples is not None:
            self._samples.begin_window()

    @_stage("taking note of a batch", None)
    def begin_batch(self, batch: Any, ids: tuple[str, Sequence[str | int]] | None = None) -> None:
        """Tell which batch's backward comes next, where samples are watched or probes are run.

        Args:
            batch: The batch: tensors, mappings, sequences and dataclasses, nested.
            ids: Where the samples' ids come from, in words, and the ids, in order.
        """
        if self._prober is not None:
            self._prober.begin_batch(batch, ids[1] if ids is not None else ())
        samples = self._samples
        if samples is not None and samples.withheld is None:
            samples.begin_batch(batch, ids)

    @_stage("following a backward", None)
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
        is_busy = self._open is not None or self._is_probing
        if is_busy and self._versions is None and not self._agenda.sharding.is_any:
            with self.faults.contain("watching the weights"):
                self._versions = Versions(self._agenda.parameters)
        if self._samples is not None:
            self._samples.before_backward(loss, scale, batch_size, window)
            self._overhead.once(self._samples.once)

    @_stage("following a backward", None)
    def after_backward(self) -> None:
        """Let go of the graph; call it right after the backward."""
        samples = self._samples
        if samples is not None:
            self._overhead.add(samples.hook_seconds)
            samples.after_backward()

    @_stage("leaving out per-sample gradients", None)
    def withhold_samples(self, reason: str) -> None:
        """Capture no samples in the step under way.

        Args:
            reason: Why, for the record.
        """
        samples = self._samples
        if samples is not None:
            samples.abandon()
            samples.withheld = reason

    @_stage("bringing processes together", None)
    def gather(self, before: float) -> None:
        """Bring the samples and shards of captured steps together, where several processes train.

        All of them have to call it, with the same step: best where they wait for one another
        anyway, such as at the end of an epoch and before :meth:`close`. It waits for the device.

        Args:
            before: Of the steps before this one.
        """
        self._transit.gather(before)
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
        return self._recorder.stop_reason

    @property
    def has_seen_no_optimizer(self) -> bool:
        """Whether steps were to be captured, but none had an optimiser that steps."""
        opened, prober = self._open, self._prober
        waiting = opened is not None and not opened.capture.has_seen_a_step
        probing = prober is not None and prober.is_open and not prober.has_seen_a_step
        return (waiting or probing) and not self.captures and self._transit.is_first

    def next_due(self, step: int, epoch_start: int = 0) -> float:
        """The first step from ``step`` on at which :meth:`begin_step` has something to do."""
        prober = self._prober
        if not self._is_idle or not (self._agenda.lanes or prober):
            return step
        with self.faults.contain("deciding when to capture next"):
            due = self._agenda.next_due(step, epoch_start)
            if prober is not None:
                due = min(due, prober.plan.timetable.next_due(step, epoch_start))
            return due
        return step

    @property
    def _is_idle(self) -> bool:
        """Whether nothing of a captured step is under way any more."""
        return self._transit.is_idle and self._open is None and not self._is_probing

    @property
    def _is_probing(self) -> bool:
        """Whether the step under way is probed."""
        return self._prober is not None and self._prober.is_open

    @property
    def _samples(self) -> CapturedSamples | None:
        """What captures the samples of the step under way, if they are captured."""
        return self._open.samples if self._open is not None else None

    @_stage("looking at an optimiser's step", None)
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
        if self._transit.shards is not None:
            self._transit.shards.optimizer_steps()
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

    @_stage("ending a training step", None)
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
            self._recorder.write_probe(prober.finish(self._model))
        if not prober.is_open:
            self._overhead.probed(self._overhead.own - begun)

    def _end_capture(self) -> None:
        closing = self._open
        if self._samples is not None:
            self._samples.forward_is_over()
        if closing is not None and closing.capture.has_seen_a_step:
            if self._samples is not None and self._agenda.adaptation is not None:
                self._agenda.adaptation.saw(self._samples.batch_samples)
            with self._containing_capture():
                closing.capture.finish()
                self._transit.send(closing, self.selection.targets)
            self._open = None
        if self._transit.shards is not None:
            self._transit.shards.end_step()
        if closing is not None and self._open is None:
            self._drain(wait=False)

    def _drain(self, *, wait: bool) -> None:
        for closed, transfer in self._transit.arrived(wait=wait):
            with self.faults.contain("writing a captured step"):
                statistics = transfer.result()
                record = closed.record(statistics, self._agenda.trainable, self._overhead.share)
                self._recorder.write(record)
                if "monitor_overhead" in record.headline:
                    self._told = closed.step
                self._recorder.rank(closed.batches, closed.step, closed.epoch)
                self._recorder.tell_withheld(closed.samples_missing, self._agenda.captured)
                self._recorder.tell_without_samples(closed.samples_withheld)

    def expect_end(self, steps: float) -> None:
        """Tell how many steps the run has, where that is known; an overhead budget makes use of it.

        Args:
            steps: Optimiser steps from the run's beginning to its end.
        """
        if self._agenda.adaptation is not None:
            with self.faults.contain(_TIMING):
                self._agenda.adaptation.ends_at(steps)

    def warn_of_missed_schedules(self, steps: int) -> None:
        """Warn, at the end of a run, if schedules asked for none of its steps.

        Args:
            steps: Optimiser steps from the run's beginning to its end.
        """
        agenda, are_probed = self._agenda, self._prober is not None
        was_due = self._was_due or self.captures > 0 or agenda.is_held_back
        is_told = bool(self.faults.reasons)  # as where a schedule's hook fails
        if was_due or is_told or not steps or not self._transit.is_first:
            return
        if agenda.lanes or are_probed:
            agenda.warn_of_missed_schedules(steps, are_probed=are_probed)

    def note_last_step(self, step: int, epoch: int) -> None:
        """Tell which step was the run's last, where not every step was begun here.

        Args:
            step: The last step.
            epoch: Epochs completed before it.
        """
        self._last = max(self._last, (step, epoch))

    def abandon_step(self) -> None:
        """Drop a training step under way and remove all that is attached; safe at any time."""
        with self.faults.contain("giving up the capture of a step"):
            self._abandon_capture()
        if self._prober is not None:
            with self.faults.contain("giving up the probes of a step"):
                self._prober.abandon()

    def _abandon_capture(self) -> None:
        opened, self._open = self._open, None
        if opened is None:
            return
        try:
            opened.capture.detach()
        finally:
            if opened.samples is not None:
                opened.samples.give_up(_GIVEN_UP)

    def close(self) -> None:
        """Write what is still under way, let go of everything, and close the sinks."""
        self.pause(self._last[0] + 1)
        with self._overhead.around_training():
            try:
                self._finish()
            finally:  # where faults are raised, too
                self._recorder.close()
        with self.faults.contain("counting captures"):
            self._agenda.conclude(self._last[0] + 1)

    def _finish(self) -> None:
        self.abandon_step()
        with self.faults.contain("bringing the last captured steps to an end"):
            self._transit.give_up()
        with self.faults.contain("writing the last captured steps"):
            self._drain(wait=True)
        with self.faults.contain("closing an epoch"):
            self._recorder.close_epoch()
        if self._prober is not None:
            prober, self._prober = self._prober, None
            with self.faults.contain("allocating the change of the loss"):
                self._recorder.write_probe(prober.conclude(self._model, *self._last))
        with self.faults.contain("telling what the monitor took"):
            self._tell_share()

    def _tell_share(self) -> None:
        """Write what share the monitor took in the end, if no record of the last step has it."""
        (step, _), share = self._last, self._overhead.share
        is_told = self._told == step or not self.captures
        if self._transit.is_first and not is_told and not math.isnan(share):
            self._told = step
            self._recorder.write_headline(step, {"monitor_overhead": share})

    def state_dict(self) -> dict[str, Any]:
        """Counters and the sinks' histories, as plain values for a checkpoint.

        Steps whose samples other processes still have are not in it: it waits for no one.
        """
        with self.faults.contain("writing captured steps before a checkpoint"), self._overhead:
            self._drain(wait=True)
        parts: dict[str, Any] = {
            "running": self._opening.running,
            "probes": self._prober,
            "overhead": self._overhead,
            "budget": self._agenda.budget,
            "adaptation": self._agenda.adaptation,
        }
        state = dict(self._recorder.state_dict())
        for name, part in parts.items():
            state[name] = {}
            with self.faults.contain(_SAVING), self._overhead:
                state[name] = part.state_dict() if part is not None else {}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept; what cannot be understood is left aside."""
        with self.faults.contain("resuming the monitor's state"):
            self._opening.running.load_state_dict(state.get("running", {}))
            self._resume_accounts(state)
            if self._prober is not None:
                self._prober.load_state_dict(state.get("probes", {}))
            self._recorder.load_state_dict(state)

    def _resume_accounts(self, state: Mapping[str, Any]) -> None:
        """Take up what the monitor took so far, unless a budget has been set since."""
        budget, adaptation, told = self._agenda.budget, self._agenda.adaptation, state.get("budget")
        if budget is not None and (told or {}).get("share") != budget.share:
            return
        self._overhead.load_state_dict(state.get("overhead", {}))
        if budget is not None and adaptation is not None:
            budget.load_state_dict(told or {})
            adaptation.load_state_dict(state.get("adaptation", {}))

    def _select(self) -> None:
        """Decide what is watched, and tell the sinks."""
        self._agenda.select()
        plan: ProbePlan | None = None
        if self._transit.is_first:
            plan = probe_plan(self.selection, self.config, self._model)
        self._plan_probes(plan)
        axes = plan.axes.items() if plan is not None else ()
        probed = [(name, axis) for name, several in axes for axis in several]
        self._recorder.open(self.selection, probed)

    def _plan_probes(self, plan: ProbePlan | None) -> None:
        if plan is None:
            self._prober = None
            return
        if self._prober is not None:
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
        if self._agenda.sharding.is_any:
            self._prober.withhold(_PROBES_OF_SHARDS)

    def _containing_capture(self) -> AbstractContextManager[None]:
        return self.faults.contain("capturing a training step", self._abandon_capture)
