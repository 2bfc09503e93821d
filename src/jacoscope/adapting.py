"""What a budget does where captures would become too rare: less is measured of each."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jacoscope.extent import Extent
from jacoscope.pacing import Budget, Overhead, rounded

__all__ = ["Adaptation"]

_log = logging.getLogger("jacoscope")

_RARE = 10
"""Times the schedule's spacing beyond which captures are too rare."""
_AMPLE = 5
"""Times the schedule's spacing up to which there is room to measure more."""
_FEW = 3
"""Captures below which a run has too few."""
_NOTABLE = 0.1
"""Seconds before and after the training that are told of."""
_SURE = 2
"""Captures that what they cost is known from: one alone may have been slow by chance."""


class Adaptation:
    """Decides how much of a captured step is measured, and keeps count of captures for the log.

    Less is measured where the budget alone would space captures more than ten times as far apart as
    the schedule, or where a run of known length would end before the next could be afforded, with
    fewer than three made. More is measured again where that would space them no more than five
    times as far apart.

    What less of it costs is not known before it was tried. So the extent is chosen as if all cost
    were in proportion to it, but the first capture has to be afforded as if half of it stayed.

    Args:
        budget: How much of the training time may be taken.
        overhead: What has been measured.

    Attributes:
        extent: What is measured of the next captured step.
        made: Captures that were made.
        left_out: Captures that schedules asked for and that were not made.
    """

    def __init__(self, budget: Budget, overhead: Overhead) -> None:
        self._budget = budget
        self._overhead = overhead
        self._samples = 0
        self._turns = 0
        self._since = 0
        self._end = math.inf
        self._is_concluded = False
        self._begun: int | None = None
        self._counted = 0  # the step up to which captures that are due are counted
        self._epoch_start = 0
        self._kinds: set[str] = set()
        self.extent = Extent(overhead=budget.share)
        self.made = 0
        self.left_out = 0

    @property
    def samples(self) -> int:
        """The most samples that a captured batch has had; 0 before the first."""
        return self._samples

    def saw(self, samples: int) -> None:
        """A captured batch had so many samples."""
        self._samples = max(self._samples, samples)

    def ends_at(self, step: float) -> None:
        """The run has so many steps, as far as is known."""
        self._end = step

    def adapt(self, kind: str, step: int, spacing: float, extents: Sequence[Extent]) -> None:
        """Choose what is measured if this step is captured.

        Args:
            kind: What is to be captured.
            step: The step that has begun.
            spacing: Steps from one such capture to the next, as schedules ask for them.
            extents: What may be measured, from all to the least.
        """
        self._kinds.add(kind)
        overhead, left = self._overhead, self._budget.left(step)
        pace = self._budget.share * overhead.step_seconds
        cost = overhead.expected(kind)
        if left is None or not pace > 0 or not cost:
            return
        rest = left + pace * (self._end - step) if self.made < _FEW else math.inf
        place = self._place(extents)
        shares = [extent.share(self._samples) for extent in extents]
        ratios = [share / shares[place] for share in shares]
        is_known = overhead.remembered(kind) >= _SURE
        chosen = place
        if is_known and cost > _RARE * spacing * pace:
            fitting = (p for p, r in enumerate(ratios) if r * cost <= _RARE * spacing * pace)
            chosen = next(fitting, len(extents) - 1)
        elif cost > rest:
            later = range(place + 1, len(extents))
            chosen = next((p for p in later if _trusted(ratios[p]) * cost <= rest), place)
        elif place and is_known:
            more = ratios[place - 1] * cost
            chosen -= more <= _AMPLE * spacing * pace and 2 * more <= rest
        if chosen != place:
            self._move(extents[chosen], ratios[chosen], step)

    def is_new(self, step: int) -> bool:
        """Whether it was not yet decided what becomes of this step."""
        return self._begun is None or step >= self._counted

    def spacing(self, step: int) -> float:
        """Steps from one capture that is due to the next so far, this step being due."""
        begun = step if self._begun is None else self._begun
        return (step - begun + 1) / (self.made + self.left_out + 1)

    def count(self, step: int, *, is_captured: bool) -> None:
        """The capture that is due at a step is made, or left out; again changes nothing."""
        if not self.is_new(step):
            return
        self._begun = step if self._begun is None else self._begun
        self._counted = step + 1
        self.made += is_captured
        self.left_out += not is_captured
        if is_captured:
            self._turns += 1
            self.extent = replace(self.extent, turn=self._turns % self.extent.parts)

    def catch_up(
        self, step: int, epoch_start: int | None, next_due: Callable[[int, int], float]
    ) -> None:
        """Count the captures that were due and not asked for since the last that was.

        Args:
            step: The step that has begun.
            epoch_start: The step at which its epoch began; ``None`` if that is the same still.
            next_due: From a step and that at which its epoch began to the next that is due.
        """
        epoch_start = self._epoch_start if epoch_start is None else epoch_start
        parts = (min(step, epoch_start), self._epoch_start), (step, epoch_start)
        self._epoch_start = epoch_start
        for stop, start in parts if self._begun is not None else ():
            while self._counted < stop:
                due = next_due(self._counted, start)
                if due < stop:
                    self.count(int(due), is_captured=False)
                else:
                    self._counted = stop

    def conclude(self) -> None:
        """Tell the log, once, how many captures were made, on what, and what they took.

        It is a warning where any were left out or had a part alone: by default Python shows no
        less.
        """
        due = self.made + self.left_out
        if not due or self._is_concluded:
            return
        self._is_concluded = True
        overhead = f"overhead: {self._budget.share:g}"
        parts = [f"{overhead}: {self.made} of {due} captures were made"]
        if not self.extent.is_all:
            parts.append(f", on {self._described} from step {self._since} on")
        if not math.isnan(self._overhead.share):
            parts.append(f"; the monitor took {self._overhead.share:.1%} of the training time")
            if self._overhead.outside >= _NOTABLE:
                seconds = self._overhead.outside
                parts.append(f", and {seconds:.1f} s before and after it, for the last pictures")
        if self.left_out and self.made < _FEW:
            parts.append("; a larger overhead, a longer run or fewer quantities would allow more")
        is_whole = not self.left_out and self.extent.is_all
        _log.log(logging.INFO if is_whole else logging.WARNING, "%s", "".join(parts))

    def state_dict(self) -> dict[str, Any]:
        """What is measured, and the counts, as plain values for a checkpoint."""
        return {
            "halvings": self.extent.halvings,
            "parts": self.extent.parts,
            "samples": self._samples,
            "turns": self._turns,
            "since": self._since,
            "begun": self._begun,
            "counted": self._counted,
            "epoch_start": self._epoch_start,
            "kinds": sorted(self._kinds),
            "made": self.made,
            "left_out": self.left_out,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self._samples = int(state.get("samples", 0))
        self._turns = int(state.get("turns", 0))
        self._since = int(state.get("since", 0))
        begun = state.get("begun")
        self._begun = None if begun is None else int(begun)
        self._counted = int(state.get("counted", 0))
        self._epoch_start = int(state.get("epoch_start", 0))
        self._kinds = {str(kind) for kind in state.get("kinds", ())}
        self.made = int(state.get("made", 0))
        self.left_out = int(state.get("left_out", 0))
        halvings, parts = int(state.get("halvings", 0)), int(state.get("parts", 1))
        self.extent = Extent(halvings, parts, self._turns % parts, self._budget.share)

    def _place(self, extents: Sequence[Extent]) -> int:
        """Which of them it is now; the nearest that is not less, where there are others by now."""
        asked = self.extent.share(self._samples)
        shares = [extent.share(self._samples) for extent in extents]
        return max(place for place, share in enumerate(shares) if place == 0 or share >= asked)

    def _move(self, extent: Extent, ratio: float, step: int) -> None:
        """Measure that from now on, and expect that it takes so many times as long."""
        seconds = self._overhead.step_seconds
        cost = max(map(self._overhead.expected, self._kinds))
        for kind in self._kinds:
            self._overhead.rescale(kind, ratio if ratio > 1 else _trusted(ratio))
        self.extent = Extent(
            extent.halvings, extent.parts, self._turns % extent.parts, self._budget.share
        )
        self._since = step
        share = self._budget.share
        if ratio > 1:
            said = "overhead: %g leaves room for more; from step %d on per-sample quantities are "
            _log.info(said + "measured on %s", share, step, self._described)
            return
        _log.warning(
            "a capture takes %s times as long as a step, too much for overhead: %g; from step %d "
            "on per-sample quantities are measured on %s, to capture more often",
            rounded(cost / seconds),
            share,
            step,
            self._described,
        )

    @property
    def _described(self) -> str:
        return self.extent.described(self.extent.size(self._samples), self._samples)


def _trusted(ratio: float) -> float:
    """What less of a capture is expected to take before it was tried, times the whole."""
    return (1 + ratio) / 2
