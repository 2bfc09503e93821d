"""The probes of a training run: when, on which samples, and what comes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from jacoscope.batches import batch_size_of, rows_of
from jacoscope.capturing import Calibrations
from jacoscope.config import MonitorConfig, QuantityName
from jacoscope.faults import Faults
from jacoscope.loss_probe import LossFunction, RunningAllocation, probe_step
from jacoscope.memory import ProbeThrift
from jacoscope.output_probe import Findings, OutputProbe
from jacoscope.probe_copies import copy_of, dtype_of, lift, lifted, modes_of, points_of
from jacoscope.probe_faults import ProbeFaults
from jacoscope.probe_plan import ProbePlan
from jacoscope.probe_record import ProbeRecord
from jacoscope.probe_session import ProbeSession
from jacoscope.probing import (
    NeuralTangentKernel,
    ProbeError,
    devices_of,
    first_samples,
    isolated,
    targets_of,
)
from jacoscope.quantities import PROBES
from jacoscope.sharding import are_processes

__all__ = ["Prober"]

_OUTPUTS = ("Output Jacobian", "Tangent kernel", "Input Jacobian", "Layer Jacobian")
_ALLOCATION: frozenset[QuantityName] = frozenset({"allocated_change", "allocation_gap"})
_STEP = PROBES["All else equal"] - _ALLOCATION
_NO_LOSS = (
    "it evaluates the loss again; give Monitor a function of model and batch as loss=, such as "
    "lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])"
)
_OUTPUTS_SUBJECT, _STEP_SUBJECT = "probing outputs", "probing all else equal"
_ALLOCATION_SUBJECT = "allocating the change of the loss"
_BATCH, _WEIGHTS = "keeping a batch for probes", "keeping the weights before a step"
_CHANGED = (
    "weights were changed between a backward of this training step and the optimiser's step, so "
    "that where the step has started from is not known"
)


class Prober:
    """Runs a training run's probes.

    A probed step goes: :meth:`begin`; :meth:`begin_batch` for each of its batches;
    :meth:`before_step` right before the optimiser steps; :meth:`finish` after it.

    Args:
        plan: What is asked for.
        config: The monitor's configuration.
        loss: From a copy of the model and a batch to the loss; needed for all else equal.
        faults: What to do when something fails.
        withheld: Why the loss cannot be evaluated in this run, if that is so.
        prepare: Called with each copy of the model before it is evaluated.
        context: Entered while outputs are evaluated.
    """

    def __init__(
        self,
        plan: ProbePlan,
        config: MonitorConfig,
        loss: LossFunction | None,
        faults: Faults,
        withheld: str | None = None,
        prepare: Callable[[nn.Module], None] | None = None,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.plan = plan
        self._context = context
        self._prepare = prepare
        self._config = config
        self._loss = loss
        self._withheld = withheld
        self._blocked: str | None = None
        self._step: tuple[int, int] | None = None
        self._batch: Any = None
        self._ids: Sequence[Any] = ()
        self._starts: dict[str, Tensor] | None = None
        self._reference: tuple[Any, int, Tensor | None, tuple[str, ...]] | None = None
        self._first: NeuralTangentKernel | None = None
        self._lost: dict[str, str] = {}
        self._allocation: RunningAllocation | None = None
        self._modes: Mapping[str, bool] = {}
        self._probed: int | None = None
        self._resumed: Mapping[str, Any] = {}
        budget = config.probes.memory_budget * 2**20
        self._calibrations = Calibrations(budget, config.samples.verify)
        self._thrift = ProbeThrift(budget, config.probes.loss_samples)
        self._faults = ProbeFaults(faults, self._thrift)

    @property
    def is_open(self) -> bool:
        """Whether a step is being probed."""
        return self._step is not None

    @property
    def has_seen_a_step(self) -> bool:
        """Whether the optimiser is about to step or has stepped in the step being probed."""
        return self._starts is not None

    def withhold(self, reason: str) -> None:
        """Run no probes in this run; the records say why."""
        self._blocked = reason

    def begin(self, step: int, epoch: int) -> None:
        """Probe the training step that now begins."""
        self._step = step, epoch

    def begin_batch(self, batch: Any, ids: Sequence[Any] = ()) -> None:
        """Take note of the batch; of several that are accumulated, the last counts."""
        if self._step is None or self._blocked is not None:
            return
        self._batch = None
        with self._faults.keep(_BATCH, self._lost):
            # The training step may change it in place.
            self._batch, self._ids = first_samples(batch, 0, 0), ids

    def before_step(self, model: nn.Module, *, is_changed: bool = False) -> None:
        """Keep the weights that the step starts from.

        Args:
            model: The model.
            is_changed: Whether weights are no longer those that the backward saw.
        """
        if self._step is None or self._starts is not None:
            return
        self._starts = {}
        if is_changed:
            self._lost[_WEIGHTS] = _CHANGED
            return
        with self._faults.keep(_WEIGHTS, self._lost):
            if self.plan.asks("All else equal") and self._blocked is None:
                self._starts = points_of(model, copied=True)

    def abandon(self) -> None:
        """Probe nothing of the step under way."""
        self._step = self._batch = self._starts = None
        self._ids, self._lost = (), {}

    def finish(self, model: nn.Module) -> ProbeRecord | None:
        """Run the probes of the step that has ended; its record, or ``None`` if there was none."""
        if self._step is None or self._starts is None:
            return None
        (step, epoch), batch, starts = self._step, self._batch, self._starts
        ids, lost = tuple(str(each) for each in self._ids), self._lost
        self.abandon()
        begun = time.perf_counter()
        self._probed, self._modes = step, modes_of(model)
        session = ProbeSession(step, epoch, self.plan)
        if self._blocked is not None:
            session.withhold(self.plan.asked, self._blocked)
            self._faults.say("all", f"nothing is probed: {self._blocked}")
        elif batch is None:
            why = lost.get(_BATCH, "the batch is not known; give it to begin_batch")
            session.withhold(self.plan.asked, why)
        else:
            if self.plan.asks(*_OUTPUTS):
                self._probe_outputs(model, batch, ids, session)
            if _WEIGHTS in lost:
                session.withhold(PROBES["All else equal"], lost[_WEIGHTS])
            elif self.plan.asks("All else equal"):
                self._probe_loss(model, batch, starts, session)
        said = self._thrift.said
        if said:
            session.note(
                "memory", "; ".join(f"{subject}: {what}" for subject, what in said.items())
            )
        return session.record(time.perf_counter() - begun, dtype_of(model))

    def conclude(self, model: nn.Module, step: int, epoch: int) -> ProbeRecord | None:
        """Allocate the change of the loss since the last probe, at the end of the run.

        Args:
            model: The model.
            step: The last step of the run.
            epoch: Epochs completed.
        """
        running = self._allocation
        if running is None or step == self._probed:
            return None
        ends = points_of(model, copied=False)
        if all(torch.equal(point, ends[n].to(point)) for n, point in running.point.items()):
            return None
        session = ProbeSession(step, epoch, self.plan, only=_ALLOCATION)
        self._allocate(model, session, None, {})
        return session.record(None, dtype_of(model))

    def state_dict(self) -> dict[str, Any]:
        """What was allocated so far."""
        running = self._allocation
        if running is None:
            return dict(self._resumed)
        return {
            "since": running.since,
            "by_layer": dict(running.by_layer),
            "change": running.change,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was allocated."""
        self._resumed = dict(state)

    def _samples(self, batch: Any) -> int:
        told = self._config.samples
        if told.rows is not None or rows_of(batch) is not None:
            raise ProbeError("a batch whose rows are not one per sample has no sample to take")
        count = told.batch_size or batch_size_of(batch)
        if not count:
            raise ProbeError(
                "the batch has no tensor that tells how many samples it has; set samples.batch_size"
            )
        return count

    def _probe_outputs(
        self, model: nn.Module, batch: Any, ids: tuple[str, ...], session: ProbeSession
    ) -> None:
        names = [name for name in self.plan.asked if name not in PROBES["All else equal"]]
        config = replace(self._config.probes, memory_budget=self._thrift.budget)
        if self._faults.is_lost(_OUTPUTS_SUBJECT, names, session):
            return
        with self._faults.contain(_OUTPUTS_SUBJECT, names, session, self._fewer_rows):
            if config.mode == "train" and _processes() > 1:
                raise ProbeError(
                    "in training mode a layer may wait for the other processes, which do not "
                    "probe; set probes.mode: eval"
                )
            if self._reference is None or config.batch == "each":
                count = self._samples(batch)
                few = first_samples(batch, count, config.samples)
                kept = min(count, config.samples)
                label = self._config.samples.label
                self._reference = few, kept, targets_of(few, kept, label), ids[:kept]
            few, kept, targets, session.ids = self._reference
            copied = copy_of(model, self._prepare)
            if config.mode == "eval":
                copied.eval()
            few = lift(copied, few)
            with isolated(devices_of(copied)), self._context():
                probe = OutputProbe(
                    copied, few, targets, self.plan, config, self._first, self._calibrations, kept
                )
                session.outputs = probe
                parts: list[tuple[str, tuple[str, ...], Callable[[], None]]] = [
                    ("parameters", ("Output Jacobian", "Tangent kernel"), probe.parameters),
                    ("the input", ("Input Jacobian",), probe.inputs),
                    ("layers", ("Layer Jacobian",), probe.layers),
                ]
                for by, families, part in parts:
                    mine = [n for n in names if any(n in PROBES[f] for f in families)]
                    subject = f"probing outputs by {by}"
                    if mine and not self._faults.is_lost(subject, mine, session):
                        with self._faults.contain(subject, mine, session, self._fewer_rows):
                            part()
            session.take(probe.findings)
            fallback = probe.findings.notes.get("fallback")
            if fallback is not None:
                self._faults.say(
                    "fallback", f"probes of outputs go by a loop of samples: {fallback}"
                )
            if self._first is None and config.batch == "first":
                self._first = probe.kernel

    def _probe_loss(
        self, model: nn.Module, batch: Any, starts: dict[str, Tensor], session: ProbeSession
    ) -> None:
        if self._loss is None or self._withheld is not None:
            why = self._withheld or _NO_LOSS
            session.withhold(PROBES["All else equal"], why)
            self._faults.say("all else equal", f"all else equal is left out: {why}")
            return
        config = self._config.probes
        if self._asks(_STEP) and not self._faults.is_lost(_STEP_SUBJECT, _STEP, session):
            fewer = self._thrift.fewer_samples
            with self._faults.contain(_STEP_SUBJECT, _STEP, session, fewer):
                few = self._loss_batch(batch, self._thrift.samples)
                copied = copy_of(model, self._prepare)
                few, ends = lift(copied, few), lifted(points_of(model, copied=False))
                with isolated(devices_of(copied)):
                    findings = Findings()
                    session.all_else_equal = probe_step(
                        copied, self._loss, few, lifted(starts), ends, self.plan, config, findings
                    )
                    session.take(findings)
        if self._asks(_ALLOCATION) and not self._faults.is_lost(
            _ALLOCATION_SUBJECT, _ALLOCATION, session
        ):
            self._allocate(model, session, batch, starts)
            if _ALLOCATION_SUBJECT in self._thrift.lost:
                self._allocation = None

    def _asks(self, names: frozenset[QuantityName]) -> bool:
        return not names.isdisjoint(self.plan.asked)

    def _allocate(
        self, model: nn.Module, session: ProbeSession, batch: Any, starts: dict[str, Tensor]
    ) -> None:
        loss = self._loss
        assert loss is not None
        with self._faults.contain(_ALLOCATION_SUBJECT, _ALLOCATION, session, self._no_more):
            running = self._allocation
            if running is None:
                running = self._allocation = self._new_allocation(batch, starts, session.step)
            copied = copy_of(model, self._prepare)
            for name, each in copied.named_modules():  # it may be evaluated now
                each.training = self._modes.get(name, each.training)
            running.batch = lift(copied, running.batch)
            ends = lifted(points_of(model, copied=False))
            with isolated(devices_of(copied)):
                findings = Findings()
                session.allocation = running.advance(
                    copied, loss, ends, self.plan, self._config.probes, findings
                )
                session.take(findings)

    def _new_allocation(
        self, batch: Any, starts: dict[str, Tensor], step: int
    ) -> RunningAllocation:
        resumed = self._resumed
        return RunningAllocation(
            self._loss_batch(batch, self._config.probes.loss_samples),
            lifted(starts),
            int(resumed.get("since", step)),
            {str(k): float(v) for k, v in resumed.get("by_layer", {}).items()},
            float(resumed.get("change", 0.0)),
        )

    def _loss_batch(self, batch: Any, most: int) -> Any:
        try:
            count = self._samples(batch)
        except ProbeError:  # it cannot be cut: the loss is taken on all of it
            return batch
        return first_samples(batch, count, most)

    def _fewer_rows(self, subject: str) -> str:
        why = self._thrift.fewer_rows(subject)
        self._calibrations.memory_budget = self._thrift.budget * 2**20
        return why

    def _no_more(self, subject: str) -> str:
        return self._thrift.lose(subject, "on the batch that the run's allocation is on")


def _processes() -> int:
    """The number of processes that train together."""
    return torch.distributed.get_world_size() if are_processes() else 1
