"""How the parameters of one graph are captured: which uses, by which rules, in which layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from jacoscope.capturing._layout import Layout
from jacoscope.capturing._pins import Pins
from jacoscope.capturing._straight import Straight
from jacoscope.capturing._views import View
from jacoscope.capturing._walk import Edge, Shape

__all__ = ["Base", "CapturePlan", "PlannedUse"]


@dataclass(frozen=True, eq=False)
class PlannedUse:
    """One place where a parameter, or what was made of parameters alone, meets the batch.

    Args:
        node: Index of the node.
        slot: Which of its inputs.
        shape: The shape of that input.
        base: The value that the uses of one tensor are added up at.
        views: How the input is taken from the base.
        layouts: Of each output of the node; ``None`` for a term of the loss that all samples
            share.
        input_shapes: Of all inputs of the node.
    """

    node: int
    slot: int
    shape: Shape
    base: Edge
    views: tuple[View, ...]
    layouts: tuple[Layout | None, ...] | None
    input_shapes: tuple[Shape | None, ...]


@dataclass(frozen=True, eq=False)
class Base:
    """A value made of parameters alone, at which uses are added up.

    Args:
        edge: The value.
        shape: Its shape.
        sweep: Nodes from it down to the parameters; empty where it is a parameter itself.
        parameters: Names of the parameters that it was made of.
    """

    edge: Edge
    shape: Shape
    sweep: tuple[int, ...]
    parameters: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class CapturePlan:
    """How to capture the parameters of graphs with one structure.

    Args:
        samples: Number of samples.
        index: Sample of each row, where the user gave one.
        uses: By node, the uses there.
        bases: By value, where uses are added up.
        leaves: By parameter that can be captured, the index of its leaf.
        missing: By parameter, why it cannot be captured.
        untold: Those of them that are missing since nothing has as many rows as there are samples.
        rules: By parameter, the rules that its uses go by.
        described: By parameter, the layouts of its uses.
        coupled: What couples the samples: batch normalisations in training mode.
        cuts: By node behind such a coupling, the layout of its outputs.
        frontier: By node, the layouts at the frontier.
        pins: Indices that it depends on.
        is_stable: Whether it holds for all graphs of this structure.
        straight: By node, linear layers whose rows are the samples; they are among the uses too.
        one_by_one: Nodes and inputs whose derivative cannot be run for several samples at once;
            found in the rehearsal.
    """

    samples: int
    index: Tensor | None
    uses: Mapping[int, tuple[PlannedUse, ...]] = field(default_factory=dict)
    bases: Mapping[Edge, Base] = field(default_factory=dict)
    leaves: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    untold: frozenset[str] = frozenset()
    rules: Mapping[str, str] = field(default_factory=dict)
    described: Mapping[str, str] = field(default_factory=dict)
    coupled: tuple[str, ...] = ()
    cuts: Mapping[int, tuple[Layout | None, ...]] = field(default_factory=dict)
    frontier: Mapping[int, tuple[Layout | None, ...]] = field(default_factory=dict)
    pins: Pins = Pins({})
    is_stable: bool = True
    straight: Mapping[int, Straight] = field(default_factory=dict)
    one_by_one: set[tuple[int, int]] = field(default_factory=set)
