"""What must hold of contributions whatever the model: order, parts, scale, duplicates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import jacoscope
from capture.agreement import scale_of
from capture.architectures import BY_NAME
from capture.case import Case

NAMES = (
    "Linear 3D, N equals T",
    "Conv2d stride, padding and dilation unlike in height and width",
    "Embedding with padding",
    "LSTM",
    "tied embedding and head",
    "TransformerEncoderLayer",
    "attention by hand, N equals T and width",
    "residual MLP with norms",
    "einsum btd,hde->bhte, heads",
)
SAMPLES = 5

models = pytest.mark.parametrize("case", [BY_NAME[name] for name in NAMES], ids=str)
quick = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def drawn(case: Case, seed: int) -> tuple[Any, ...]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return case.inputs(SAMPLES)


def rows_of(
    case: Case, batch: tuple[Any, ...], factor: float = 1.0
) -> tuple[Mapping[str, Tensor], float]:
    """Contributions of each sample of the batch, and their size."""
    model = case.build()
    loss = factor * case.loss(model, batch)
    with jacoscope.capture(loss, model, batch_size=len(batch[0]), want="operator") as jacobians:
        loss.backward()
    assert not jacobians.missing
    rows = {name: jacobians[name].dense() for name in jacobians}
    return rows, scale_of(rows)


def agree(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], size: float) -> None:
    assert set(given) == set(wanted)
    for name in wanted:
        off = (given[name] - wanted[name]).norm()
        assert off <= 1e-10 * wanted[name].norm() + 1e-14 * size, name


@models
@quick
@given(seed=st.integers(0, 99), order=st.permutations(range(SAMPLES)))
def test_permuting_the_samples_permutes_the_rows(case: Case, seed: int, order: list[int]) -> None:
    batch = drawn(case, seed)
    rows, size = rows_of(case, batch)
    permuted, _ = rows_of(case, tuple(part[order] for part in batch))
    agree(permuted, {name: row[order] for name, row in rows.items()}, size)


@models
@quick
@given(seed=st.integers(0, 99), cut=st.integers(1, SAMPLES - 1))
def test_splitting_the_batch_adds_up(case: Case, seed: int, cut: int) -> None:
    batch = drawn(case, seed)
    rows, size = rows_of(case, batch)
    head, _ = rows_of(case, tuple(part[:cut] for part in batch))
    tail, _ = rows_of(case, tuple(part[cut:] for part in batch))
    share = cut / SAMPLES
    joined = {name: torch.cat((share * head[name], (1 - share) * tail[name])) for name in rows}
    agree(joined, rows, size)


@models
@quick
@given(seed=st.integers(0, 99), factor=st.floats(-1e3, 1e3).filter(lambda f: abs(f) > 1e-3))
def test_scaling_the_loss_scales_the_rows(case: Case, seed: int, factor: float) -> None:
    batch = drawn(case, seed)
    rows, size = rows_of(case, batch)
    scaled, _ = rows_of(case, batch, factor)
    agree(scaled, {name: factor * row for name, row in rows.items()}, abs(factor) * size)


@models
@quick
@given(seed=st.integers(0, 99), twin=st.integers(0, SAMPLES - 1), place=st.integers(0, SAMPLES))
def test_duplicating_a_sample_duplicates_its_row(
    case: Case, seed: int, twin: int, place: int
) -> None:
    batch = drawn(case, seed)
    rows, size = rows_of(case, batch)
    index = [*range(SAMPLES)]
    index.insert(place, twin)
    more, _ = rows_of(case, tuple(part[index] for part in batch))
    weight = SAMPLES / (SAMPLES + 1)
    agree(more, {name: weight * row[index] for name, row in rows.items()}, size)
