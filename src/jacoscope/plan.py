"""The plan of a run: which targets are captured together, and the records that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

from jacoscope.capturing import Wanted
from jacoscope.config import QuantityName, Schedule
from jacoscope.errors import ConfigError
from jacoscope.quantities import QUANTITIES, inputs_of, is_per_sample, is_probed
from jacoscope.record import Axis
from jacoscope.schedule import Timetable
from jacoscope.selection import Selection, Target

__all__ = [
    "Lane",
    "axis_of",
    "headline_lane",
    "lanes_of",
    "probe_targets_of",
    "quantities_of",
    "sample_targets_of",
    "wanted_of",
]


@dataclass(frozen=True, eq=False)
class Lane:
    """Targets that share a schedule, and the axes of the records that they make.

    Args:
        timetable: When they are captured.
        targets: The parameters.
        axes: By quantity, the parameters that it is measured on.
        wanted: What has to be captured of them.
    """

    timetable: Timetable
    targets: tuple[Target, ...]
    axes: Mapping[QuantityName, Axis]
    wanted: tuple[Wanted, ...]

    @cached_property
    def axis(self) -> Axis:
        """All of its targets."""
        return Axis.of(self.targets)


def lanes_of(selection: Selection) -> tuple[Lane, ...]:
    """The lanes of a selection, one per schedule.

    Raises:
        ConfigError: If a schedule's hook cannot be imported.
    """
    captured = [t for t in selection.targets if not all(map(is_probed, t.quantities))]
    schedules = dict.fromkeys(target.schedule for target in captured)
    return tuple(
        _lane(schedule, tuple(t for t in captured if t.schedule == schedule))
        for schedule in schedules
    )


def _lane(schedule: Schedule, targets: tuple[Target, ...]) -> Lane:
    asked = {name for target in targets for name in target.quantities if not is_probed(name)}
    names = [name for name in QUANTITIES if name in asked]
    axes = {name: Axis.of([t for t in targets if name in t.quantities]) for name in names}
    try:
        timetable = Timetable(schedule)
    except ConfigError as error:
        raise error.within(targets[0].schedule_key) from None
    return Lane(timetable, targets, axes, tuple(_wanted(target) for target in targets))


def _wanted(target: Target) -> Wanted:
    inputs = [inputs_of(name) for name in target.quantities]
    update = any("update" in item for item in inputs)
    both = any({"update", "gradient"} <= item for item in inputs)
    return Wanted(target.name, target.info.parameter, update, both)


def headline_lane(lanes: Sequence[Lane], schedule: Schedule) -> Lane | None:
    """The lane that headlines keep step with: the monitor's own schedule's, else the largest."""
    own = [lane for lane in lanes if lane.targets[0].schedule == schedule]
    return max(own or lanes, key=lambda lane: sum(t.numel for t in lane.targets), default=None)


def axis_of(lanes: Sequence[Lane]) -> Axis:
    """All targets of at least one lane, in order."""
    return reduce(Axis.joined, (lane.axis for lane in lanes))


def wanted_of(lanes: Sequence[Lane]) -> list[Wanted]:
    """What has to be captured for these lanes' quantities."""
    return [wanted for lane in lanes for wanted in lane.wanted]


def sample_targets_of(lanes: Sequence[Lane]) -> list[Target]:
    """The targets of these lanes that have per-sample quantities."""
    return [t for lane in lanes for t in lane.targets if any(map(is_per_sample, t.quantities))]


def probe_targets_of(selection: Selection) -> list[Target]:
    """The targets that have quantities which probes measure."""
    return [target for target in selection.targets if any(map(is_probed, target.quantities))]


def quantities_of(lanes: Sequence[Lane]) -> list[QuantityName]:
    """The quantities that these lanes record, each once."""
    return list(dict.fromkeys(name for lane in lanes for name in lane.axes))
