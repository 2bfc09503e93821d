"""What becomes of records: sinks, leaderboards over an epoch, and alerts."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from jacoscope._version import __version__
from jacoscope.alerts import Messenger
from jacoscope.config import MonitorConfig, QuantityName
from jacoscope.faults import Faults
from jacoscope.leaderboard import Leaderboard, SampleBatch
from jacoscope.probe_record import ProbeRecord
from jacoscope.record import Axis, StepRecord
from jacoscope.selection import Selection
from jacoscope.sinks import RunInfo, Sink

__all__ = ["Recorder"]

_log = logging.getLogger("jacoscope")

_SAVING = "saving the monitor's state"


class Recorder:
    """Hands records to the sinks, ranks samples over an epoch, and tells of alerts.

    A sink that fails is dropped; the others go on.

    Args:
        config: What is ranked, and what to be told of.
        sinks: Where records go.
        faults: What to do when something fails.

    Attributes:
        captures: Number of records so far.

    Raises:
        ConfigError: If the function that alerts go to cannot be imported.
    """

    def __init__(self, config: MonitorConfig, sinks: Sequence[Sink], faults: Faults) -> None:
        told = config.samples
        self.captures = 0
        self._config = config
        self._faults = faults
        self._sinks = list(sinks)
        self._messenger = Messenger(config, faults)
        self._leaderboard = Leaderboard(told.leaderboard or 1, told.layer_leaderboard)
        self._ranked: tuple[int, int] | None = None  # the epoch, and its last step so far
        self._told: set[str] = set()
        self._withheld: set[str] = set()
        self._has_told_of_losses = False

    @property
    def stop_reason(self) -> str | None:
        """What an alert that asks to stop the training has told of, if one has."""
        return self._messenger.stop_reason

    def open(self, selection: Selection, probed: Sequence[tuple[QuantityName, Axis]]) -> None:
        """Tell the sinks of the run, or that what is watched has changed.

        Args:
            selection: What is watched.
            probed: The quantities that probes measure, each with the rows that it is measured on.
        """
        self._each(lambda sink: sink.open(RunInfo(self._config, selection, _versions(), probed)))

    def write(self, record: StepRecord) -> None:
        """Write a captured step's record."""
        self.captures += 1
        self._each(lambda sink: sink.write(record))
        self._alert(record)

    def write_probe(self, record: ProbeRecord | None) -> None:
        """Write a probe's record, if there is one."""
        if record is None:
            return
        self.captures += 1
        self._each(lambda sink: sink.write_probe(record))
        self._alert(record)

    def write_headline(self, step: int, headline: Mapping[str, float]) -> None:
        """Write headline scalars that are of no record.

        Args:
            step: The step that they go up to.
            headline: Scalars by name.
        """
        self._each(lambda sink: sink.write_headline(step, headline))

    def rank(self, batches: Sequence[SampleBatch], step: int, epoch: int) -> None:
        """Rank a captured step's samples.

        Args:
            batches: The step's batches.
            step: The step.
            epoch: Epochs completed; when it has changed, the last one's leaderboards are written.
        """
        if not batches:
            return
        if self._ranked is not None and self._ranked[0] != epoch:
            self.close_epoch()
        for batch in batches:
            self._leaderboard.add(batch)
            self._tell_without_losses(batch)
        self._ranked = epoch, step

    def close_epoch(self) -> None:
        """Write the leaderboards of the epoch that has ended."""
        if self._ranked is None:
            return
        (epoch, step), self._ranked = self._ranked, None
        with self._faults.contain("ranking samples"):
            boards = self._leaderboard.close_epoch(epoch, step)
            if boards is not None:
                self._each(lambda sink: sink.write_boards(boards))

    def tell_withheld(self, missing: Mapping[str, str], parameters: Collection[str]) -> None:
        """Log, once each, parameters whose samples cannot be had; the record has all of them.

        Args:
            missing: By parameter or group, why samples are missing.
            parameters: Names of parameters.
        """
        new = [name for name in missing if name in parameters and name not in self._told]
        self._told.update(new)
        if new:
            more = f", and {len(new) - 1} more" if len(new) > 1 else ""
            _log.warning("no per-sample gradients of %s%s: %s", new[0], more, missing[new[0]])

    def _tell_without_losses(self, batch: SampleBatch) -> None:
        reason = batch.unknown.get("loss")
        if reason is not None and not self._has_told_of_losses:
            self._has_told_of_losses = True
            _log.warning("no losses of samples, nor a leaderboard of them: %s", reason)

    def tell_without_samples(self, reason: str | None) -> None:
        """Log, once for each reason, that a step's samples are withheld altogether.

        Args:
            reason: Why, if that is so; of a fault the warning has told already.
        """
        if reason is None or reason in self._withheld or reason in self._faults.reasons.values():
            return
        self._withheld.add(reason)
        _log.warning("no per-sample gradients: %s", reason)

    def close(self) -> None:
        """Close the sinks."""
        for sink in self._sinks:
            with self._faults.contain(sink.subject):
                sink.close()
        self._sinks.clear()

    def state_dict(self) -> dict[str, Any]:
        """Counters and the sinks' histories, as plain values for a checkpoint."""
        state: dict[str, Any] = {"captures": self.captures, "sinks": {}}
        for sink in self._sinks:
            with self._faults.contain(_SAVING):
                state["sinks"][type(sink).__name__] = sink.state_dict()
        with self._faults.contain(_SAVING):
            state["leaderboard"] = self._leaderboard.state_dict()
        with self._faults.contain(_SAVING):
            state["alerts"] = self._messenger.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self.captures = int(state.get("captures", 0))
        self._leaderboard.load_state_dict(state.get("leaderboard", {}))
        self._messenger.load_state_dict(state.get("alerts", {}))
        for sink in self._sinks:
            sink.load_state_dict(state.get("sinks", {}).get(type(sink).__name__, {}))

    def _alert(self, record: StepRecord | ProbeRecord) -> None:
        """Tell of what the record has beyond its bounds."""
        alerts = self._messenger.tell(record)
        if alerts:
            self._each(lambda sink: sink.write_alerts(alerts))

    def _each(self, hand: Callable[[Sink], object]) -> None:
        for sink in list(self._sinks):
            with self._containing(sink):
                hand(sink)

    def _containing(self, sink: Sink) -> AbstractContextManager[None]:
        return self._faults.contain(sink.subject, lambda: self._sinks.remove(sink))


def _versions() -> dict[str, str]:
    names = ("torch", "lightning", "pytorch-lightning", "tensorboard")
    found = {"jacoscope": __version__}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
