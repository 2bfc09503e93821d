"""Losses of samples as they are read from the graph, against losses that nothing has reduced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jacoscope.capturing import sample_losses

N, C = 6, 4
WEIGHTS = torch.linspace(0.5, 2, C, dtype=torch.float64)


def scores(*inner: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(N, C, *inner, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, C, (N, *inner), generator=generator)
    return given.requires_grad_(), labels


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("inner", [(), (5,), (3, 2)], ids=str)
@pytest.mark.parametrize("ignored", [-100, 1])
@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weighted"])
def test_cross_entropy(
    inner: tuple[int, ...], smoothing: float, reduction: str, ignored: int, weight: Tensor | None
) -> None:
    given, labels = scores(*inner)
    labels.flatten()[0] = 0
    told: dict[str, Any] = {"label_smoothing": smoothing, "ignore_index": ignored, "weight": weight}
    loss = functional.cross_entropy(given, labels, reduction=reduction, **told)
    found = sample_losses((loss / 3).mean(), N, None, None)
    each = functional.cross_entropy(given, labels, reduction="none", **told).reshape(N, -1)
    counts = labels.ne(ignored).reshape(N, -1)
    expected = torch.stack(
        [row[known].mean() for row, known in zip(each, counts, strict=True)]
    ).detach()
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("shape", [(), (C,)], ids=["of elements", "of outputs"])
def test_binary_cross_entropy_with_weights(
    reduction: str, from_logits: bool, shape: tuple[int, ...]
) -> None:
    given, labels = scores()
    target = functional.one_hot(labels, C).double()
    told: dict[str, Any] = {"weight": torch.rand(shape or (N, C), dtype=torch.float64)}
    if from_logits:
        told["pos_weight"] = WEIGHTS
        function: Callable[..., Tensor] = functional.binary_cross_entropy_with_logits
    else:
        given, function = given.sigmoid(), functional.binary_cross_entropy
    found = sample_losses(
        function(given, target, reduction=reduction, **told).mean(), N, None, None
    )
    expected = function(given, target, reduction="none", **told).mean(1).detach()
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("inner", [(), (5,)], ids=str)
@pytest.mark.parametrize("is_flat", [False, True])
@pytest.mark.parametrize("is_mask", [False, True])
def test_terms_that_are_multiplied_by_weights(
    inner: tuple[int, ...], is_flat: bool, is_mask: bool
) -> None:
    given, labels = scores(*inner)
    weights = torch.linspace(0, 2, labels.numel(), dtype=torch.float64).view(labels.shape)
    weights = (weights > 0.7).double() if is_mask else weights
    each = functional.cross_entropy(given, labels, reduction="none")
    parts = (each.flatten(), weights.flatten()) if is_flat else (each, weights)
    loss = (parts[0] * parts[1]).sum() / weights.sum()
    found = sample_losses(loss, N, None, None)
    terms = (each * weights).detach().reshape(N, -1)
    expected = terms.sum(1) / weights.reshape(N, -1).ne(0).sum(1)
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0, equal_nan=True)


def test_rows_that_are_multiplied_by_weights() -> None:
    given, _ = scores()
    target, weights = torch.zeros_like(given), torch.linspace(1, 2, N, dtype=torch.float64)
    each = functional.mse_loss(given, target, reduction="none").mean(-1)
    found = sample_losses((weights * each).mean(), N, None, None)
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, (weights * each).detach(), rtol=1e-12, atol=0)


def _by_column(given: Tensor, labels: Tensor) -> Tensor:
    """As many columns as rows, of which it is the columns that have weights."""
    square = given.repeat(1, 2)[:, :N]
    each = functional.mse_loss(square, torch.zeros_like(square), reduction="none")
    return (each.mean(0) * torch.linspace(0, 1, N, dtype=torch.float64)).sum()


def _weighted_twice(given: Tensor, labels: Tensor) -> Tensor:
    each = functional.cross_entropy(given, labels, reduction="none")
    return (torch.linspace(0, 1, N) * each * torch.linspace(1, 2, N)).mean()


def _learnt(given: Tensor, labels: Tensor) -> Tensor:
    """Weights that have a gradient themselves."""
    each = functional.cross_entropy(given, labels, reduction="none")
    return (each * given.mean(1)).mean()


def _penalised(given: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(given, labels) + 1e-3 * given.square().sum()


def _halves(given: Tensor, labels: Tensor) -> Tensor:
    """Two scaled terms, as with label smoothing, of which the second is of other scores."""
    others = -(2 * given).log_softmax(1).sum(1).mean()
    return 0.9 * functional.cross_entropy(given, labels) + 0.1 / C * others


def _bonus(given: Tensor, labels: Tensor) -> Tensor:
    """Label smoothing with the other sign."""
    known = given.log_softmax(1)
    return 0.9 * functional.nll_loss(known, labels) + 0.1 / C * known.sum(1).mean()


def _unlike(given: Tensor, labels: Tensor) -> Tensor:
    """A mean of the one and a sum of the other."""
    known = given.log_softmax(1)
    return 0.9 * functional.nll_loss(known, labels) + 0.1 / C * -known.sum(1).sum()


def _unevenly(given: Tensor, labels: Tensor) -> Tensor:
    """Label smoothing whose two terms weigh classes differently."""
    known = given.log_softmax(1)
    hard = functional.nll_loss(known, labels, weight=WEIGHTS, reduction="sum")
    return 0.9 * hard + 0.1 / C * -(known * WEIGHTS.flip(0)).sum(1).sum()


UNKNOWN: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "other weights of classes in the smoothing": (_unevenly, "is a sum of several terms"),
    "weights of columns": (_by_column, "weights its samples"),
    "weights of several kinds": (_weighted_twice, "weights its samples"),
    "weights that are learnt": (_learnt, "weights its samples"),
    "a penalty": (_penalised, "is a sum of several terms"),
    "what only looks like label smoothing": (_halves, "is a sum of several terms"),
    "a bonus for certainty": (_bonus, "is a sum of several terms"),
    "reduced in two ways": (_unlike, "is a sum of several terms"),
    "another function": (lambda x, y: x.logsumexp(1).mean(), "is not cross entropy"),
    "soft targets": (
        lambda x, y: functional.cross_entropy(x, functional.one_hot(y, C).double()),
        "is not cross entropy",
    ),
    "part of the rows": (lambda x, y: functional.cross_entropy(x[:-1], y[:-1]), "which sample's"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_cannot_be_read_has_its_reason(case: str) -> None:
    loss, reason = UNKNOWN[case]
    found = sample_losses(loss(*scores()), N, None, None)
    assert isinstance(found, str)
    assert reason in found
