"""Copies of a model that probes evaluate, and their points in parameter space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from jacoscope.probe_plan import WRAPPERS, clean_name
from jacoscope.probing import replica

__all__ = ["copy_of", "dtype_of", "lift", "lifted", "modes_of", "points_of"]

_HALF = (torch.float16, torch.bfloat16)


def copy_of(model: nn.Module, prepare: Callable[[nn.Module], None] | None) -> nn.Module:
    """A copy of a model, without wrappers, that may be evaluated.

    Args:
        model: The model.
        prepare: Called with the copy.
    """
    copied = _unwrapped(replica(model))
    if prepare is not None:
        prepare(copied)
    return copied


def points_of(model: nn.Module, *, copied: bool) -> dict[str, Tensor]:
    """The model's floating-point parameters by name."""
    pairs = ((clean_name(name), p.detach()) for name, p in model.named_parameters())
    named = {name: point for name, point in pairs if point.is_floating_point()}
    return {name: tensor.clone() for name, tensor in named.items()} if copied else named


def modes_of(model: nn.Module) -> dict[str, bool]:
    """Whether each module is training, by name."""
    return {clean_name(name): each.training for name, each in model.named_modules()}


def _unwrapped(model: nn.Module) -> nn.Module:
    """A copy of a model without the wrappers of ``torch.compile`` and of checkpointing."""

    def inner(module: nn.Module) -> nn.Module:
        found = [child for name, child in module._modules.items() if name in WRAPPERS and child]
        return inner(found[0]) if found else module

    for each in list(model.modules()):
        for name, child in list(each._modules.items()):
            if name not in WRAPPERS and child is not None:
                each._modules[name] = inner(child)
    return inner(model)


def lifted(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters in single precision at least."""
    return {n: t.float() if t.dtype in _HALF else t for n, t in named.items()}


def lift(model: nn.Module, batch: Any) -> Any:
    """Bring a copy of a model and a batch to single precision at least; the batch so converted."""
    if not any(parameter.dtype in _HALF for parameter in model.parameters()):
        return batch
    model.float()
    return _mapped(batch, lambda t: t.float() if t.dtype in _HALF else t)


def _mapped(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    return tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, batch)


def dtype_of(model: nn.Module) -> npt.DTypeLike:
    """The precision worth storing: that of training."""
    is_double = any(p.dtype is torch.float64 for p in model.parameters())
    return np.float64 if is_double else np.float32
