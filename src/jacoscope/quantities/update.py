"""Quantities of the weights and of what the optimiser did to them.

θ are the weights before the optimiser's step, Δθ is what the step itself added: moved weights less
former weights, weight decay included, nothing that happens outside ``optimizer.step``. A step that
the optimiser skipped (an AMP scaler that met a non-finite gradient) has Δθ = 0.
"""

from __future__ import annotations

import numpy as np

from jacoscope.quantities._quantity import Quantity

__all__ = ["UPDATE_QUANTITIES"]

UPDATE_QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        name="weight_norm",
        title="Weight norm",
        formula="‖θ‖₂ = √(Σⱼ θⱼ²)",
        unit="unit of parameter",
        source="Krogh and Hertz, A simple weight decay can improve generalization, NeurIPS 1991",
        scaling="unchanged",
        nan_when="a weight is nan",
        reading="Growth without end points to missing decay or an exploding layer; collapse to 0 "
        "to decay that outweighs the gradient.",
        needs=("weight_sq",),
        finish=lambda s: np.sqrt(s["weight_sq"]),
    ),
    Quantity(
        name="update_norm",
        title="Update norm",
        formula="‖Δθ‖₂",
        unit="unit of parameter",
        source="You et al., Large batch training of convolutional networks (LARS), "
        "arXiv:1708.03888, section 4",
        scaling="unchanged for Adam-like optimisers, ×|s| for SGD without decay",
        nan_when="a weight is or becomes nan",
        reading="How far the optimiser moved this tensor.",
        needs=("update_sq",),
        finish=lambda s: np.sqrt(s["update_sq"]),
    ),
    Quantity(
        name="update_ratio",
        title="Update ratio",
        formula="‖Δθ‖₂ / ‖θ‖₂",
        unit="1",
        source="You et al., arXiv:1708.03888, section 4 (ratio of update to weight norm)",
        scaling="as update_norm",
        nan_when="weights and update are all zero, or one is nan; inf if only the weights are zero",
        reading="The layer's relative pace. About 1e-3 is a common rule of thumb; layers far "
        "apart learn at different speeds.",
        needs=("update_sq", "weight_sq"),
        finish=lambda s: np.sqrt(s["update_sq"]) / np.sqrt(s["weight_sq"]),
    ),
    Quantity(
        name="update_cosine",
        title="Cosine of update and descent",
        formula="cos(Δθ, −g) = −Σⱼ Δθⱼ gⱼ / (‖Δθ‖₂ ‖g‖₂)",
        unit="1",
        source="angle to steepest descent; descent condition in Nocedal and Wright, Numerical "
        "Optimization, 2nd ed., equation 3.12",
        scaling="unchanged for s > 0 and Adam-like optimisers or SGD without decay",
        nan_when="the update or the gradient is all zero, or has a nan",
        reading="1: plain gradient descent; near 0: momentum, decay or preconditioning steer; "
        "below 0: the step goes uphill for this batch.",
        needs=("update_grad", "update_sq", "grad_sq"),
        finish=lambda s: -s["update_grad"] / (np.sqrt(s["update_sq"]) * np.sqrt(s["grad_sq"])),
        is_log=False,
    ),
)
