"""Jacoscope: how sensitive the loss and the outputs are, while a model trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jacoscope._version import __version__
from jacoscope.capturing import Jacobians, ParameterJacobian, Verification, capture, verify
from jacoscope.config import LayerRule, MonitorConfig, Output, Probes, Samples, Schedule
from jacoscope.errors import ConfigError
from jacoscope.faults import MonitorWarning
from jacoscope.monitor import Monitor
from jacoscope.probing import (
    AllElseEqual,
    NeuralTangentKernel,
    OutputJacobian,
    PlaceJacobian,
    ProbeError,
    all_else_equal,
    input_jacobian,
    layer_jacobian,
    neural_tangent_kernel,
    output_jacobian,
)
from jacoscope.reader import Run, read_run

if TYPE_CHECKING:
    from jacoscope.callback import SensitivityMonitor


__all__ = [
    "AllElseEqual",
    "ConfigError",
    "Jacobians",
    "LayerRule",
    "Monitor",
    "MonitorConfig",
    "MonitorWarning",
    "NeuralTangentKernel",
    "Output",
    "OutputJacobian",
    "ParameterJacobian",
    "PlaceJacobian",
    "ProbeError",
    "Probes",
    "Run",
    "Samples",
    "Schedule",
    "SensitivityMonitor",
    "Verification",
    "__version__",
    "all_else_equal",
    "capture",
    "input_jacobian",
    "layer_jacobian",
    "neural_tangent_kernel",
    "output_jacobian",
    "read_run",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import the callback, and Lightning with it, only when it is asked for."""
    if name == "SensitivityMonitor":
        from jacoscope.callback import SensitivityMonitor

        return SensitivityMonitor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
