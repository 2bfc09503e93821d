"""When to capture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jacoscope.config._coerce import coerce_fields
from jacoscope.errors import ConfigError

__all__ = ["ProbeSchedule", "Schedule"]


@dataclass(frozen=True)
class Schedule:
    """When to capture. A step is captured when any of these asks for it.

    A step is one optimiser step: a batch, or a whole window of accumulated batches. Steps count
    from 0, on the axis that the Trainer's own loggers use.

    Args:
        every: Capture steps 0, n, 2n, …; ``null`` for none of them.
        first: Capture each of the first n steps of the run, where training changes fastest.
        steps: Capture these steps.
        per_epoch: Capture each of the first n steps of every epoch.
        hook: Import path ``package.module.function``, or in Python a callable, called with
            ``(step, epoch)`` before every step: ``True`` captures it, ``False`` does not, ``None``
            leaves it to the other options.

    Raises:
        ConfigError: If a number is out of range, or nothing would ever be captured.
    """

    every: int | None = 50
    first: int = 10
    steps: tuple[int, ...] = ()
    per_epoch: int = 0
    hook: Callable[[int, int], bool | None] | str | None = None

    def __post_init__(self) -> None:
        coerce_fields(self)
        if self.every is not None and self.every < 1:
            raise ConfigError(
                f"got {self.every}, must be at least 1; write null for no regular captures",
                key="every",
            )
        for key, value in (("first", self.first), ("per_epoch", self.per_epoch)):
            if value < 0:
                raise ConfigError(f"got {value}, must be 0 or more", key=key)
        for index, step in enumerate(self.steps):
            if step < 0:
                raise ConfigError(f"got {step}, steps count from 0", key=f"steps[{index}]")
        if not (self.every or self.first or self.steps or self.per_epoch or self.hook):
            raise ConfigError(
                "every is null, first and per_epoch are 0, steps is empty and there is no hook, so "
                "nothing would ever be captured; set one of them, such as every: 50"
            )


@dataclass(frozen=True)
class ProbeSchedule(Schedule):
    """When to probe: a schedule as any other, whose defaults are fewer steps.

    Args:
        every: Probe steps 0, n, 2n, …; ``null`` for none of them.
        first: Probe each of the first n steps of the run.
        steps: Probe these steps.
        per_epoch: Probe each of the first n steps of every epoch.
        hook: Import path ``package.module.function``, or in Python a callable, called with
            ``(step, epoch)`` before every step: ``True`` probes it, ``False`` does not, ``None``
            leaves it to the other options.

    Raises:
        ConfigError: If a number is out of range, or nothing would ever be probed.
    """

    every: int | None = 200
    first: int = 1
