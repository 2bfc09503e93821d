"""Indices that move rows about: a layout holds only as long as they are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from jacoscope.capturing._coding import Reading
from jacoscope.capturing._layout import Layout, Regular
from jacoscope.capturing._walk import Graph, operation_of

__all__ = ["Pins", "moved_by_index"]

# Along one dimension, by the index that they save under this name.
_ALONG = {
    **dict.fromkeys(("IndexSelect", "IndexAdd", "IndexCopy", "IndexReduce"), "index"),
    **dict.fromkeys(("Gather", "Scatter", "ScatterAdd", "ScatterReduce"), "index"),
    **dict.fromkeys(("Sort", "Topk"), "indices"),
}
_BY_SEVERAL = frozenset(("Index", "UnsafeIndex", "IndexPut", "UnsafeIndexPut"))
_ANYWHERE = {
    "MaskedSelect": "mask",
    "MaskedScatter": "mask",
    "Take": "index",
    "PackPaddedSequence": "result1",
}


def moved_by_index(name: str) -> bool:
    """Whether a node of this name moves elements by an index."""
    operation = operation_of(name)
    return operation in _ALONG or operation in _BY_SEVERAL or operation in _ANYWHERE


@dataclass(frozen=True, eq=False)
class Pins:
    """The indices that a plan's layouts depend on.

    Models that sort, route or pack samples by data have graphs of one structure and shape with
    other layouts. Their indices tell; comparing them is the one thing that waits for the device,
    in such models alone.

    Args:
        indices: By node and place among its indices, a copy.
    """

    indices: Mapping[tuple[int, int], Tensor]

    @classmethod
    def of(
        cls, graph: Graph, readings: Mapping[int, Sequence[Reading]], free: Sequence[bool]
    ) -> Pins:
        """The indices that move rows of samples about.

        Args:
            graph: The graph.
            readings: What is known of its nodes.
            free: By node, whether it is on the parameters' side.
        """
        found = {}
        for node, each in readings.items():
            data = next((edge for edge in graph.inputs[node] if edge is not None), None)
            if data is None or free[data[0]] or not moved_by_index(graph.names[node]):
                continue
            above = readings.get(data[0], ())
            source = above[data[1]].layout if data[1] < len(above) else None
            for place, index in _indices(graph.nodes[node]):
                if _moves_samples(graph, node, place, each[0].layout, source):
                    found[node, place] = index.detach().clone()
        return cls(found)

    def hold(self, graph: Graph) -> bool:
        """Whether another graph of the same structure has the same indices."""
        for (node, place), index in self.indices.items():
            now = dict(_indices(graph.nodes[node])).get(place)
            if now is None or not torch.equal(now, index):
                return False
        return True


def _indices(node: Node) -> list[tuple[int, Tensor]]:
    operation = operation_of(node.name())
    if operation in _BY_SEVERAL:
        given = node._saved_indices  # type: ignore[attr-defined]
        return [(place, index) for place, index in enumerate(given) if isinstance(index, Tensor)]
    index = getattr(node, "_saved_" + (_ALONG.get(operation) or _ANYWHERE[operation]), None)
    return [(0, index)] if isinstance(index, Tensor) else []


def _moves_samples(
    graph: Graph, node: int, place: int, made: Layout | None, source: Layout | None
) -> bool:
    """Whether an index runs along the dimension that tells samples apart."""
    operation = operation_of(graph.names[node])
    if operation in _ANYWHERE:
        return True
    shape = graph.shapes[node][0] or ()
    if operation in _ALONG:
        dim = int(graph.nodes[node]._saved_dim)  # type: ignore[attr-defined]
        dim = (dim - (1 << 64) if dim >= 1 << 63 else dim) % max(len(shape), 1)
        known = [layout for layout in (made, source) if layout is not None]
        return not known or any(not isinstance(e, Regular) or e.dim == dim for e in known)
    indices = _indices(graph.nodes[node])
    if any(index.dtype is torch.bool for _, index in indices):
        return True
    if operation in ("IndexPut", "UnsafeIndexPut"):
        return not isinstance(made, Regular) or made.dim == place
    return not isinstance(source, Regular) or source.dim == place
