"""Jacoscope: how sensitive the loss and the outputs are, while a model trains."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jacoscope._version import __version__

if TYPE_CHECKING:
    from jacoscope.alerts import Alert
    from jacoscope.callback import SensitivityMonitor
    from jacoscope.capturing import Jacobians, ParameterJacobian, Verification, capture, verify
    from jacoscope.config import (
        AlertRule,
        LayerRule,
        MonitorConfig,
        Output,
        Probes,
        Samples,
        Schedule,
    )
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

__all__ = [
    "Alert",
    "AlertRule",
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

# A name is imported when it is asked for: TensorBoard reads records through a part of this package
# and must not load PyTorch for it, nor a plain training loop Lightning.
_HOMES = {
    "alerts": ("Alert",),
    "callback": ("SensitivityMonitor",),
    "capturing": ("Jacobians", "ParameterJacobian", "Verification", "capture", "verify"),
    "config": (
        "AlertRule",
        "LayerRule",
        "MonitorConfig",
        "Output",
        "Probes",
        "Samples",
        "Schedule",
    ),
    "errors": ("ConfigError",),
    "faults": ("MonitorWarning",),
    "monitor": ("Monitor",),
    "probing": (
        *("AllElseEqual", "NeuralTangentKernel", "OutputJacobian", "PlaceJacobian", "ProbeError"),
        *("all_else_equal", "input_jacobian", "layer_jacobian", "neural_tangent_kernel"),
        "output_jacobian",
    ),
    "reader": ("Run", "read_run"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
