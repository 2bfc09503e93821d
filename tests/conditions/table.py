"""All conditions, in the order of the table."""

from __future__ import annotations

from conditions.condition import Condition
from conditions.rows_optimisation import OPTIMISATION
from conditions.rows_precision import PRECISION

__all__ = ["CONDITIONS"]

CONDITIONS: tuple[Condition, ...] = (*PRECISION, *OPTIMISATION)
