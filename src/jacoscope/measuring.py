"""Measuring what a capture hands on, and going on without whatever fails."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from torch import Tensor

from jacoscope.capturing import ParameterTensors
from jacoscope.config import QuantityName
from jacoscope.faults import Faults
from jacoscope.quantities import QUANTITIES, Held, Measured, Meter, Statistic, statistics_for

__all__ = ["Gauge"]


class Gauge:
    """Measures the statistics that quantities need, as far as they can be measured.

    A statistic that raises is dropped for the rest of the run, with the quantities made of it.

    Args:
        faults: What to do when one fails.
        timed: Entered while it measures; it may be entered already.
    """

    def __init__(self, faults: Faults, timed: AbstractContextManager[None] = nullcontext()) -> None:
        self._faults = faults
        self._timed = timed
        self._meter = Meter()
        self._broken: dict[str, str] = {}

    def reason_without(self, quantity: QuantityName) -> str | None:
        """Why a quantity can no longer be computed, or ``None`` if it can."""
        needs = QUANTITIES[quantity].needs
        return next((self._broken[need] for need in needs if need in self._broken), None)

    def hold(self, name: Literal["gradient", "weight"], tensors: list[Tensor]) -> Held | None:
        """Copy tensors to where they are measured, if there is room; see :meth:`Meter.hold`."""
        return self._meter.hold(name, tensors)

    def measure(
        self, tensors: ParameterTensors, quantities: Sequence[QuantityName]
    ) -> list[Measured]:
        """Measure what these tensors allow.

        Args:
            tensors: What was captured.
            quantities: What is wanted in the end.
        """
        with self._timed:
            return self._measure(tensors, quantities)

    def _measure(
        self, tensors: ParameterTensors, quantities: Sequence[QuantityName]
    ) -> list[Measured]:
        statistics = [
            statistic
            for statistic in statistics_for(quantities)
            if statistic.inputs <= tensors.inputs and statistic.name not in self._broken
        ]
        wanted = any("histogram" in QUANTITIES[name].needs for name in quantities)
        possible = "gradient" in tensors.inputs and "histogram" not in self._broken
        histogram = wanted and possible
        if not statistics and not histogram:
            return []
        try:
            return [self._meter.measure(tensors, statistics, histogram=histogram)]
        except Exception:
            if self._faults.policy == "raise":
                raise
            return self._measure_singly(tensors, statistics, histogram)

    def _measure_singly(
        self, tensors: ParameterTensors, statistics: Sequence[Statistic], histogram: bool
    ) -> list[Measured]:
        parts = []
        for statistic in statistics:
            try:
                parts.append(self._meter.measure(tensors, [statistic]))
            except Exception as error:
                self._drop(statistic.name, error)
        if histogram:
            try:
                parts.append(self._meter.measure(tensors, [], histogram=True))
            except Exception as error:
                self._drop("histogram", error)
        return parts

    def _drop(self, need: str, error: Exception) -> None:
        self._broken[need] = f"{type(error).__name__}: {error}"
        names = [name for name, quantity in QUANTITIES.items() if need in quantity.needs]
        self._faults.note(f"measuring {', '.join(names)}", self._broken[need])
