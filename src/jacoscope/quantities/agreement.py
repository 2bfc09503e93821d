"""Quantities of pairs of samples: whether they ask for the same step.

gᵢ = N cᵢ is sample i's gradient and N the number of samples. A pair is two different samples of one
backward; over accumulated batches and ranks, sums run over the pairs of all of them. Cosines are
over pairs in which both gradients are other than zero.
"""

from __future__ import annotations

import numpy as np

from jacoscope.quantities._quantity import Quantity

__all__ = ["AGREEMENT_QUANTITIES"]

_NO_PAIRS = "there is no pair, or an inner product is nan"
_NO_COSINES = "there is no pair with gradients other than zero, or a gradient is not finite"
_PAIRS = "mean over pairs, so that N samples of the same distribution give the same for any N"
_CONFUSION = (
    "Sankararaman et al., The impact of neural network overparameterization on gradient "
    "confusion, arXiv:1904.06963, definition 2.1"
)
_STIFFNESS = "Fort et al., Stiffness, arXiv:1901.09491"
_PARTS = "over accumulated batches and ranks"

AGREEMENT_QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        name="coherence",
        title="Gradient coherence",
        formula="(mean over i≠k of gᵢ·gₖ) / (Σᵢ ‖gᵢ‖² / N), for a single backward "
        "(‖G_b‖² − Σᵢ ‖cᵢ‖²) / ((N − 1) Σᵢ ‖cᵢ‖²), G_b = Σᵢ cᵢ; without i = k, which would add "
        "about 1/N whatever the samples are. Numerator and denominator are each "
        "unbiased, their ratio is so for large N",
        unit="1",
        source="Chatterjee and Zielinski, Making coherence out of nothing at all, "
        "arXiv:2008.01217, section 2 (α of two independent samples; m-coherence of N samples is "
        "1 + (N − 1) times this)",
        scaling="unchanged (s ≠ 0)",
        nan_when="there is no pair, all gradients are zero, or one is not finite",
        reading="1: all samples have the same gradient; 0: unrelated ones; below 0, at least "
        "−1/(N − 1): they cancel. (1 − coherence) / coherence is this batch's own noise scale.",
        needs=("sample_cross_sum", "sample_cross_count", "sample_sq_sum", "sample_count"),
        finish=lambda s: (
            (s["sample_cross_sum"] / s["sample_cross_count"])
            / (s["sample_sq_sum"] / s["sample_count"])
        ),
        is_log=False,
    ),
    Quantity(
        name="pair_cosine",
        title="Mean cosine of pairs",
        formula=f"mean over i≠k of cos(gᵢ, gₖ); {_PAIRS}",
        unit="1",
        source=f"{_STIFFNESS} (cosine stiffness, over all pairs)",
        scaling="unchanged (s ≠ 0)",
        nan_when=_NO_COSINES,
        reading="As coherence, but every sample counts alike, however small its gradient.",
        needs=("pair_cosine_sum", "pair_cosine_count"),
        finish=lambda s: s["pair_cosine_sum"] / s["pair_cosine_count"],
        is_log=False,
    ),
    Quantity(
        name="pair_cosine_min",
        title="Smallest cosine of pairs",
        formula="min over i≠k of cos(gᵢ, gₖ)",
        unit="1",
        source=f"{_CONFUSION}, as a cosine",
        scaling="unchanged (s ≠ 0)",
        nan_when=_NO_COSINES,
        reading="The two samples that disagree most. Near −1: one's gain is the other's loss. It "
        "falls as N grows, as any minimum does.",
        needs=("pair_cosine_min", "pair_cosine_count"),
        finish=lambda s: np.where(s["pair_cosine_count"] > 0, s["pair_cosine_min"], np.nan),
        is_log=False,
    ),
    Quantity(
        name="grad_confusion",
        title="Gradient confusion",
        formula="min over i≠k of gᵢ·gₖ; the paper's η is −1 times it, where it is below 0",
        unit="(loss per unit of parameter)²",
        source=_CONFUSION,
        scaling="×s²",
        nan_when=_NO_PAIRS,
        reading="How much, to first order, a step for one sample raises another's loss at worst. "
        "It falls as N grows, as any minimum does.",
        needs=("pair_dot_min", "pair_count", "sample_count"),
        finish=lambda s: np.where(
            s["pair_count"] > 0, s["sample_count"] ** 2 * s["pair_dot_min"], np.nan
        ),
        is_log=False,
    ),
    Quantity(
        name="pair_negative",
        title="Share of conflicting pairs",
        formula=f"#{{i≠k : gᵢ·gₖ < 0}} / #{{i≠k}}; {_PAIRS}",
        unit="1",
        source=f"{_STIFFNESS} (sign stiffness is 1 − 2 times this where no product is zero)",
        scaling="unchanged (s ≠ 0)",
        nan_when=_NO_PAIRS,
        reading="About a half: unrelated gradients; near 0: what helps one sample helps the "
        "others.",
        needs=("pair_negative_count", "pair_count"),
        finish=lambda s: s["pair_negative_count"] / s["pair_count"],
        is_log=False,
    ),
    Quantity(
        name="stiffness_within",
        title="Stiffness within classes",
        formula=f"mean of cos(gᵢ, gₖ) over i≠k with the same label; {_PAIRS}. The paper averages "
        "within each class first and then over classes",
        unit="1",
        source=f"{_STIFFNESS} (diagonal of the class stiffness matrix, cosine)",
        scaling="unchanged (s ≠ 0)",
        nan_when="labels are not known, no two samples with gradients other than zero share one, "
        "or one of their gradients is not finite",
        reading="Whether learning one member of a class teaches the others. Falling while the loss "
        "falls too: members are being learnt by heart.",
        needs=("pair_within_sum", "pair_within_count"),
        finish=lambda s: s["pair_within_sum"] / s["pair_within_count"],
        is_log=False,
    ),
    Quantity(
        name="stiffness_between",
        title="Stiffness between classes",
        formula=f"mean of cos(gᵢ, gₖ) over i≠k with different labels; {_PAIRS}. The paper averages "
        "over each two classes first and then over those",
        unit="1",
        source=f"{_STIFFNESS} (off the diagonal of the class stiffness matrix, cosine)",
        scaling="unchanged (s ≠ 0)",
        nan_when="labels are not known, no two samples with gradients other than zero differ in "
        "theirs, or one of their gradients is not finite",
        reading="Below 0: classes compete for these weights; above: they share what they need.",
        needs=("pair_between_sum", "pair_between_count"),
        finish=lambda s: s["pair_between_sum"] / s["pair_between_count"],
        is_log=False,
    ),
    Quantity(
        name="effective_rank",
        title="Effective rank of per-sample gradients",
        formula=f"exp(−Σᵣ pᵣ ln pᵣ), pᵣ = λᵣ / Σλ, λ the eigenvalues of Kᵢₖ = gᵢ·gₖ; {_PARTS}, "
        "with the mean of their entropies weighted by Σλ. At most N, which biases it downwards, "
        "not corrected",
        unit="1",
        source="Roy and Vetterli, The effective rank, EUSIPCO 2007, definition 1, of the Gram "
        "matrix",
        scaling="unchanged (s ≠ 0)",
        nan_when="all gradients are zero, or one is not finite",
        reading="How many directions the samples pull in: 1 if all in one, N if each in its own.",
        needs=("gram_entropy_sum", "gram_trace_sum"),
        finish=lambda s: np.exp(s["gram_entropy_sum"] / s["gram_trace_sum"]),
        is_log=False,
    ),
    Quantity(
        name="top_eigenvalue_share",
        title="Share of the top eigenvalue",
        formula=f"λ₁ / Σλ, λ the eigenvalues of Kᵢₖ = gᵢ·gₖ; {_PARTS}, sum of λ₁ over sum of "
        "Σλ. At least 1/N, which biases it upwards, not corrected",
        unit="1",
        source="share of variance of the first principal component (Jolliffe, Principal component "
        "analysis, 2nd ed., section 6.1), uncentred; gradients in few directions: Gur-Ari et al., "
        "arXiv:1812.04754",
        scaling="unchanged (s ≠ 0)",
        nan_when="all gradients are zero, or one is not finite",
        reading="How much of all that samples ask for lies in one direction.",
        needs=("gram_top_sum", "gram_trace_sum"),
        finish=lambda s: s["gram_top_sum"] / s["gram_trace_sum"],
        is_log=False,
    ),
)
