"""Beginning to capture a step: what is measured of it, and with which samples."""

from __future__ import annotations

from collections.abc import Sequence

from jacoscope.agenda import Agenda
from jacoscope.captured_samples import CapturedSamples
from jacoscope.captured_step import CapturedStep
from jacoscope.capturing import Calibrations
from jacoscope.config import MonitorConfig
from jacoscope.faults import Faults
from jacoscope.groups import Group, groups_of
from jacoscope.measuring import Gauge
from jacoscope.memory import SampleThrift
from jacoscope.pacing import Overhead
from jacoscope.plan import Lane, sample_targets_of
from jacoscope.processes import are_several
from jacoscope.quantities import RunningMeans
from jacoscope.ranges import Ranges
from jacoscope.selection import Target
from jacoscope.transit import Transit

__all__ = ["StepOpening"]

_ALONE = (
    "of several processes this one's samples alone are known; give the Monitor of each "
    "processes=jacoscope.processes.Processes()"
)
_SAMPLES_OF_SHARDS = (
    "of a model that is split over processes (FSDP, tensor parallel) per-sample gradients cannot "
    "be captured"
)


class StepOpening:
    """Opens captured steps, and holds what lasts from one to the next.

    Args:
        config: How samples are told apart and grouped.
        agenda: What is watched.
        transit: Brings together what several processes measure.
        overhead: What share of the training time the monitor takes.
        faults: What to do when something fails.

    Attributes:
        running: Means over captures.
    """

    def __init__(
        self,
        config: MonitorConfig,
        agenda: Agenda,
        transit: Transit,
        overhead: Overhead,
        faults: Faults,
    ) -> None:
        told = config.samples
        self.running = RunningMeans()
        self._config = config
        self._agenda = agenda
        self._transit = transit
        self._faults = faults
        self._gauge = Gauge(faults, overhead)
        self._calibrations = Calibrations(
            told.memory_budget * 2**20, told.verify, told.custom_functions == "run"
        )
        self._thrift = SampleThrift(
            told.memory_budget * 2**20, keeps_gram=transit.samples is not None
        )
        self._ranges = Ranges()
        self._sampled = 0

    def open(self, step: int, epoch: int, due: Sequence[Lane]) -> CapturedStep:
        """Begin to capture a step.

        Args:
            step: Optimiser steps before it.
            epoch: Epochs completed.
            due: What is captured.
        """
        everything = self._agenda.headline_lanes(due)
        targets = sample_targets_of(everything or due)
        if not self._transit.is_first and self._transit.shards is None:
            due = everything = ()  # what is not per sample is the same in all processes
        if not targets:
            return CapturedStep(step, epoch, due, everything, self._gauge, self._faults)
        if self._transit.samples is not None:
            self._transit.samples.expect(step, epoch)
        groups = self._groups(targets)
        samples = self._samples(step, targets, groups)
        return CapturedStep(
            step,
            epoch,
            due,
            everything,
            self._gauge,
            self._faults,
            samples,
            groups,
            self.running,
        )

    def _groups(self, targets: Sequence[Target]) -> Sequence[Group]:
        rules = self._config.layers
        return groups_of(
            targets, [None if t.rule is None else rules[t.rule].group for t in targets]
        )

    def _samples(
        self, step: int, targets: Sequence[Target], groups: Sequence[Group]
    ) -> CapturedSamples:
        """What captures the step's samples, or knows why it cannot."""
        gathering = self._transit.samples
        gram_every = self._config.samples.gram_every
        wants_gram = gram_every is not None and self._sampled % gram_every == 0
        self._sampled += 1
        samples = CapturedSamples(
            step,
            targets,
            groups,
            self._config.samples,
            self._calibrations,
            self._ranges,
            self._faults,
            self._thrift,
            wants_gram and self._transit.is_first,
            process=gathering.rank if gathering is not None else None,
            extent=self._agenda.extent,
        )
        if gathering is not None:
            gathering.fulfil(samples)
        elif are_several():
            samples.withheld = _ALONE
        if self._agenda.sharding.is_any:
            samples.withheld = _SAMPLES_OF_SHARDS
        return samples
