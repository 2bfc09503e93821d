"""About ten numbers on the whole model, from the same statistics as the quantities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from jacoscope.config import QuantityName
from jacoscope.quantities._quantity import FloatArray, Quantity
from jacoscope.quantities._table import QUANTITIES

__all__ = [
    "HEADLINES",
    "OVERHEAD_FORMULA",
    "OVERHEAD_READING",
    "PROBE_HEADLINES",
    "SAMPLE_HEADLINES",
    "Headline",
    "headline_title",
    "headline_unit",
]

Statistics = Mapping[str, FloatArray]


@dataclass(frozen=True)
class Headline:
    """A scalar over all parameters of a captured step that have the statistics it needs.

    Args:
        name: Its tag, under the monitor's group.
        formula: Its definition; sums run over all scalars of the model's watched parameters.
        unit: Its unit.
        reading: What it tells a person.
        needs: Names of the statistics that it is made of.
        finish: From those statistics (and ``numel``), each of shape (L,), to the number.
    """

    name: str
    formula: str
    unit: str
    reading: str
    needs: tuple[str, ...]
    finish: Callable[[Statistics], float]

    @property
    def source(self) -> str:
        """Where it comes from: the quantity of the same name, or its own definition."""
        quantity = next((q for q in QUANTITIES.values() if q.name == self.name), None)
        return quantity.source if quantity is not None else QUANTITIES["grad_rms"].source


def _norm(statistic: str) -> Callable[[Statistics], float]:
    return lambda s: float(np.sqrt(s[statistic].sum()))


def _spread(s: Statistics) -> float:
    rms = np.sqrt(s["grad_sq"] / s["numel"])
    rms = rms[rms > 0]
    return float(np.log10(rms.max() / rms.min())) if rms.size else float("nan")


HEADLINES: tuple[Headline, ...] = (
    Headline(
        "grad_norm",
        "√(Σ g²)",
        "loss per unit of parameter",
        "Gradient norm of the whole model; before clipping, except where training_step clips.",
        ("grad_sq",),
        _norm("grad_sq"),
    ),
    Headline(
        "grad_max",
        "max |g|",
        "loss per unit of parameter",
        "The most sensitive single weight of all.",
        ("grad_abs_max",),
        lambda s: float(s["grad_abs_max"].max()),
    ),
    Headline(
        "grad_rms_spread",
        "log₁₀(largest grad_rms / smallest non-zero grad_rms)",
        "decades",
        "How unevenly the gradient is spread over parameter tensors. Rising by decades: layers "
        "vanish or explode against one another.",
        ("grad_sq",),
        _spread,
    ),
    Headline(
        "grad_zero_fraction",
        "#{g = 0} / #{g}",
        "1",
        "Share of weights that the step teaches nothing.",
        ("grad_nonzero",),
        lambda s: float(1 - s["grad_nonzero"].sum() / s["numel"].sum()),
    ),
    Headline(
        "grad_nonfinite",
        "#{g is nan or ±inf}",
        "count",
        "Anything above 0 is a fault.",
        ("grad_nonfinite",),
        lambda s: float(s["grad_nonfinite"].sum()),
    ),
    Headline(
        "weight_norm",
        "√(Σ θ²)",
        "unit of parameter",
        "Norm of all watched weights, before the step.",
        ("weight_sq",),
        _norm("weight_sq"),
    ),
    Headline(
        "update_norm",
        "√(Σ Δθ²)",
        "unit of parameter",
        "How far the optimiser moved.",
        ("update_sq",),
        _norm("update_sq"),
    ),
    Headline(
        "update_ratio",
        "√(Σ Δθ²) / √(Σ θ²)",
        "1",
        "Relative pace of training; about 1e-3 is a common rule of thumb.",
        ("update_sq", "weight_sq"),
        lambda s: float(np.sqrt(s["update_sq"].sum()) / np.sqrt(s["weight_sq"].sum())),
    ),
    Headline(
        "update_cosine",
        "−Σ Δθ g / (√(Σ Δθ²) √(Σ g²))",
        "1",
        "1: plain gradient descent; near 0: momentum, decay or preconditioning steer; below 0: "
        "uphill for this batch.",
        ("update_grad", "update_sq", "grad_sq"),
        lambda s: float(
            -s["update_grad"].sum() / np.sqrt(s["update_sq"].sum()) / np.sqrt(s["grad_sq"].sum())
        ),
    ),
    Headline(
        "saliency",
        "Σ |θ g|",
        "loss",
        "How much the loss depends, to first order, on the weights being there.",
        ("weight_grad_abs",),
        lambda s: float(s["weight_grad_abs"].sum()),
    ),
)
"""The headline scalars; ``coverage`` and ``monitor_overhead`` are added to them."""

OVERHEAD_FORMULA = "time the monitor took / training time, since the run began"
OVERHEAD_READING = (
    "What the monitor costs: its time on the host, and what captured steps took beyond that and "
    "other steps; with fewer than five others, the host's time alone. Training time leaves out "
    "validations and other pauses, and what comes before the first step and after the last. A "
    "value is up to when its record was made, that step's capture included, or nearly; the last "
    "is of the run's last step. The option overhead bounds it, from when captures are paid off."
)
"""What ``monitor_overhead`` is, for people."""

SAMPLE_HEADLINES: tuple[QuantityName, ...] = (
    "sample_grad_norm",
    "sample_grad_norm_max",
    "sample_alignment",
    "noise_scale",
    "grad_diversity",
    "coherence",
    "gsnr",
    "fisher_trace",
)
"""The per-sample quantities that are also scalars on the whole model, where they are asked for."""

PROBE_HEADLINES: tuple[QuantityName, ...] = (
    "output_jacobian_norm",
    "ntk_top_eigenvalue",
    "ntk_effective_rank",
    "ntk_alignment",
    "ntk_drift",
    "input_jacobian_norm",
    "predicted_change",
    "actual_change",
    "interaction_change",
)
"""The probes' quantities that are also scalars on the whole model, where they are asked for."""

_TITLES = {
    "grad_rms_spread": "Spread of gradient RMS over parameters",
    "saliency": "Saliency of all weights",
    "coverage": "Coverage",
    "monitor_overhead": "The monitor's share of the training time",
    "sample_closure": "Largest closure error",
    "sample_coverage": "Coverage of per-sample gradients",
    "sample_count": "Samples in the batch",
    "probe_seconds": "Wall time of a step's probes",
}
_UNITS = {
    "coverage": "1",
    "monitor_overhead": "1",
    "sample_closure": "1",
    "sample_coverage": "1",
    "sample_count": "samples",
    "probe_seconds": "s",
}


def headline_title(name: str) -> str:
    """What a headline scalar is called in pictures."""
    quantity = _QUANTITIES_BY_NAME.get(name)
    return _TITLES.get(name) or (name if quantity is None else quantity.title)


def headline_unit(name: str) -> str:
    """The unit of a headline scalar, empty where it is not known."""
    units = {headline.name: headline.unit for headline in HEADLINES}
    quantity = _QUANTITIES_BY_NAME.get(name)
    return units.get(name) or _UNITS.get(name) or ("" if quantity is None else quantity.unit)


_QUANTITIES_BY_NAME: Mapping[str, Quantity] = {str(name): q for name, q in QUANTITIES.items()}
