"""Quantities of the gradient alone.

All are of the gradient that the optimiser gets, unscaled and before clipping: ∂L/∂θ of the loss
that ``training_step`` returned, averaged over an accumulation window and over ranks as the Trainer
does. In exact arithmetic none depends on the order of samples.
"""

from __future__ import annotations

import numpy as np

from jacoscope.quantities._quantity import Quantity

__all__ = ["GRADIENT_QUANTITIES"]

_UNIT = "loss per unit of parameter"
_NONFINITE = "the gradient has a nan (an infinite gradient gives inf)"

GRADIENT_QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        name="grad_norm",
        title="Gradient norm",
        formula="‖g‖₂ = √(Σⱼ gⱼ²)",
        unit=_UNIT,
        source="Pascanu et al., On the difficulty of training recurrent neural networks, "
        "arXiv:1211.5063, section 2",
        scaling="×|s|",
        nan_when=_NONFINITE,
        reading="How much the loss changes, to first order, per unit step along this parameter's "
        "steepest direction. It grows with the size of the tensor: compare sizes with grad_rms.",
        needs=("grad_sq",),
        finish=lambda s: np.sqrt(s["grad_sq"]),
    ),
    Quantity(
        name="grad_rms",
        title="Gradient RMS",
        formula="√(Σⱼ gⱼ² / n)",
        unit=_UNIT,
        source="Glorot and Bengio, Understanding the difficulty of training deep feedforward "
        "neural networks, AISTATS 2010, section 4 (spread of back-propagated gradients by layer)",
        scaling="×|s|",
        nan_when=_NONFINITE,
        reading="The typical partial derivative of a single weight here; comparable between "
        "tensors of any size. Falling steadily towards the input: vanishing gradients; rising: "
        "exploding ones.",
        needs=("grad_sq",),
        finish=lambda s: np.sqrt(s["grad_sq"] / s["numel"]),
    ),
    Quantity(
        name="grad_max",
        title="Largest gradient",
        formula="maxⱼ |gⱼ|",
        unit=_UNIT,
        source="infinity norm; the quantity that clipping by value bounds (arXiv:1211.5063, "
        "section 3.2)",
        scaling="×|s|",
        nan_when=_NONFINITE,
        reading="The single most sensitive weight. Far above grad_rms: a few weights carry the "
        "gradient.",
        needs=("grad_abs_max",),
        finish=lambda s: s["grad_abs_max"],
    ),
    Quantity(
        name="grad_mean",
        title="Mean gradient",
        formula="Σⱼ gⱼ / n",
        unit=_UNIT,
        source="first moment of the gradient's elements",
        scaling="×s",
        nan_when="the gradient has a nan, or infinities of both signs",
        reading="How the loss would change if all weights of the tensor moved up together. Near "
        "grad_rms in magnitude: all pull the same way.",
        needs=("grad_sum",),
        finish=lambda s: s["grad_sum"] / s["numel"],
        is_log=False,
    ),
    Quantity(
        name="grad_zero_fraction",
        title="Share of zero gradients",
        formula="#{j : gⱼ = 0} / n",
        unit="1",
        source="Lu et al., Dying ReLU and initialization, arXiv:1903.06733",
        scaling="unchanged (s ≠ 0)",
        nan_when="never; a non-finite gradient counts as not zero",
        reading="Weights that this step cannot teach anything: dead units, masked or unused "
        "weights, embedding rows of absent tokens.",
        needs=("grad_nonzero",),
        finish=lambda s: 1 - s["grad_nonzero"] / s["numel"],
        is_log=False,
    ),
    Quantity(
        name="grad_nonfinite",
        title="Non-finite gradients",
        formula="#{j : gⱼ is nan or ±inf}",
        unit="count",
        source="IEEE 754 non-finite values; what dynamic loss scaling tests for (Micikevicius et "
        "al., Mixed precision training, arXiv:1710.03740, section 3.2)",
        scaling="unchanged",
        nan_when="never",
        reading="Anything above 0 is a fault; the first layer to show it is where to look.",
        needs=("grad_nonfinite",),
        finish=lambda s: s["grad_nonfinite"],
        is_log=False,
    ),
    Quantity(
        name="grad_histogram",
        title="Distribution of gradients",
        formula="#{j : gⱼ in bin k}; 419 fixed bins, four to an octave of |g| from 2⁻³⁶ to 2¹⁶",
        unit="count",
        source="bins as in an HDR histogram, taken from the leading bits of a 32-bit float",
        scaling="moves by log₂|s| octaves",
        nan_when="never; non-finite gradients are in no bin",
        reading="The whole distribution: its width, its tails, its spike at zero.",
        needs=("histogram",),
        finish=lambda s: s["histogram"],
        is_log=False,
    ),
)
