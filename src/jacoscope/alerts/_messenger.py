"""Telling of alerts: the log, a function of the user's, and a wish to stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from jacoscope.alerts._alert import Alert
from jacoscope.alerts._lookout import Lookout
from jacoscope.config import MonitorConfig, resolve_callable
from jacoscope.faults import Faults
from jacoscope.probe_record import ProbeRecord
from jacoscope.record import StepRecord

__all__ = ["Messenger"]

_log = logging.getLogger("jacoscope")

_LEVELS = {"note": logging.INFO, "warning": logging.WARNING, "alert": logging.ERROR}


class Messenger:
    """Tells of what a step's record has beyond its bounds.

    Args:
        config: What to be told of, and by which function.
        faults: What to do when something fails.

    Attributes:
        stop_reason: What a rule with ``stop: true`` has told of; ``None`` until then.

    Raises:
        ConfigError: If the function cannot be imported.
    """

    def __init__(self, config: MonitorConfig, faults: Faults) -> None:
        self._lookout = Lookout(config.alert_rules)
        self._hook: Callable[[Alert], object] | None = resolve_callable(config.on_alert, "on_alert")
        self._faults = faults
        self.stop_reason: str | None = None

    def tell(self, record: StepRecord | ProbeRecord) -> list[Alert]:
        """Tell of a step's alerts, and hand them back for the sinks."""
        alerts: list[Alert] = []
        with self._faults.contain("looking for alerts"):
            alerts = self._lookout.look(record)
        for alert in alerts:
            _log.log(_LEVELS[alert.severity], "%s", alert.sentence)
            if alert.rule.stop:
                self.stop_reason = self.stop_reason or alert.sentence
            if self._hook is not None:
                with self._faults.contain("the function of on_alert"):
                    self._hook(alert)
        return alerts

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep, as plain values."""
        return self._lookout.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self._lookout.load_state_dict(state)
