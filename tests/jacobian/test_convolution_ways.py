"""The ways in which a convolution's norms, Gram matrices and rows are made, each forced."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from jacoscope.jacobian import WANTS, ConvolutionJacobian, measure
from jacoscope.jacobian import _convolution_rows as convolution_rows
from jacoscope.jacobian import _inner_products as products
from jacoscope.jacobian._convolution_rows import ConvolutionRows
from jacoscope.jacobian._jacobian import Jacobian
from jacoscope.jacobian._products import row_products

_DEFAULT = 2**28


def _case(
    samples: int,
    channels: tuple[int, int],
    size: int,
    stride: int = 1,
    repeats: int = 1,
    budget: int = _DEFAULT,
    groups: int = 1,
) -> tuple[ConvolutionJacobian, Tensor]:
    """A 3 × 3 convolution in single precision and its rows by autograd in double precision."""
    generator = torch.Generator().manual_seed(0)
    fewer, more = channels
    images = torch.randn(samples, repeats, fewer, size, size, generator=generator)
    weight = torch.zeros(more, fewer // groups, 3, 3, dtype=torch.double, requires_grad=True)
    rows, grads = [], []
    for sample in images.double():
        output = functional.conv2d(sample, weight, stride=stride, padding=1, groups=groups)
        grads.append(torch.randn(output.shape, generator=generator))
        rows.append(torch.autograd.grad(output, weight, grads[-1].double())[0])
    jacobian = ConvolutionJacobian(
        images,
        torch.stack(grads),
        weight.shape,
        (stride, stride),
        (1, 1),
        (1, 1),
        groups,
        memory_budget=budget,
    )
    return jacobian, torch.stack(rows)


def _check(found: dict[str, Tensor], rows: Tensor) -> None:
    rows_NP = rows.flatten(1)
    expected = {
        "row_sq_norms": rows_NP.square().sum(1),
        "column_sq_norms": rows.square().sum(0),
        "gram": rows_NP @ rows_NP.T,
        "sum": rows.sum(0),
    }
    for want, value in found.items():
        scale = float(rows_NP.norm()) ** (1 if want == "sum" else 2)
        torch.testing.assert_close(value.double(), expected[want], rtol=1e-5, atol=1e-6 * scale)


_GEOMETRIES: dict[str, tuple[int, int, int, int, int]] = {
    # Size, kernel, stride, padding, dilation.
    "a kernel's element before all others": (11, 3, 3, 0, 2),
    "elements that meet a phase late": (17, 3, 2, 0, 3),
    "more padding than pixels": (2, 5, 1, 6, 1),
    "a phase of padding alone": (1, 3, 2, 2, 1),
    "a stride beyond the kernel": (11, 2, 5, 1, 1),
    "a part of a stride left over": (12, 4, 3, 1, 1),
    "half of the kernel's width at the sides": (9, 5, 1, 2, 1),
}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", _GEOMETRIES)
def test_pairs_of_pixels(name: str, groups: int) -> None:
    """Along one dimension a geometry of its own, along the other a usual one."""
    size, *numbers = _GEOMETRIES[name]
    kernel, stride, padding, dilation = (
        (number, usual) for number, usual in zip(numbers, (3, 1, 1, 1), strict=True)
    )
    images = torch.randn(4, 2, 2 * groups, size, 4, dtype=torch.double)
    weight = torch.zeros(3 * groups, 2, *kernel, dtype=torch.double, requires_grad=True)
    rows, grads = [], []
    for sample in images:
        output = functional.conv2d(sample, weight, None, stride, padding, dilation, groups)
        grads.append(torch.randn_like(output))
        rows.append(torch.autograd.grad(output, weight, grads[-1])[0].flatten())
    jacobian = ConvolutionJacobian(
        images, torch.stack(grads), weight.shape, stride, padding, dilation, groups
    )
    expected = torch.stack(rows) @ torch.stack(rows).T
    torch.testing.assert_close(jacobian._gram_of_pixels(), expected, rtol=1e-10, atol=1e-10)
    norms = jacobian._pixel_norms()
    torch.testing.assert_close(norms, expected.diagonal(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [(40, 20), (3, 70), (16, 40)])
def test_in_tiles(monkeypatch: pytest.MonkeyPatch, channels: tuple[int, int], stride: int) -> None:
    """Tiles that end where the weight does, and before."""
    monkeypatch.setattr(convolution_rows, "_FAR", 1)
    monkeypatch.setattr(convolution_rows, "_CACHED", 7 * 16 * 9 * 8)
    jacobian, rows = _case(7, channels, 6, stride, repeats=2)
    tile = jacobian._direct_rows.tile(7)
    assert tile is not None
    assert tile != jacobian.parameter_shape[:2]
    with torch.no_grad():
        _check(jacobian._from_rows(WANTS), rows)
        _check(jacobian._from_rows(("gram",)), rows)


def test_no_tiles_beyond_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution_rows, "_FAR", 1)
    jacobian, rows = _case(7, (16, 8), 6, budget=20_000)
    assert not jacobian._tiles_fit
    with torch.no_grad():
        _check(jacobian._from_rows(WANTS), rows)


@pytest.mark.parametrize("slighted", [True, False])
@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("channels", "size", "times"),
    [((3, 64), 28, 3), ((12, 64), 18, 3), ((64, 128), 16, 1)],  # large rows: if not to be kept
    ids=["few channels", "odd channels", "large weight"],
)
def test_sample_by_sample(
    monkeypatch: pytest.MonkeyPatch,
    channels: tuple[int, int],
    size: int,
    times: int,
    stride: int,
    repeats: int,
    slighted: bool,
) -> None:
    """Weights that oneDNN's convolutions are slow for."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(products, "_is_slighted", lambda: slighted)
    taken = []
    each = ConvolutionRows._each

    def counted(self: ConvolutionRows, *factors: Tensor) -> Iterator[Tensor]:
        taken.append(1)
        return each(self, *factors)

    monkeypatch.setattr(ConvolutionRows, "_each", counted)
    jacobian, rows = _case(5, channels, size, stride, repeats)
    without_gram = tuple(want for want in WANTS if want != "gram")
    with torch.no_grad():
        _check(jacobian._from_rows(WANTS), rows)
        _check(jacobian._from_rows(without_gram), rows)
    torch.testing.assert_close(jacobian.rows([3, 1]).double(), rows[[3, 1]], rtol=1e-4, atol=1e-3)
    assert len(taken) == times


def test_what_is_not_finite_shows_in_its_own_products_alone() -> None:
    rows = torch.randn(64, 300)
    rows[5, 7] = float("nan")
    finite = row_products(rows).isfinite()
    expected = torch.ones(64, 64, dtype=torch.bool)
    expected[5] = expected[:, 5] = False
    assert torch.equal(finite, expected)


_CHOICES: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    # Sizes, what is wanted, what comes from rows.
    "small maps": ({"channels": (64, 64), "size": 6}, ("row_sq_norms",), ()),
    "small maps, with columns": (
        {"channels": (64, 64), "size": 6},
        ("row_sq_norms", "column_sq_norms"),
        ("row_sq_norms", "column_sq_norms"),
    ),
    "large maps": ({"channels": (8, 16), "size": 24}, ("row_sq_norms",), ("row_sq_norms",)),
    "tiny maps": ({"channels": (128, 128), "size": 2}, ("row_sq_norms", "gram"), ()),
    "small maps, with Gram": (
        {"channels": (64, 64), "size": 6},
        ("row_sq_norms", "gram"),
        ("row_sq_norms", "gram"),
    ),
}


@pytest.mark.parametrize("name", _CHOICES)
def test_what_is_less_work_is_chosen(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    sizes, wants, expected = _CHOICES[name]
    jacobian, rows = _case(8, **sizes)
    made: list[tuple[str, ...]] = []
    from_rows = ConvolutionJacobian._from_rows

    def counted(self: ConvolutionJacobian, wants: tuple[str, ...]) -> dict[str, Tensor]:
        made.append(tuple(sorted(wants)))
        return from_rows(self, wants)

    monkeypatch.setattr(ConvolutionJacobian, "_from_rows", counted)
    monkeypatch.setattr(
        ConvolutionJacobian, "_unfold", lambda *_: pytest.fail("patches are more work")
    )
    _check(measure(jacobian, wants), rows)
    assert made == ([tuple(sorted(expected))] if expected else [])


def test_norms_beside_a_gram_matrix_are_its_diagonal() -> None:
    for sizes in ({"channels": (64, 64), "size": 6}, {"channels": (128, 128), "size": 2}):
        jacobian, _ = _case(8, **sizes)
        found = measure(jacobian, ("row_sq_norms", "gram"))
        assert torch.equal(found["row_sq_norms"], found["gram"].diagonal())
        found["row_sq_norms"].zero_()
        assert found["gram"].diagonal().min() > 0


class _Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that is made."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and not func.is_view:
            self.bytes = max(self.bytes, found.numel() * found.element_size())
        return found


def _ways(jacobian: ConvolutionJacobian) -> Iterator[Any]:
    yield jacobian._pixel_norms
    yield jacobian._gram_of_pixels
    yield lambda: jacobian._from_rows(("gram", "column_sq_norms"))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("budget", [2**18, 2**20])
def test_no_tensor_is_larger_than_the_budget(budget: int, stride: int) -> None:
    jacobian, _ = _case(24, (16, 32), 12, stride, budget=budget)
    for way in _ways(jacobian):
        with torch.no_grad(), _Largest() as largest:
            way()
        assert 0 < largest.bytes <= budget


def test_ways_are_remembered_by_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    jacobian, _ = _case(4, (4, 4), 5)
    jacobian.row_sq_norms()
    again, _ = _case(4, (4, 4), 5)
    other, _ = _case(4, (4, 4), 5, groups=2)
    planned: list[Any] = []
    plan = Jacobian._plan
    monkeypatch.setattr(Jacobian, "_plan", lambda *a: planned.append(a[0]) or plan(*a))
    again.row_sq_norms()
    assert not planned
    other.row_sq_norms()
    assert len(planned) == 1


_SEEN = {
    # Samples, channels, size, what is wanted, and whether rows are less than they are made of.
    "few scalars": ((6, (3, 8), 12), ("row_sq_norms",), True),
    "in chunks": ((6, (8, 8), 12), ("row_sq_norms", "column_sq_norms"), True),
    "in tiles": ((6, (16, 40), 12), ("gram",), True),
    "many scalars": ((6, (16, 40), 4), ("row_sq_norms", "column_sq_norms"), False),
}


@pytest.mark.parametrize("name", _SEEN)
def test_rows_are_looked_at_along_a_direction(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check sees are the rows that were measured, where it is less to read."""
    (samples, channels, size), wants, is_less = _SEEN[name]
    monkeypatch.setattr(convolution_rows, "_CACHED", 2**13)
    monkeypatch.setattr(convolution_rows, "_FAR", 1)
    jacobian, rows = _case(samples, channels, size)
    left, right = torch.randn(rows.shape[1]), torch.randn(rows[0, 0].numel())
    factors = None
    expected = rows.flatten(1) @ torch.outer(left, right).flatten().double()

    def along() -> Tensor:
        found, _ = jacobian.checked(left, right, factors)
        return found.double()

    jacobian.expect(left, right)
    with torch.no_grad():
        _check(jacobian._from_rows(wants), rows)
        assert (jacobian._along_N is not None) == is_less
    torch.testing.assert_close(along(), expected, rtol=1e-4, atol=1e-4)
    assert jacobian._along_N is None  # so that it is not taken for what rows are afterwards
    torch.testing.assert_close(along(), expected, rtol=1e-4, atol=1e-4)
    jacobian.expect(left, right)
    with torch.no_grad():
        jacobian._from_rows(wants)
    other, _ = jacobian.checked(left.clone().neg_(), right, factors)
    torch.testing.assert_close(other.double(), -expected, rtol=1e-4, atol=1e-4)
