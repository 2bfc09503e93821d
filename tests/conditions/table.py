"""All conditions, in the order of the table."""

from __future__ import annotations

from conditions.condition import Condition
from conditions.rows_graphs import GRAPHS
from conditions.rows_layers import LAYERS
from conditions.rows_loops import FAULTS, LOOPS
from conditions.rows_optimisation import OPTIMISATION
from conditions.rows_parameters import PARAMETERS
from conditions.rows_precision import PRECISION
from conditions.rows_processes import PROCESSES

__all__ = ["CONDITIONS"]

CONDITIONS: tuple[Condition, ...] = (
    *PRECISION,
    *OPTIMISATION,
    *GRAPHS,
    *LAYERS,
    *PARAMETERS,
    *PROCESSES,
    *LOOPS,
    *FAULTS,
)
