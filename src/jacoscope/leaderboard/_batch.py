"""What one captured backward says of its samples.

Shape suffixes: R rows (all watched parameters, then layers), N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from jacoscope.quantities import FloatArray

__all__ = ["ALL", "SampleBatch", "SampleId", "Thing", "id_order", "plain"]

ALL = "all"
"""The row that is over all watched parameters."""

SampleId: TypeAlias = str | int
"""What a sample is called."""

Thing: TypeAlias = npt.NDArray[np.uint8] | str
"""A sample itself: an image of shape (height, width, channels), or a text."""


@dataclass(frozen=True, eq=False)
class SampleBatch:
    """The samples of one captured backward.

    Args:
        ids: What each sample is called, shape (N,).
        id_source: Where the ids come from, as a noun: ``dataset index``, ``batch key 'uid'``, or
            ``position in the run's batches`` where no id was to be had.
        step: Optimiser steps before this one.
        labels: The class of each sample, shape (N,), if it is known.
        losses: Loss of each sample, shape (N,), ``nan`` where unknown.
        rows: What the norms are over: ``all`` watched parameters first, then layers by name, in the
            model's order.
        norms_RN: ‖g_i‖, norm of each per-sample gradient, by row.
        alignments_RN: cos(g_i, G), with the batch gradient G, by row.
        class_alignments_N: Mean of the cosines of each per-sample gradient with those of the other
            samples of its class in the batch, over all watched parameters; ``nan`` where there are
            none.
        thing: Returns the sample at an index of the batch itself, if it can be shown. It is asked
            only for samples that enter a board, and not after the batch was added.
        unknown: Why the samples' ``label`` or ``loss`` is not known, where it should be.
    """

    ids: Sequence[SampleId]
    id_source: str
    step: int
    labels: Sequence[SampleId] | None
    losses: FloatArray | None
    rows: tuple[str, ...]
    norms_RN: FloatArray
    alignments_RN: FloatArray
    class_alignments_N: FloatArray | None
    thing: Callable[[int], Thing | None]
    unknown: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        samples = len(self.ids)
        assert self.rows[:1] == (ALL,), f"the first row is {ALL!r}, got {self.rows[:1]}"
        assert len(set(self.rows)) == len(self.rows), "a row comes twice"
        for name in ("norms_RN", "alignments_RN"):
            assert getattr(self, name).shape == (len(self.rows), samples), name
        for name in ("labels", "losses", "class_alignments_N"):
            column = getattr(self, name)
            assert column is None or len(column) == samples, name


def plain(value: SampleId) -> SampleId:
    """An id or a label without its NumPy type, which JSON and checkpoints do not take."""
    return value.item() if isinstance(value, np.generic) else value


def id_order(value: SampleId) -> tuple[bool, SampleId]:
    """A key that sorts ids: numbers by size, then texts by letter."""
    return isinstance(value, str), value
