"""From rows at a value made of parameters to rows at these parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress

import torch
from torch import Tensor

from jacoscope.capturing._call import call_node
from jacoscope.capturing._complex import as_real
from jacoscope.capturing._plan import Base
from jacoscope.capturing._walk import Edge, Graph
from jacoscope.jacobian import Jacobian

__all__ = ["PullBack"]


class PullBack:
    """The vector-Jacobian products of the nodes between a value and its parameters.

    What is made of parameters alone (weight norm, products of parameters, …) is the same for all
    samples, so each sample's row goes through the same nodes, several at a time.

    Args:
        graph: The graph, whose nodes have not run yet.
        memory_budget: Bytes that temporary tensors may take.
        one_by_one: Values whose nodes cannot be run for several rows at once; added to.
        rehearsal: Whether there is time to find out.
    """

    def __init__(
        self,
        graph: Graph,
        memory_budget: int,
        one_by_one: set[tuple[int, int]],
        *,
        rehearsal: bool,
    ) -> None:
        self._graph = graph
        self._memory_budget = memory_budget
        self._one_by_one = one_by_one
        self._rehearsal = rehearsal
        self._leaf_of = {name: place for place, name in graph.leaves.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter's rows."""
        leaf = self._leaf_of[name], 0
        pair = (2,) if self._graph.is_complex(leaf) else ()
        return (*(self._graph.shape(leaf) or ()), *pair)

    def rows(
        self, base: Base, jacobian: Jacobian, names: Sequence[str], index: Tensor
    ) -> list[Tensor]:
        """Rows of some samples at some parameters.

        Args:
            base: The value.
            jacobian: Rows at the value.
            names: The parameters.
            index: The samples, shape (K,).

        Returns:
            For each parameter, its rows, shape (K, *parameter's shape); of a complex one, its real
            and imaginary parts.
        """
        places = [base.parameters.index(name) for name in names]
        pull = self._pull(base)
        dtype = self._graph.nodes[base.edge[0]]._input_metadata[base.edge[1]].dtype
        size = sum(torch.Size(self._graph.shapes[node][0] or ()).numel() for node in base.sweep) * 8
        chunk = max(1, self._memory_budget // max(1, size))
        pieces = []
        for some in torch.split(index, chunk):
            rows = jacobian.rows(some)
            rows = torch.view_as_complex(rows.contiguous()) if dtype.is_complex else rows
            pulled = self._mapped(pull, rows.to(dtype), base.edge)
            pieces.append([as_real(pulled[place]) for place in places])
        return [torch.cat(column) for column in zip(*pieces, strict=True)]

    def _pull(self, base: Base) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """From a row at a value to rows at its parameters, by the nodes between them."""
        leaves = [self._leaf_of[name] for name in base.parameters]
        shapes = [self._graph.shape((leaf, 0)) or () for leaf in leaves]

        def pull(row: Tensor) -> tuple[Tensor, ...]:
            grads: dict[Edge, Tensor] = {base.edge: row}
            for index in base.sweep:
                outputs = len(self._graph.shapes[index])
                given = [grads.pop((index, output), None) for output in range(outputs)]
                if all(grad is None for grad in given):
                    continue
                edges = self._graph.inputs[index]
                expected = [None if edge is None else self._graph.shape(edge) for edge in edges]
                results = call_node(self._graph.nodes[index], given, expected)
                for edge, result in zip(edges, results, strict=False):
                    if edge is not None and result is not None:
                        grads[edge] = grads[edge] + result if edge in grads else result
            return tuple(
                grads.get((leaf, 0), row.new_zeros(shape))
                for leaf, shape in zip(leaves, shapes, strict=True)
            )

        return pull

    def _mapped(
        self, pull: Callable[[Tensor], tuple[Tensor, ...]], rows: Tensor, key: Edge
    ) -> tuple[Tensor, ...]:
        """``pull`` of each row, of all at once where the operations allow it."""
        if key not in self._one_by_one:
            with warnings.catch_warnings() if self._rehearsal else nullcontext():
                if self._rehearsal:
                    warnings.filterwarnings("error", message=".*performance drop.*")
                with suppress(Exception):
                    result: tuple[Tensor, ...] = torch.vmap(pull)(rows)
                    return result
            self._one_by_one.add(key)
        each = [pull(row) for row in rows]
        return tuple(torch.stack(column) for column in zip(*each, strict=True))
