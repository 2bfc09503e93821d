"""Ways to optimise."""

from __future__ import annotations

from conditions.condition import Condition
from conditions.rows_gradients import GRADIENTS
from conditions.rows_manual import MANUAL
from conditions.rows_optimisers import OPTIMISERS
from conditions.rows_trainer import TRAINER

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
    Condition(
        "Optimisation",
        "clipping by value",
        options={**_DOUBLE, "gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        note="gradients are those before clipping",
    ),
    *OPTIMISERS,
    *MANUAL,
    *GRADIENTS,
    *TRAINER,
)
