"""The headline scalars for any logger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jacoscope.probe_record import ProbeRecord
from jacoscope.record import StepRecord
from jacoscope.sinks._sink import RunInfo, Sink

__all__ = ["ScalarSink"]


class ScalarSink(Sink):
    """Hands the headline scalars of each captured step to a function.

    Args:
        log: Called with the scalars by tag (``GROUP/NAME``) and the step.
        group: First part of every tag.
    """

    subject = "logging headline scalars"

    def __init__(self, log: Callable[[dict[str, float], int], None], group: str) -> None:
        self._log = log
        self._group = group

    def open(self, run: RunInfo) -> None:
        """Nothing to note."""

    def write(self, record: StepRecord) -> None:
        """Log the headline, if the step has one."""
        if record.headline:
            scalars = {f"{self._group}/{name}": value for name, value in record.headline.items()}
            self._log(scalars, record.step)

    def write_probe(self, record: ProbeRecord) -> None:
        """Log the headline of a probe."""
        if record.headline:
            scalars = {f"{self._group}/{name}": value for name, value in record.headline.items()}
            self._log(scalars, record.step)

    def write_headline(self, step: int, headline: Mapping[str, float]) -> None:
        """Log scalars that are of no record."""
        self._log({f"{self._group}/{name}": value for name, value in headline.items()}, step)

    def close(self) -> None:
        """Nothing to let go of."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""
