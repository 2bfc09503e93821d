"""What share of the training time the monitor takes, and how to keep that within a budget."""

from __future__ import annotations

import itertools
import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["PROBE", "Budget", "Overhead", "rounded"]

_log = logging.getLogger("jacoscope")

PROBE = "probe"
"""The kind of capture that probes are; the others are named by their lanes."""

_FEW = 5
"""Other steps that have to be seen before a captured one can be compared with them."""
_HALF_LIFE = 256
"""Other steps after which one counts half in their mean."""
_PAUSE = 10
"""Times the mean step that one counts for at most: what takes longer is a pause."""
_REMEMBERED = 5
"""Captures of a kind whose cost is remembered."""
_TYPICAL = 3
"""Captures of a kind after which what is far more than they took is a pause."""
_SAVED = 10
"""Captures of every kind that unused time is saved up for."""
_LONGEST_REST = 50
"""Steps after which a budget is asked again, however far off it seemed: steps may take longer by
then, and asking takes about as long as 50 steps on which nothing is asked."""
_SPARSE = 1000
"""Steps from one capture to the next that the log tells of."""


@dataclass
class _Captured:
    """Captured steps whose cost is not settled yet."""

    kind: str | None = None
    captures: int = 0
    seconds: float = 0.0
    steps: int = 0
    own: float = 0.0
    probes: float = 0.0
    once: float = 0.0
    is_warm: bool = True
    is_asynchronous: bool = False


class Overhead:
    """Measures what part of the training time is the monitor's, and never waits for the device.

    Training time is wall time from the beginning of a step to that of the next, without pauses.
    Of it is the monitor's:

    - its own time on the host: what passes while this context is entered, and what is added;
    - what captured steps took beyond that and the mean of the steps around them, summed over
      captures, as far as that is positive. Here the device's work shows: a captured step counts
      as such until the device has delivered it. It is left out for the first step of a run or a
      resumed run, in which the training warms up, too.

    Captured steps may also be longer for reasons of their own, such as a callback of the project
    that works at the same steps. So what counts of the difference is bounded:

    - Where the model is on the processor, nothing of the monitor's runs outside of its own calls,
      but they leave caches cold and memory in use. The difference counts, in either direction, up
      to the time that the monitor spent on the host in these steps.
    - Where a device works while the host goes on, its work may be many times the host's, and no
      clock on the host tells it from other work at the same steps. Only what looks like a pause is
      bounded: more than ten times a mean step and a capture of this kind, once three are known.

    Args:
        clock: Tells the time in seconds.

    Attributes:
        training: Seconds of training so far.
        outside: Seconds that the monitor took before and after the training, which are no part of
            its share.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._depth = 0
        self._entered = 0.0
        self._host = 0.0
        self._mark: tuple[float, int, float] | None = None
        self._is_warm = False
        self._is_capturing = False
        self._captured: _Captured | None = None
        self._excess = 0.0
        self._other_seconds = 0.0
        self._other_steps = 0.0
        self._costs: dict[str, deque[float]] = {}
        self._untypical: set[str] = set()  # those known from a step that warmed up, or from another
        self.training = 0.0
        self.outside = 0.0

    def __enter__(self) -> None:
        if not self._depth:
            self._entered = self._clock()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._host += self._clock() - self._entered

    @contextmanager
    def around_training(self) -> Iterator[None]:
        """What passes while this context is entered is before or after the training."""
        begun = self._clock()
        try:
            yield
        finally:
            self.outside += self._clock() - begun

    def add(self, seconds: float) -> None:
        """Count time on the host that passed outside of this context."""
        self._host += seconds

    def begin_step(self, step: int, *, is_idle: bool) -> None:
        """A training step begins, if it is not the one that began last.

        Args:
            step: Optimiser steps before it.
            is_idle: Whether nothing captured before is still under way.
        """
        if self._mark is not None and self._mark[1] == step:
            return  # the next batch of its window
        self._close(step)
        self._mark = (self._clock(), step, self.own)
        self._is_capturing = self._is_capturing and not is_idle
        if not self._is_capturing and not math.isnan(self.step_seconds):
            self._settle()

    def begin_capture(self, kind: str, *, is_asynchronous: bool = True) -> None:
        """Capture or probe the step that has begun.

        Args:
            kind: What is captured.
            is_asynchronous: Whether a device works on it while the host goes on.
        """
        self._is_capturing = True
        if self._captured is None:
            self._captured = _Captured()
        self._captured.is_asynchronous |= is_asynchronous
        if kind != PROBE:
            self._captured.kind = kind
            self._captured.captures += 1

    def probed(self, seconds: float) -> None:
        """Probes have run for so long."""
        self._remember(PROBE, seconds)
        if self._captured is not None:
            self._captured.probes += seconds

    def once(self, seconds: float) -> None:
        """So much of the host's time within the capture under way will not recur with the next."""
        if self._captured is not None:
            self._captured.once += seconds

    def pause(self, step: int) -> None:
        """The training pauses until the next step begins, for a validation or at an epoch's end.

        Args:
            step: Optimiser steps so far.
        """
        self._close(step)
        self._mark = None

    @property
    def own(self) -> float:
        """Seconds of the monitor's own time on the host."""
        running = self._clock() - self._entered if self._depth else 0.0
        return self._host + running

    @property
    def step_seconds(self) -> float:
        """Mean time of a step without captures, ``nan`` as long as too few were seen."""
        return self._other_seconds / self._other_steps if self._is_known else math.nan

    @property
    def spent(self) -> float:
        """Seconds that the monitor took so far.

        As long as there were too few other steps to compare captured ones with, it is the time on
        the host alone.
        """
        return self._spent(self._captured)

    @property
    def share(self) -> float:
        """The monitor's share of the training time so far, ``nan`` before any has passed.

        Of a captured step under way it has what has passed.
        """
        captured, training = self._captured, self.training
        if self._mark is not None and self._is_capturing and captured is not None:
            since, _, own = self._mark
            captured, passed = self._with(captured, self._clock() - since, 1, self.own - own)
            training += passed
        return self._spent(captured) / training if training > 0 else math.nan

    @property
    def is_settled(self) -> bool:
        """Whether the cost of all captures is known."""
        return self._captured is None

    def expected(self, kind: str) -> float:
        """Seconds that a capture of this kind may take; 0 if there was none yet."""
        costs = self._costs.get(kind)
        return statistics.median_low(costs) if costs else 0.0

    def remembered(self, kind: str) -> int:
        """How many captures of this kind that is known from, as far as they are typical."""
        return 0 if kind in self._untypical else len(self._costs.get(kind, ()))

    def rescale(self, kind: str, factor: float) -> None:
        """Expect captures of this kind to take so many times as long, until one was seen."""
        if kind in self._costs:
            self._costs[kind] = deque([factor * self.expected(kind)], maxlen=_REMEMBERED)
            self._untypical.add(kind)

    @property
    def expected_of_all(self) -> float:
        """Seconds that a capture of each kind takes together."""
        return sum(map(self.expected, self._costs))

    def state_dict(self) -> dict[str, Any]:
        """The times, as plain values for a checkpoint."""
        return {
            "training": self.training,
            "host": self.own,
            "excess": self._excess,
            "costs": {kind: list(costs) for kind, costs in self._costs.items()},
            "untypical": sorted(self._untypical),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from these times; steps may take another time here than they did there."""
        self.training = float(state.get("training", 0.0))
        self._host = float(state.get("host", 0.0))
        self._excess = float(state.get("excess", 0.0))
        self._mark, self._captured, self._is_capturing = None, None, False
        for kind, costs in state.get("costs", {}).items():
            self._costs[str(kind)] = deque(map(float, costs), maxlen=_REMEMBERED)
        self._untypical = {str(kind) for kind in state.get("untypical", ())}

    @property
    def _is_known(self) -> bool:
        return self._other_steps >= _FEW

    def _close(self, step: int) -> None:
        """Count the steps since the mark."""
        if self._mark is None or step <= self._mark[1]:
            return  # a pause, a part of a step, or another run
        (since, first, own), captured = self._mark, self._captured
        steps, own = step - first, self.own - own
        seconds = self._clock() - since
        if self._is_capturing and captured is not None:
            self._captured, passed = self._with(captured, seconds, steps, own)
            self.training += passed
        else:
            self.training += own + self._counted(seconds - own, steps)
        self._is_warm = True

    def _with(
        self, captured: _Captured, seconds: float, steps: int, own: float
    ) -> tuple[_Captured, float]:
        """Captured steps with some more, and what these add to the training time."""
        passed = seconds
        if self._is_known and not captured.is_asynchronous:
            passed = min(seconds, _PAUSE * steps * self.step_seconds + 2 * own)
        more = replace(
            captured,
            own=captured.own + own,
            seconds=captured.seconds + (seconds if self._is_warm else own),
            steps=captured.steps + (steps if self._is_warm else 0),
            is_warm=captured.is_warm and self._is_warm,
        )
        return more, passed

    def _spent(self, captured: _Captured | None) -> float:
        """Seconds that the monitor took, with these captured steps."""
        if captured is None or not self._is_known:
            return self.own + self._excess
        return self.own + max(0.0, self._excess + self._beyond(captured))

    def _counted(self, seconds: float, steps: int) -> float:
        """What steps without captures add to the training time."""
        if self._is_known:
            seconds = min(seconds, _PAUSE * steps * self.step_seconds)
        if self._is_warm:
            kept = 0.5 ** (steps / _HALF_LIFE)
            self._other_seconds = kept * self._other_seconds + seconds
            self._other_steps = kept * self._other_steps + steps
        return seconds

    def _beyond(self, captured: _Captured) -> float:
        """What counts of what captured steps took beyond other steps and the time on the host."""
        beyond = captured.seconds - captured.own - captured.steps * self.step_seconds
        if not captured.is_asynchronous:
            return max(-captured.own, min(captured.own, beyond))
        kind = captured.kind
        if kind is None or self.remembered(kind) < _TYPICAL:
            return beyond
        usual = captured.steps * self.step_seconds + captured.captures * self.expected(kind)
        return min(beyond, _PAUSE * usual)

    def _settle(self) -> None:
        captured, self._captured = self._captured, None
        if captured is None:
            return
        beyond = self._beyond(captured)
        self._excess = max(0.0, self._excess + beyond)
        if captured.kind is not None and captured.captures == 1:  # several are not told apart
            seconds = captured.own + max(0.0, beyond) - captured.probes
            self._remember(captured.kind, seconds - captured.once)
            if not captured.is_warm:
                self._untypical.add(captured.kind)

    def _remember(self, kind: str, seconds: float) -> None:
        costs = self._costs.setdefault(kind, deque(maxlen=_REMEMBERED))
        if kind in self._untypical:
            self._untypical.remove(kind)
            costs.clear()
        costs.append(max(0.0, seconds))


class Budget:
    """Allows captures as far as the monitor keeps within its share of the training time.

    A capture is allowed where the time that is left, after what the monitor has taken, covers what
    captures of its kind have cost lately; the first of a kind is allowed as soon as nothing is
    owed. A kind that was refused is saved up for, so that cheaper and more frequent ones do not use
    up what it needs. Time that stays unused is saved up for ten captures at most.

    Args:
        share: The largest share, above 0.
        overhead: What has been measured.

    Attributes:
        share: The largest share.
    """

    def __init__(self, share: float, overhead: Overhead) -> None:
        self.share = share
        self._overhead = overhead
        self._forfeited = 0.0
        self._refused: dict[str, None] = {}
        self._step: int | None = None
        self._left: float | None = None
        self._answers: dict[str, bool] = {}
        self._has_told = False

    def allows(self, kind: str, step: int) -> bool:
        """Whether a capture of this kind is allowed at this step; asking again changes nothing.

        Args:
            kind: What is to be captured.
            step: The step that has begun.
        """
        self.left(step)
        if kind not in self._answers:
            self._answers[kind] = self._decide(kind)
        return self._answers[kind]

    def left(self, step: int) -> float | None:
        """Seconds that may be spent at this step, below zero where they are owed.

        Args:
            step: The step that has begun.

        Returns:
            ``None`` where the cost of captures before it is not known yet.
        """
        if step != self._step:
            # Once for the step: what is allowed in it is under way then, and its cost not known.
            self._step, self._left, self._answers = step, self._open_account(), {}
        return self._left

    def rests_until(self, step: int) -> int:
        """The first step after this one at which a capture other than a probe may be allowed.

        Args:
            step: The step that has begun, at which one was asked for.
        """
        pace = self.share * self._overhead.step_seconds
        refused = [self._needed(kind) for kind in self._refused if kind != PROBE]
        if not refused or self._left is None or not pace > 0:
            return step + 1
        steps = math.ceil(min((min(refused) - self._left) / pace, _LONGEST_REST))
        self._tell_of_sparsity()
        return step + max(1, steps)

    def forget_refused(self) -> None:
        """Save up for no kind in particular, as others may be asked for from now on."""
        self._refused.clear()

    def state_dict(self) -> dict[str, Any]:
        """The share and what was forfeited, as plain values for a checkpoint."""
        return {"share": self.share, "forfeited": self._forfeited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was forfeited."""
        self._forfeited = float(state.get("forfeited", 0.0))
        self._step = None

    def _open_account(self) -> float | None:
        """Seconds that may be spent, below zero where they are owed; ``None`` if not known yet."""
        overhead = self._overhead
        if not overhead.is_settled:
            return None
        if not overhead.training:
            return 0.0  # before the first step nothing is owed
        left = self.share * overhead.training - overhead.spent - self._forfeited
        excessive = max(0.0, left - _SAVED * overhead.expected_of_all)
        self._forfeited += excessive
        return left - excessive

    def _decide(self, kind: str) -> bool:
        if self._left is None or self._left < self._needed(kind):
            self._refused.setdefault(kind)
            return False
        self._refused.pop(kind, None)
        self._left -= self._overhead.expected(kind)
        return True

    def _needed(self, kind: str) -> float:
        """What a capture of this kind takes, and those that were refused before it."""
        before = list(itertools.takewhile(lambda refused: refused != kind, self._refused))
        return sum(map(self._overhead.expected, [*before, kind]))

    def _tell_of_sparsity(self) -> None:
        """Say once where captures cost so much that they become rare."""
        seconds = self._overhead.step_seconds
        for kind in self._refused:
            cost = self._overhead.expected(kind)
            steps = cost / (self.share * seconds)
            known = self._overhead.remembered(kind)
            if kind == PROBE or steps < _SPARSE or known < _REMEMBERED or self._has_told:
                continue
            self._has_told = True
            _log.warning(
                "a capture takes %s times as long as a step, so that overhead: %g leaves "
                "%.0f steps from one to the next; measure fewer quantities or layers to have more",
                rounded(cost / seconds),
                self.share,
                steps,
            )


def rounded(ratio: float) -> str:
    """A ratio for people, to two digits or as a whole number."""
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:#.2g}"
