"""What ``capture`` and ``verify`` are given, checked before anything is done with it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["checked", "samples_of", "whole_number"]

_CUSTOM_FUNCTIONS = ("withhold", "run")

_HIGHEST_DIM = 63
"""A tensor of PyTorch has at most 64 dimensions."""


def checked(
    batch_size: int | None,
    samples: Tensor | Sequence[int] | None,
    *,
    batch_dim: int | None,
    custom_functions: str,
    memory_budget: int,
) -> tuple[int, Tensor | None]:
    """Number of samples, and the sample of each row where one was given, if all can be used.

    Args:
        batch_size: Number of samples.
        samples: Sample of each row of the batch.
        batch_dim: Which dimension of the model's outputs is the batch.
        custom_functions: Whether the backward of custom autograd functions may be run again.
        memory_budget: Bytes that temporary tensors may take.

    Raises:
        ValueError: If one of them cannot be used.
    """
    if custom_functions not in _CUSTOM_FUNCTIONS:
        raise ValueError(f"custom_functions is {custom_functions!r}; write 'withhold' or 'run'")
    whole_number("memory_budget", memory_budget, 1)
    if batch_dim is not None:
        whole_number("batch_dim", batch_dim, 0, _HIGHEST_DIM)
    return samples_of(batch_size, samples)


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """The integer that an argument is.

    Args:
        name: The argument's name.
        value: What was given.
        least: The smallest that may be.
        most: The largest that may be, if there is one.

    Raises:
        ValueError: If it is not an integer between these.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        rule = f"of {least} or more" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be an integer {rule}, got {value!r}")
    return number


def samples_of(
    batch_size: int | None, samples: Tensor | Sequence[int] | None
) -> tuple[int, Tensor | None]:
    """Number of samples, and the sample of each row where one was given.

    Args:
        batch_size: Number of samples.
        samples: Sample of each row of the batch.

    Raises:
        ValueError: If neither is given, or they cannot be used.
    """
    size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
    if samples is None:
        if size is None:
            raise ValueError("give batch_size=, the number of samples in the batch, or samples=")
        return size, None
    index = torch.as_tensor(samples).detach()
    if index.dim() != 1 or index.dtype.is_floating_point or index.dtype is torch.bool:
        raise ValueError(
            "samples must be one integer per row of the batch, shape (R,), got "
            f"{index.dtype} of shape {tuple(index.shape)}"
        )
    if not index.numel() or int(index.min()) < 0:
        raise ValueError("samples must be integers from 0, one per row, got none or a negative one")
    count = int(index.max()) + 1
    if size is not None and size < count:
        raise ValueError(f"samples names sample {count - 1}, but batch_size is {size}")
    return size or count, index.long()
