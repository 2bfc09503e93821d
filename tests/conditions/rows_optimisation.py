"""Ways to optimise."""

from __future__ import annotations

from conditions.condition import Condition

__all__ = ["OPTIMISATION"]

_DOUBLE = {"precision": "64-true"}

OPTIMISATION = (
    Condition(
        "Optimisation",
        "accumulation, the last window shorter",
        options={**_DOUBLE, "accumulate_grad_batches": 2},
    ),
    Condition(
        "Optimisation",
        "clipping by norm",
        options={**_DOUBLE, "gradient_clip_val": 0.01},
        note="gradients are those before clipping",
    ),
)
