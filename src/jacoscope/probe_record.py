"""What a probe of one step says.

Shape suffixes: L rows of an axis, C outputs per sample, N samples, R eigenvalues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from jacoscope.probing import AllElseEqual, Saliency
from jacoscope.quantities import FloatArray
from jacoscope.record import Record

__all__ = ["AllocationRecord", "OutputSensitivity", "ProbeRecord"]


@dataclass(frozen=True, eq=False)
class OutputSensitivity:
    """How sensitive each output is to each layer.

    Args:
        layers: Names of the layers, in the model's order.
        values: √(mean_i ‖∂f_ic/∂θ‖²), shape (L, C).
    """

    layers: tuple[str, ...]
    values: FloatArray


@dataclass(frozen=True)
class AllocationRecord:
    """The loss change allocated to each layer since the first probe, on the same samples.

    Args:
        since: The step that it counts from.
        by_layer: ∫ g·dθ of each layer.
        change: The true change of the loss.
        loss: The loss at the end.
    """

    since: int
    by_layer: Mapping[str, float]
    change: float
    loss: float

    @property
    def gap(self) -> float:
        """The true change minus all that was allocated."""
        return self.change - float(np.sum(list(self.by_layer.values())))


@dataclass(frozen=True, eq=False)
class ProbeRecord:
    """All that the probes of one step say.

    Args:
        step: Optimiser steps before this one.
        epoch: Epochs completed.
        records: One record per quantity and axis.
        headline: Scalars on the whole model, by name.
        withheld: By quantity, why it could not be computed at all.
        notes: How the probes went, in words, by subject.
        all_else_equal: The step's change of the loss by layer.
        allocation: The run's change of the loss by layer.
        spectra: By row (a layer, a group, ``(all)``), the eigenvalues of its tangent kernel,
            largest first, shape (R,).
        singular_values: Of ∂f_i/∂x_i, largest first, shape (N, min(C, D)).
        output_sensitivity: How sensitive each output is to each layer.
        saliency: How much each part of the input moves the outputs.
        ids: Ids of the samples that outputs were probed on, as far as known.
        dtype: The precision of training, which is worth storing.
    """

    step: int
    epoch: int
    records: tuple[Record, ...]
    headline: Mapping[str, float] = field(default_factory=dict)
    withheld: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    all_else_equal: AllElseEqual | None = None
    allocation: AllocationRecord | None = None
    spectra: Mapping[str, FloatArray] = field(default_factory=dict)
    singular_values: FloatArray | None = None
    output_sensitivity: OutputSensitivity | None = None
    saliency: Saliency | None = None
    ids: tuple[str, ...] = ()
    dtype: npt.DTypeLike = np.float32
