"""The order in which quantities are told of, that of the documentation."""

from __future__ import annotations

__all__ = ["FAMILIES", "PROBE_FAMILIES", "PROBE_SCALARS", "place_of"]

FAMILIES: dict[str, tuple[str, ...]] = {
    "Gradient": (
        "grad_norm",
        "grad_rms",
        "grad_max",
        "grad_mean",
        "grad_zero_fraction",
        "grad_nonfinite",
        "grad_histogram",
    ),
    "Weights and updates": (
        "weight_norm",
        "update_norm",
        "update_ratio",
        "update_cosine",
    ),
    "Saliency": (
        "saliency",
        "taylor_importance",
    ),
    "Samples": (
        "sample_grad_norm",
        "sample_grad_norm_max",
        "sample_grad_norm_cv",
        "sample_alignment",
        "sample_alignment_min",
        "sample_opposed",
    ),
    "Noise": (
        "grad_variance",
        "noise_scale",
        "gsnr",
        "grad_diversity",
    ),
    "Agreement": (
        "coherence",
        "pair_cosine",
        "pair_cosine_min",
        "grad_confusion",
        "pair_negative",
        "stiffness_within",
        "stiffness_between",
        "effective_rank",
        "top_eigenvalue_share",
    ),
    "Fisher": (
        "fisher_trace",
        "fisher_max",
        "fisher_top_eigenvalue",
    ),
    "Output Jacobian": (
        "output_jacobian_norm",
        "output_jacobian_spectral_norm",
    ),
    "Tangent kernel": (
        "ntk_trace",
        "ntk_top_eigenvalue",
        "ntk_condition",
        "ntk_effective_rank",
        "ntk_alignment",
        "ntk_drift",
    ),
    "Input Jacobian": (
        "input_jacobian_norm",
        "input_jacobian_spectral_norm",
        "input_jacobian_condition",
    ),
    "Layer Jacobian": (
        "layer_jacobian_mean_sq",
        "layer_jacobian_spectral_norm",
        "layer_jacobian_condition",
    ),
    "All else equal": (
        "predicted_change",
        "second_order_change",
        "actual_change",
        "interaction_change",
        "allocated_change",
        "allocation_gap",
    ),
}
"""Quantities by family. The table itself cannot be imported here without loading PyTorch."""

PROBE_FAMILIES = (
    "Output Jacobian",
    "Tangent kernel",
    "Input Jacobian",
    "Layer Jacobian",
    "All else equal",
)
"""The families that probes measure."""

PROBE_SCALARS = frozenset(
    ("probe_seconds", *(name for family in PROBE_FAMILIES for name in FAMILIES[family]))
)
"""What the headline of a probe can have; a captured step's has none of it."""

_PLACES = {name: place for place, name in enumerate(n for f in FAMILIES.values() for n in f)}


def place_of(name: str) -> tuple[int, str]:
    """A key that sorts quantities; those that are not known come last, by name."""
    return _PLACES.get(name, len(_PLACES)), name
