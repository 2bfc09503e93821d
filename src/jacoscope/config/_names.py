"""The names that configurations use."""

from __future__ import annotations

from typing import Literal

__all__ = ["ParameterKind", "QuantityName"]

QuantityName = Literal[
    "grad_norm",
    "grad_rms",
    "grad_max",
    "grad_mean",
    "grad_zero_fraction",
    "grad_nonfinite",
    "grad_histogram",
    "weight_norm",
    "update_norm",
    "update_ratio",
    "update_cosine",
    "saliency",
    "taylor_importance",
    "sample_grad_norm",
    "sample_grad_norm_max",
    "sample_grad_norm_cv",
    "sample_alignment",
    "sample_alignment_min",
    "sample_opposed",
    "grad_variance",
    "noise_scale",
    "gsnr",
    "grad_diversity",
    "coherence",
    "pair_cosine",
    "pair_cosine_min",
    "grad_confusion",
    "pair_negative",
    "stiffness_within",
    "stiffness_between",
    "effective_rank",
    "top_eigenvalue_share",
    "fisher_trace",
    "fisher_max",
    "fisher_top_eigenvalue",
    "output_jacobian_norm",
    "output_jacobian_spectral_norm",
    "ntk_trace",
    "ntk_top_eigenvalue",
    "ntk_condition",
    "ntk_effective_rank",
    "ntk_alignment",
    "ntk_drift",
    "input_jacobian_norm",
    "input_jacobian_spectral_norm",
    "input_jacobian_condition",
    "layer_jacobian_mean_sq",
    "layer_jacobian_spectral_norm",
    "layer_jacobian_condition",
    "predicted_change",
    "second_order_change",
    "actual_change",
    "interaction_change",
    "allocated_change",
    "allocation_gap",
]
"""Every quantity that can be asked for; ``docs/quantities.md`` defines each."""

ParameterKind = Literal["weight", "bias", "norm", "embedding", "other"]
"""What a parameter is for, as told by its owner's type and its own name and shape."""
