"""The samples that an epoch has shown so far, each with its last values.

Shape suffixes: N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.leaderboard._batch import SampleBatch, SampleId, id_order, plain
from jacoscope.quantities import FloatArray

__all__ = ["Epoch", "order"]

_NUMBERS = np.dtype(
    [
        ("loss", np.float64),
        ("norm", np.float64),
        ("alignment", np.float64),
        ("class_alignment", np.float64),
        ("last_layer_norm", np.float64),
        ("step", np.int64),
    ]
)


class Epoch:
    """Columns that grow with the samples seen.

    Attributes:
        ids: What each sample is called, in the order in which they came.
        labels: The class of each, ``None`` where it is not known.
        id_sources: Where ids came from.
        unknown: Why samples' ``label`` or ``loss`` is not known, where it should be.
        last_layer: The layer that ``last_layer_norm`` is over: the last of the first batch that
            has layers.
    """

    def __init__(self) -> None:
        self.ids: list[SampleId] = []
        self.labels: list[SampleId | None] = []
        self.id_sources: list[str] = []
        self.unknown: dict[str, str] = {}
        self.last_layer: str | None = None
        self._slots: dict[SampleId, int] = {}
        self._table = np.zeros(0, dtype=_NUMBERS)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, batch: SampleBatch) -> dict[SampleId, int]:
        """Take up a batch; its different samples, each with its last index in the batch."""
        indices = {plain(name): index for index, name in enumerate(batch.ids)}
        kept = list(indices.values())
        slots = [self._slot(name) for name in indices]
        if batch.labels is not None:
            for slot, index in zip(slots, kept, strict=True):
                self.labels[slot] = plain(batch.labels[index])
        if batch.id_source not in self.id_sources:
            self.id_sources.append(batch.id_source)
        self.unknown.update(batch.unknown)
        if self.last_layer is None and len(batch.rows) > 1:
            self.last_layer = batch.rows[-1]
        numbers: dict[str, Any] = {
            "loss": batch.losses,
            "norm": batch.norms_RN[0],
            "alignment": batch.alignments_RN[0],
            "class_alignment": batch.class_alignments_N,
            "last_layer_norm": self._last_layer_norms(batch),
        }
        for name, column_N in numbers.items():
            self._table[name][slots] = np.nan if column_N is None else np.asarray(column_N)[kept]
        self._table["step"][slots] = batch.step
        return indices

    def column(self, name: str, ids: Sequence[SampleId] | None = None) -> npt.NDArray[Any]:
        """One number of these samples, or of all, shape (N,)."""
        column_N: npt.NDArray[Any] = self._table[name][: len(self.ids)]
        return column_N if ids is None else column_N[[self._slots[name] for name in ids]]

    def about(self, name: SampleId) -> dict[str, Any]:
        """A sample's label and loss."""
        slot = self._slots[name]
        return {"label": self.labels[slot], "loss": float(self._table["loss"][slot])}

    def _slot(self, name: SampleId) -> int:
        slot = self._slots.setdefault(name, len(self._slots))
        if slot == len(self.ids):
            self.ids.append(name)
            self.labels.append(None)
            if slot == len(self._table):
                spare = np.zeros(max(256, slot), dtype=_NUMBERS)
                self._table = np.concatenate([self._table, spare])
        return slot

    def _last_layer_norms(self, batch: SampleBatch) -> FloatArray | None:
        if self.last_layer not in batch.rows:
            return None
        row_N: FloatArray = batch.norms_RN[batch.rows.index(self.last_layer)]
        return row_N


def order(ids: Sequence[SampleId], scores: FloatArray) -> npt.NDArray[np.intp]:
    """Indices along the last axis, lowest score first, those that are equal by id, nan last.

    Args:
        ids: What each sample is called, shape (N,).
        scores: Scores, shape (..., N).
    """
    ranks_N = np.empty(len(ids), dtype=np.intp)
    ranks_N[sorted(range(len(ids)), key=lambda index: id_order(ids[index]))] = np.arange(len(ids))
    return np.lexsort((np.broadcast_to(ranks_N, scores.shape), scores), axis=-1)
