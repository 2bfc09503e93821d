"""All architectures that capture is tested on, as data."""

from __future__ import annotations

from capture import (
    cases_batches,
    cases_layers,
    cases_networks,
    cases_parameters,
    cases_sequences,
    cases_transformers,
)
from capture.case import Case

CASES: tuple[Case, ...] = (
    *cases_layers.CASES,
    *cases_sequences.CASES,
    *cases_parameters.CASES,
    *cases_networks.CASES,
    *cases_batches.CASES,
    *cases_transformers.CASES,
)

BY_NAME = {case.name: case for case in CASES}

assert len(BY_NAME) == len(CASES), "two cases share a name"
