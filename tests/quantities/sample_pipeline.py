"""From dense contributions to finished per-sample quantities, by the code under test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from jacoscope.jacobian import DenseJacobian
from jacoscope.quantities import (
    QUANTITIES,
    RunningMeans,
    SampleArrays,
    SampleNeeds,
    combine_statistics,
    is_per_sample,
    measure_samples,
    noise_parts,
    sample_statistics,
)

Array = Any
PER_SAMPLE = [name for name in QUANTITIES if is_per_sample(name)]
ALL_NEEDS = SampleNeeds(gram=True, columns=True)


def arrays_of(c: Array, needs: SampleNeeds = ALL_NEEDS) -> SampleArrays:
    """What is measured of contributions, shape (N, P)."""
    rows = torch.from_numpy(np.ascontiguousarray(c, dtype=np.float64))
    tensors = measure_samples(DenseJacobian(rows), rows.sum(0), needs)
    return SampleArrays(
        tensors.sq_N.numpy(),
        tensors.dot_N.numpy(),
        None if tensors.gram_NN is None else tensors.gram_NN.numpy(),
        {name: float(value) for name, value in tensors.scalars.items()},
        rows.shape[1],
    )


def statistics_of(step: Sequence[Array], labels: Sequence[Array] | None = None) -> dict[str, float]:
    """The statistics of a step, combined over its backwards."""
    total: dict[str, float] | None = None
    for index, c in enumerate(step):
        one = sample_statistics(arrays_of(c), None if labels is None else labels[index])
        total = one if total is None else combine_statistics(total, one)
    assert total is not None
    whole = np.sum([np.sum(c, axis=0) for c in step], axis=0)
    return total | {"grad_sq": float(whole @ whole), "numel": float(len(whole))}


def finished(statistics: dict[str, float], means: RunningMeans | None = None) -> dict[str, float]:
    """Every per-sample quantity from the statistics of a step; nan where something is missing."""
    means = means or RunningMeans()
    known = statistics | means.update("row", noise_parts(statistics))
    values = {}
    for name in PER_SAMPLE:
        quantity = QUANTITIES[name]
        if not set(quantity.needs) <= set(known):
            values[name] = float("nan")
            continue
        with np.errstate(all="ignore"):
            result = quantity.finish({need: np.array([known[need]]) for need in known})
        assert result.shape == (1,), name
        values[name] = float(result[0])
    return values


def measured(step: Sequence[Array], labels: Sequence[Array] | None = None) -> dict[str, float]:
    """Every per-sample quantity of a step."""
    return finished(statistics_of(step, labels))
