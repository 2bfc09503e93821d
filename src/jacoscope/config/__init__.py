"""Configuration: frozen dataclasses, one schema for Python and YAML."""

from jacoscope.config._load import check_section, load_config, read_yaml, resolve_config
from jacoscope.config._probes import Probes
from jacoscope.config._schedule import ProbeSchedule, Schedule
from jacoscope.config._schema import (
    DEFAULT_QUANTITIES,
    LayerRule,
    MonitorConfig,
    Output,
    ParameterKind,
    QuantityName,
    Samples,
)

__all__ = [
    "DEFAULT_QUANTITIES",
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
    "resolve_config",
]
