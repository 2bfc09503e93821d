"""Precisions."""

from __future__ import annotations

import torch

from conditions.condition import Condition, Subject
from sample_training import loader_of, perceptron, rows_of_pairs

__all__ = ["PRECISION"]

_SINGLE = {
    "module": lambda: Subject(perceptron()),
    "loader": lambda: loader_of(rows_of_pairs(20)),
}

PRECISION = (
    Condition("Precision", "64-true"),
    Condition(
        "Precision", "32-true", **_SINGLE, options={"precision": "32-true"}, tolerance=2e-4
    ),
)
