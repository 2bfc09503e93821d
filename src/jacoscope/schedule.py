"""When a step is captured."""

from __future__ import annotations

import bisect
import math

from jacoscope.config import Schedule, resolve_callable
from jacoscope.errors import ConfigError

__all__ = ["Timetable", "describe_schedule"]

_FLAGS = ("bool", "torch.bool")
"""Types of the elements that a hook's answer may have, where it is an array or a tensor."""

_FEW = 5
"""Steps that a description names."""


class Timetable:
    """Answers, step by step, whether a :class:`~jacoscope.config.Schedule` asks for a capture.

    Args:
        schedule: When to capture.

    Raises:
        ConfigError: If the schedule's hook cannot be imported.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._steps = sorted(set(schedule.steps))
        self._hook = resolve_callable(schedule.hook, "hook")

    @property
    def has_hook(self) -> bool:
        """Whether a user's function decides, which may answer otherwise in another process."""
        return self._hook is not None

    @property
    def every(self) -> int | None:
        """Steps from one regular capture to the next, if there are such."""
        return self._schedule.every if self._hook is None else None

    def is_due(self, step: int, epoch: int, epoch_start: int) -> bool:
        """Whether to capture this step.

        Args:
            step: Optimiser steps taken before this one in the run.
            epoch: Epochs completed.
            epoch_start: The step at which this epoch began.
        """
        if self._hook is not None:
            answer = self._hook(step, epoch)
            if answer is not None:
                return _flag(answer)
        return self._next_regular(step, epoch_start) == step

    def next_due(self, step: int, epoch_start: int) -> float:
        """The first step from ``step`` on that may be captured, unless a new epoch begins before.

        Returns:
            ``step`` itself where a hook must be asked each time; infinity where none is left.
        """
        return step if self._hook is not None else self._next_regular(step, epoch_start)

    def _next_regular(self, step: int, epoch_start: int) -> float:
        schedule = self._schedule
        if step < schedule.first or step - epoch_start < schedule.per_epoch:
            return step
        candidates: list[float] = []
        place = bisect.bisect_left(self._steps, step)
        candidates += self._steps[place : place + 1]
        if schedule.every:
            candidates.append(-(-step // schedule.every) * schedule.every)
        return min(candidates, default=math.inf)


def _flag(answer: object) -> bool:
    """What a hook answers, where that is a flag: Python's, or an array's or tensor's."""
    kind = type(answer).__name__
    if not isinstance(answer, bool) and str(getattr(answer, "dtype", "")) not in _FLAGS:
        raise ConfigError(f"returned a value of type {kind}; return True, False or None", "hook")
    return bool(answer)


def describe_schedule(schedule: Schedule) -> str:
    """What a schedule asks for, in its own options, such as ``steps: [1000]``."""
    hook = schedule.hook
    named = hook if isinstance(hook, str) else getattr(hook, "__qualname__", type(hook).__name__)
    steps = ", ".join(map(str, schedule.steps[:_FEW])) + (", …" * (len(schedule.steps) > _FEW))
    asked = {
        "every": schedule.every,
        "first": schedule.first,
        "steps": f"[{steps}]" if steps else None,
        "per_epoch": schedule.per_epoch,
        "hook": named if hook else None,
    }
    return ", ".join(f"{key}: {value}" for key, value in asked.items() if value)
