"""Running means over epochs, by sample.

Shape suffixes: N samples, M means per sample.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.leaderboard._batch import SampleId, id_order
from jacoscope.quantities import FloatArray

__all__ = ["RunningMeans"]


class RunningMeans:
    """Weighted means of numbers that each sample has once per epoch.

    Of a sample's values, the k-th last has weight ``decay``^(k−1); weights are divided out, so the
    mean of the first value is that value. Values that are not finite are passed over.

    Args:
        decay: Factor by which a value's weight falls with each one that follows it.
        means: How many means each sample has.
        limit: Most samples to remember; those not updated for longest are forgotten.
    """

    def __init__(self, decay: float, means: int, limit: int = 1_000_000) -> None:
        self._decay = decay
        self._limit = limit
        self._shape = (2, means)  # of a sample: sums of weighted values, and of weights
        self._slots: dict[SampleId, int] = {}
        self._sums = np.zeros((0, *self._shape))
        self._updated = np.zeros(0, dtype=np.int64)
        self._updates = 0

    def __len__(self) -> int:
        return len(self._slots)

    def preview(self, ids: Sequence[SampleId], values_NM: FloatArray) -> FloatArray:
        """The means as they would be with these values, ``nan`` where there is none at all."""
        return _divide(self._advanced(self._places(ids), values_NM))

    def update(self, ids: Sequence[SampleId], values_NM: FloatArray) -> FloatArray:
        """Take up a value of each mean of these different samples; their means after that."""
        sums = self._advanced(self._places(ids), values_NM)
        for name in ids:
            self._slots.setdefault(name, len(self._slots))
        self._updates += 1
        self._resize(len(self._slots))
        places_N = self._places(ids)
        self._sums[places_N] = sums
        self._updated[places_N] = self._updates
        if len(self._slots) > self._limit:
            self._forget()
        return _divide(sums)

    def _places(self, ids: Sequence[SampleId]) -> npt.NDArray[np.intp]:
        return np.array([self._slots.get(name, -1) for name in ids], dtype=np.intp)

    def _advanced(self, places_N: npt.NDArray[np.intp], values_NM: FloatArray) -> FloatArray:
        sums = np.zeros((len(places_N), *self._shape))
        known_N = places_N >= 0
        sums[known_N] = self._sums[places_N[known_N]]
        finite_NM = np.isfinite(values_NM)
        new = np.stack([np.where(finite_NM, values_NM, 0.0), np.ones_like(values_NM)], axis=1)
        return np.where(finite_NM[:, None], self._decay * sums + new, sums)

    def _resize(self, size: int) -> None:
        missing = size - len(self._sums)
        if missing > 0:
            self._sums = np.concatenate([self._sums, np.zeros((missing, *self._shape))])
            self._updated = np.concatenate([self._updated, np.zeros(missing, dtype=np.int64)])

    def _forget(self) -> None:
        """Keep the samples that were updated last."""
        names = sorted(self._slots, key=id_order)
        names.sort(key=lambda name: -int(self._updated[self._slots[name]]))
        self._keep(names[: self._limit])

    def _keep(self, names: Sequence[SampleId]) -> None:
        places_N = self._places(names)
        self._sums, self._updated = self._sums[places_N], self._updated[places_N]
        self._slots = {name: slot for slot, name in enumerate(names)}

    def state_dict(self) -> dict[str, Any]:
        """The sums as plain values; arrays are texts, as many numbers take a checkpoint long."""
        ids = list(self._slots)
        are_numbers = all(type(name) is int and abs(name) < 2**63 for name in ids)
        return {
            "ids": _text(np.array(ids, dtype=np.int64)) if are_numbers else ids,
            "sums": _text(self._sums),
            "updated": _text(self._updated),
            "updates": self._updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the sums that a checkpoint kept; begin anew where it had other means."""
        ids = state.get("ids", ())
        ids = _array(ids, np.int64).tolist() if isinstance(ids, str) else ids
        sums = _array(state.get("sums", ""), np.float64)
        updated = _array(state.get("updated", ""), np.int64)
        shape = (len(ids), *self._shape)
        if sums.size != math.prod(shape) or len(updated) != len(ids):
            self.load_state_dict({})
            return
        self._slots = {name: slot for slot, name in enumerate(ids)}
        self._sums = sums.reshape(shape)
        self._updated = updated
        self._updates = int(state.get("updates", 0))


def _text(array: npt.NDArray[Any]) -> str:
    little = array.dtype.newbyteorder("<")
    return base64.b64encode(array.astype(little).tobytes()).decode()


def _array(text: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    little = np.dtype(dtype).newbyteorder("<")
    return np.frombuffer(base64.b64decode(text), dtype=little).astype(dtype)


def _divide(sums: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore"):
        means_NM: FloatArray = sums[:, 0] / sums[:, 1]
    return means_NM
