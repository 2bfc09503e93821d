"""Where the batch begins below the loss, and what of the loss never sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from jacoscope.capturing._layout import Layout, regular_layouts
from jacoscope.capturing._pins import moved_by_index
from jacoscope.capturing._views import VIEWS
from jacoscope.capturing._walk import Edge, Graph, Shape, operation_of

__all__ = ["LAST", "Frontier", "find_frontier", "is_parameter_only"]

# What these make of parameters alone depends on parameters alone: they take no other tensor, or
# only one that is an input of the node as well.
_ARITHMETIC = frozenset((
    "Abs", "Add", "Addmm", "Amax", "Amin", "Atan", "Bmm", "Cat", "Clamp", "ClampMax",
    "ClampMin", "ConstantPadNd", "Cos", "Cumsum", "Diagonal", "Div", "Dot", "Erf", "Exp",
    "Expand", "Expm1", "Flip", "Gelu", "Hardtanh", "LinalgCholeskyEx", "LinalgDet",
    "LinalgEigh", "LinalgInvEx", "LinalgMatrixExp", "LinalgMatrixNorm", "LinalgQr",
    "LinalgSlogdet", "LinalgSvd", "LinalgVectorNorm", "Log", "Log1p", "LogSigmoid",
    "LogSoftmax", "Logsumexp", "MaskedFill", "Max", "Maximum", "Mean", "Min", "Minimum", "Mm",
    "Mul", "Mv", "Neg", "Norm", "Pow", "Prod", "Reciprocal", "Relu", "Repeat", "Roll", "Rsqrt",
    "Rsub", "Sgn", "Sigmoid", "Silu", "Sin", "Softmax", "Softplus", "Sqrt", "Square", "Stack",
    "Std", "Sub", "Sum", "Tanh", "Trace", "Tril", "Triu", "Var", "Vdot", "WeightNormInterface",
    "Where",
))  # fmt: skip

_ELEMENTWISE = frozenset(("Mul", "Div", "Add", "Sub", "Rsub", "Pow", "Where", "MaskedFill"))

# Of these, the loss is a sum in which each term keeps its gradient, whatever the batch.
_SUMS = frozenset(
    (
        *("Add", "Sub", "Sum", "Mean", "Stack", "Cat", "Neg"),
        *("Squeeze", "Unsqueeze", "View", "Clone", "ToCopy"),
    )
)

_ANY = (0, 1, 2)

_REDUCTIONS = frozenset(
    (
        *("Sum", "Mean", "Prod", "Norm", "LinalgVectorNorm", "Amax", "Amin", "Max", "Min"),
        *("Logsumexp", "Var", "Std", "VarMean", "StdMean"),
    )
)

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
    """By node, whether its value depends on the model's parameters alone, and on constants."""
    only = [False] * len(graph.nodes)
    for index in reversed(range(len(graph.nodes))):
        if graph.is_leaf(index):
            only[index] = index in graph.leaves
            continue
        operation = operation_of(graph.names[index])
        inputs = [edge for edge in graph.inputs[index] if edge is not None]
        if operation not in VIEWS and operation not in _ARITHMETIC:
            continue
        if not inputs or not all(only[edge[0]] for edge in inputs):
            continue
        whole = len(inputs) == len(graph.inputs[index])
        only[index] = whole or _with_constant(graph, index, operation)
    return only


def _with_constant(graph: Graph, index: int, operation: str) -> bool:
    """Whether the operand that is not in the graph is a number, or of the parameter's own shape.

    As in ``2 * weight`` or ``weight - start``; the batch would have made the result larger.
    """
    shape = graph.shapes[index][0] if graph.shapes[index] else None
    inputs = [edge for edge in graph.inputs[index] if edge is not None]
    return operation in _ELEMENTWISE and any(graph.shape(edge) == shape for edge in inputs)


def find_frontier(
    graph: Graph,
    only: Sequence[bool],
    samples: int,
    index: Tensor | None,
    dims: Sequence[int],
    *,
    deep: bool = False,
    through_vectors: bool = False,
) -> Frontier | None:
    """The first values below the loss that have a dimension for the batch.

    Args:
        graph: The graph.
        only: By node, whether it depends on parameters alone.
        samples: Number of samples.
        index: Sample of each row, where the user gave one.
        dims: Which dimensions to look at, most likely first.
        deep: Whether to look further down where the loss may have reduced the batch and left
            another dimension of its size.
        through_vectors: Whether to look below parameters that are used on vectors, which may be a
            vector of losses.

    Returns:
        The frontier, or ``None`` if there is none, or a parameter meets above it what is not yet
        reduced to a number, so that the batch must be in it, unseen.
    """
    used = {edge for edges in graph.inputs for edge in edges if edge is not None}
    found = [
        tuple(
            _layout(shape, samples, index, dims) if (node, output) in used or not node else None
            for output, shape in enumerate(shapes)
        )
        for node, shapes in enumerate(graph.shapes)
    ]
    is_told = [any(layout is not None for layout in layouts) for layouts in found]
    count = samples if index is None else len(index)
    below = _covered_below(graph, only, is_told, deep, through_vectors, count)
    layouts: dict[int, tuple[Layout | None, ...]] = {}
    above: list[int] = []
    sums: dict[int, bool] = {0: True}
    for node in range(len(graph.nodes)):
        if node not in sums or only[node] or graph.is_leaf(node):
            continue
        if is_told[node] and not below[node]:
            # Outputs of one node may have the batch along different dimensions.
            layouts[node] = tuple(
                layout or (_layout(shape, samples, index, _ANY) if (node, nr) in used else None)
                for nr, (layout, shape) in enumerate(
                    zip(found[node], graph.shapes[node], strict=True)
                )
            )
            continue
        above.append(node)
        keeps = sums[node] and _keeps(graph, node, only)
        for edge in graph.inputs[node]:
            if edge is not None:
                sums[edge[0]] = sums.get(edge[0], True) and keeps
    if not layouts:
        return None
    return _with_terms(graph, only, layouts, above, sums, through_vectors)


def _with_terms(
    graph: Graph,
    only: Sequence[bool],
    layouts: Mapping[int, tuple[Layout | None, ...]],
    above: Sequence[int],
    sums: Mapping[int, bool],
    through_vectors: bool,
) -> Frontier | None:
    """The frontier, with the parameters that are used above it."""
    shared: dict[tuple[int, int], Edge] = {}
    late: set[int] = set()
    for node in above:
        keeps = sums[node] and _keeps(graph, node, only)
        for slot, edge in enumerate(graph.inputs[node]):
            if edge is None or not only[edge[0]]:
                continue
            shape = graph.shapes[node][0] or ()
            if keeps:
                shared[node, slot] = edge
            elif math.prod(shape) > 1 and not (through_vectors and len(shape) == 1):
                return None
            else:
                late.add(node)
    return Frontier(layouts, shared, frozenset(late))


def _covered_below(
    graph: Graph,
    only: Sequence[bool],
    is_told: Sequence[bool],
    deep: bool,
    through_vectors: bool,
    count: int,
) -> list[bool]:
    """By node, whether to look below it, though it may be told.

    Namely where the loss has reduced a dimension of the batch's size on the way, and every way down
    meets a told value before a parameter's use, and before anything that moves rows about.
    """
    below = [False] * len(graph.nodes)
    reduces = [False] * len(graph.nodes)
    for node in reversed(range(len(graph.nodes))):
        if only[node] or graph.is_leaf(node):
            continue
        edges = [edge for edge in graph.inputs[node] if edge is not None]
        ways = [edge for edge in edges if not only[edge[0]]]
        shape = graph.shapes[node][0] if graph.shapes[node] else None
        is_vector = through_vectors and shape is not None and len(shape) <= 1
        is_number = shape is not None and math.prod(shape) == 1
        uses = len(ways) < len(edges) and not is_vector and not is_number
        if uses or not ways or moved_by_index(graph.names[node]) or _moves(graph, node):
            continue
        operation = operation_of(graph.names[node])
        here = operation in _REDUCTIONS and any(
            _sizes(graph.shape(way), count) > _sizes(shape, count) for way in ways
        )
        stacks = operation in ("Stack", "Cat") and len(shape or ()) == 1
        reduces[node] = here or stacks or any(reduces[way[0]] for way in ways)
        covered = all(is_told[way[0]] or below[way[0]] for way in ways)
        below[node] = covered and ((deep and reduces[node]) or not is_told[node])
    return below


def _sizes(shape: Shape | None, count: int) -> int:
    return sum(size == count for size in shape or ())


def _moves(graph: Graph, node: int) -> bool:
    return operation_of(graph.names[node]) in ("Flip", "Roll")


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
