"""Means over captures, for what a single batch is too noisy for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["RunningMeans"]


@dataclass
class _Mean:
    """A mean with exponentially decaying weights, not yet divided by their sum."""

    total: float = 0.0
    weight: float = 0.0


class RunningMeans:
    """Exponential running means over captures, by row and statistic.

    A mean is m = Σ decayᵏ xₖ / Σ decayᵏ over the values so far, newest first: the weights add up to
    one from the first value on, so that no start value biases it (Kingma and Ba, Adam,
    arXiv:1412.6980, section 3).

    Args:
        decay: Weight of the past against the newest value, in [0, 1).
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self._decay = decay
        self._means: dict[str, dict[str, _Mean]] = {}

    def update(self, row: str, values: Mapping[str, float]) -> Mapping[str, float]:
        """Take in the newest values of a row.

        Args:
            row: Name of the row.
            values: By statistic; one that is not finite is skipped.

        Returns:
            The mean of each, ``nan`` as long as it has had no finite value.
        """
        means = self._means.setdefault(row, {})
        for name, value in values.items():
            mean = means.setdefault(name, _Mean())
            if math.isfinite(value):
                mean.total = self._decay * mean.total + (1 - self._decay) * value
                mean.weight = self._decay * mean.weight + (1 - self._decay)
        return {
            name: means[name].total / means[name].weight if means[name].weight else math.nan
            for name in values
        }

    def state_dict(self) -> dict[str, Any]:
        """All means as plain values."""
        return {
            row: {name: [mean.total, mean.weight] for name, mean in means.items()}
            for row, means in self._means.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._means = {
            row: {name: _Mean(float(total), float(weight)) for name, (total, weight) in of.items()}
            for row, of in state.items()
        }
