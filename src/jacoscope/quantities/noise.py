"""Quantities of noise: how far a batch's gradient is from that of all data.

gᵢ = N cᵢ is sample i's gradient, cᵢ its contribution to the batch gradient g = Σᵢ cᵢ, N the number
of samples in the step, over accumulated batches and ranks. Σ is the covariance of gᵢ over samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jacoscope.quantities._quantity import FloatArray, Quantity

__all__ = ["NOISE_QUANTITIES", "noise_parts"]

_MADE_OF = ("sample_count", "sample_sq_sum", "grad_sq")


def _variance(count: FloatArray, sq_sum: FloatArray, grad_sq: FloatArray) -> FloatArray:
    """Unbiased trace of the covariance of per-sample gradients; nan below two samples."""
    trace = (count**2 * sq_sum - count * grad_sq) / (count - 1)
    return np.where(count > 1, trace, np.nan)


def noise_parts(statistics: Mapping[str, float]) -> dict[str, float]:
    """What the noise scale is the ratio of, in one step.

    Args:
        statistics: ``sample_count``, ``sample_sq_sum`` and ``grad_sq`` of the whole step.

    Returns:
        ``noise_trace_mean``, an unbiased tr Σ, and ``noise_signal_mean``, an unbiased |E g|², to be
        averaged over captures before one is divided by the other. Both are ``nan`` below two
        samples.
    """
    count, squares, grad_sq = (np.array(statistics[name], np.float64) for name in _MADE_OF)
    with np.errstate(all="ignore"):
        trace = float(_variance(count, squares, grad_sq))
        return {"noise_trace_mean": trace, "noise_signal_mean": float(grad_sq - trace / count)}


NOISE_QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        name="grad_variance",
        title="Variance of per-sample gradients",
        formula="tr Σ = Σᵢ ‖gᵢ − g‖² / (N − 1) = (Σᵢ ‖gᵢ‖² − N ‖g‖²) / (N − 1), unbiased for "
        "samples drawn independently",
        unit="(loss per unit of parameter)²",
        source="McCandlish et al., An empirical model of large-batch training, arXiv:1812.06162, "
        "tr(Σ) of section 2.2, by appendix A.1 with batches of 1 and of N",
        scaling="×s²",
        nan_when="there are fewer than two samples, or a gradient is not finite",
        reading="How much samples differ. Divided by N it is the noise in this batch's squared "
        "gradient norm.",
        needs=_MADE_OF,
        finish=lambda s: _variance(s["sample_count"], s["sample_sq_sum"], s["grad_sq"]),
    ),
    Quantity(
        name="noise_scale",
        title="Gradient noise scale",
        formula="⟨tr Σ⟩ / ⟨‖g‖² − tr Σ / N⟩, tr Σ as in grad_variance; ⟨⟩ is a running mean over "
        "captures with decay 0.9. ‖g‖² exceeds the squared norm of the expected gradient by "
        "tr Σ / N on average, which is subtracted, so that numerator and denominator are each "
        "unbiased; their ratio still has the bias of a ratio, which the running means make small",
        unit="samples",
        source="McCandlish et al., arXiv:1812.06162, equation 2.9 (simple noise scale) and "
        "appendix A.1 (unbiased parts, averaged before the ratio is taken)",
        scaling="unchanged (s ≠ 0)",
        nan_when="no capture so far had two samples or more and finite gradients",
        reading="About the batch size where doubling it stops paying: far below it a batch is "
        "mostly noise, far above it mostly repetition. Never clamped: negative or inf means that "
        "the signal cannot be told from the noise yet.",
        needs=(*_MADE_OF, "noise_trace_mean", "noise_signal_mean"),
        finish=lambda s: s["noise_trace_mean"] / s["noise_signal_mean"],
    ),
    Quantity(
        name="gsnr",
        title="Gradient signal-to-noise ratio",
        formula="mean over j of mⱼ² / vⱼ − 1/N_b, mⱼ and vⱼ mean and unbiased variance of gᵢⱼ over "
        "the N_b samples of a backward; scalars with vⱼ = 0, up to rounding, and those whose "
        "gradients are within 16 rounding units of the tensor's largest of 0, left out. mⱼ² "
        "exceeds the squared expectation by vⱼ / N_b on average, hence −1/N_b; a factor of about "
        "(N_b − 1) / (N_b − 3) remains, from dividing by an estimate: mind it below ten "
        "samples. Over accumulated batches and ranks, the mean over all of theirs",
        unit="1",
        source="Liu et al., Understanding why neural networks generalize well through GSNR of "
        "parameters, arXiv:2001.07384, section 2.1 (of one scalar), averaged over the row's",
        scaling="unchanged (s ≠ 0)",
        nan_when="there are fewer than two samples, no scalar's gradient varies, or one is not "
        "finite",
        reading="How clearly samples agree on each weight: high early in training, and higher for "
        "what generalises; about 0, on either side, once a gradient is all noise.",
        needs=("column_snr_sum", "column_snr_count"),
        finish=lambda s: s["column_snr_sum"] / s["column_snr_count"],
    ),
    Quantity(
        name="grad_diversity",
        title="Gradient diversity",
        formula="Σᵢ ‖gᵢ‖² / ‖Σᵢ gᵢ‖² = Σᵢ ‖cᵢ‖² / ‖g‖²; of this batch, not corrected for its size",
        unit="1",
        source="Yin et al., Gradient diversity, arXiv:1706.05699, definitions 1 and 2",
        scaling="unchanged (s ≠ 0)",
        nan_when="all gradients are zero, or one is not finite; inf if only their sum is zero",
        reading="At least 1/N, which is N samples in full agreement; 1: orthogonal samples; above: "
        "they cancel. N times it, the paper's B_S, bounds the batch "
        "size that parallel SGD still gains from.",
        needs=("sample_sq_sum", "grad_sq"),
        finish=lambda s: s["sample_sq_sum"] / s["grad_sq"],
    ),
)
