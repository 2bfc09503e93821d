"""The samples with the largest gradients in each layer.

Shape suffixes: R rows, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from jacoscope.leaderboard._batch import SampleBatch, SampleId
from jacoscope.leaderboard._epoch import order
from jacoscope.leaderboard._standing import Standing

__all__ = ["LayerLeader", "LayerLeaders"]

_RESERVE = 4
"""How many times as many samples are remembered as a board has."""


class LayerLeader(NamedTuple):
    """A sample's gradient in a layer: its norm, its alignment, and the step."""

    norm: float
    alignment: float
    step: int


class LayerLeaders:
    """Gathers, layer by layer, the samples with the largest gradients.

    A network has too many layers to keep every sample's norm in each, so only the leaders are kept.

    Args:
        size: Places per layer.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._standings: dict[str, Standing] = {}
        self._leaders: dict[str, dict[SampleId, LayerLeader]] = {}

    def take(self, batch: SampleBatch, indices: Mapping[SampleId, int]) -> None:
        """Take up a batch.

        Args:
            batch: The batch.
            indices: Its different samples, each with its index.
        """
        names, kept = list(indices), list(indices.values())
        if not self._size or len(batch.rows) == 1:
            return
        norms_RN = np.asarray(batch.norms_RN)[1:, kept]
        order_RN = order(names, -norms_RN)[:, : _RESERVE * self._size]
        for row, layer in enumerate(batch.rows[1:]):
            standing = self._standings.setdefault(layer, Standing(_RESERVE * self._size))
            places = [place for place in order_RN[row].tolist() if norms_RN[row, place] >= 0]
            scores = (-norms_RN[row, places]).tolist()
            standing.take(zip((names[place] for place in places), scores, strict=True), indices)
            leaders = self._leaders.get(layer, {})
            for place in places:
                leaders[names[place]] = LayerLeader(
                    float(norms_RN[row, place]),
                    float(batch.alignments_RN[row + 1, kept[place]]),
                    batch.step,
                )
            self._leaders[layer] = {name: leaders[name] for name in standing.names}

    def boards(self) -> Iterator[tuple[str, list[tuple[SampleId, LayerLeader]]]]:
        """Each layer with its first samples."""
        for layer, leaders in self._leaders.items():
            if leaders:
                yield layer, list(leaders.items())[: self._size]
