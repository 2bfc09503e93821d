"""One captured training step, from the capture of its tensors to its record."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from jacoscope.capturing import OptimizerStepCapture, ParameterTensors
from jacoscope.faults import Faults
from jacoscope.measuring import Gauge
from jacoscope.plan import Lane, quantities_of, wanted_of
from jacoscope.quantities import Measured
from jacoscope.record import (
    Axis,
    GradientInfo,
    Record,
    StepRecord,
    finish_headline,
    finish_record,
)
from jacoscope.reduction import HostStatistics, Transfer

__all__ = ["CapturedStep"]


class CapturedStep:
    """A captured training step, from its beginning until its record is made.

    Args:
        step: Optimiser steps before it; may be put forward while batches accumulate.
        epoch: Epochs completed.
        lanes: What is recorded.
        headline_lanes: What the headline is on; empty for no headline.
        gauge: Measures what is captured.
        faults: What to do when something fails.

    Attributes:
        capture: Takes tensors from the optimisers' steps.
        gradient: Which gradient they are of.
    """

    def __init__(
        self,
        step: int,
        epoch: int,
        lanes: Sequence[Lane],
        headline_lanes: Sequence[Lane],
        gauge: Gauge,
        faults: Faults,
    ) -> None:
        self.step = step
        self.epoch = epoch
        self.gradient = GradientInfo()
        self.capture = OptimizerStepCapture(wanted_of(headline_lanes or lanes), self._measure)
        self._lanes = lanes
        self._headline_targets = [target for lane in headline_lanes for target in lane.targets]
        self._quantities = quantities_of(lanes)
        self._gauge = gauge
        self._faults = faults
        self._measured: list[Measured] = []

    def send(self) -> Transfer | None:
        """Send what was measured to the host, or ``None`` if nothing was."""
        return Transfer(self._measured) if self._measured else None

    def record(self, statistics: HostStatistics, model: nn.Module) -> StepRecord:
        """The record of the step.

        Args:
            statistics: What was measured.
            model: The model, to tell what share of it that is.
        """
        withheld: dict[str, str] = {}
        records: list[Record] = []
        pairs = [(name, axis) for lane in self._lanes for name, axis in lane.axes.items()]
        for name, axis in pairs:
            reason = self._gauge.reason_without(name)
            if reason is None:
                subject = f"finishing {name}"
                with self._faults.contain(subject):
                    records.append(finish_record(name, axis, statistics, self.capture.missing))
                    continue
                reason = self._faults.reasons[subject]
            withheld[name] = reason
        return StepRecord(
            step=self.step,
            epoch=self.epoch,
            records=tuple(records),
            headline=self._headline(statistics, model),
            gradient=self.gradient,
            withheld=withheld,
            dtype=self._dtype,
        )

    def _measure(self, tensors: ParameterTensors) -> None:
        """Measure what the capture hands on, while its tensors are valid."""
        self._measured += self._gauge.measure(tensors, self._quantities)

    def _headline(self, statistics: HostStatistics, model: nn.Module) -> dict[str, float]:
        if not self._headline_targets:
            return {}
        with self._faults.contain("the headline"):
            return {
                **finish_headline(Axis.of(self._headline_targets), statistics),
                "coverage": self._coverage(model),
            }
        return {}

    def _coverage(self, model: nn.Module) -> float:
        """Share of the model's trainable scalars whose gradient this record has."""
        shaped = (p for p in model.parameters() if not is_lazy(p))
        trainable = sum(p.numel() for p in shaped if p.requires_grad)
        captured = [t for t in self._headline_targets if t.name not in self.capture.missing]
        measured = sum(t.numel for t in captured if t.info.parameter.requires_grad)
        return measured / trainable if trainable else math.nan

    @property
    def _dtype(self) -> npt.DTypeLike:
        """The precision worth storing: that of training."""
        targets = [target for lane in self._lanes for target in lane.targets]
        dtypes = {target.info.parameter.dtype for target in targets}
        return np.float64 if torch.float64 in dtypes else np.float32
