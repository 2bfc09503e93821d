"""One captured training step, from the capture of its tensors to its record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from jacoscope.captured_samples import CapturedSamples
from jacoscope.capturing import OptimizerStepCapture, ParameterTensors
from jacoscope.config import QuantityName
from jacoscope.faults import Faults
from jacoscope.groups import ALL, Group
from jacoscope.leaderboard import SampleBatch
from jacoscope.measuring import Gauge
from jacoscope.plan import Lane, axis_of, quantities_of, wanted_of
from jacoscope.quantities import (
    SAMPLE_HEADLINES,
    Measured,
    RunningMeans,
    is_per_sample,
    needs_all_samples,
    needs_labels,
    noise_parts,
)
from jacoscope.record import (
    NORM_QUANTILES,
    Axis,
    GradientInfo,
    Record,
    StepRecord,
    StepSamples,
    finish_headline,
    finish_record,
)
from jacoscope.reduction import HostStatistics, Transfer
from jacoscope.sample_results import SampleResults

__all__ = ["CapturedStep"]


@dataclass(frozen=True, eq=False)
class _FinishedSamples:
    """Statistics of samples by name and row, or why there are none."""

    statistics: HostStatistics = field(default_factory=HostStatistics)
    missing: Mapping[str, str] = field(default_factory=dict)
    capture: Mapping[str, Any] = field(default_factory=dict)
    closure: float = math.nan
    withheld: str | None = None
    results: SampleResults | None = None


class CapturedStep:
    """A captured training step, from its beginning until its record is made.

    Args:
        step: Optimiser steps before it; may be put forward while batches accumulate.
        epoch: Epochs completed.
        lanes: What is recorded.
        headline_lanes: What the headline is on; empty for no headline.
        gauge: Measures what is captured.
        faults: What to do when something fails.
        samples: Captures per-sample gradients, if any are wanted.
        groups: What these are measured on as a whole.
        running: Means over captures.

    Attributes:
        capture: Takes tensors from the optimisers' steps.
        gradient: Which gradient they are of.
        missing: By parameter, why something of it could not be captured.
        samples_missing: By parameter, why its samples are missing; known with the record.
        samples_withheld: Why there are no samples at all, if that is so; known with the record.
    """

    def __init__(
        self,
        step: int,
        epoch: int,
        lanes: Sequence[Lane],
        headline_lanes: Sequence[Lane],
        gauge: Gauge,
        faults: Faults,
        samples: CapturedSamples | None = None,
        groups: Sequence[Group] = (),
        running: RunningMeans | None = None,
    ) -> None:
        self.step = step
        self.epoch = epoch
        self.gradient = GradientInfo()
        wanted = wanted_of(headline_lanes or lanes)
        self.capture = OptimizerStepCapture(wanted, self._measure, gauge.hold)
        self.missing: Mapping[str, str] = self.capture.missing
        self._lanes = lanes
        self._headline_lanes = headline_lanes
        self._headline_targets = [target for lane in headline_lanes for target in lane.targets]
        self._all_targets = [t for lane in headline_lanes or lanes for t in lane.targets]
        self._quantities = quantities_of(lanes)
        self._gauge = gauge
        self._faults = faults
        self._measured: list[Measured] = []
        self.samples = samples
        self._groups = groups
        self._running = running or RunningMeans()
        self.batches: tuple[SampleBatch, ...] = ()
        self.samples_missing: Mapping[str, str] = {}
        self.samples_withheld: str | None = None

    def send(self, *, always: bool = False) -> Transfer | None:
        """Send what was measured to the host, or ``None`` if nothing was.

        Args:
            always: Whether to send nothing, too, as other processes may have something.
        """
        if not self._measured and self.samples is None and not always:
            return None
        return Transfer(self._measured)

    def record(
        self, statistics: HostStatistics, trainable: float, overhead: float = math.nan
    ) -> StepRecord:
        """The record of the step.

        Args:
            statistics: What was measured.
            trainable: Number of the model's trainable scalars, ``nan`` if it has none.
            overhead: Share of the training time that the monitor has taken so far, ``nan`` if it
                is not known.
        """
        withheld: dict[str, str] = {}
        records: list[Record] = []
        samples = self._finish_samples(statistics)
        self.samples_withheld = samples.withheld
        pairs = [(name, axis) for lane in self._lanes for name, axis in lane.axes.items()]
        for name, axis in (*pairs, *self._group_pairs(pairs)):
            source = statistics
            missing = self.missing
            reason = self._gauge.reason_without(name)
            if is_per_sample(name):
                source, missing = samples.statistics, samples.missing
                reason = reason or samples.withheld or self._reason_without(name, samples)
            if reason is None:
                subject = f"finishing {name}"
                with self._faults.contain(subject):
                    records.append(finish_record(name, axis, source, missing))
                    continue
                reason = self._faults.reasons[subject]
            withheld[name] = reason
        return StepRecord(
            step=self.step,
            epoch=self.epoch,
            records=tuple(records),
            headline={
                **self._headline(statistics, trainable, overhead),
                **self._sample_headline(records, samples, trainable),
            },
            gradient=self.gradient,
            withheld=withheld,
            dtype=self._dtype,
            capture=samples.capture,
            samples=self._step_samples(samples.results, pairs),
        )

    @property
    def is_done(self) -> bool:
        """Whether the samples are on the host."""
        return self.samples is None or self.samples.is_done

    @property
    def awaits_others(self) -> bool:
        """Whether the samples are still to be worked out together with other processes."""
        return self.samples is not None and self.samples.awaits_others

    def _reason_without(self, name: QuantityName, samples: _FinishedSamples) -> str | None:
        if self.samples is None:
            return None
        is_part = "extent" in samples.capture and needs_all_samples(name)
        results = samples.results
        if is_part and results is not None and results.measured < results.samples:
            return str(samples.capture["extent"])
        if needs_labels(name) and "label" in samples.capture.get("unknown", {}):
            return str(samples.capture["unknown"]["label"])
        return self.samples.reason_without(name)

    def _finish_samples(self, statistics: HostStatistics) -> _FinishedSamples:
        """Statistics of samples by name and row, with those of the step that they go with."""
        if self.samples is None:
            return _FinishedSamples()
        results: SampleResults | None = None
        subject = "finishing per-sample statistics"
        with self._faults.contain(subject):
            results = self.samples.results()
            if results is None:
                return _FinishedSamples(withheld=self.samples.withheld)
            self.batches = results.batches
            self.samples_missing = {
                name: why for name, why in results.missing.items() if name not in results.resting
            }
            table: dict[str, dict[str, float]] = {}
            step_sq = statistics.values.get("grad_sq", {})
            members = {group.name: group.members for group in self._groups}
            for row, found in results.statistics.items():
                names = [n for n in members.get(row, (row,)) if n not in results.missing]
                whole = dict(found)
                if row in results.grad_sq:
                    whole["grad_sq"] = results.grad_sq[row]
                elif all(name in step_sq for name in names):
                    whole["grad_sq"] = sum(step_sq[name] for name in names) * results.factor**2
                if "grad_sq" in whole:
                    whole.update(self._running.update(row, noise_parts(whole)))
                for statistic, value in whole.items():
                    table.setdefault(statistic, {})[row] = value
            return _FinishedSamples(
                HostStatistics(table),
                results.missing,
                {**results.capture, **self._extent(results)},
                results.closure,
                results=results,
            )
        return _FinishedSamples(withheld=self._faults.reasons.get(subject))

    def _extent(self, results: SampleResults) -> dict[str, Any]:
        """How much of the step was measured, for the record, if it was not all."""
        assert self.samples is not None
        extent, measured = self.samples.extent, results.measured
        if measured == results.samples and not results.resting:
            return {}
        described = extent.described(measured, results.samples)
        return {
            "extent": f"measured on {described}, {extent.why}",
            "measured_samples": measured,
            "samples": results.samples,
        }

    def _group_pairs(
        self, pairs: Sequence[tuple[QuantityName, Axis]]
    ) -> list[tuple[QuantityName, Axis]]:
        """Per-sample quantities with the groups that they are measured on as a whole."""
        if self.samples is None or not self._groups:
            return []
        axis = self._group_axis()
        names = dict.fromkeys(name for name, _ in pairs if is_per_sample(name))
        return [(name, axis) for name in names]

    def _group_axis(self) -> Axis:
        sizes = {target.name: target.numel for target in self._all_targets}
        return Axis(
            names=tuple(group.name for group in self._groups),
            layers=tuple(group.name for group in self._groups),
            kinds=tuple(group.kind for group in self._groups),
            sizes=tuple(sum(sizes[name] for name in group.members) for group in self._groups),
        )

    def _step_samples(
        self, results: SampleResults | None, pairs: Sequence[tuple[QuantityName, Axis]]
    ) -> StepSamples | None:
        """How per-sample gradients are distributed over the step's samples."""
        if results is None:
            return None
        with self._faults.contain("the distribution over samples"):
            due = {
                name for quantity, axis in pairs if is_per_sample(quantity) for name in axis.names
            }
            axis = Axis.of([target for target in self._all_targets if target.name in due])
            axis = axis.joined(self._group_axis())
            quantiles_RQ = np.full((len(axis.names), len(NORM_QUANTILES)), np.nan)
            for row, name in enumerate(axis.names):
                if name in results.norms:
                    with np.errstate(invalid="ignore"):  # between two infinities
                        quantiles_RQ[row] = np.quantile(results.norms[name], NORM_QUANTILES)
            return StepSamples(results.samples, axis, quantiles_RQ, results.gram, results.nonfinite)
        return None

    def _sample_headline(
        self, records: Sequence[Record], samples: _FinishedSamples, trainable: float
    ) -> dict[str, float]:
        if self.samples is None or not self._headline_targets:
            return {}
        with self._faults.contain("the headline"):
            found: dict[str, float] = {
                record.quantity: float(record.values[record.axis.names.index(ALL)])
                for record in records
                if record.quantity in SAMPLE_HEADLINES and ALL in record.axis.names
            }
            shown = {name: value for name, value in found.items() if not math.isnan(value)}
            if not math.isnan(samples.closure):
                shown["sample_closure"] = samples.closure
            if samples.results is not None and samples.results.resting:
                return shown  # what it is on is another part of the model at each step
            return {**shown, "sample_coverage": self._sample_coverage(samples, trainable)}
        return {}

    def _sample_coverage(self, samples: _FinishedSamples, trainable: float) -> float:
        """Share of the model's trainable scalars whose per-sample gradients this record has."""
        if samples.withheld is not None:
            return 0.0
        had = samples.statistics.values.get("sample_count", {})
        measured = sum(t.numel for t in self._all_targets if t.name in had)
        return measured / trainable

    def _measure(self, tensors: ParameterTensors) -> None:
        """Measure what the capture hands on, while its tensors are valid."""
        self._measured += self._gauge.measure(tensors, self._quantities)

    def _headline(
        self, statistics: HostStatistics, trainable: float, overhead: float
    ) -> dict[str, float]:
        if not self._headline_targets:
            return {}
        with self._faults.contain("the headline"):
            return {
                **finish_headline(axis_of(self._headline_lanes), statistics),
                "coverage": self._coverage(trainable),
                **({} if math.isnan(overhead) else {"monitor_overhead": overhead}),
            }
        return {}

    def _coverage(self, trainable: float) -> float:
        """Share of the model's trainable scalars whose gradient this record has."""
        captured = [t for t in self._headline_targets if t.name not in self.missing]
        measured = sum(t.numel for t in captured if t.info.parameter.requires_grad)
        return measured / trainable

    @property
    def _dtype(self) -> npt.DTypeLike:
        """The precision worth storing: that of training."""
        targets = [target for lane in self._lanes for target in lane.targets]
        dtypes = {target.info.parameter.dtype for target in targets}
        return np.float64 if torch.float64 in dtypes else np.float32
