"""What the samples of a batch say together."""

from __future__ import annotations

import math
from collections.abc import Mapping

from jacoscope.board.findings._finding import Finding, counted, percent, said

__all__ = [
    "CANCELLED",
    "EXCESS",
    "MOSTLY",
    "PARTLY",
    "SHORTFALL",
    "agreement",
    "no_samples",
    "noise",
]

SHORTFALL, EXCESS = 2.0, 0.5
"""Noise scale over batch size. At 1, a step makes half the progress of one without noise
(McCandlish et al., arXiv:1812.06162, section 2.2); by 2 either way a third and two thirds."""

MOSTLY, PARTLY = 0.5, 0.1
"""Coherence: samples share half of what each asks for, or a tenth; own choices."""

CANCELLED = 0.5
"""Coherence below this share of its lowest, −1/(N − 1): half of what samples ask for cancels."""

_VIEW = {"view": "layers", "quantity": "noise_scale", "rows": ["(all)"]}
_PAPER = "McCandlish et al., arXiv:1812.06162"


def noise(scale: float, batch: float | None, step: int) -> Finding | None:
    """The gradient noise scale against the batch.

    Args:
        scale: B_simple on the whole model, in samples.
        batch: Samples in a step.
        step: The step that it is of.
    """
    if math.isnan(scale):
        return None
    if math.isinf(scale) or scale <= 0:
        return Finding(
            "noise",
            "note",
            "The gradient cannot be told from its noise yet.",
            f"The noise scale, a mean over recent captures, is {said(scale)} at step {step}: the "
            "gradient of a batch is no larger than what chance alone would give.",
            view=_VIEW,
        )
    value = said(scale, 2)
    if batch is None or not batch > 0:
        return Finding(
            "noise",
            "note",
            f"The gradient noise scale is about {value} samples.",
            f"Up to about so many samples in a batch, a larger batch speeds up each step almost in "
            f"proportion ({_PAPER}).",
            view=_VIEW,
        )
    samples = counted(round(batch), "sample")
    ratio = scale / batch
    share = percent(1 / (1 + ratio))
    known = f"B_simple ≈ {value} samples, a step has {samples}"
    progress = f"A step makes about {share} of the progress that it would without noise"
    if ratio >= SHORTFALL:
        return Finding(
            "noise",
            "note",
            f"Steps are mostly noise: the noise scale is {said(ratio, 2)} times the batch.",
            f"{known}. {progress}; up to about {said(ratio, 2)} times as many samples would still "
            f"speed up each step almost in proportion ({_PAPER}).",
            view=_VIEW,
        )
    if ratio <= EXCESS:
        return Finding(
            "noise",
            "note",
            f"The batch is {said(1 / ratio, 2)} times the noise scale.",
            f"{known}. {progress}: with fewer samples, steps would be cheaper and hardly worse "
            f"({_PAPER}).",
            view=_VIEW,
        )
    return Finding(
        "noise",
        "good",
        "The batch is about as large as the noise scale.",
        f"{known}. {progress}, which is about where larger and smaller batches cost the same "
        f"({_PAPER}).",
        view=_VIEW,
    )


def agreement(values: Mapping[str, float], samples: float | None) -> Finding | None:
    """Whether samples ask for the same step.

    Args:
        values: Of ``coherence``, ``grad_diversity``, ``sample_alignment`` and ``sample_opposed``,
            those that there are, on the whole model: medians over the last captures.
        samples: Samples in a step.
    """
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    parts = []
    if "coherence" in known:
        parts.append(
            f"coherence is {said(known['coherence'], 2)} (1: all samples have the same gradient; "
            "0: unrelated ones)"
        )
    if "grad_diversity" in known:
        parts.append(
            f"gradient diversity is {said(known['grad_diversity'], 2)} (1: orthogonal samples; "
            "less: they agree; more: they cancel)"
        )
    if "sample_alignment" in known:
        chance = f"; unrelated ones would have about {said(samples**-0.5, 2)}" if samples else ""
        parts.append(
            f"a sample's cosine with its batch is {said(known['sample_alignment'], 2)} on average"
            f"{chance}"
        )
    if "sample_opposed" in known:
        parts.append(f"{percent(known['sample_opposed'])} of the samples pull against their batch")
    if not parts:
        return None
    text = "; ".join(parts)
    return Finding(
        "agreement",
        "note",
        _agreement_title(known, samples),
        f"In the last captures, {text}.",
        view={"view": "agreement"},
    )


def _agreement_title(known: Mapping[str, float], samples: float | None) -> str:
    coherence = known.get("coherence")
    if coherence is None:
        return "How far samples agree."
    if samples is not None and samples > 1 and coherence < -CANCELLED / (samples - 1):
        return "Samples cancel one another."
    if coherence >= MOSTLY:
        return "Samples mostly agree."
    return "Samples agree in part." if coherence >= PARTLY else "Samples hardly agree."


def no_samples() -> Finding:
    """That single samples were not looked at."""
    return Finding(
        "no_samples",
        "note",
        "Single samples were not looked at.",
        "This run has no per-sample quantities. To see which samples pull hardest, whether they "
        "agree, and how noisy the gradient is, add some to quantities, such as noise_scale, "
        "coherence and sample_grad_norm.",
        view={"view": "samples"},
    )
