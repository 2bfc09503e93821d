"""What is found while a step is probed, and the record that it makes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from jacoscope.config import QuantityName
from jacoscope.groups import ALL
from jacoscope.output_probe import Findings, OutputProbe
from jacoscope.probe_plan import INPUT_ROW, ProbePlan
from jacoscope.probe_record import AllocationRecord, ProbeRecord
from jacoscope.probing import AllElseEqual
from jacoscope.quantities import PROBE_HEADLINES
from jacoscope.record import Axis, Record, finish_record
from jacoscope.reduction import HostStatistics

__all__ = ["ProbeSession"]


class ProbeSession:
    """One probe, from its measurements to its record.

    Args:
        step: The step that is probed.
        epoch: Epochs completed.
        plan: What is asked for.
        only: The quantities that this probe measures of it; by default all.

    Attributes:
        ids: Ids of the samples whose outputs are probed.
        outputs: The probe of outputs, if there was one.
        all_else_equal: What the optimiser's step did, if that was probed.
        allocation: What the run's steps did, if that was probed.
    """

    def __init__(
        self,
        step: int,
        epoch: int,
        plan: ProbePlan,
        only: frozenset[QuantityName] | None = None,
    ) -> None:
        self.step = step
        self._epoch = epoch
        self._plan = plan
        self._asked = [n for n in plan.asked if only is None or n in only]
        self._findings = Findings()
        self.ids: tuple[str, ...] = ()
        self.outputs: OutputProbe | None = None
        self.all_else_equal: AllElseEqual | None = None
        self.allocation: AllocationRecord | None = None

    def withhold(self, names: Iterable[str], why: str) -> None:
        """Take note that quantities cannot be had."""
        self._findings.withhold(names, why)

    def note(self, subject: str, what: str) -> None:
        """Take note of how it went."""
        self._findings.notes[subject] = what

    def take(self, found: Findings) -> None:
        """Take over what a part found."""
        mine = self._findings
        for name, values in found.values.items():
            mine.values.setdefault(name, {}).update(values)
        for name, values in found.errors.items():
            mine.errors.setdefault(name, {}).update(values)
        for name, reasons in found.missing.items():
            mine.missing.setdefault(name, {}).update(reasons)
        for name, why in found.withheld.items():
            mine.withheld.setdefault(name, why)
        mine.notes.update(found.notes)

    def record(self, seconds: float | None, dtype: npt.DTypeLike) -> ProbeRecord:
        """The record of the probe.

        Args:
            seconds: How long it took, if that is to be said.
            dtype: The precision of training.
        """
        found, outputs = self._findings, self.outputs
        withheld = {str(n): found.withheld[n] for n in self._asked if n in found.withheld}
        records = [
            self._finished(name, axis)
            for name in self._asked
            if name not in withheld
            for axis in self._plan.axes[name]
            if axis.names
        ]
        headline = {
            str(record.quantity): float(record.values[0])
            for record in records
            if record.quantity in PROBE_HEADLINES
            and record.axis.names[0] in (ALL, INPUT_ROW)
            and record.axis.names[0] not in record.missing
        }
        if seconds is not None:
            headline["probe_seconds"] = seconds
        return ProbeRecord(
            step=self.step,
            epoch=self._epoch,
            records=tuple(records),
            headline=headline,
            withheld=withheld,
            notes=dict(found.notes),
            all_else_equal=self.all_else_equal,
            allocation=self.allocation,
            spectra={} if outputs is None else outputs.spectra,
            singular_values=None if outputs is None else outputs.singular_values,
            output_sensitivity=None if outputs is None else outputs.sensitivity,
            saliency=None if outputs is None else outputs.saliency,
            ids=self.ids,
            dtype=dtype,
        )

    def _finished(self, name: QuantityName, axis: Axis) -> Record:
        found = self._findings
        statistics = HostStatistics({str(name): found.values.get(str(name), {})})
        record = finish_record(name, axis, statistics, found.missing.get(str(name), {}))
        errors = found.errors.get(str(name))
        if not errors:
            return record
        column = np.array([errors.get(row, np.nan) for row in axis.names])
        return Record(name, axis, record.values, record.missing, column)
