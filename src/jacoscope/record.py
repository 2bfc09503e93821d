"""Records: what a captured step says, with everything needed to read it.

Shape suffixes: L parameters on an axis, N histogram bins or samples, R rows, Q quantiles.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.config import QuantityName
from jacoscope.quantities import HEADLINES, QUANTITIES, FloatArray
from jacoscope.reduction import HostStatistics
from jacoscope.selection import Target

__all__ = [
    "NORM_QUANTILES",
    "Axis",
    "BatchGram",
    "GradientInfo",
    "Record",
    "StepRecord",
    "StepSamples",
    "finish_headline",
    "finish_record",
]


@dataclass(frozen=True)
class GradientInfo:
    """Which gradient the numbers of a step are of.

    Args:
        scaling: What factors have been taken out or are still in it.
        clipping: Where clipping stands.
        window: Batches accumulated into it.
        full_window: Batches that a full accumulation window has.
        ranks: Processes that it is reduced over.
        reduction: How batches and ranks were reduced.
        precision: The Trainer's precision setting.
    """

    scaling: str = "unscaled"
    clipping: str = "before clipping"
    window: int = 1
    full_window: int = 1
    ranks: int = 1
    reduction: str = "gradient of the loss as returned by the training step"
    precision: str = "32-true"


@dataclass(frozen=True)
class Axis:
    """The layer axis of a record: which parameters, in which order.

    Args:
        names: Parameter names.
        layers: Name of the layer that owns each.
        kinds: Kind of each.
        sizes: Number of scalars of each.
    """

    names: tuple[str, ...]
    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, targets: Sequence[Target]) -> Axis:
        """The axis of these targets."""
        return cls(
            names=tuple(target.name for target in targets),
            layers=tuple(target.info.layer for target in targets),
            kinds=tuple(target.info.kind for target in targets),
            sizes=tuple(target.numel for target in targets),
        )

    def joined(self, other: Axis) -> Axis:
        """This axis, and after it the other."""
        return Axis(
            self.names + other.names,
            self.layers + other.layers,
            self.kinds + other.kinds,
            self.sizes + other.sizes,
        )

    @property
    def is_of_groups(self) -> bool:
        """Whether it is of groups of parameters rather than of parameters."""
        return self.kinds[:1] == ("all",)

    @cached_property
    def numel(self) -> FloatArray:
        """Sizes as numbers to compute with, shape (L,)."""
        return np.array(self.sizes, dtype=np.float64)

    @cached_property
    def digest(self) -> str:
        """A short hash of the axis; records with the same digest line up."""
        text = json.dumps([self.names, self.sizes], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True, eq=False)
class Record:
    """One quantity at one captured step.

    Args:
        quantity: Its name; :data:`jacoscope.quantities.QUANTITIES` has its definition and unit.
        axis: What the values run over.
        values: Values, shape (L,), or (L, N) for a histogram; ``nan`` where missing.
        missing: By parameter name, why its value is missing.
        errors: Standard errors of values that are estimates, shape (L,).
    """

    quantity: QuantityName
    axis: Axis
    values: FloatArray
    missing: Mapping[str, str]
    errors: FloatArray | None = None


NORM_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""The quantiles of per-sample gradient norms that a record has."""


@dataclass(frozen=True, eq=False)
class BatchGram:
    """The Gram matrix of a captured batch's per-sample gradients.

    Args:
        ids: What each sample is called, shape (N,).
        id_source: Where the ids come from, as a noun.
        labels: The class of each sample, if it is known.
        losses: Loss of each sample, shape (N,), if it is known.
        samples: Number of samples of the whole batch, of which these are the first that were
            measured.
        row: What the gradients are over.
        values_NN: g_i·g_k, shape (N, N).
        eigenvalues_N: Its eigenvalues, largest first, shape (N,); ``nan`` where it is not finite.
    """

    ids: Sequence[str | int]
    id_source: str
    labels: Sequence[str | int] | None
    losses: FloatArray | None
    samples: int
    row: str
    values_NN: FloatArray
    eigenvalues_N: FloatArray


@dataclass(frozen=True, eq=False)
class StepSamples:
    """How the per-sample gradients of a step are distributed.

    Args:
        samples: Number of samples.
        axis: Parameters, then what is measured as a whole.
        quantiles_RQ: :data:`NORM_QUANTILES` of ‖g_i‖ over the samples that were measured, by row;
            ``nan`` where it is missing.
        gram: The Gram matrix, at steps where it is recorded.
        nonfinite: Ids of samples whose loss or gradient is not finite, the first ten.
    """

    samples: int
    axis: Axis
    quantiles_RQ: FloatArray
    gram: BatchGram | None = None
    nonfinite: tuple[str | int, ...] = ()


@dataclass(frozen=True, eq=False)
class StepRecord:
    """All that one captured step says.

    Args:
        step: Optimiser steps before this one.
        epoch: Epochs completed.
        records: One record per quantity and axis.
        headline: Scalars on the whole model, by name.
        gradient: Which gradient they are of.
        withheld: By quantity, why it could not be computed at all.
        dtype: The precision of training, which is worth storing.
        capture: How samples were captured, by parameter: rules, layouts, verification errors; and
            ``coupled``, the layers that couple samples: below them a sample's row is the part of
            the gradient that flows through its own activations; and ``extent``, how much of the
            step per-sample quantities were measured on, where it was not all, with
            ``measured_samples`` and ``samples``, how many of how many; and ``unknown``, why the
            samples' ``label`` or ``loss`` is not known, where it should be.
        samples: How per-sample gradients are distributed, where they were captured.
    """

    step: int
    epoch: int
    records: tuple[Record, ...]
    headline: Mapping[str, float]
    gradient: GradientInfo
    withheld: Mapping[str, str] = field(default_factory=dict)
    dtype: npt.DTypeLike = np.float32
    capture: Mapping[str, Any] = field(default_factory=dict)
    samples: StepSamples | None = None

    @property
    def missing(self) -> dict[str, dict[str, str]]:
        """By quantity, then by parameter, why a value is missing."""
        merged: dict[str, dict[str, str]] = {}
        for record in self.records:
            if record.missing:
                merged.setdefault(record.quantity, {}).update(record.missing)
        return merged


def finish_record(
    name: QuantityName, axis: Axis, statistics: HostStatistics, missing: Mapping[str, str]
) -> Record:
    """The values of a quantity from its statistics.

    Args:
        name: The quantity.
        axis: The parameters it is wanted for.
        statistics: What was measured; parameters that lack a statistic get ``nan``.
        missing: By parameter name, why it could not be captured.
    """
    quantity = QUANTITIES[name]
    whole = _whole(quantity.needs, axis, statistics)
    if whole is not None:
        with np.errstate(all="ignore"):
            return Record(name, axis, np.array(quantity.finish(whole), dtype=np.float64), {})
    columns = {need: _column(need, statistics) for need in quantity.needs}
    measured = _in_all(list(columns.values()))
    have = [parameter in measured for parameter in axis.names]
    present = [index for index, there in enumerate(have) if there]
    inputs: dict[str, FloatArray] = {
        need: np.array([column[axis.names[index]] for index in present], dtype=np.float64)
        for need, column in columns.items()
    }
    inputs["numel"] = np.array([axis.sizes[index] for index in present], dtype=np.float64)
    with np.errstate(all="ignore"):
        finished = quantity.finish(inputs) if present else np.empty(0)
    values = np.full((len(axis.names), *finished.shape[1:]), np.nan)
    values[present] = finished
    absent = {
        name: missing.get(name, "it was not captured")
        for name, there in zip(axis.names, have, strict=True)
        if not there
    }
    return Record(name, axis, values, absent)


def finish_headline(axis: Axis, statistics: HostStatistics) -> dict[str, float]:
    """The headline scalars from the statistics of a step.

    Args:
        axis: The parameters that the headline is on.
        statistics: What was measured; a scalar is over the parameters that have what it needs,
            and is absent where none has.
    """
    scalars: dict[str, float] = {}
    for headline in HEADLINES:
        whole = _whole(headline.needs, axis, statistics)
        if whole is not None:
            with np.errstate(all="ignore"):
                scalars[headline.name] = headline.finish(whole)
            continue
        columns = [statistics.values.get(need, {}) for need in headline.needs]
        measured = _in_all(columns)
        present = [index for index, name in enumerate(axis.names) if name in measured]
        if not present:
            continue
        inputs: dict[str, FloatArray] = {
            need: np.array([column[axis.names[index]] for index in present])
            for need, column in zip(headline.needs, columns, strict=True)
        }
        inputs["numel"] = np.array([axis.sizes[index] for index in present], dtype=np.float64)
        with np.errstate(all="ignore"):
            scalars[headline.name] = headline.finish(inputs)
    return scalars


def _whole(
    needs: Sequence[str], axis: Axis, statistics: HostStatistics
) -> dict[str, FloatArray] | None:
    """What is needed of all parameters; ``None`` if any of it is missing, or no plain number."""
    inputs = {"numel": axis.numel}
    for need in needs:
        column = statistics.column(need, axis.names) if axis.names else None
        if column is None:
            return None
        inputs[need] = column
    return inputs


def _in_all(columns: Sequence[Mapping[str, Any]]) -> set[str]:
    """The parameters that every one of the columns has."""
    return set(columns[0]).intersection(*columns[1:])


def _column(need: str, statistics: HostStatistics) -> Mapping[str, Any]:
    return statistics.histograms if need == "histogram" else statistics.values.get(need, {})
