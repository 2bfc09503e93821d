"""Products of rows with one another, and Jacobians that share them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jacoscope.jacobian import (
    ConvolutionJacobian,
    DenseJacobian,
    OuterJacobian,
    RowProducts,
    measure,
)
from jacoscope.jacobian import _convolution as convolution
from jacoscope.jacobian._products import row_products


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (64, 64), (97, 130), (256, 10), (256, 70)])
def test_all_products(rows: int, columns: int) -> None:
    matrix = torch.randn(rows, columns, dtype=torch.double)
    torch.testing.assert_close(row_products(matrix), matrix @ matrix.T, rtol=1e-12, atol=1e-12)


def test_strips_of_a_transposed_matrix() -> None:
    matrix = torch.randn(80, 90, dtype=torch.double).T
    torch.testing.assert_close(row_products(matrix), matrix @ matrix.T, rtol=1e-12, atol=1e-12)


def _layer(products: RowProducts | None) -> tuple[Tensor, Tensor]:
    """The Gram matrices of a linear layer's weight and bias."""
    generator = torch.Generator().manual_seed(0)
    inputs, grads = (torch.randn(70, width, generator=generator) for width in (80, 66))
    bias = DenseJacobian(grads)
    weight = OuterJacobian(grads.view(70, 1, 1, 66), inputs.view(70, 1, 1, 80), (66, 80))
    if products is not None:
        bias.sharing(products)
        weight.sharing(products)
    return bias.gram(), weight.gram()


def test_a_bias_and_its_weight_share_their_gradient_s(monkeypatch: pytest.MonkeyPatch) -> None:
    from jacoscope.jacobian import _products

    made: list[torch.Size] = []

    def counted(matrix: Tensor) -> Tensor:
        made.append(matrix.shape)
        return row_products(matrix)

    alone = _layer(None)
    monkeypatch.setattr(_products, "row_products", counted)
    shared = _layer(RowProducts())
    assert made == [(70, 66)]
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one, other)


def test_what_is_shared_is_not_changed_by_those_who_get_it() -> None:
    products = RowProducts()
    first, _ = _layer(products)
    first.zero_()
    again, _ = _layer(products)
    assert again.abs().sum() > 0


def test_a_matrix_that_has_changed_is_not_taken_for_the_same() -> None:
    products = RowProducts()
    matrix = torch.randn(5, 3)
    before = products.of(matrix).clone()
    matrix.mul_(2)
    torch.testing.assert_close(products.of(matrix), 4 * before)


def test_nothing_is_held_once_it_is_forgotten() -> None:
    products = RowProducts()
    products.of(torch.randn(5, 3))
    products.forget()
    assert products._matrix is None
    products.of(torch.randn(5, 3))
    assert products._matrix is None


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


def test_a_convolution_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, grads = torch.randn(7, 1, 3, 6, 6), torch.randn(7, 1, 10, 6, 6)
    wants = ("row_sq_norms", "gram", "column_sq_norms", "sum")

    def measured() -> dict[str, Tensor]:
        jacobian = ConvolutionJacobian(inputs, grads, (10, 3, 3, 3), (1, 1), (1, 1), (1, 1))
        monkeypatch.setattr(type(jacobian), "_closed_work", lambda *_: float("inf"))
        return measure(jacobian, wants)

    whole = measured()
    monkeypatch.setattr(convolution, "_FAR", 1)
    monkeypatch.setattr(convolution, "_SLAB", 7 * 27 * 4)  # four lines of ten
    monkeypatch.setattr(convolution, "_CACHED", 27 * 4 * 3)
    taken = []
    slabs = ConvolutionJacobian._slabs
    monkeypatch.setattr(ConvolutionJacobian, "_slabs", lambda self: taken.append(1) or slabs(self))
    for want, found in measured().items():
        torch.testing.assert_close(found, whole[want], rtol=1e-4, atol=1e-4)
    assert taken
