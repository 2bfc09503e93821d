"""The values on the parameters' side at which uses are added up."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from jacoscope.capturing._plan import Base
from jacoscope.capturing._views import VIEWS, View, apply_views, view_of
from jacoscope.capturing._walk import Edge, Graph, Shape, operation_of

__all__ = ["Bases"]


class Bases:
    """Finds what a value on the parameters' side is a view of.

    Args:
        graph: The graph.
        leaves: Names of the parameters wanted.

    Attributes:
        found: By value, what was found so far.
    """

    def __init__(self, graph: Graph, leaves: Collection[str]) -> None:
        self._graph = graph
        self._leaves = leaves
        self.found: dict[Edge, Base] = {}

    def of(self, edge: Edge) -> tuple[Base | None, tuple[View, ...]]:
        """The value that ``edge`` is a view of, and how; ``None`` if nothing of it is watched."""
        below, views = edge, list[View]()
        while self._is_view(below):
            source = self._graph.inputs[below[0]][0]
            before, after = source and self._graph.shape(source), self._graph.shape(below)
            if source is None or before is None or after is None:
                break
            operation = operation_of(self._graph.names[below[0]])
            view = view_of(operation, self._graph.nodes[below[0]], below[1], before, after)
            if view is not None:
                views.insert(0, view)
            below = source
        shape = self._graph.shape(below)
        assert shape is not None
        if not _can_view(views, shape):
            below, views = edge, []
            shape = self._graph.shape(edge)
            assert shape is not None
        if below not in self.found:
            names = self.below(below[0])
            if not names:
                return None, ()
            sweep = () if below[0] in self._graph.leaves else self._sweep(below[0])
            self.found[below] = Base(below, shape, sweep, names)
        return self.found[below], tuple(views)

    def _is_view(self, edge: Edge) -> bool:
        # Rows of complex values are kept as real numbers, which have another shape.
        is_complex = self._graph.is_complex(edge)
        return operation_of(self._graph.names[edge[0]]) in VIEWS and not is_complex

    def below(self, node: int) -> tuple[str, ...]:
        """Names of the watched parameters that a value on the parameters' side is made of."""
        found: list[str] = []
        seen, stack = {node}, [node]
        while stack:
            here = stack.pop()
            if here in self._graph.leaves and self._graph.leaves[here] in self._leaves:
                found.append(self._graph.leaves[here])
            for edge in self._graph.inputs[here]:
                if edge is not None and edge[0] not in seen:
                    seen.add(edge[0])
                    stack.append(edge[0])
        return tuple(found)

    def _sweep(self, node: int) -> tuple[int, ...]:
        """All nodes below ``node`` but leaves, consumers first, that lead to a watched one."""
        seen, stack = {node}, [node]
        while stack:
            for edge in self._graph.inputs[stack.pop()]:
                if edge is not None and edge[0] not in seen:
                    seen.add(edge[0])
                    stack.append(edge[0])
        leads: set[int] = set()
        for each in sorted(seen, reverse=True):
            if self._graph.leaves.get(each) in self._leaves or any(
                edge is not None and edge[0] in leads for edge in self._graph.inputs[each]
            ):
                leads.add(each)
        return tuple(each for each in sorted(leads) if not self._graph.is_leaf(each))


def _can_view(views: Sequence[View], shape: Shape) -> bool:
    try:
        apply_views(views, torch.empty(2, *shape, device="meta"))
    except RuntimeError:
        return False
    return True
