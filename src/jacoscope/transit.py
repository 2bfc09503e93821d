"""Captured steps on their way to their records: from the devices, and from other processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from jacoscope.captured_step import CapturedStep
from jacoscope.faults import Faults
from jacoscope.gathering import SampleGathering
from jacoscope.processes import Processes
from jacoscope.reduction import Transfer
from jacoscope.selection import Target
from jacoscope.shard_gathering import GatheredTransfer, ShardGathering

__all__ = ["Transit"]

_TOO_LATE = "the run ended before its processes had exchanged their samples"
_SHARDS_TOO_LATE = "the run ended before its processes had brought their shards together"


class Transit:
    """Keeps captured steps, in order, until all that was measured of them has arrived.

    Args:
        processes: The processes that train together, if there are several.
        faults: What to do when something fails.
        leaderboard: How many places a leaderboard of samples has; 0 if there is none.

    Attributes:
        samples: Brings samples together, where several processes train.
        shards: Brings shards together, where parameters are split over processes.
        is_first: Whether this process records; the others send it what they have measured.
    """

    def __init__(self, processes: Processes | None, faults: Faults, leaderboard: int) -> None:
        self.samples: SampleGathering | None = None
        self.shards: ShardGathering | None = None
        self._processes = processes if processes is not None and processes.size > 1 else None
        self.is_first = processes is None or processes.rank == 0
        self._faults = faults
        self._on_their_way: deque[tuple[CapturedStep, Transfer | GatheredTransfer]] = deque()
        if self._processes is not None:
            self.samples = SampleGathering(self._processes, faults, leaderboard)

    def bring_shards(self) -> None:
        """Bring shards together from now on, as parameters are split over processes."""
        assert self._processes is not None
        if self.shards is None:
            self.shards = ShardGathering(self._processes, self._faults)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, here or in the other processes."""
        return not (
            self._on_their_way
            or (self.samples is not None and self.samples.is_waiting)
            or (self.shards is not None and self.shards.is_waiting)
        )

    def expect_shards(self, step: int) -> bool:
        """Expect a step's shards, in all processes, before anything can fail in one of them.

        Returns:
            Whether there are shards to bring together.
        """
        if self.shards is None:
            return False
        self.shards.expect(step)
        return True

    def send(self, closing: CapturedStep, targets: Sequence[Target]) -> None:
        """Send what was measured of a step that has ended.

        Args:
            closing: The step.
            targets: The parameters that are watched.
        """
        transfer = closing.send(always=self.shards is not None)
        if transfer is None:
            return
        coming: Transfer | GatheredTransfer = transfer
        if self.shards is not None:
            coming = self.shards.fulfil(closing, transfer, targets)
        if self.is_first:
            self._on_their_way.append((closing, coming))

    def gather(self, before: float) -> None:
        """Bring samples and shards of the steps before this one together; all have to call it."""
        if self.samples is not None:
            self.samples.gather(before)
        if self.shards is not None:
            self.shards.gather(before)

    def give_up(self) -> None:
        """Withhold what was not brought together by the end of the run; it waits for no one."""
        if self.samples is not None:
            self.samples.give_up(_TOO_LATE)
        if self.shards is not None:
            self.shards.give_up(_SHARDS_TOO_LATE)

    def arrived(self, *, wait: bool) -> Iterator[tuple[CapturedStep, Transfer | GatheredTransfer]]:
        """Hand over, in order, the steps of which everything is there.

        Args:
            wait: Whether to wait for the device; for other processes it never waits.
        """
        while self._on_their_way:
            closed, transfer = self._on_their_way[0]
            is_lost = True
            with self._faults.contain("bringing a captured step to the host"):
                awaits_others = closed.awaits_others or transfer.awaits_others
                if not (closed.is_done and transfer.is_done) and (awaits_others or not wait):
                    return
                is_lost = False
            self._on_their_way.popleft()
            if not is_lost:
                yield closed, transfer
