"""All quantities by name, and what a set of them needs."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from jacoscope.config import QuantityName
from jacoscope.quantities._quantity import Quantity
from jacoscope.quantities._statistics import STATISTICS, Statistic
from jacoscope.quantities.gradient import GRADIENT_QUANTITIES
from jacoscope.quantities.saliency import SALIENCY_QUANTITIES
from jacoscope.quantities.update import UPDATE_QUANTITIES

__all__ = ["QUANTITIES", "inputs_of", "statistics_for"]

QUANTITIES: dict[QuantityName, Quantity] = {
    quantity.name: quantity
    for quantity in (*GRADIENT_QUANTITIES, *UPDATE_QUANTITIES, *SALIENCY_QUANTITIES)
}
"""Every quantity by its name, in the order of the documentation."""


def statistics_for(names: Iterable[QuantityName]) -> tuple[Statistic, ...]:
    """The statistics that these quantities are made of, each once; the histogram is not one."""
    needed = dict.fromkeys(need for name in names for need in QUANTITIES[name].needs)
    return tuple(STATISTICS[need] for need in needed if need in STATISTICS)


@functools.cache
def inputs_of(name: QuantityName) -> frozenset[str]:
    """Which of ``gradient``, ``weight`` and ``update`` a quantity is made of."""
    if "histogram" in QUANTITIES[name].needs:
        return frozenset({"gradient"})
    inputs: frozenset[str] = frozenset().union(*(s.inputs for s in statistics_for([name])))
    return inputs
