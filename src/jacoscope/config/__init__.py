"""Configuration: frozen dataclasses, one schema for Python and YAML."""

from jacoscope.config._alerts import (
    ALERT_REASONS,
    DEFAULT_ALERTS,
    AlertRule,
    HeadlineName,
)
from jacoscope.config._callables import resolve_callable
from jacoscope.config._load import check_section, load_config, read_yaml, resolve_config
from jacoscope.config._names import ParameterKind, QuantityName
from jacoscope.config._probes import Probes
from jacoscope.config._schedule import ProbeSchedule, Schedule
from jacoscope.config._schema import (
    DEFAULT_QUANTITIES,
    LayerRule,
    MonitorConfig,
    Output,
    Samples,
)

__all__ = [
    "ALERT_REASONS",
    "DEFAULT_ALERTS",
    "DEFAULT_QUANTITIES",
    "AlertRule",
    "HeadlineName",
    "LayerRule",
    "MonitorConfig",
    "Output",
    "ParameterKind",
    "ProbeSchedule",
    "Probes",
    "QuantityName",
    "Samples",
    "Schedule",
    "check_section",
    "load_config",
    "read_yaml",
    "resolve_callable",
    "resolve_config",
]
