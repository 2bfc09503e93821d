"""Quantities of the empirical Fisher matrix F = Σᵢ gᵢ gᵢᵀ / N, which is never made.

gᵢ = N cᵢ is sample i's gradient and N the number of samples. It is the empirical Fisher, of the
labels that there are, not the true one, of labels drawn from the model (Kunstner et al.,
arXiv:1905.12558). Extremes are within a backward: with accumulation, or over ranks, F is the mean
of the backwards' own F_b weighted by their samples, and its largest entry and eigenvalue are at
most the weighted means of theirs.
"""

from __future__ import annotations

import numpy as np

from jacoscope.quantities._quantity import FloatArray, Quantity

__all__ = ["FISHER_QUANTITIES"]

_UNIT = "(loss per unit of parameter)²"
_OF_PARTS = (
    "over accumulated batches and ranks, the mean of theirs weighted by samples, which is at least "
    "that of all"
)


def _mean_over_samples(of_contributions: FloatArray, count: FloatArray) -> FloatArray:
    """From Σ_i of products of contributions to the mean of those of gradients, N² Σ / N."""
    return np.where(count > 0, count * of_contributions, np.nan)


FISHER_QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        name="fisher_trace",
        title="Trace of the empirical Fisher",
        formula="tr F = Σᵢ ‖gᵢ‖² / N, unbiased for samples drawn independently",
        unit=_UNIT,
        source="Kunstner et al., Limitations of the empirical Fisher approximation, "
        "arXiv:1905.12558, equation 3, as a mean over samples",
        scaling="×s²",
        nan_when="there is no sample, or one's gradient has a nan",
        reading="Squared sensitivity of single samples' losses to this row's weights. A peak of "
        "the Fisher's trace early in training has been linked to poor generalisation (Jastrzebski "
        "et al., arXiv:2012.14193).",
        needs=("sample_sq_sum", "sample_count"),
        finish=lambda s: _mean_over_samples(s["sample_sq_sum"], s["sample_count"]),
    ),
    Quantity(
        name="fisher_max",
        title="Largest diagonal entry of the empirical Fisher",
        formula=f"maxⱼ Fⱼⱼ = maxⱼ Σᵢ gᵢⱼ² / N; {_OF_PARTS}. Biased upwards as any maximum of "
        "estimates, not corrected",
        unit=_UNIT,
        source="Kirkpatrick et al., Overcoming catastrophic forgetting, arXiv:1612.00796, equation "
        "3 (diagonal of F as a weight's importance), from arXiv:1905.12558, equation 3",
        scaling="×s²",
        nan_when="there is no sample, or one's gradient has a nan",
        reading="The single weight that samples' losses depend on most. Near fisher_trace: one "
        "weight carries the row.",
        needs=("column_max_sum", "sample_count"),
        finish=lambda s: _mean_over_samples(s["column_max_sum"], s["sample_count"]),
    ),
    Quantity(
        name="fisher_top_eigenvalue",
        title="Top eigenvalue of the empirical Fisher",
        formula=f"λ₁(F) = N λ₁(K), Kᵢₖ = cᵢ·cₖ; {_OF_PARTS}. Biased upwards, the more so the "
        "smaller N is, not corrected",
        unit=_UNIT,
        source="Karakida et al., Universal statistics of Fisher information in deep neural "
        "networks, arXiv:1806.01316 (largest eigenvalue, by the dual matrix, which has the same)",
        scaling="×s²",
        nan_when="there is no sample, or one's gradient is not finite",
        reading="How steep the steepest direction is, a proxy of curvature: learning rates well "
        "above 2 over it may diverge where F is close to the Hessian.",
        needs=("gram_top_sum", "sample_count"),
        finish=lambda s: _mean_over_samples(s["gram_top_sum"], s["sample_count"]),
    ),
)
