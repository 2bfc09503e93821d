"""What parameters that are split over processes say as wholes.

Each process measures the shards that it holds. Statistics are sums and maxima over a parameter's
scalars, so those of the shards combine to those of the whole, each scalar counted once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jacoscope.captured_step import CapturedStep
from jacoscope.faults import Faults
from jacoscope.processes import Processes, said_by
from jacoscope.quantities import STATISTICS, FloatArray
from jacoscope.reduction import HostStatistics, Transfer
from jacoscope.selection import Target
from jacoscope.sharding import Shards, local

__all__ = ["GatheredTransfer", "ShardGathering"]

_SUBJECT = "bringing the shards of parameters together"
_CAPTURING = "capturing a training step"
_DECIDING = "deciding what to capture"
_UNKEPT = "its capture was given up"
_UNALIKE = (
    "its gradient or its weights differ between processes that each have a copy of it, as nothing "
    "averages them"
)
_ALIKE = 1e-3  # relative; what kernels that add up in changing order may differ by is far less
_COMPARED = ("grad_sq", "grad_abs_max", "weight_sq", "weight_grad_abs", "update_sq")


@dataclass(frozen=True)
class _Part:
    """What one process has of a step.

    Args:
        step: The step, by which processes would notice that they have lost step.
        statistics: What it has measured of its shards.
        sizes: Number of scalars that it has, by parameter.
        holders: Ranks whose shards make up the whole that its own is of, by parameter.
        missing: By parameter, why it could not be captured.
        withheld: Why there is nothing, if that is so.
        faults: What has failed there since the last time, by subject.
    """

    step: int
    statistics: HostStatistics = field(default_factory=HostStatistics)
    sizes: Mapping[str, int] = field(default_factory=dict)
    holders: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    withheld: str | None = None
    faults: Mapping[str, str] = field(default_factory=dict)


class GatheredTransfer:
    """A step's statistics on their way, from all processes.

    Args:
        step: The step.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self.is_open = True
        self.sent: tuple[CapturedStep, Transfer] | None = None
        self.targets: Sequence[Target] = ()
        self._settled: HostStatistics | None = None

    @property
    def awaits_others(self) -> bool:
        """Whether the processes have still to bring their parts together."""
        return self._settled is None

    @property
    def is_done(self) -> bool:
        """Whether :meth:`result` would not have to wait."""
        return self._settled is not None

    def result(self) -> HostStatistics:
        """The statistics of whole parameters."""
        assert self._settled is not None, "the processes bring it together"
        return self._settled

    def settle(self, statistics: HostStatistics, missing: Mapping[str, str]) -> None:
        """Take what the processes have brought together.

        Args:
            statistics: What there is of whole parameters.
            missing: By parameter, why something of it is missing.
        """
        self._settled = statistics
        if self.sent is not None:
            self.sent[0].missing = missing
            self.sent = None


class ShardGathering:
    """Brings the shards of captured steps together on rank zero.

    All processes expect the same steps and gather at the same points, whatever has failed in one of
    them, or they would wait for one another. When a captured step begins and ends is therefore
    noted here, by what all of them see, and not by what has become of the capture.

    Args:
        processes: The processes.
        faults: What to do when something fails.
    """

    def __init__(self, processes: Processes, faults: Faults) -> None:
        self._processes = processes
        self._faults = faults
        self._expected: deque[GatheredTransfer] = deque()
        self._is_stepping = False
        self._ended: str | None = None
        self._told: set[str] = set()

    @property
    def is_waiting(self) -> bool:
        """Whether there is something to gather."""
        return bool(self._expected)

    @property
    def is_open(self) -> bool:
        """Whether a captured step awaits its optimiser."""
        return bool(self._expected) and self._expected[-1].is_open

    def expect(self, step: int) -> None:
        """This step is captured, in all processes."""
        self._is_stepping = False
        self._expected.append(GatheredTransfer(step))

    def postpone(self, step: int) -> None:
        """The captured step goes on, under another number."""
        self._expected[-1].step = step

    def optimizer_steps(self) -> None:
        """An optimiser is about to step."""
        self._is_stepping = True

    def fulfil(
        self, captured: CapturedStep, transfer: Transfer, targets: Sequence[Target]
    ) -> GatheredTransfer:
        """Take what was measured here in the step that is open.

        Args:
            captured: The step.
            transfer: What was measured of the shards.
            targets: The parameters that are watched.

        Returns:
            What becomes of it.
        """
        expected = self._expected[-1]
        expected.sent = captured, transfer
        expected.targets = targets
        return expected

    def end_step(self) -> None:
        """A training step has ended."""
        if self.is_open and self._is_stepping:
            self._expected[-1].is_open = False
        if self._ended is not None:
            self.give_up(self._ended)

    def gather(self, before: float = math.inf) -> None:
        """Gather the expected steps before this one; all processes have to call it."""
        while self._expected and self._expected[0].step < before and not self._expected[0].is_open:
            expected = self._expected.popleft()
            try:
                if self._ended is None:
                    with self._faults.contain(_SUBJECT, self._break):
                        self._exchange(expected)
            finally:
                if expected.awaits_others:
                    self._withhold(expected)

    def give_up(self, reason: str) -> None:
        """Withhold what has not been gathered, and what is still to come; it waits for no one."""
        self._ended = self._ended or reason
        while self._expected:
            self._withhold(self._expected.popleft())

    def _exchange(self, expected: GatheredTransfer) -> None:
        part = self._part(expected)
        parts = self._processes.hand_over(part)
        if parts is None:
            expected.settle(part.statistics, {})
            return
        if any(each.step != part.step for each in parts):
            raise RuntimeError("the processes have captured different steps")
        for rank, each in enumerate(parts):
            for subject, reason in each.faults.items() if rank else ():
                self._faults.note(subject, said_by(rank, reason))
        if expected.sent is not None:
            expected.settle(*_wholes(expected.targets, parts))

    def _part(self, expected: GatheredTransfer) -> _Part:
        """What this process has of a step; what fails is told to the others."""
        step, withheld = expected.step, None
        statistics, missing = HostStatistics(), {}
        if expected.sent is None:
            reasons = self._faults.reasons
            withheld = reasons.get(_CAPTURING) or reasons.get(_DECIDING) or _UNKEPT
        else:
            captured, transfer = expected.sent
            try:
                statistics, missing = transfer.result(), dict(captured.missing)
            except Exception as error:
                withheld = f"{type(error).__name__}: {error}"
                self._faults.note("reading what was measured", withheld)
        new = {name: why for name, why in self._faults.reasons.items() if name not in self._told}
        self._told.update(new)
        rank = self._processes.rank
        sizes = {target.name: _size(target) for target in expected.targets}
        holders = {target.name: _holders(target, rank) for target in expected.targets}
        return _Part(step, statistics, sizes, holders, missing, withheld, new)

    def _withhold(self, expected: GatheredTransfer) -> None:
        """Keep of a step what this process knows by itself."""
        if expected.sent is None:
            expected.settle(HostStatistics(), {})
            return
        failure = self._faults.reasons.get(_SUBJECT)
        reason = self._ended or failure or _UNKEPT
        if failure is not None and failure not in reason:
            reason = f"{reason} ({failure})"
        captured, transfer = expected.sent
        mine, missing = HostStatistics(), dict(captured.missing)
        with self._faults.contain("reading what was measured"):
            mine = transfer.result()
        for target in expected.targets:
            if _is_split(target):
                _drop(mine, target.name)
                missing[target.name] = reason
        expected.settle(mine, missing)

    def _break(self) -> None:
        """Let the others know that this process will come no more."""
        self._ended = "the processes could no longer bring their shards together"
        self._processes.close()


def _size(target: Target) -> int:
    """Number of scalars that this process has, two for each complex number."""
    here = local(target.info.parameter.detach())
    return here.numel() * (2 if here.is_complex() else 1)


def _holders(target: Target, rank: int) -> tuple[int, ...]:
    shards = target.info.shards
    return shards.holders if isinstance(shards, Shards) else (rank,)


def _is_split(target: Target) -> bool:
    return isinstance(target.info.shards, Shards) and target.info.shards.are_several


def _drop(statistics: HostStatistics, name: str) -> None:
    for column in statistics.values.values():
        column.pop(name, None)
    statistics.histograms.pop(name, None)


def _wholes(
    targets: Sequence[Target], parts: Sequence[_Part]
) -> tuple[HostStatistics, dict[str, str]]:
    """The statistics of whole parameters, and why some are missing; by process, their parts."""
    wholes, missing = HostStatistics(), {}
    for target in targets:
        name = target.name
        try:
            whole = _join(target, parts[0].holders.get(name, (0,)), parts)
            _compare(whole, target, parts)
        except _LostError as lost:
            missing[name] = str(lost)
            continue
        for statistic, value in whole.values.items():
            wholes.values.setdefault(statistic, {})[name] = value
        if whole.histogram is not None:
            wholes.histograms[name] = whole.histogram
        if whole.missing is not None:
            missing[name] = whole.missing
    return wholes, missing


class _LostError(Exception):
    """Why there is nothing of a parameter."""


@dataclass(frozen=True)
class _Whole:
    """The statistics of one parameter, and why some are missing, if some are."""

    values: Mapping[str, float]
    histogram: FloatArray | None
    missing: str | None


def _join(target: Target, holders: Sequence[int], parts: Sequence[_Part]) -> _Whole:
    """Put a parameter's shards together."""
    name = target.name
    for rank in holders:
        withheld = parts[rank].withheld
        if withheld is not None:
            raise _LostError(said_by(rank, withheld))
    sizes = {rank: parts[rank].sizes.get(name, 0) for rank in holders}
    there = sum(sizes.values())
    if there != target.numel:
        raise _LostError(
            f"its shards have {there} scalars in all, but the whole has {target.numel}"
        )
    # A process whose shard is empty has nothing to say, not even that it has no gradient.
    having = [rank for rank, size in sizes.items() if size]
    columns = [parts[rank].statistics for rank in having]
    values: dict[str, float] = {}
    for statistic in columns[0].values:
        given = [each.values.get(statistic, {}).get(name, None) for each in columns]
        if None not in given:
            combine = np.max if STATISTICS[statistic].combine == "max" else np.sum
            with np.errstate(invalid="ignore"):
                values[statistic] = float(combine(np.array(given, dtype=np.float64)))
    histogram: FloatArray | None = None
    if all(name in each.histograms for each in columns):
        histogram = np.sum([each.histograms[name] for each in columns], axis=0)
    reasons = {rank: parts[rank].missing.get(name) for rank in having}
    return _Whole(values, histogram, _first_said(reasons))


def _first_said(reasons: Mapping[int, str | None]) -> str | None:
    """The first reason, and whose it is, unless all say the same."""
    rank, why = next(((r, each) for r, each in reasons.items() if each is not None), (0, None))
    if why is None or set(reasons.values()) == {why}:
        return why
    return said_by(rank, why)


def _compare(whole: _Whole, target: Target, parts: Sequence[_Part]) -> None:
    """Hold what rank zero has a part of to the copies that other processes have."""
    own = parts[0].holders.get(target.name)
    others = {part.holders.get(target.name) for part in parts if part.withheld is None}
    for holders in others - {own, None}:
        assert holders is not None
        if any(parts[rank].withheld is not None for rank in holders):
            continue
        copy = _join(target, holders, parts)
        for statistic in _COMPARED:
            here, there = whole.values.get(statistic), copy.values.get(statistic)
            if here is None or there is None:
                differ = (here is None) != (there is None) and bool(whole.missing or copy.missing)
            else:
                differ = not np.isclose(here, there, rtol=_ALIKE, atol=0, equal_nan=True)
            if differ:
                raise _LostError(_UNALIKE)
