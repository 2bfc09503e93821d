"""Products of rows with one another, and Jacobians that share them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jacoscope.jacobian import (
    ConvolutionJacobian,
    DenseJacobian,
    Factor,
    OuterJacobian,
    RankOneJacobian,
    _factor,
    measure,
)
from jacoscope.jacobian._products import row_products


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (97, 130), (512, 3), (701, 20)])
def test_all_products(rows: int, columns: int) -> None:
    matrix = torch.randn(rows, columns, dtype=torch.double)
    torch.testing.assert_close(row_products(matrix), matrix @ matrix.T, rtol=1e-12, atol=1e-12)


def test_strips_of_a_transposed_matrix() -> None:
    matrix = torch.randn(20, 600, dtype=torch.double).T
    torch.testing.assert_close(row_products(matrix), matrix @ matrix.T, rtol=1e-12, atol=1e-12)


def _layer() -> tuple[Tensor, Tensor]:
    """What a linear layer's gradients and inputs are."""
    generator = torch.Generator().manual_seed(0)
    inputs, grads = (torch.randn(70, width, generator=generator) for width in (80, 66))
    return grads, inputs


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The matrices whose products are made from here on."""
    made: list[torch.Size] = []

    def counted(matrix: Tensor) -> Tensor:
        made.append(matrix.shape)
        return row_products(matrix)

    monkeypatch.setattr(_factor, "row_products", counted)
    return made


def test_a_bias_and_its_weight_share_their_gradient_s(monkeypatch: pytest.MonkeyPatch) -> None:
    grads, inputs = _layer()
    alone = (
        DenseJacobian(grads).gram(),
        OuterJacobian(grads.view(70, 1, 1, 66), inputs.view(70, 1, 1, 80), (66, 80)).gram(),
        OuterJacobian(inputs.view(70, 1, 1, 80), grads.view(70, 1, 1, 66), (80, 66)).gram(),
    )
    made = _counted(monkeypatch)
    shared = Factor(grads, is_shared=True)
    together = (
        DenseJacobian.of_rows(shared).gram(),
        RankOneJacobian(shared, Factor(inputs), (66, 80)).gram(),
        RankOneJacobian(Factor(inputs), shared, (80, 66)).gram(),
    )
    assert made == [(70, 66)]
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("want", ["gram", "row_sq_norms", "column_sq_norms", "sum"])
def test_what_is_shared_is_not_changed_by_those_who_get_it(want: str) -> None:
    grads, inputs = _layer()
    shared = Factor(grads, is_shared=True)

    def each() -> list[Tensor]:
        jacobians = (
            DenseJacobian.of_rows(shared),
            RankOneJacobian(shared, Factor(inputs), (66, 80)),
        )
        return [measure(jacobian, (want,))[want] for jacobian in jacobians]

    first = each()
    kept = [found.clone() for found in first]
    for found in first:
        found.zero_()
    for found, before in zip(each(), kept, strict=True):
        assert torch.equal(found, before)


def test_rows_that_have_changed_are_not_taken_for_the_same() -> None:
    rows, along = torch.randn(5, 3), torch.randn(3)
    factor = Factor(rows, is_shared=True)
    before = factor.products_NN.clone(), factor.lengths_N.clone(), factor.along(along).clone()
    rows.mul_(2)
    for found, was, times in zip(
        (factor.products_NN, factor.lengths_N, factor.along(along)), before, (4, 2, 2), strict=True
    ):
        torch.testing.assert_close(found, times * was)


def test_components_along_another_direction_are_worked_out_anew() -> None:
    factor = Factor(torch.randn(5, 3))
    one, other = torch.randn(3), torch.randn(3)
    assert factor.along(one) is factor.along(one)
    torch.testing.assert_close(factor.along(other), factor.rows_NP @ other)


def test_products_are_not_kept_for_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    factor = Factor(torch.randn(5, 3))
    made = _counted(monkeypatch)
    assert factor.products_NN is not factor.products_NN
    assert len(made) == 2


def test_products_beyond_the_budget_are_made_in_blocks() -> None:
    grads, inputs = _layer()
    whole = RankOneJacobian(Factor(grads), Factor(inputs), (66, 80)).gram()
    small = RankOneJacobian(Factor(grads), Factor(inputs), (66, 80), memory_budget=4096)
    torch.testing.assert_close(small.gram(), whole, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("groups", "transposed"), [(1, False), (2, False), (1, True), (2, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directions_made_of_factors(groups: int, transposed: bool, dtype: torch.dtype) -> None:
    """By factors or by their product, the component along a direction is that of the rows."""
    inputs = torch.randn(5, 1, 4, 9, 8, dtype=dtype)
    shape = (4, 6 // groups, 3, 2) if transposed else (6, 4 // groups, 3, 2)
    forward = functional.conv_transpose2d if transposed else functional.conv2d
    size = forward(inputs[:, 0], torch.zeros(shape, dtype=dtype), groups=groups).shape[1:]
    grads = torch.randn(5, 1, *size, dtype=dtype)
    jacobian = ConvolutionJacobian(inputs, grads, shape, (1, 1), (0, 0), (1, 1), groups, transposed)
    left, channel, kernel = (torch.randn(n, dtype=dtype) for n in (shape[0], shape[1], 6))
    right = torch.outer(channel, kernel).flatten()
    direction = torch.outer(left, right).view(shape)
    expected = (jacobian.rows(slice(None)) * direction).flatten(1).sum(1)
    rtol = 1e-4 if dtype == torch.float32 else 1e-11
    for found in (jacobian.probe(left, right), jacobian.probe(left, right, (channel, kernel))):
        torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * 10)
