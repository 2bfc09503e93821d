"""One use of a parameter, as a rule sees it while the backward runs."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jacoscope.capturing._layout import Layout, LayoutError, Rows
from jacoscope.capturing._terms import DenseTerm, Scale, known_scale
from jacoscope.capturing._walk import Shape

__all__ = ["Use"]


@dataclass(frozen=True, eq=False)
class Use:
    """One use of a parameter, while its node is about to run.

    Args:
        node: The node; its saved tensors are there.
        slot: Which input of the node the parameter is.
        shape: The shape of that input.
        grads: Gradients of the node's outputs, ``None`` for zero.
        output_shapes: Shapes of the node's outputs.
        layouts: Of each output, which sample each element belongs to.
        input_shapes: Shapes of all of the node's inputs that want a gradient.
        samples: Number of samples.
        shared: Where rules keep what the uses of one node have in common; it is let go of when
            the last of them has been served.
    """

    node: Any
    slot: int
    shape: Shape
    grads: tuple[Tensor | None, ...]
    output_shapes: tuple[Shape | None, ...]
    layouts: tuple[Layout | None, ...]
    input_shapes: tuple[Shape | None, ...]
    samples: int
    shared: dict[Any, Any] = field(default_factory=dict)

    @property
    def grad(self) -> Tensor:
        """The gradient of the node's first output."""
        if self.grads[0] is None:
            raise LayoutError("the first output has no gradient")
        return self.grads[0]

    @property
    def layout(self) -> Layout:
        """The layout of the node's first output."""
        if self.layouts[0] is None:
            raise LayoutError("the first output has no layout")
        return self.layouts[0]

    def saved(self, name: str) -> Tensor:
        """A tensor that the node saved."""
        tensor = getattr(self.node, f"_saved_{name}")
        if not isinstance(tensor, Tensor):
            raise LayoutError(f"the node has not saved {name}")
        return tensor.detach()

    def rows(self, tensor: Tensor, dims: Sequence[int]) -> Rows:
        """The rows of a tensor whose dimensions ``dims`` are those of the first output."""
        return self.layout.rows(tensor, tuple(self.grad.shape), dims)

    def summed(self, values: Tensor, pattern: Sequence[int] | None = None) -> DenseTerm:
        """Values of the output's elements, added up per sample to the parameter's shape.

        Args:
            values: Shape of the first output.
            pattern: The parameter's shape as it broadcasts to the output; by default its own.
        """
        shape = tuple(values.shape)
        aligned = tuple(self.shape if pattern is None else pattern)
        aligned = (1,) * (len(shape) - len(aligned)) + aligned
        over = [dim for dim, size in enumerate(aligned) if size == 1]
        values = _upcast(values)
        try:
            return self.added(values, over)
        except LayoutError:
            rows = self._masked(values, over).reshape(self.samples, *self.shape)
            return DenseTerm(rows, self._scale(values, math.prod(shape[dim] for dim in over)))

    def added(self, tensor: Tensor, dims: Sequence[int]) -> DenseTerm:
        """The rows of a tensor, added up per sample.

        Args:
            tensor: Its dimensions ``dims`` are those of the first output, the others the
                parameter's.
            dims: The dimensions to add up.

        Raises:
            LayoutError: If these dimensions do not tell the samples apart.
        """
        if not dims:
            raise LayoutError("nothing to add up")
        rows = self.rows(_upcast(tensor), dims)
        if rows.samples is None and rows.data.shape[1] == 1:
            return DenseTerm(rows.data.reshape(self.samples, *self.shape))
        if rows.samples is None:
            data = rows.data.sum(1)
        else:
            known = rows.samples >= 0
            data = rows.data.new_zeros(self.samples, *rows.data.shape[1:])
            data.index_add_(0, rows.samples[known], rows.data[known])
        added = math.prod(self.grad.shape[dim] for dim in dims)
        return DenseTerm(data.reshape(self.samples, *self.shape), self._scale(tensor, added))

    def _scale(self, values: Tensor, added: int) -> Scale:
        """What rounding errors are relative to; worked out later if ``values`` stay anyway."""
        later = functools.partial(_magnitude, values, added)
        stays = any(grad is not None and values.is_set_to(grad) for grad in self.grads)
        return later if stays else known_scale(later())

    def _masked(self, values: Tensor, over: Sequence[int]) -> Tensor:
        owners = self.layout.samples(tuple(values.shape), values.device)
        each = torch.arange(self.samples, device=values.device)
        masks = owners.unsqueeze(0) == each.view(-1, *[1] * owners.dim())
        masked = values.unsqueeze(0) * masks
        return masked.sum([dim + 1 for dim in over]) if over else masked


def _magnitude(values: Tensor, added: int) -> Tensor:
    """An upper bound of the summed norms of rows, of which ``added`` were added up."""
    norm: Tensor = torch.linalg.vector_norm(values, dtype=_upcast(values.new_empty(0)).dtype)
    return norm * math.sqrt(added)


def _upcast(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
