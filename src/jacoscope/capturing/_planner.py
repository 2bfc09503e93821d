"""One frontier's plan: what is on the parameters' side, where it meets the batch, how told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jacoscope.capturing._bases import Bases
from jacoscope.capturing._coding import Flow, Reading, read_layouts
from jacoscope.capturing._frontier import Frontier
from jacoscope.capturing._layout import Constant, Layout, Regular
from jacoscope.capturing._pins import Pins, moved_by_index
from jacoscope.capturing._plan import Base, CapturePlan, PlannedUse
from jacoscope.capturing._straight import straight_layers
from jacoscope.capturing._views import VIEWS
from jacoscope.capturing._walk import Edge, Graph, Shape, operation_of
from jacoscope.capturing.rules import RULES, rule_name

__all__ = ["Planner"]

# The value depends on parameters alone, but its gradient may tell the samples apart.
_FANS_OUT = ("Expand", "Repeat", "RepeatInterleave", "Index", "IndexSelect", "Gather", "Embedding")
_BATCH_NORMS = ("NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm")
_BATCH_DIMENSION = {"Convolution": 0, "MkldnnRnnLayer": 1, **dict.fromkeys(_BATCH_NORMS, 0)}
# By operation and input, the dimension that a matrix product sums over.
_SUMMED = {
    "Mm": {0: 1, 1: 0},
    "Addmm": {1: 1, 2: 0},
    "Bmm": {0: 2, 1: 1},
    "Baddbmm": {1: 2, 2: 1},
}
_CONTRADICTION = 1_000_000
_ROUNDS = 6
# Where these have an operand that is not in the graph, that is most likely the batch.
_ENTRIES = frozenset(("Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Convolution", "MkldnnRnnLayer"))

_LATE = "it is used after the loss was added up over the samples"
_MIXED = "samples are mixed in the gradient of a layer that uses it"


@dataclass
class Planner:
    """Plans one graph with one frontier.

    Args:
        graph: The graph.
        parameters: The parameters wanted, by name.
        leaves: The index of the leaf of each that can be had.
        samples: Number of samples.
        index: Sample of each row of the batch, where the user gave one.
        only: By node, whether it depends on parameters alone.
        frontier: Where the batch begins below the loss.
    """

    graph: Graph
    parameters: Mapping[str, Tensor]
    leaves: Mapping[str, int]
    samples: int
    index: Tensor | None
    only: Sequence[bool]
    frontier: Frontier

    def __post_init__(self) -> None:
        self.certain = self._certain()

    def _certain(self) -> list[bool]:
        """By node, whether it is on the parameters' side without asking: nothing fanned out."""
        certain = [False] * len(self.graph.nodes)
        for node in reversed(range(len(self.graph.nodes))):
            certain[node] = (
                self.only[node]
                and operation_of(self.graph.names[node]) not in _FANS_OUT
                and all(edge is None or certain[edge[0]] for edge in self.graph.inputs[node])
            )
        return certain

    def plan(self, absent: Mapping[str, str]) -> tuple[CapturePlan, int, int]:
        """The plan, how much speaks against the frontier, and how many values seem mixed."""
        norms, cuts, readings = self._read()
        free = self._free(readings)
        bases = Bases(self.graph, self.leaves)
        uses: dict[int, list[PlannedUse]] = {}
        missing = dict(absent)
        rules: dict[str, list[str]] = {}
        described: dict[str, list[str]] = {}

        def add(
            node: int, slot: int, edge: Edge, layouts: tuple[Layout | None, ...] | None
        ) -> None:
            base, views = bases.of(edge)
            if base is None:
                return
            shape = self.graph.shape(edge)
            assert shape is not None
            inputs = tuple(
                None if each is None else self.graph.shape(each) for each in self.graph.inputs[node]
            )
            uses.setdefault(node, []).append(
                PlannedUse(node, slot, shape, base.edge, views, layouts, inputs)
            )
            rule, layout = self._names(node, slot, edge, layouts)
            made = f" of what is made of {len(base.parameters)}" if base.sweep else ""
            for name in base.parameters:
                _note(rules, name, rule + made)
                _note(described, name, layout)

        for node, edges in enumerate(self.graph.inputs):
            if free[node] or self.graph.is_leaf(node):
                continue
            for slot, edge in enumerate(edges):
                if edge is None or not free[edge[0]]:
                    continue
                if (node, slot) in self.frontier.shared:
                    add(node, slot, edge, None)
                    continue
                names = bases.below(edge[0])
                if node not in readings:
                    if node in self.frontier.late:
                        missing.update(dict.fromkeys(names, _LATE))
                    continue
                found = readings[node]
                if any(reading.is_alive and reading.layout is None for reading in found):
                    missing.update(dict.fromkeys(names, _MIXED))
                elif any(reading.is_alive for reading in found):
                    add(node, slot, edge, tuple(reading.layout for reading in found))
        layouts = [
            layout
            for each in uses.values()
            for use in each
            for layout in use.layouts or ()
            if layout is not None
        ]
        rows = self.samples if self.index is None else len(self.index)
        mixed = [base for base in bases.found.values() if self._is_mixed(base)]
        stable = all(reading.is_certain for each in readings.values() for reading in each)
        plan = CapturePlan(
            samples=self.samples,
            index=self.index,
            uses={node: tuple(each) for node, each in uses.items()},
            bases=bases.found,
            leaves={name: leaf for name, leaf in self.leaves.items() if name not in missing},
            missing=missing,
            rules={name: " + ".join(each) for name, each in rules.items()},
            described={name: "; ".join(each) for name, each in described.items()},
            coupled=(
                *(self._norm_name(node) for node in norms),
                *dict.fromkeys(f"layers between {b.parameters[0]} and the loss" for b in mixed),
            ),
            cuts=cuts,
            frontier=self.frontier.layouts,
            pins=Pins.of(self.graph, readings, free),
            is_stable=stable
            and all(layout.is_stable for layout in layouts)
            and not self._permutes(readings, free),
        )
        return (
            replace(plan, straight=straight_layers(plan, self.graph)),
            self._doubts(readings),
            sum(map(self._has_entry, mixed))
            + sum(
                isinstance(reading.layout, Constant) and rows in (shape or ())
                for node, found in readings.items()
                for reading, shape in zip(found, self.graph.shapes[node], strict=False)
            ),
        )

    def _has_entry(self, base: Base) -> bool:
        """Whether a batch most likely enters between a value and its parameters."""
        return any(
            operation_of(self.graph.names[node]) in _ENTRIES
            and any(edge is None for edge in self.graph.inputs[node])
            for node in base.sweep
        )

    def _permutes(self, readings: Mapping[int, tuple[Reading, ...]], free: Sequence[bool]) -> bool:
        """Whether a product with a constant sums over the samples and yet leaves them apart.

        It can only be a permutation, and may be another one next time.
        """
        for node, each in readings.items():
            along = _SUMMED.get(operation_of(self.graph.names[node]))
            if along is None or each[0].layout is None:
                continue
            for slot, dim in along.items():
                edge = self.graph.inputs[node][slot]
                source = readings.get(edge[0], ()) if edge is not None else ()
                if edge is None or free[edge[0]] or edge[1] >= len(source):
                    continue
                layout = source[edge[1]].layout
                if isinstance(layout, Regular) and layout.dim == dim:
                    return True
        return False

    def _doubts(self, readings: Mapping[int, tuple[Reading, ...]]) -> int:
        """How many nodes speak against this frontier.

        There samples are mixed, in a tensor with room for the batch along another dimension; or,
        which weighs more, they are along a dimension where that operation never has them.
        """
        rows = self.samples if self.index is None else len(self.index)
        doubts = 0
        for node, found in readings.items():
            dim = _BATCH_DIMENSION.get(operation_of(self.graph.names[node]))
            for reading, shape in zip(found, self.graph.shapes[node], strict=False):
                layout = reading.layout
                if layout is None:
                    doubts += reading.is_alive and _has_room_twice(shape or (), rows)
                elif dim is not None and shape and isinstance(layout, Regular) and len(shape) > 2:
                    doubts += _CONTRADICTION * (layout.dim != dim and shape[dim] > 1)
        return doubts

    def _is_mixed(self, base: Base) -> bool:
        """Whether a value of the parameters' side has in truth a batch, whose samples are mixed."""
        rows = self.samples if self.index is None else len(self.index)
        return any(
            not self.only[node] and any(rows in (shape or ()) for shape in self.graph.shapes[node])
            for node in base.sweep
        )

    def _read(
        self,
    ) -> tuple[list[int], dict[int, tuple[Layout | None, ...]], dict[int, tuple[Reading, ...]]]:
        """Batch normalisations, the layouts behind them, and what the graph said.

        A batch normalisation mixes the samples' gradients, but rows of its input are still rows of
        samples, so behind it the encoding starts anew.
        """
        names = [operation_of(name) for name in self.graph.names]
        below = self._below_frontier()
        asked = [
            node
            for node, name in enumerate(names)
            if node in below
            and not self.graph.is_leaf(node)
            and name not in VIEWS
            and not self.certain[node]
        ]
        # What an index is applied to tells which of its dimensions is the samples'.
        sources = {
            edge[0]
            for node in asked
            if moved_by_index(self.graph.names[node]) or names[node] in _SUMMED
            for edge in self.graph.inputs[node]
            if edge is not None
            and edge[0] in below
            and not self.certain[edge[0]]
            and not self.graph.is_leaf(edge[0])
        }
        asked = [*asked, *sources.difference(asked)]
        norms = [node for node, name in enumerate(names) if self._couples(node, name)]
        cuts: dict[int, tuple[Layout | None, ...]] = {}
        guesses = {node: self._guess(node) for node in norms}
        parameters = [self.parameters[name] for name in self.leaves]
        half = any(each.dtype is torch.float16 for each in parameters) or any(
            each is not None and each.dtype is torch.float16
            for node in self.frontier.layouts
            for each in self.graph.nodes[node]._input_metadata
        )
        readings: dict[int, tuple[Reading, ...]] = {}
        for _ in range(_ROUNDS):
            for node in norms:
                edge, layout = self.graph.inputs[node][0], guesses[node]
                if edge is not None and layout is not None:
                    cuts[edge[0]] = _at_output(edge[1], layout)
            flow = Flow(self.graph, parameters, self.frontier.layouts, cuts)
            readings = read_layouts(flow, self.samples, self.index, asked, half=half)
            new = {
                node: readings[node][0].layout
                for node in norms
                if guesses[node] is None and node in readings and readings[node][0].layout
            }
            if not new:
                break
            guesses.update(new)
        return [node for node in norms if node in readings], cuts, readings

    def _below_frontier(self) -> set[int]:
        seen, stack = set(self.frontier.layouts), list(self.frontier.layouts)
        while stack:
            for edge in self.graph.inputs[stack.pop()]:
                if edge is not None and edge[0] not in seen:
                    seen.add(edge[0])
                    stack.append(edge[0])
        return seen

    def _couples(self, node: int, name: str) -> bool:
        shape = self.graph.shapes[node][0] if self.graph.shapes[node] else None
        if name not in _BATCH_NORMS or shape is None or shape[0] == 1:
            return False
        return bool(getattr(self.graph.nodes[node], "_saved_training", True))

    def _guess(self, node: int) -> Layout | None:
        shape = self.graph.shapes[node][0]
        if self.index is None and shape is not None and shape[0] == self.samples:
            return Regular(0, 1, self.samples)
        return None

    def _norm_name(self, node: int) -> str:
        for edge in self.graph.inputs[node][1:]:
            if edge is not None and edge[0] in self.graph.leaves:
                return self.graph.leaves[edge[0]].rpartition(".")[0] or "the model itself"
        return f"a {operation_of(self.graph.names[node])} without parameters"

    def _free(self, readings: Mapping[int, tuple[Reading, ...]]) -> list[bool]:
        """By node, whether it is on the parameters' side: made without telling samples apart."""
        graph = self.graph
        free = [False] * len(graph.nodes)
        for node in reversed(range(len(graph.nodes))):
            operation = operation_of(graph.names[node])
            if graph.is_leaf(node) or self.certain[node]:
                free[node] = True
                continue
            edges = [edge for edge in graph.inputs[node] if edge is not None]
            if not edges or not all(free[edge[0]] for edge in edges):
                continue
            if node in readings:
                told = any(reading.layout is not None for reading in readings[node])
                free[node] = not told
            else:
                # Not asked: a view, or on no way from the frontier.
                free[node] = operation in VIEWS
        return free

    def _names(
        self, node: int, slot: int, edge: Edge, layouts: tuple[Layout | None, ...] | None
    ) -> tuple[str, str]:
        """What the rule and the layout of a use are called."""
        operation = operation_of(self.graph.names[node])
        if layouts is None:
            return "shared term", "shared evenly"
        is_complex = self.graph.uses_complex(node, edge)
        rule = None if is_complex else RULES.get((operation, slot))
        name = f"{operation}: {rule_name(rule)}" if rule is not None else f"{operation}: generic"
        return name, next((each.describe() for each in layouts if each is not None), "")


def _has_room_twice(shape: Shape, rows: int) -> bool:
    sizes = shape[:-1] if len(shape) > 1 else shape
    return sum(size % rows == 0 for size in sizes) > 1 or any(size % rows**2 == 0 for size in sizes)


def _at_output(output: int, layout: Layout) -> tuple[Layout | None, ...]:
    return (*[None] * output, layout)


def _note(notes: dict[str, list[str]], name: str, text: str) -> None:
    known = notes.setdefault(name, [])
    if text not in known:
        known.append(text)
