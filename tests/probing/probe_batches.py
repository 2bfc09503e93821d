"""Batches, and whether two are the same."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclasses.dataclass
class Graph:
    nodes: Tensor
    names: list[str]
    scale: float


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: Tensor


@dataclasses.dataclass
class Slotted:
    __slots__ = ("x",)
    x: Tensor


def rows(samples: int = 4) -> Tensor:
    return torch.arange(3.0 * samples).view(samples, 3)


def same(left: Any, right: Any) -> bool:
    """Of one type and with equal entries, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, collections.abc.Mapping):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if dataclasses.is_dataclass(left):
        names = [field.name for field in dataclasses.fields(left)]
        return all(same(getattr(left, name), getattr(right, name)) for name in names)
    return bool(left == right)
