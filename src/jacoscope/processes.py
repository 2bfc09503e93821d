"""How the monitors of several processes talk to one another."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch.distributed as dist

__all__ = ["Processes", "are_several", "said_by"]

Value = TypeVar("Value")

_TIMEOUT = timedelta(minutes=10)  # as long as NCCL waits


def are_several() -> bool:
    """Whether several processes train together, as far as PyTorch knows."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def said_by(rank: int, reason: str) -> str:
    """A process's reason, for the record that rank zero makes."""
    return f"process {rank}: {reason}" if rank else reason


class Processes:
    """The processes that train one model, each on batches of its own, their gradients averaged.

    Their monitors exchange small Python objects on the host, through a group of their own: the
    training's communication, its devices and its random numbers are left alone. To make one, and
    all methods but :meth:`close`, wait for all processes: each has to call the same in the same
    order. A process that fails closes its end, and so fails the others at once instead of letting
    them wait.

    Attributes:
        rank: Which of them this is, from 0.
        size: How many they are.

    Raises:
        RuntimeError: If the processes cannot reach one another.
    """

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def share(self, value: Value) -> list[Value]:
        """What each process gave, in order of rank."""
        shared: list[Any] = [None] * self.size
        dist.all_gather_object(shared, value, group=self._own())
        return shared

    def hand_over(self, value: Value) -> list[Value] | None:
        """What each process gave, in order of rank, on rank zero; ``None`` elsewhere."""
        if self.rank:
            dist.gather_object(value, dst=0, group=self._own())
            return None
        handed: list[Any] = [None] * self.size
        dist.gather_object(None, handed, dst=0, group=self._own())
        return [value, *handed[1:]]  # its own does not travel

    def of_rank_zero(self, value: Value | None) -> Value:
        """What rank zero gave."""
        told = [value]
        dist.broadcast_object_list(told, src=0, group=self._own())
        return cast("Value", told[0])

    def _own(self) -> Any:
        # Without a group PyTorch would take the one that the training talks by.
        if self._group is None:
            raise RuntimeError("this process has closed its end")
        return self._group

    def close(self) -> None:
        """Talk no more; safe at any time."""
        group, self._group = self._group, None
        if group is not None and dist.is_initialized():
            with suppress(ValueError):  # it has gone already, with all groups of its time
                dist.destroy_process_group(group)
