"""The autograd graph of a loss, read once: nodes, edges, shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from jacoscope.capturing._checkpoints import checkpointed

__all__ = ["Edge", "Graph", "Shape", "operation_of", "past_sinks", "walk"]

Edge = tuple[int, int]
"""A value in the graph: index of the node that made it, and which of its outputs it is."""

Shape = tuple[int, ...]

_PLACES = {
    "SelectBackward0": ("_saved_index",),
    "SliceBackward0": ("_saved_start", "_saved_step"),
    "PermuteBackward0": ("_saved_dims",),
    "TransposeBackward0": ("_saved_dim0", "_saved_dim1"),
    "RollBackward0": ("_saved_shifts", "_saved_dims"),
    "FlipBackward0": ("_saved_dims",),
    "NativeBatchNormBackward0": ("_saved_training",),
    "CudnnBatchNormBackward0": ("_saved_training",),
}

_LEAF = "torch::autograd::AccumulateGrad"
_SINK = "_DDPSinkBackward"


@dataclass(frozen=True, eq=False)
class Graph:
    """The graph below a loss; a node comes before all that it was computed from.

    It holds the nodes, and with them the whole graph: let go of it after the backward.

    Args:
        nodes: The nodes, the loss's own first.
        names: Their names, such as ``AddmmBackward0``.
        inputs: By node, the values it was computed from; ``None`` where no gradient is wanted.
        shapes: By node, the shapes of its outputs; ``None`` where unknown.
        leaves: By node, the parameter's name if it is the leaf of one of the model's parameters.
    """

    nodes: tuple[Node, ...]
    names: tuple[str, ...]
    inputs: tuple[tuple[Edge | None, ...], ...]
    shapes: tuple[tuple[Shape | None, ...], ...]
    leaves: Mapping[int, str]

    @cached_property
    def signature(self) -> int:
        """A hash of structure and shapes: graphs with the same one are read the same way."""
        leaves = tuple(sorted(self.leaves.items()))
        held = self.checkpointed
        return hash((self.names, self.inputs, self.shapes, leaves, held, self._places()))

    @cached_property
    def checkpointed(self) -> tuple[int, ...]:
        """Nodes whose saved tensors activation checkpointing has not kept."""
        return checkpointed(self.nodes)

    def _places(self) -> tuple[object, ...]:
        """What shapes do not tell: which part is taken, which way round, in which mode."""
        return tuple(
            getattr(node, attribute)
            for node, name in zip(self.nodes, self.names, strict=True)
            for attribute in _PLACES.get(name, ())
        )

    @cached_property
    def consumers(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """By node, who uses its outputs: index of the node, and which of its inputs."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.nodes]
        for index, edges in enumerate(self.inputs):
            for slot, edge in enumerate(edges):
                if edge is not None:
                    found[edge[0]].append((index, slot))
        return tuple(tuple(each) for each in found)

    def is_leaf(self, index: int) -> bool:
        """Whether the node stands for a leaf tensor: a parameter, or an input."""
        return self.names[index] == _LEAF

    def is_complex(self, edge: Edge) -> bool:
        """Whether a value is of complex numbers."""
        metadata = getattr(self.nodes[edge[0]], "_input_metadata", ())
        known = metadata[edge[1]] if edge[1] < len(metadata) else None
        return known is not None and known.dtype.is_complex

    def uses_complex(self, node: int, edge: Edge) -> bool:
        """Whether a node goes from or to complex numbers by way of one of its inputs."""
        outputs = range(len(self.shapes[node]))
        return self.is_complex(edge) or any(self.is_complex((node, each)) for each in outputs)

    def shape(self, edge: Edge) -> Shape | None:
        """The shape of a value."""
        shapes = self.shapes[edge[0]]
        return shapes[edge[1]] if edge[1] < len(shapes) else None


def walk(loss: Tensor, parameters: Mapping[str, Tensor]) -> Graph:
    """Read the graph below ``loss``.

    Args:
        loss: A loss that requires a gradient.
        parameters: The model's parameters by name, each once.
    """
    root, _ = past_sinks(loss.grad_fn, loss.output_nr)
    assert root is not None
    order, edges = _topological(root)
    index = {node: place for place, node in enumerate(order)}
    names_of = {id(parameter): name for name, parameter in parameters.items()}
    names = tuple([node.name() for node in order])
    leaves: dict[int, str] = {}
    for place, name in enumerate(names):
        if name == _LEAF:
            parameter = names_of.get(id(order[place].variable))  # type: ignore[attr-defined]
            if parameter is not None:
                leaves[place] = parameter
    # Lists, since generators take twice as long, and a graph has thousands of nodes.
    inputs = tuple(
        [
            tuple([None if node is None else (index[node], nr) for node, nr in edges[each]])
            for each in order
        ]
    )
    shapes = tuple([_shapes(node) for node in order])
    return Graph(tuple(order), names, inputs, shapes, leaves)


def _topological(root: Node) -> tuple[list[Node], dict[Node, tuple[tuple[Node | None, int], ...]]]:
    """Nodes, consumers before what they consume, and each node's edges."""
    edges: dict[Node, tuple[tuple[Node | None, int], ...]] = {}
    done: list[Node] = []
    stack: list[tuple[Node, int]] = [(root, 0)]
    edges[root] = _edges_of(root)
    while stack:
        node, position = stack.pop()
        following = edges[node]
        while position < len(following):
            child = following[position][0]
            position += 1
            if child is not None and child not in edges:
                edges[child] = _edges_of(child)
                stack.append((node, position))
                stack.append((child, 0))
                break
        else:
            done.append(node)
    done.reverse()
    return done, edges


def past_sinks(node: Node | None, output: int) -> tuple[Node | None, int]:
    """A value, or what it was before DistributedDataParallel put a node of its own on top.

    That node hands on what it gets, so it is passed over. With a static graph it also lets the
    reducer know that the first backward has begun: there it stays, as a node that must not be run
    by another backward, unless it is on a number such as the loss, which no other one comes by.
    """
    while node is not None and node.name() == _SINK:
        shape = _shapes(node)[output]
        is_number = shape is not None and math.prod(shape) == 1
        if not is_number and node.ddp_weakref().static_graph:  # type: ignore[attr-defined]
            break
        node, output = node.next_functions[output]
    return node, output


def _edges_of(node: Node) -> tuple[tuple[Node | None, int], ...]:
    edges = node.next_functions
    for child, _ in edges:
        if child is not None and child.name() == _SINK:
            return tuple(past_sinks(child, output) for child, output in edges)
    return edges


def _shapes(node: Node) -> tuple[Shape | None, ...]:
    metadata = getattr(node, "_input_metadata", ())
    return tuple([None if each is None else _shape(each) for each in metadata])


def _shape(metadata: Any) -> Shape | None:
    try:
        return tuple(map(int, metadata.shape))
    except (TypeError, RuntimeError, AttributeError):  # a nested tensor has no sizes
        return None


@cache
def operation_of(name: str) -> str:
    """A node's operation: its name without ``Backward`` and number."""
    return re.sub(r"Backward\d*$", "", name)
