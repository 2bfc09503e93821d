"""What the samples of a step say over all processes, each of which has seen some of them."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from jacoscope.captured_samples import CapturedSamples
from jacoscope.faults import Faults
from jacoscope.leaderboard import ShownSamples, without_things
from jacoscope.processes import Processes, said_by
from jacoscope.quantities import combine_statistics
from jacoscope.sample_results import NAMED, OpenedStep, SampleResults, StepSum, Whole, not_closed

__all__ = ["SampleGathering"]

Made = TypeVar("Made")

_SUBJECT = "gathering the samples of all processes"
_DECIDING = "deciding what to capture"
_FINISHING = "finishing per-sample statistics"


@dataclass
class _Expected:
    """A step that all processes capture the samples of, whatever becomes of it in one of them."""

    step: int
    epoch: int
    samples: CapturedSamples | None = None


@dataclass(frozen=True)
class _Notice:
    """What all processes have to know of one's part of a step.

    Args:
        step: The step, by which they would notice that they have lost step.
        samples: Number of samples.
        missing: By parameter, why it is missing.
        withheld: Why there is nothing, if that is so.
        faults: What else has failed there since the last time, by subject.
        sums: By parameter, what is known of the sum of the step's backwards.
    """

    step: int
    samples: int
    missing: Mapping[str, str]
    withheld: str | None
    faults: Mapping[str, str]
    sums: Mapping[str, StepSum] = field(default_factory=dict)


class SampleGathering:
    """Brings the samples of captured steps together on rank zero.

    All processes have to expect the same steps and gather at the same points, or they would wait
    for one another. So a step is expected as soon as the schedule, which is the same everywhere,
    asks for it; a process where something fails gathers all the same and says what failed, and then
    no process has these samples.

    Each process works out its own part, since what parts say adds up. To do so it has to know how
    many samples the whole step has and which parameters another process lacks, so they first tell
    one another that.

    Args:
        processes: The processes.
        faults: What to do when something fails.
        leaderboard: How many places a leaderboard has; 0 if there is none.
    """

    def __init__(self, processes: Processes, faults: Faults, leaderboard: int) -> None:
        self._processes = processes
        self._faults = faults
        self._shown = ShownSamples(leaderboard or 1)
        self._expected: deque[_Expected] = deque()
        self._ended: str | None = None
        self._told: set[str] = set()
        self._held: Exception | None = None

    @property
    def rank(self) -> int:
        """Which of the processes this is."""
        return self._processes.rank

    @property
    def is_waiting(self) -> bool:
        """Whether there is something to gather."""
        return bool(self._expected)

    def decide(self, answers: Callable[[], list[int]]) -> list[int]:
        """Rank zero's answers, on all processes; all have to ask."""
        if self._ended is not None:
            return answers() if self.rank == 0 else []
        found = self._attempt(_DECIDING, answers)[0] if self.rank == 0 else None
        with self._faults.contain(_SUBJECT, self._break):
            found = self._processes.of_rank_zero(found)
        self._release()
        return found or []

    def expect(self, step: int, epoch: int) -> None:
        """Samples of this step are captured, in all processes.

        Args:
            step: The step.
            epoch: Epochs completed.
        """
        self._expected.append(_Expected(step, epoch))

    def fulfil(self, samples: CapturedSamples) -> None:
        """Take what captures the samples of the step that was expected last."""
        self._expected[-1].samples = samples
        if self._why_ended is not None:
            samples.give_up(self._why_ended)

    def gather(self, before: float = math.inf) -> None:
        """Gather the expected steps before this one; all processes have to call it."""
        while self._expected and self._expected[0].step < before:
            self._settle(self._expected.popleft())

    def give_up(self, reason: str) -> None:
        """Withhold what has not been gathered, and what is still to come; it waits for no one."""
        self._ended = self._ended or reason
        self.gather()

    def _settle(self, expected: _Expected) -> None:
        results: SampleResults | None = None
        withheld: str | None = None
        try:
            if self._ended is None:
                with self._faults.contain(_SUBJECT, self._break):
                    results, withheld = self._exchange(expected)
        finally:
            if expected.samples is not None:
                expected.samples.settle(results, withheld or self._why_ended)

    def _exchange(self, expected: _Expected) -> tuple[SampleResults | None, str | None]:
        """The step's results, on rank zero, or why there are none."""
        opened, notice = self._opened(expected)
        notices = self._processes.share(notice)
        self._pass_on(notices)
        if any(each.step != notice.step for each in notices):
            raise RuntimeError("the processes have captured different steps")
        results = None
        withheld = _first(each.withheld for each in notices)
        if withheld is None:
            assert expected.samples is not None
            assert opened is not None
            part = self._part(expected, expected.samples, opened, _whole(notices))
            parts = self._processes.hand_over(part) or []
            withheld = _first(each if isinstance(each, str) else None for each in parts)
            self._release()
            if withheld is not None and self._faults.policy == "raise":
                raise RuntimeError(withheld)
            if withheld is not None:
                self._faults.note(_FINISHING, withheld)
            elif parts:
                results = _joined([each for each in parts if not isinstance(each, str)])
        self._release()
        return results, withheld

    def _opened(self, expected: _Expected) -> tuple[OpenedStep | None, _Notice]:
        """What this process has of a step."""
        opened: OpenedStep | None = None
        withheld: str | None = None
        if expected.samples is None:
            withheld = self._faults.reasons.get(_DECIDING, "its capture never began")
        else:
            opened, withheld = self._attempt(_FINISHING, expected.samples.open)
            withheld = withheld or expected.samples.withheld
        new = {name: why for name, why in self._faults.reasons.items() if name not in self._told}
        self._told.update(new)
        if opened is None:
            return None, _Notice(expected.step, 0, {}, withheld, new)
        notice = _Notice(expected.step, opened.samples, opened.missing, withheld, new, opened.sums)
        return opened, notice

    def _part(
        self, expected: _Expected, samples: CapturedSamples, opened: OpenedStep, whole: Whole
    ) -> SampleResults | str:
        """What this process has to say of a step, or why it cannot."""

        def make() -> SampleResults:
            results = samples.summary(opened, whole)
            if self.rank == 0:
                return results
            shown = without_things(results.batches)
            with self._faults.contain("showing samples"):
                shown = self._shown.of(results.batches, expected.epoch)
            return replace(results, batches=shown, missing={}, capture={})

        part, failure = self._attempt(_FINISHING, make)
        return part or failure or ""

    def _pass_on(self, notices: Sequence[_Notice]) -> None:
        """Warn, on rank zero, of what has failed elsewhere."""
        for rank, notice in enumerate(notices if self.rank == 0 else ()):
            for subject, reason in notice.faults.items() if rank else ():
                self._faults.note(subject, said_by(rank, reason))

    def _attempt(self, subject: str, make: Callable[[], Made]) -> tuple[Made | None, str | None]:
        """Try something whose failure the other processes have to be told before it is raised."""
        try:
            return make(), None
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if self._faults.policy == "raise":
                self._held = error
            else:
                self._faults.note(subject, reason)
            return None, reason

    def _release(self) -> None:
        """Raise what was held back."""
        held, self._held = self._held, None
        if held is not None:
            raise held

    @property
    def _why_ended(self) -> str | None:
        failure = self._faults.reasons.get(_SUBJECT)
        return self._ended if failure is None else f"{self._ended} ({failure})"

    def _break(self) -> None:
        """Let the others know that this process will come no more."""
        self._ended = "the processes could no longer exchange them"
        self._processes.close()


def _first(reasons: Iterable[str | None]) -> str | None:
    """The first process's reason, if there is one."""
    said = (said_by(rank, each) for rank, each in enumerate(reasons) if each is not None)
    return next(said, None)


def _whole(notices: Sequence[_Notice]) -> Whole:
    missing: dict[str, str] = {}
    for rank, notice in enumerate(notices):
        for name, reason in notice.missing.items():
            missing.setdefault(name, said_by(rank, reason))
    for name, reason in not_closed([notice.sums for notice in notices]).items():
        missing.setdefault(name, reason)
    return Whole(sum(notice.samples for notice in notices), missing, len(notices))


def _joined(parts: Sequence[SampleResults]) -> SampleResults:
    """The parts of one whole, by process, taken together."""
    first = parts[0]
    nonfinite = [name for part in parts for name in part.nonfinite]
    return replace(
        first,
        statistics={
            row: functools.reduce(combine_statistics, [part.statistics[row] for part in parts])
            for row in first.statistics
        },
        batches=tuple(batch for part in parts for batch in part.batches),
        closure=max((p.closure for p in parts if not math.isnan(p.closure)), default=math.nan),
        samples=sum(part.samples for part in parts),
        measured=sum(part.measured for part in parts),
        norms={row: np.concatenate([part.norms[row] for part in parts]) for row in first.norms},
        nonfinite=tuple(nonfinite[:NAMED]),
    )
