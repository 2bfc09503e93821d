"""Running one node of a graph by itself, outside any backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from jacoscope.capturing._walk import Shape

__all__ = ["call_node"]


def call_node(
    node: Node, grads: Sequence[Tensor | None], shapes: Sequence[Shape | None]
) -> list[Tensor | None]:
    """What ``node`` hands to each of its inputs when its outputs have these gradients.

    Nothing but the node runs: no other node, no hook. Works under ``torch.vmap``.

    Args:
        node: A node whose saved tensors are still there.
        grads: Gradient of each output, ``None`` for zero.
        shapes: Shape of each input, to which a gradient that the engine would reduce is summed.
    """
    runnable: Any = node
    with torch.no_grad():
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            whole = [
                torch.zeros(tuple(metadata.shape), dtype=metadata.dtype, device=metadata.device)
                if grad is None
                else grad
                for grad, metadata in zip(grads, node._input_metadata, strict=True)
            ]
            given = runnable.apply(*whole)
        else:
            given = runnable(*grads)
        results = given if isinstance(given, tuple) else (given,)
        return [
            _summed(result, shape) if result is not None and shape is not None else result
            for result, shape in zip(results, shapes, strict=False)
        ]


def _summed(grad: Tensor, shape: Shape) -> Tensor:
    return grad if tuple(grad.shape) == shape else grad.sum_to_size(shape)
