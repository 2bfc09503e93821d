"""Quantities of single samples' gradients: how large they are, and whether they go along.

gᵢ = N cᵢ is sample i's gradient, where cᵢ is its contribution to the batch gradient (Σᵢ cᵢ = g)
and N the number of samples in the step. For a loss that is a mean over samples, gᵢ is the gradient
of sample i's own loss; where the loss weighs samples unevenly, gᵢ carries that weight. G_b is the
gradient of the backward that saw sample i: with accumulation, or over ranks, a part of g.
"""

from __future__ import annotations

import numpy as np

from jacoscope.quantities._quantity import FloatArray, Quantity

__all__ = ["SAMPLE_QUANTITIES"]

_UNIT = "loss per unit of parameter"
_GRAND = (
    "Paul et al., Deep learning on a data diet, arXiv:2107.07075, definition 2.1 (GraNd score; "
    "here at the present weights, not in expectation over initial ones)"
)
_NO_SAMPLES = "there is no sample, or one's gradient has a nan"


def _spread(
    norm_sum: FloatArray, sq_sum: FloatArray, excess: FloatArray, count: FloatArray
) -> FloatArray:
    """Standard deviation over mean of the norms, from sums of them and of their squares."""
    squares = np.maximum(sq_sum - (norm_sum**2 - excess) / count, 0.0)
    deviation = np.sqrt(squares / (count - 1))
    return np.where(count > 1, deviation * count / norm_sum, np.nan)


SAMPLE_QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        name="sample_grad_norm",
        title="Mean per-sample gradient norm",
        formula="Σᵢ ‖gᵢ‖₂ / N",
        unit=_UNIT,
        source=f"{_GRAND}, mean over samples",
        scaling="×|s|",
        nan_when=_NO_SAMPLES,
        reading="How hard a single sample pulls here. Far above grad_norm: samples cancel one "
        "another; near it: they agree.",
        needs=("sample_norm_sum", "sample_count"),
        # The mean of N |c_i| is the sum of |c_i|; without samples there is none.
        finish=lambda s: np.where(s["sample_count"] > 0, s["sample_norm_sum"], np.nan),
    ),
    Quantity(
        name="sample_grad_norm_max",
        title="Largest per-sample gradient norm",
        formula="maxᵢ ‖gᵢ‖₂",
        unit=_UNIT,
        source=f"{_GRAND}, largest over samples",
        scaling="×|s|",
        nan_when=_NO_SAMPLES,
        reading="The sample that pulls hardest: hard, rare or mislabelled. It grows with N, as any "
        "maximum does.",
        needs=("sample_norm_max", "sample_count"),
        finish=lambda s: np.where(
            s["sample_count"] > 0, s["sample_count"] * s["sample_norm_max"], np.nan
        ),
    ),
    Quantity(
        name="sample_grad_norm_cv",
        title="Spread of per-sample gradient norms",
        formula="√(Σᵢ (‖gᵢ‖₂ − m)² / (N − 1)) / m, m = Σᵢ ‖gᵢ‖₂ / N",
        unit="1",
        source="coefficient of variation (Pearson 1896), with the unbiased variance, of the norms "
        "of arXiv:2107.07075; their spread is what importance sampling gains from (Katharopoulos "
        "and Fleuret, arXiv:1803.00942)",
        scaling="unchanged (s ≠ 0)",
        nan_when="there are fewer than two samples, all gradients are zero, or one is not finite",
        reading="0: all samples pull equally hard; above 1: a few carry the step.",
        needs=("sample_norm_sum", "sample_sq_sum", "sample_norm_excess", "sample_count"),
        finish=lambda s: _spread(
            s["sample_norm_sum"], s["sample_sq_sum"], s["sample_norm_excess"], s["sample_count"]
        ),
        is_log=False,
    ),
    Quantity(
        name="sample_alignment",
        title="Mean alignment with the batch",
        formula="mean over i of cos(gᵢ, G_b)",
        unit="1",
        source="Fort et al., Stiffness, arXiv:1901.09491 (cosine of gradients; here of a sample's "
        "and its batch's)",
        scaling="unchanged (s ≠ 0)",
        nan_when="no sample has a gradient, the batch's gradient is zero, or one is not finite; "
        "samples whose gradient is zero are left out",
        reading="1: all samples ask for the same step; small: they ask for different ones. A "
        "sample is part of its batch, so N unrelated samples have about 1/√N, not 0: compare only "
        "at the same batch size.",
        needs=("sample_cosine_sum", "sample_cosine_count"),
        finish=lambda s: s["sample_cosine_sum"] / s["sample_cosine_count"],
        is_log=False,
    ),
    Quantity(
        name="sample_alignment_min",
        title="Worst alignment with the batch",
        formula="minᵢ cos(gᵢ, G_b)",
        unit="1",
        source="as sample_alignment (arXiv:1901.09491), smallest over samples",
        scaling="unchanged (s ≠ 0)",
        nan_when="no sample has a gradient, the batch's gradient is zero, or one is not finite; "
        "samples whose gradient is zero are left out",
        reading="Near −1: a sample that the step is bound to hurt, often a mislabelled one. It "
        "falls as N grows, as any minimum does.",
        needs=("sample_cosine_min", "sample_cosine_count"),
        finish=lambda s: np.where(s["sample_cosine_count"] > 0, s["sample_cosine_min"], np.nan),
        is_log=False,
    ),
    Quantity(
        name="sample_opposed",
        title="Share of opposed samples",
        formula="#{i : gᵢ·G_b < 0} / N",
        unit="1",
        source="Fort et al., arXiv:1901.09491 (sign of the product of gradients; here of a "
        "sample's and its batch's)",
        scaling="unchanged (s ≠ 0)",
        nan_when=_NO_SAMPLES,
        reading="Samples whose loss a plain gradient step on the batch raises, to first order, "
        "while it lowers the batch's.",
        needs=("sample_opposed_count", "sample_count"),
        finish=lambda s: s["sample_opposed_count"] / s["sample_count"],
        is_log=False,
    ),
)
