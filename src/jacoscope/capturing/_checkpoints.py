"""Nodes below which activation checkpointing would compute what it did not keep."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch.autograd.graph import Node

__all__ = ["checkpointed"]

_HOLDER = "torch.utils.checkpoint"


def checkpointed(nodes: Sequence[Node]) -> tuple[int, ...]:
    """Indices of the nodes whose saved tensors non-reentrant checkpointing stands in for.

    To read such a tensor, or to run such a node an extra time, would run that part of the forward
    again, with all that it does besides (running statistics), and could take from the training's
    backward what it is to have: each is handed out once. What stands for it is looked at alone.

    Args:
        nodes: Nodes of a graph.
    """
    return tuple([place for place, node in enumerate(nodes) if _is_checkpointed(node)])


def _is_checkpointed(node: Node) -> bool:
    for name in _names(type(node)):
        raw = getattr(node, name)
        for saved in raw if isinstance(raw, tuple) else (raw,):
            try:
                kept = saved.data
            except (AttributeError, RuntimeError):  # no tensor, or let go of
                continue
            if kept is not None:  # what holds one of a node's tensors holds the others
                return type(kept).__module__ == _HOLDER
    return False


@functools.lru_cache(maxsize=1024)
def _names(kind: type) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))
