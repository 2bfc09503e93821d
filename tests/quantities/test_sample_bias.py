"""What is called unbiased is, in simulations with fixed seeds; what is not is as said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jacoscope.quantities import QUANTITIES, RunningMeans, SampleNeeds, noise_parts
from jacoscope.quantities import combine_statistics as combine
from jacoscope.quantities import sample_statistics as statistics
from quantities.sample_pipeline import arrays_of

Array = Any
MEAN = np.array([0.5, -0.2, 0.0, 0.1])
SPREAD = np.array([1.0, 0.3, 0.8, 0.5])
TRACE, SIGNAL = float((SPREAD**2).sum()), float((MEAN**2).sum())
COLUMNS = SampleNeeds(columns=True)


def step_of(generator: np.random.Generator, sizes: tuple[int, ...]) -> list[Array]:
    """Contributions of a step: gradients of independent samples over their number."""
    return [
        (MEAN + SPREAD * generator.normal(size=(size, len(MEAN)))) / sum(sizes) for size in sizes
    ]


def of_step(step: list[Array]) -> dict[str, float]:
    total: dict[str, float] | None = None
    for c in step:
        one = statistics(arrays_of(c, COLUMNS), None)
        total = one if total is None else combine(total, one)
    assert total is not None
    whole = sum(c.sum(0) for c in step)
    return total | {"grad_sq": float(whole @ whole)}


def value(name: str, known: dict[str, float]) -> float:
    quantity = QUANTITIES[name]  # type: ignore[index]
    return float(quantity.finish({need: np.array([known[need]]) for need in quantity.needs})[0])


def cross(known: dict[str, float]) -> float:
    return known["sample_count"] ** 2 * known["sample_cross_sum"] / known["sample_cross_count"]


EXPECTED: dict[str, tuple[Callable[[dict[str, float]], float], float]] = {
    "tr Σ": (lambda known: noise_parts(known)["noise_trace_mean"], TRACE),
    "|E g|²": (lambda known: noise_parts(known)["noise_signal_mean"], SIGNAL),
    "grad_variance": (lambda known: value("grad_variance", known), TRACE),
    "fisher_trace": (lambda known: value("fisher_trace", known), TRACE + SIGNAL),
    "numerator of coherence": (cross, SIGNAL),
}


@pytest.mark.parametrize("sizes", [(2,), (8,), (3, 2)], ids=str)
def test_unbiased(sizes: tuple[int, ...]) -> None:
    generator = np.random.default_rng(11)
    steps = [of_step(step_of(generator, sizes)) for _ in range(2000)]
    for name, (of, expected) in EXPECTED.items():
        draws = np.array([of(known) for known in steps])
        error = draws.std() / len(draws) ** 0.5
        assert abs(draws.mean() - expected) < 4 * error, name
        assert error < 0.1 * (TRACE + SIGNAL), "the simulation says something"


@pytest.mark.parametrize("sizes", [(12,), (12, 12)], ids=str)
def test_gsnr_has_the_bias_that_it_says(sizes: tuple[int, ...]) -> None:
    """Exactly so for normal gradients: E[mean²/var] = (μ²/σ² + 1/N) (N − 1)/(N − 3)."""
    generator = np.random.default_rng(12)
    draws = np.array([value("gsnr", of_step(step_of(generator, sizes))) for _ in range(2000)])
    count = sizes[0]
    true = float(np.mean(MEAN**2 / SPREAD**2))
    expected = (true + 1 / count) * (count - 1) / (count - 3) - 1 / count
    assert abs(draws.mean() - expected) < 4 * draws.std() / len(draws) ** 0.5


@pytest.mark.parametrize("size", [2, 6])
def test_running_means_bring_the_noise_scale_to_its_value(size: int) -> None:
    """A mean of ratios would not get there; with two samples it has no expectation at all."""
    generator = np.random.default_rng(13)
    means = RunningMeans(decay=0.9995)
    for _ in range(6000):
        known = of_step(step_of(generator, (size,)))
        averaged = means.update("row", noise_parts(known))
    assert abs(value("noise_scale", known | dict(averaged)) / (TRACE / SIGNAL) - 1) < 0.15
