"""The past of a quantity, thinned so that its length stays bounded.

Shape suffixes: L parameters, S columns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.quantities import FloatArray
from jacoscope.record import Axis

__all__ = ["ROWS_PER_PAGE", "History", "page_count"]

ROWS_PER_PAGE = 40
"""Layers that fit into one picture."""


class History:
    """Values of a quantity by captured step.

    When there are more columns than allowed, neighbours are merged, keeping of each pair the value
    of larger magnitude, one that is not finite above all, and one that is missing last of all:
    peaks and faults survive.

    Args:
        axis: The parameters.
        columns: Most columns to keep.
    """

    def __init__(self, axis: Axis, columns: int = 240) -> None:
        self.axis = axis
        self._limit = columns
        self._steps: list[int] = []
        self._values: list[FloatArray] = []
        self._missing: list[npt.NDArray[np.bool_]] = []
        self.last_step = -1
        self.is_thinned = False

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def steps(self) -> list[int]:
        """The first step of each column."""
        return list(self._steps)

    @property
    def values_LS(self) -> FloatArray:
        """The values, shape (L, S)."""
        return np.stack(self._values, axis=1)

    @property
    def missing_LS(self) -> npt.NDArray[np.bool_]:
        """Which of the values are nan because they are missing, shape (L, S)."""
        return np.stack(self._missing, axis=1)

    def append(
        self, step: int, values_L: FloatArray, missing: Collection[str] = frozenset()
    ) -> None:
        """Add a captured step; one that is already there, or later ones, are replaced by it.

        Args:
            step: The step.
            values_L: Its values.
            missing: Parameters whose value is missing.
        """
        while self._steps and self._steps[-1] >= step:
            self._steps.pop()
            self._values.pop()
            self._missing.pop()
        self._steps.append(step)
        self._values.append(values_L.copy())
        self._missing.append(np.array([name in missing for name in self.axis.names], dtype=bool))
        self.last_step = step
        if len(self._steps) > self._limit:
            self._thin()

    def _thin(self) -> None:
        kept = len(self._steps) % 2  # an odd one out, the newest, stays as it is
        pairs = range(0, len(self._steps) - kept, 2)
        values, missing = [], []
        for index in pairs:
            value_1, value_2 = self._values[index : index + 2]
            missing_1, missing_2 = self._missing[index : index + 2]
            first_L = _takes_first(value_1, value_2, missing_1, missing_2)
            values.append(np.where(first_L, value_1, value_2))
            missing.append(np.where(first_L, missing_1, missing_2))
        self._values = values + self._values[len(self._values) - kept :]
        self._missing = missing + self._missing[len(self._missing) - kept :]
        self._steps = [self._steps[index] for index in pairs] + self._steps[
            len(self._steps) - kept :
        ]
        self.is_thinned = True

    def state_dict(self) -> dict[str, Any]:
        """The history as plain values."""
        return {
            "digest": self.axis.digest,
            "steps": list(self._steps),
            "values": [values.tolist() for values in self._values],
            "missing": [missing.tolist() for missing in self._missing],
            "last_step": self.last_step,
            "is_thinned": self.is_thinned,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a history, unless it is of other parameters."""
        if state.get("digest") != self.axis.digest:
            return
        self._steps = [int(step) for step in state["steps"]]
        self._values = [np.array(values, dtype=np.float64) for values in state["values"]]
        self._missing = [np.array(missing, dtype=bool) for missing in state["missing"]]
        self.last_step = int(state["last_step"])
        self.is_thinned = bool(state["is_thinned"])


def page_count(history: History) -> int:
    """Number of pictures that a quantity's layers take."""
    return max(1, -(-len(history.axis.names) // ROWS_PER_PAGE))


def _takes_first(
    first: FloatArray,
    second: FloatArray,
    first_missing: npt.NDArray[np.bool_],
    second_missing: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """Where the first of two values says more than the second."""
    size_1, size_2 = (
        np.where(missing, -1.0, np.where(np.isnan(values), np.inf, np.abs(values)))
        for values, missing in ((first, first_missing), (second, second_missing))
    )
    taken: npt.NDArray[np.bool_] = size_1 > size_2
    return taken
