"""All quantities by name, and what a set of them needs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from jacoscope.config import QuantityName
from jacoscope.quantities._quantity import Quantity
from jacoscope.quantities._sample_statistics import (
    OF_ALL_SAMPLES,
    OF_LABELS,
    SAMPLE_STATISTICS,
)
from jacoscope.quantities._statistics import STATISTICS, Statistic
from jacoscope.quantities.agreement import AGREEMENT_QUANTITIES
from jacoscope.quantities.fisher import FISHER_QUANTITIES
from jacoscope.quantities.gradient import GRADIENT_QUANTITIES
from jacoscope.quantities.noise import NOISE_QUANTITIES
from jacoscope.quantities.probes import (
    ALL_ELSE_EQUAL_QUANTITIES,
    INPUT_JACOBIAN_QUANTITIES,
    LAYER_JACOBIAN_QUANTITIES,
    OUTPUT_JACOBIAN_QUANTITIES,
    TANGENT_KERNEL_QUANTITIES,
)
from jacoscope.quantities.saliency import SALIENCY_QUANTITIES
from jacoscope.quantities.samples import SAMPLE_QUANTITIES
from jacoscope.quantities.update import UPDATE_QUANTITIES

__all__ = [
    "FAMILIES",
    "FAMILY_OF",
    "PROBES",
    "QUANTITIES",
    "inputs_of",
    "is_per_sample",
    "is_probed",
    "needs_all_samples",
    "statistics_for",
]

FAMILIES: Mapping[str, tuple[Quantity, ...]] = {
    "Gradient": GRADIENT_QUANTITIES,
    "Weights and updates": UPDATE_QUANTITIES,
    "Saliency": SALIENCY_QUANTITIES,
    "Samples": SAMPLE_QUANTITIES,
    "Noise": NOISE_QUANTITIES,
    "Agreement": AGREEMENT_QUANTITIES,
    "Fisher": FISHER_QUANTITIES,
    "Output Jacobian": OUTPUT_JACOBIAN_QUANTITIES,
    "Tangent kernel": TANGENT_KERNEL_QUANTITIES,
    "Input Jacobian": INPUT_JACOBIAN_QUANTITIES,
    "Layer Jacobian": LAYER_JACOBIAN_QUANTITIES,
    "All else equal": ALL_ELSE_EQUAL_QUANTITIES,
}
"""Every quantity by its family, in the order of the documentation."""

QUANTITIES: dict[QuantityName, Quantity] = {
    quantity.name: quantity for family in FAMILIES.values() for quantity in family
}
"""Every quantity by its name, in the order of the documentation."""


FAMILY_OF: dict[QuantityName, str] = {
    quantity.name: family for family, quantities in FAMILIES.items() for quantity in quantities
}
"""The family of every quantity."""

PROBES: Mapping[str, frozenset[QuantityName]] = {
    family: frozenset(quantity.name for quantity in FAMILIES[family])
    for family in (
        "Output Jacobian",
        "Tangent kernel",
        "Input Jacobian",
        "Layer Jacobian",
        "All else equal",
    )
}
"""The quantities that probes measure, by family."""


def statistics_for(names: Iterable[QuantityName]) -> tuple[Statistic, ...]:
    """The statistics of the parameters' own tensors that these quantities are made of, each once.

    The histogram is not one, nor are those of samples.
    """
    needed = dict.fromkeys(need for name in names for need in QUANTITIES[name].needs)
    return tuple(STATISTICS[need] for need in needed if need in STATISTICS)


@functools.cache
def is_per_sample(name: QuantityName) -> bool:
    """Whether a quantity takes each sample's contribution to the gradient."""
    return any(need in SAMPLE_STATISTICS for need in QUANTITIES[name].needs)


def needs_all_samples(name: QuantityName) -> bool:
    """Whether a quantity cannot be told from some of a batch's samples."""
    return not OF_ALL_SAMPLES.isdisjoint(QUANTITIES[name].needs)


def needs_labels(name: QuantityName) -> bool:
    """Whether a quantity cannot be told without the samples' labels."""
    return not OF_LABELS.isdisjoint(QUANTITIES[name].needs)


def is_probed(name: str) -> bool:
    """Whether a probe measures it, after the step and on a copy of the model."""
    return any(name in names for names in PROBES.values())


@functools.cache
def inputs_of(name: QuantityName) -> frozenset[str]:
    """Which of ``gradient``, ``weight``, ``update`` and ``samples`` a quantity is made of."""
    if "histogram" in QUANTITIES[name].needs:
        return frozenset({"gradient"})
    samples = frozenset({"samples"} if is_per_sample(name) else ())
    inputs: frozenset[str] = samples.union(*(s.inputs for s in statistics_for([name])))
    return inputs
