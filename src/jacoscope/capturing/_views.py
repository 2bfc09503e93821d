"""Nodes that only move a parameter's elements about, and doing as they did to another tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import Node

from jacoscope.capturing._walk import Shape

__all__ = ["VIEWS", "View", "apply_views", "view_of"]

_SAME = ("Clone", "ToCopy", "Alias", "ViewAs")
_RESHAPES = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze")
_SPLITS = ("Split", "SplitWithSizes", "UnsafeSplit", "UnsafeSplitWithSizes", "Unbind")
_MOVES = ("T", "NumpyT", "MH", "MT", "Transpose", "Permute", "Slice", "Select")

VIEWS = frozenset({*_SAME, *_RESHAPES, *_SPLITS, *_MOVES})
"""Names of the operations, without ``Backward`` and number; the value holds no more than the
elements of what it was made of."""


@dataclass(frozen=True)
class View:
    """One operation that moves elements.

    Args:
        operation: Its name.
        arguments: Its arguments; dimensions count from the front.
        shape: The shape of its result.
    """

    operation: str
    arguments: tuple[object, ...]
    shape: Shape

    def __call__(self, tensor: Tensor) -> Tensor:
        """Do the same to a tensor that has one more dimension in front.

        The result is a view of ``tensor``; it raises where that cannot be.
        """
        match self.operation, self.arguments:
            case "reshape", ():
                return tensor.view(tensor.shape[0], *self.shape)
            case "permute", dims:
                return tensor.permute(0, *(dim + 1 for dim in dims))  # type: ignore[operator]
            case "slice", (int(dim), int(start), int(end), int(step)):
                return tensor[(slice(None),) * (dim + 1) + (slice(start, end, step),)]
            case "select", (int(dim), int(index)):
                return tensor.select(dim + 1, index)
        raise AssertionError(self)


def apply_views(views: Sequence[View], tensor: Tensor) -> Tensor:
    """Do one view after the other; ``tensor`` has one more dimension in front."""
    for view in views:
        tensor = view(tensor)
    return tensor


def view_of(operation: str, node: Node, output: int, before: Shape, after: Shape) -> View | None:
    """What a node of :data:`VIEWS` did, or ``None`` if it changed nothing but type or memory.

    Args:
        operation: The node's name without ``Backward`` and number.
        node: The node.
        output: Which of its outputs.
        before: The shape of its input.
        after: The shape of that output.
    """
    if operation in _SAME:
        return None
    if operation in _RESHAPES:
        return View("reshape", (), after)
    return _moves(operation, node, output, before, after)


def _moves(operation: str, node: Node, output: int, before: Shape, after: Shape) -> View:
    ndim = len(before)

    def saved(name: str) -> int:
        return _signed(getattr(node, f"_saved_{name}"))

    def dim(name: str = "dim") -> int:
        return saved(name) % ndim

    if operation in ("T", "NumpyT", "MH", "MT", "Transpose", "Permute"):
        order = list(range(ndim))
        if operation == "Permute":
            order = [_signed(each) % ndim for each in node._saved_dims]  # type: ignore[attr-defined]
        elif operation in ("T", "NumpyT"):
            order.reverse()
        else:
            a, b = (dim("dim0"), dim("dim1")) if operation == "Transpose" else (ndim - 2, ndim - 1)
            order[a], order[b] = order[b], order[a]
        return View("permute", tuple(order), after)
    axis = dim()
    if operation == "Slice":
        start, end, _ = slice(_optional(node, "start"), _optional(node, "end")).indices(
            before[axis]
        )
        return View("slice", (axis, start, end, saved("step")), after)
    if operation == "Select":
        return View("select", (axis, saved("index") % before[axis]), after)
    if operation == "Unbind":
        return View("select", (axis, output), after)
    if operation.endswith("WithSizes"):
        sizes = [int(size) for size in node._saved_split_sizes]  # type: ignore[attr-defined]
        start = sum(sizes[:output])
    else:
        start = int(saved("split_size")) * output
    return View("slice", (axis, start, start + after[axis], 1), after)


def _optional(node: Node, name: str) -> int | None:
    value = getattr(node, f"_saved_{name}")
    return None if value is None else _signed(value)


def _signed(value: int) -> int:
    """Saved integers come unsigned: −1 as 2⁶⁴ − 1."""
    value = int(value)
    return value - (1 << 64) if value >= 1 << 63 else value
