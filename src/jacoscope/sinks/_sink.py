"""What a sink is: somewhere that records go."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jacoscope.alerts import Alert
from jacoscope.config import MonitorConfig, QuantityName
from jacoscope.leaderboard import EpochBoards
from jacoscope.probe_record import ProbeRecord
from jacoscope.record import Axis, StepRecord
from jacoscope.selection import Selection

__all__ = ["MemorySink", "RunInfo", "Sink"]


@dataclass(frozen=True, eq=False)
class RunInfo:
    """What a sink may say of the run as a whole.

    Args:
        config: The monitor's configuration.
        selection: What is watched.
        versions: Versions of the packages at work.
        probed: The quantities that probes measure, each with the rows that it is measured on.
    """

    config: MonitorConfig
    selection: Selection
    versions: Mapping[str, str]
    probed: Sequence[tuple[QuantityName, Axis]] = ()


class Sink(abc.ABC):
    """Somewhere that records go."""

    #: What is lost if it fails, in the words of the warning.
    subject: str

    @abc.abstractmethod
    def open(self, run: RunInfo) -> None:
        """Take note of the run; called once, and again if what is watched has changed."""

    @abc.abstractmethod
    def write(self, record: StepRecord) -> None:
        """Write one captured step."""

    def write_boards(self, boards: EpochBoards) -> None:  # noqa: B027
        """Write the sample leaderboards of an epoch; sinks that have no place for them do not."""

    def write_probe(self, record: ProbeRecord) -> None:  # noqa: B027
        """Write the probes of a step; sinks that have no place for them do not."""

    def write_headline(self, step: int, headline: Mapping[str, float]) -> None:  # noqa: B027
        """Write scalars that are of no record, at the end of the run; sinks may leave them out."""

    def write_alerts(self, alerts: Sequence[Alert]) -> None:  # noqa: B027
        """Write the alerts of a step; sinks that have no place for them do not."""

    @abc.abstractmethod
    def close(self) -> None:
        """Write what is still to be written and let go of every resource."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep, as plain values."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept."""


class MemorySink(Sink):
    """Keeps every record in a list, for notebooks and tests.

    Attributes:
        records: What was written, in order.
        boards: The sample leaderboards of each epoch, in order.
        probes: The records of probes, in order.
        headlines: The scalars that are of no record, each with its step.
        alerts: Alerts, in order.
    """

    subject = "keeping records in memory"

    def __init__(self) -> None:
        self.records: list[StepRecord] = []
        self.boards: list[EpochBoards] = []
        self.probes: list[ProbeRecord] = []
        self.headlines: list[tuple[int, Mapping[str, float]]] = []
        self.alerts: list[Alert] = []

    def open(self, run: RunInfo) -> None:
        """Nothing to note."""

    def write(self, record: StepRecord) -> None:
        """Keep the record."""
        self.records.append(record)

    def write_boards(self, boards: EpochBoards) -> None:
        """Keep the boards."""
        self.boards.append(boards)

    def write_probe(self, record: ProbeRecord) -> None:
        """Keep the record."""
        self.probes.append(record)

    def write_headline(self, step: int, headline: Mapping[str, float]) -> None:
        """Keep the scalars."""
        self.headlines.append((step, headline))

    def write_alerts(self, alerts: Sequence[Alert]) -> None:
        """Keep the alerts."""
        self.alerts.extend(alerts)

    def close(self) -> None:
        """Nothing to let go of."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""
