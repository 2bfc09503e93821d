"""What a quantity is: its definition, its provenance, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from jacoscope.config import QuantityName

__all__ = ["BoolArray", "FloatArray", "IntArray", "Quantity"]

BoolArray: TypeAlias = npt.NDArray[np.bool_]
FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Quantity:
    """A quantity per parameter tensor. Documentation and tags are made from these fields.

    Args:
        name: What configurations, tags and frames call it.
        title: What pictures call it.
        formula: Its definition; g is the gradient, θ the weights, Δθ the optimiser's update, n the
            number of scalars in the parameter tensor, j runs over them. Of per-sample quantities,
            gᵢ is sample i's gradient and N the number of samples.
        unit: Its unit; "loss" is whatever unit the loss has.
        source: Where it comes from.
        scaling: What becomes of it when the loss is multiplied by s.
        nan_when: When it is ``nan``.
        reading: What it tells a person.
        needs: Names of the statistics that it is made of, or that these are made of.
        finish: From those statistics (and ``numel``), each of shape (L,), to its values, shape
            (L,), or (L, N) for a histogram.
        is_log: Whether it spans decades, so that pictures use a logarithmic scale.
    """

    name: QuantityName
    title: str
    formula: str
    unit: str
    source: str
    scaling: str
    nan_when: str
    reading: str
    needs: tuple[str, ...]
    finish: Callable[[Mapping[str, FloatArray]], FloatArray]
    is_log: bool = True
