"""Where the batch begins below the loss, and what of the loss never sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from jacoscope.capturing._layout import Layout, regular_layouts
from jacoscope.capturing._views import VIEWS
from jacoscope.capturing._walk import Edge, Graph, operation_of

__all__ = ["LAST", "Frontier", "find_frontier", "is_parameter_only"]

# What these make of parameters alone depends on parameters alone: they take no other tensor, or
# only one that is an input of the node as well.
_ARITHMETIC = frozenset(
    (
        *("Pow", "Mul", "Add", "Sub", "Div", "Rsub", "Neg", "Exp", "Expm1", "Log", "Log1p", "Sqrt"),
        *("Rsqrt", "Reciprocal", "Abs", "Sum", "Mean", "Norm", "LinalgVectorNorm", "Tanh", "Sgn"),
        *("Sigmoid", "Softplus", "Relu", "Gelu", "Silu", "Clamp", "ClampMin", "ClampMax", "Cat"),
        *(
            "Stack",
            "Mm",
            "Bmm",
            "Addmm",
            "Mv",
            "Dot",
            "Vdot",
            "Expand",
            "Repeat",
            "Softmax",
            "Tril",
        ),
        *(
            "LogSoftmax",
            "Prod",
            "Cumsum",
            "Sin",
            "Cos",
            "Square",
            "Trace",
            "Diagonal",
            "Triu",
            "Tril",
        ),
        *("LinalgMatrixExp", "LinalgMatrixNorm", "WeightNormInterface", "Var", "Std", "Max", "Min"),
        *("Amax", "Amin", "Minimum", "Maximum", "Logsumexp", "Flip", "Roll", "ConstantPadNd"),
    )
)

# Of these, the loss is a sum in which each term keeps its gradient, whatever the batch.
_SUMS = frozenset(
    (
        *("Add", "Sub", "Sum", "Mean", "Stack", "Cat", "Neg"),
        *("Squeeze", "Unsqueeze", "View", "Clone", "ToCopy"),
    )
)

_ANY = (0, 1, 2)

LAST = -1
"""The last dimension, in place of a number."""


@dataclass(frozen=True, eq=False)
class Frontier:
    """The first values below the loss that carry the batch.

    Args:
        layouts: By node, the layout of each of its outputs.
        shared: Values that depend on parameters alone and are terms of the loss (a weight
            penalty): by consumer and input, the value.
        late: Nodes that use a parameter after the samples were added up.
    """

    layouts: Mapping[int, tuple[Layout | None, ...]]
    shared: Mapping[tuple[int, int], Edge] = field(default_factory=dict)
    late: frozenset[int] = frozenset()


def is_parameter_only(graph: Graph) -> list[bool]:
    """By node, whether its value certainly depends on the model's parameters alone."""
    only = [False] * len(graph.nodes)
    for index in reversed(range(len(graph.nodes))):
        if graph.is_leaf(index):
            only[index] = index in graph.leaves
            continue
        operation = operation_of(graph.names[index])
        inputs = graph.inputs[index]
        if operation not in VIEWS and operation not in _ARITHMETIC:
            continue
        known = all(edge is not None and only[edge[0]] for edge in inputs)
        only[index] = bool(inputs) and (known or _rest_is_scalar(graph, index, only))
    return only


def _rest_is_scalar(graph: Graph, index: int, only: list[bool]) -> bool:
    """Whether what is not in the graph is a plain number, as in ``2 * weight``."""
    inputs = graph.inputs[index]
    if operation_of(graph.names[index]) not in ("Mul", "Div", "Add", "Sub", "Rsub") or not any(
        edge is not None and only[edge[0]] for edge in inputs
    ):
        return False
    if any(edge is not None and not only[edge[0]] for edge in inputs):
        return False
    node = graph.nodes[index]
    if operation_of(graph.names[index]) in ("Add", "Sub", "Rsub"):
        return False  # the number is not saved, and a tensor would not be either
    names = ("_saved_self", "_saved_other")
    saved = [getattr(node, name, None) for name in names]
    absent = saved[1 if inputs[0] is not None else 0]
    return absent is None or (isinstance(absent, Tensor) and absent.numel() == 1)


def find_frontier(
    graph: Graph, only: Sequence[bool], samples: int, index: Tensor | None, dims: Sequence[int]
) -> Frontier | None:
    """Walk down from the loss to the first values that have a dimension for the batch.

    Args:
        graph: The graph.
        only: By node, whether it depends on parameters alone.
        samples: Number of samples.
        index: Sample of each row, where the user gave one.
        dims: Which dimensions to look at, most likely first.

    Returns:
        The frontier, or ``None`` if there is none, or a parameter meets above it what is not yet
        reduced to a number, so that the batch must be in it, unseen.
    """
    used = {edge for edges in graph.inputs for edge in edges if edge is not None}
    layouts: dict[int, tuple[Layout | None, ...]] = {}
    above: list[int] = []
    sums: dict[int, bool] = {0: True}
    for node in range(len(graph.nodes)):
        if node not in sums or only[node] or graph.is_leaf(node):
            continue
        found = tuple(
            _layout(shape, samples, index, dims) if (node, output) in used else None
            for output, shape in enumerate(graph.shapes[node])
        )
        if any(layout is not None for layout in found):
            # Outputs of one node may have the batch along different dimensions.
            layouts[node] = tuple(
                layout or (_layout(shape, samples, index, _ANY) if (node, nr) in used else None)
                for nr, (layout, shape) in enumerate(zip(found, graph.shapes[node], strict=True))
            )
            continue
        above.append(node)
        keeps = sums[node] and _keeps(graph, node, only)
        for edge in graph.inputs[node]:
            if edge is not None:
                sums[edge[0]] = sums.get(edge[0], True) and keeps
    if not layouts:
        return None
    shared: dict[tuple[int, int], Edge] = {}
    late: set[int] = set()
    for node in above:
        keeps = sums[node] and _keeps(graph, node, only)
        for slot, edge in enumerate(graph.inputs[node]):
            if edge is None or not only[edge[0]]:
                continue
            if keeps:
                shared[node, slot] = edge
            elif math.prod(graph.shapes[node][0] or ()) > 1:
                return None
            else:
                late.add(node)
    return Frontier(layouts, shared, frozenset(late))


def _keeps(graph: Graph, node: int, only: Sequence[bool]) -> bool:
    """Whether each term of the loss that the node takes in keeps its gradient."""
    operation = operation_of(graph.names[node])
    if operation in ("Mul", "Div"):
        # By a plain number, not by another term.
        return sum(edge is not None for edge in graph.inputs[node]) == 1
    return operation in _SUMS


def _layout(
    shape: tuple[int, ...] | None, samples: int, index: Tensor | None, dims: Sequence[int]
) -> Layout | None:
    if shape is None:
        return None
    fitting = [
        layout
        for layout in regular_layouts(shape, samples, index)
        if shape[layout.dim] == layout.count
    ]
    for dim in dims:
        for layout in fitting:
            # The last dimension is of features, unless it is the only one.
            last = len(shape) - 1
            if layout.dim == (last if dim == LAST else dim) and (
                layout.dim < last or dim in (0, LAST)
            ):
                return layout
    return None
