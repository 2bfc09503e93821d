"""The generic rule: one sample's gradient at a time through the node itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from jacoscope.capturing._call import call_node
from jacoscope.capturing._layout import LayoutError
from jacoscope.capturing._terms import DenseTerm
from jacoscope.capturing.rules._call import Use

__all__ = ["generic_rule"]


def generic_rule(use: Use, *, batched: bool = True, only: Tensor | None = None) -> DenseTerm:
    """What the node makes of each sample's part of the gradient.

    Right for every differentiable operation, since its derivative is linear in the gradient of its
    outputs. It costs as many runs of the node as there are samples, batched where the operation
    allows.

    Args:
        use: The use.
        batched: Whether to run several samples at once.
        only: Make the rows of these samples alone, shape (K,).

    Raises:
        LayoutError: If the samples of an output cannot be told apart.
    """
    masks = [
        None if grad is None else _mask(use, place, only) for place, grad in enumerate(use.grads)
    ]

    def contribution(selected: Sequence[Tensor | None]) -> Tensor:
        grads = [
            None if grad is None or chosen is None else torch.where(chosen, grad, 0)
            for grad, chosen in zip(use.grads, selected, strict=True)
        ]
        result = call_node(use.node, grads, use.input_shapes)[use.slot]
        return torch.zeros(use.shape, device=use.grad.device) if result is None else result

    present = [place for place, mask in enumerate(masks) if mask is not None]
    stacked = tuple(mask for mask in masks if mask is not None)
    if not stacked:
        raise LayoutError("no output has a gradient")

    def one(*chosen: Tensor) -> Tensor:
        selected: list[Tensor | None] = [None] * len(use.grads)
        for place, mask in zip(present, chosen, strict=True):
            selected[place] = mask
        return contribution(selected)

    rows: Tensor | None = None
    if batched:
        with suppress(RuntimeError, NotImplementedError, ValueError):  # it cannot be batched
            rows = torch.vmap(one, chunk_size=_CHUNK)(*stacked)
    if rows is None:
        rows = torch.stack([one(*each) for each in zip(*stacked, strict=True)])
    return DenseTerm(rows.to_dense() if rows.is_sparse else rows)


_CHUNK = 64


def _mask(use: Use, place: int, only: Tensor | None) -> Tensor:
    layout, shape = use.layouts[place], use.output_shapes[place]
    if layout is None or shape is None:
        raise LayoutError("the samples of an output cannot be told apart")
    grad = use.grads[place]
    assert grad is not None
    owners = layout.samples(shape, grad.device)
    each = torch.arange(use.samples, device=grad.device) if only is None else only
    return owners.unsqueeze(0) == each.view(-1, *[1] * owners.dim())
