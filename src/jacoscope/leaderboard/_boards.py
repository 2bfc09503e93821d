"""What an epoch's leaderboards say.

Shape suffixes: N samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Literal, TypeAlias

from jacoscope.leaderboard._batch import SampleId, Thing
from jacoscope.quantities import FloatArray

__all__ = ["Board", "Entry", "EpochBoards", "RankedBy", "SampleColumns"]

RankedBy: TypeAlias = Literal[
    "norm", "mean_norm", "mean_loss", "alignment", "class_alignment", "mean_class_alignment"
]
"""The number of an entry that its place on a board is by."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One sample's place on a board. Numbers are ``nan`` where they are not known.

    Args:
        rank: Its place, from 1.
        id: What it is called.
        label: Its class, if known.
        loss: Its loss.
        mean_loss: Running mean over epochs of the loss.
        norm: ‖g_i‖, over all watched parameters, or over the layer where there is one.
        mean_norm: Running mean over epochs of the norm over all watched parameters.
        alignment: cos(g_i, G), over the same parameters as ``norm``.
        class_alignment: Mean of the cosines with the gradients of the others of its class in the
            batch.
        mean_class_alignment: Its running mean over epochs.
        step: The step at which it was last seen.
        layer: The layer, on a layer's board. Running means and the alignment with its class are not
            known there.
        thing: The sample itself, if it can be shown.
    """

    rank: int
    id: SampleId
    label: SampleId | None
    loss: float
    norm: float
    alignment: float
    step: int
    mean_norm: float = nan
    mean_loss: float = nan
    class_alignment: float = nan
    mean_class_alignment: float = nan
    layer: str | None = None
    thing: Thing | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Board:
    """Samples in order of a number.

    Args:
        name: Such as ``largest_gradient``, or ``largest_gradient/LAYER``.
        title: What it shows, in a few words.
        explanation: What its number is and how to read it, in a sentence or two.
        ranked_by: Which number of its entries it is in order of.
        entries: The first places.
        layer: The layer that it is on; ``None`` for all watched parameters.
    """

    name: str
    title: str
    explanation: str
    ranked_by: RankedBy
    entries: tuple[Entry, ...]
    layer: str | None = None


@dataclass(frozen=True, eq=False)
class SampleColumns:
    """The samples seen in an epoch, one element of each column per sample, largest norm first.

    Args:
        ids: What each is called.
        labels: The class of each, ``None`` where it is not known.
        losses: Its loss, shape (N,).
        mean_losses: Running means of the losses over epochs, shape (N,).
        norms: ‖g_i‖ over all watched parameters, shape (N,).
        mean_norms: Running means of the norms over epochs, shape (N,).
        alignments: cos(g_i, G), shape (N,).
        class_alignments: Mean of the cosines with the gradients of the others of its class in the
            batch, shape (N,).
        mean_class_alignments: Their running means over epochs, shape (N,).
        last_layer_norms: ‖g_i‖ over the last layer alone, shape (N,).
        steps: The step at which each was last seen.
    """

    ids: tuple[SampleId, ...]
    labels: tuple[SampleId | None, ...]
    losses: FloatArray
    mean_losses: FloatArray
    norms: FloatArray
    mean_norms: FloatArray
    alignments: FloatArray
    class_alignments: FloatArray
    mean_class_alignments: FloatArray
    last_layer_norms: FloatArray
    steps: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class EpochBoards:
    """The leaderboards of an epoch.

    Args:
        epoch: Epochs completed before it.
        step: Its last step.
        seen: How many different samples were seen.
        id_source: Where their ids come from, as a noun.
        boards: The boards; those that would be empty are not there.
        columns: The numbers of all samples seen, or of those with the largest norms.
        omitted: How many samples the columns leave out.
        last_layer: The layer that ``columns.last_layer_norms`` is over; ``None`` if there was none.
        pushes: By sample on a board of all layers, the layers that have most of its gradient, each
            with its share of ‖g_i‖², largest first.
        unknown: Why samples' ``label`` or ``loss`` is not known, where it should be.
    """

    epoch: int
    step: int
    seen: int
    id_source: str
    boards: tuple[Board, ...]
    columns: SampleColumns
    omitted: int = 0
    last_layer: str | None = None
    pushes: Mapping[SampleId, tuple[tuple[str, float], ...]] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
