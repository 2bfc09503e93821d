"""Quantities of gradient and weight together: what removing weights would cost, to first order."""

from __future__ import annotations

from jacoscope.quantities._quantity import Quantity

__all__ = ["SALIENCY_QUANTITIES"]

SALIENCY_QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        name="saliency",
        title="Saliency",
        formula="Σⱼ |θⱼ gⱼ|",
        unit="loss",
        source="Lee et al., SNIP, arXiv:1810.02340, equation 4, without its normalisation by the "
        "sum over all weights",
        scaling="×|s|",
        nan_when="a product of weight and gradient is nan",
        reading="How much the loss depends, to first order, on this tensor's weights being there: "
        "each weight's effect of being scaled to zero, added up without regard to sign.",
        needs=("weight_grad_abs",),
        finish=lambda s: s["weight_grad_abs"],
    ),
    Quantity(
        name="taylor_importance",
        title="Taylor importance",
        formula="Σⱼ (θⱼ gⱼ)²",
        unit="loss²",
        source="Molchanov et al., Importance estimation for neural network pruning, "
        "arXiv:1906.10771, first-order criterion of single weights, summed",
        scaling="×s²",
        nan_when="a product of weight and gradient is nan",
        reading="As saliency, with the square: the squared first-order change of the loss if each "
        "weight alone were removed. A few decisive weights weigh more.",
        needs=("weight_grad_sq",),
        finish=lambda s: s["weight_grad_sq"],
    ),
)
