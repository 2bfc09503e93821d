"""Backwards that are not the training's own: those that find layouts, and verify.

Hooks of a capture must let them pass. Hooks may run on threads of the autograd engine, so this is
known to all of them; and other threads may train other models meanwhile, so it is known of nodes.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch.autograd.graph import Node

__all__ = ["extra_pass", "is_extra_pass", "unrecorded"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# Fabric refuses every backward but its own under mixed precision; it does so by this flag.
_FABRIC = ("lightning.fabric.wrappers", "lightning_fabric.wrappers")
_FLAG = "_in_fabric_backward"

_lock = threading.Lock()
_running: tuple[frozenset[int], ...] = ()


@contextmanager
def extra_pass(nodes: Iterable[Node]) -> Iterator[None]:
    """While it lasts, backwards through these nodes are not the training's own.

    Args:
        nodes: The nodes of the graph; they must stay alive as long.
    """
    global _running
    passed = frozenset(map(id, nodes))
    with _lock:
        _running = (*_running, passed)
    flags = [vars(sys.modules[name]) for name in _FABRIC if name in sys.modules]
    before = [(flag, flag[_FLAG]) for flag in flags if _FLAG in flag]
    try:
        for flag, _ in before:
            flag[_FLAG] = True
        yield
    finally:
        for flag, value in before:
            flag[_FLAG] = value
        with _lock:
            _running = tuple(each for each in _running if each is not passed)


def is_extra_pass(node: Node | None = None) -> bool:
    """Whether a backward may be another than the training's own.

    Args:
        node: Where it has come to; by default anywhere.
    """
    if node is None or not _running:
        return bool(_running)
    return any(id(node) in passed for passed in _running)


def unrecorded(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Let a function run without recording a graph, as it may within a backward that makes one."""

    @functools.wraps(function)
    def wrapper(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if not torch.is_grad_enabled():
            return function(*args, **kwargs)  # entering a context takes as long as a small sum
        with torch.no_grad():
            return function(*args, **kwargs)

    return wrapper
