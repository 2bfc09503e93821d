"""What is watched, and on which steps it is captured: selection, schedule and budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn
from torch.nn.parameter import is_lazy

from jacoscope.adapting import Adaptation
from jacoscope.config import MonitorConfig, Output
from jacoscope.extent import Extent, extents_of
from jacoscope.faults import warn
from jacoscope.pacing import Budget, Overhead
from jacoscope.plan import Lane, headline_lane, lanes_of, sample_targets_of
from jacoscope.quantities import is_per_sample, needs_all_samples
from jacoscope.schedule import describe_schedule
from jacoscope.selection import Selection, select
from jacoscope.sharding import Sharding
from jacoscope.transit import Transit

__all__ = ["Agenda"]

_SHARDS_ALONE = (
    "it is split over processes, and their parts are brought together only where the Monitor of "
    "each has processes=jacoscope.processes.Processes()"
)
_HOSTS = ("cpu", "meta")
"""Devices whose work is done when a call returns."""


class Agenda:
    """Selects what is watched, and decides which steps are captured.

    Args:
        model: The model.
        wrapper: What ``FullyShardedDataParallel`` has wrapped around it, or the model itself.
        config: What to watch, and when.
        overhead: What share of the training time the monitor takes.
        transit: Brings together what several processes measure, and decides for all of them.
        withheld: Why no parameter can be measured in this run, if that is so.

    Attributes:
        selection: What is watched.
        sharding: How the model is split over processes.
        lanes: What of it is captured, by schedule.
        budget: How much of the training time may be taken, if that is bounded.
        adaptation: What is done where captures would become too rare for that.
        extent: How much of the step that was asked for last is measured.
    """

    selection: Selection
    sharding: Sharding
    lanes: tuple[Lane, ...]

    def __init__(
        self,
        model: nn.Module,
        wrapper: nn.Module,
        config: MonitorConfig,
        overhead: Overhead,
        transit: Transit,
        withheld: str | None,
    ) -> None:
        self.budget = None if config.overhead is None else Budget(config.overhead, overhead)
        self.adaptation = None if self.budget is None else Adaptation(self.budget, overhead)
        self.extent = Extent()
        self._model = model
        self._wrapper = wrapper
        self._config = config
        self._transit = transit
        self._withheld = withheld
        self._selected_from: list[tuple[int, type[nn.Parameter]]] = []
        self._sizes: list[tuple[nn.Parameter, int | None]] = []
        self._headline_lane: Lane | None = None
        self._rest = 0
        self._epoch_start = 0

    def select(self) -> None:
        """Select from the model's parameters as they are now.

        Raises:
            ConfigError: If the configuration cannot be used on this model.
        """
        self._selected_from = self._parameters()
        self.sharding = Sharding(self._wrapper)
        are_several = self._transit.samples is not None
        self.selection = select(
            self._model,
            self._config,
            withheld=self._withheld,
            sharding=self.sharding,
            shards_withheld=None if are_several else _SHARDS_ALONE,
        )
        if self.sharding.is_any and are_several:
            self._transit.bring_shards()
        self._sizes = [
            (parameter, None if is_lazy(parameter) else self.sharding.numel(parameter))
            for parameter in self._model.parameters()
        ]
        self.lanes = lanes_of(self.selection)
        self._headline_lane = headline_lane(self.lanes, self._config.schedule)
        self._known_extents: dict[int, tuple[Extent, ...]] = {}
        if self.budget is not None:
            self.budget.forget_refused()

    @property
    def is_held_back(self) -> bool:
        """Whether a budget has left out captures that schedules asked for."""
        return self.adaptation is not None and self.adaptation.left_out > 0

    @property
    def is_outdated(self) -> bool:
        """Whether parameters were added or replaced, or got their shape, since the selection."""
        return self._selected_from != self._parameters()

    def _parameters(self) -> list[tuple[int, type[nn.Parameter]]]:
        sharding, parameters = Sharding(self._wrapper), _registered(self._model)
        if sharding.is_any:
            parameters = [sharding.kept(parameter) for parameter in parameters]
        # One that gets its shape becomes of another type.
        return [(id(parameter), type(parameter)) for parameter in parameters]

    @property
    def may_want_samples(self) -> bool:
        """Whether any step of the run captures samples."""
        return bool(sample_targets_of(self.lanes))

    @property
    def captured(self) -> set[str]:
        """Names of the parameters that are captured."""
        return {target.name for lane in self.lanes for target in lane.targets}

    @property
    def trainable(self) -> float:
        """Number of the model's trainable scalars, ``nan`` if it has none."""
        if self.sharding.is_any:  # what stands in the model changes during a step
            shaped = (p for p in self._model.parameters() if not is_lazy(p))
            return sum(self.sharding.numel(p) for p in shaped if p.requires_grad) or math.nan
        # Going through the modules anew would take longer than all that is done with the sum.
        sizes = (_numel(p) if n is None else n for p, n in self._sizes if p.requires_grad)
        return sum(sizes) or math.nan

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The model's parameters, as they were selected from."""
        return [parameter for parameter, _ in self._sizes]

    @property
    def is_asynchronous(self) -> bool:
        """Whether a device works on the model while the host goes on."""
        return any(parameter.device.type not in _HOSTS for parameter in self.parameters)

    def due(self, step: int, epoch: int, epoch_start: int) -> list[Lane]:
        """The lanes that are captured in a step; where it is asked for, rank zero decides.

        Args:
            step: Optimiser steps before it.
            epoch: Epochs completed.
            epoch_start: The step at which this epoch began.
        """

        def due() -> list[bool]:
            return [lane.timetable.is_due(step, epoch, epoch_start) for lane in self.lanes]

        def answers() -> list[int]:
            return self._within_budget(due(), step)

        if epoch_start != self._epoch_start:
            self._rest, self._epoch_start = 0, epoch_start
        has_hook = self._has_hook
        if self.adaptation is not None and not has_hook:
            self.adaptation.catch_up(step, epoch_start, self._next_regular)
        if self.budget is not None and not has_hook and (step < self._rest or not any(due())):
            return []  # in all processes
        gathering = self._transit.samples
        asks = (has_hook or self.budget is not None) and (
            self.may_want_samples or self._transit.shards is not None
        )
        found = gathering.decide(answers) if gathering is not None and asks else answers()
        if len(found) > len(self.lanes):
            self._rest, halvings, parts, turn = found[len(self.lanes) :]
            self.extent = Extent(halvings, parts, turn, self._config.overhead or 1.0)
        return [lane for lane, is_due in zip(self.lanes, found, strict=False) if is_due]

    def _within_budget(self, due: Sequence[bool], step: int) -> list[int]:
        """Of the lanes that are due, those that are captured.

        After them come the step before which it need not be asked again, and the extent of what is
        captured.
        """
        budget, adaptation = self.budget, self.adaptation
        if budget is None or adaptation is None or not any(due):
            return [*due]
        kind = _kind(due)
        if adaptation.is_new(step):
            lanes = [lane for lane, is_due in zip(self.lanes, due, strict=True) if is_due]
            if sample_targets_of(lanes) and adaptation.samples:  # or it would not know of fewer
                spacing = max(lane.timetable.every or adaptation.spacing(step) for lane in lanes)
                adaptation.adapt(kind, step, spacing, self._extents(adaptation.samples))
        extent = adaptation.extent
        is_captured = budget.allows(kind, step)
        adaptation.count(step, is_captured=is_captured)
        rest = step if is_captured else budget.rests_until(step)
        answers = due if is_captured else [False] * len(due)
        return [*answers, rest, extent.halvings, extent.parts, extent.turn]

    def _extents(self, samples: int) -> tuple[Extent, ...]:
        """What may be measured of so many samples, from all to the least."""
        if self.sharding.is_any:  # then samples are withheld
            return (Extent(),)
        if samples not in self._known_extents:
            targets = sample_targets_of(self.lanes)
            names = {name for t in targets for name in t.quantities if is_per_sample(name)}
            self._known_extents[samples] = extents_of(
                samples,
                len({target.info.layer for target in targets}),
                fewer_samples=not all(map(needs_all_samples, names)),
            )
        return self._known_extents[samples]

    def _next_regular(self, step: int, epoch_start: int) -> float:
        """The first step from ``step`` on at which schedules ask for a capture."""
        dues = (lane.timetable.next_due(step, epoch_start) for lane in self.lanes)
        return min(dues, default=math.inf)

    def conclude(self, step: int) -> None:
        """Tell the log, at the end of the run, what became of captures that were due.

        Args:
            step: Steps of the run so far.
        """
        if self.adaptation is not None and self._transit.is_first:
            if not self._has_hook:
                self.adaptation.catch_up(step, None, self._next_regular)
            self.adaptation.conclude()

    def allows(self, kind: str, step: int) -> bool:
        """Whether the budget has room for a capture of this kind."""
        return self.budget is None or self.budget.allows(kind, step)

    def headline_lanes(self, due: Sequence[Lane]) -> Sequence[Lane]:
        """What the headline of a step is on; empty if it has none.

        It is always on all that is watched, or its charts would jump.
        """
        return self.lanes if self._headline_lane in due else ()

    def kind_of(self, due: Sequence[Lane]) -> str:
        """What a capture of these lanes is called among those that cost alike."""
        return _kind([lane in due for lane in self.lanes])

    def next_due(self, step: int, epoch_start: int) -> float:
        """The first step from ``step`` on at which something may be captured.

        Args:
            step: The step.
            epoch_start: The step at which this epoch began.
        """
        return self._next_regular(step if self._has_hook else max(step, self._rest), epoch_start)

    @property
    def _has_hook(self) -> bool:
        return any(lane.timetable.has_hook for lane in self.lanes)

    def warn_of_what_has_no_effect(self) -> None:
        """Warn whoever has made the monitor of what has no effect, and of no parameters."""
        for index in self.selection.shadowed:
            warn(
                f"rule layers[{index}] decides nothing, since earlier rules match all that it "
                "matches; move it up to give it effect"
            )
        self._warn_of_nothing_to_show()
        if not self.selection.targets and self.selection.is_final:
            left_out = self.selection.left_out
            reason = left_out[0].reason if left_out else "the model has none"
            warn(f"no parameter is watched, so nothing will be recorded: {reason}")

    def _warn_of_nothing_to_show(self) -> None:
        """Warn of what is to be shown and is not measured; the default pictures may be idle."""
        config, default = self._config, Output()
        asked = {*config.quantities, *(q for rule in config.layers for q in rule.quantities or ())}
        for key in ("pictures", "layer_scalars"):
            names = getattr(config.output, key)
            idle = [name for name in names if name not in asked]
            if idle and names != getattr(default, key):
                warn(
                    f"output.{key} names {', '.join(idle)}, which nothing measures; add it to "
                    "quantities, or leave it out there"
                )

    def warn_of_missed_schedules(self, steps: int, *, are_probed: bool) -> None:
        """Warn whoever trains that schedules asked for none of the run's steps.

        Args:
            steps: How many steps the run had.
            are_probed: Whether probes were to be run too.
        """
        targets = [lane.targets[0] for lane in self.lanes]
        asked = {target.schedule_key: target.schedule for target in targets}
        if are_probed:
            asked["probes.schedule"] = self._config.probes.schedule
        said = " or ".join(f"{key} ({describe_schedule(asked[key])})" for key in asked)
        warn(
            f"no step was captured, so nothing was recorded: the run ended after {steps} steps, "
            f"none of which {said} asked for; ask for earlier ones, such as first: 10"
        )


def _numel(parameter: nn.Parameter) -> int:
    return 0 if is_lazy(parameter) else parameter.numel()


def _kind(due: Sequence[bool]) -> str:
    """What a capture of these lanes is called, by its place among those that cost alike."""
    return ",".join(str(place) for place, is_due in enumerate(due) if is_due)


def _registered(model: nn.Module) -> list[nn.Parameter]:
    """All parameters of a model's modules, a tied one as often as it is there.

    It is asked at every captured step, and ``model.parameters()``, which makes up names, takes five
    times as long.
    """
    found: list[nn.Parameter] = []
    known, waiting = {id(model)}, [model]
    for module in waiting:  # which grows meanwhile
        found += [each for each in module._parameters.values() if each is not None]
        for child in module._modules.values():
            if child is not None and id(child) not in known:
                known.add(id(child))
                waiting.append(child)
    return found
