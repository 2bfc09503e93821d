"""Convolutions' weights against autograd, one sample at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from jacoscope.jacobian import ConvolutionJacobian, measure

Agree = Callable[..., None]
_FORWARD = {
    (1, False): functional.conv1d,
    (2, False): functional.conv2d,
    (3, False): functional.conv3d,
    (1, True): functional.conv_transpose1d,
    (2, True): functional.conv_transpose2d,
    (3, True): functional.conv_transpose3d,
}


def _case(
    images: Tensor,
    shape: tuple[int, ...],
    transposed: bool = False,
    output_padding: tuple[int, ...] | None = None,
    **geometry: Any,
) -> tuple[Tensor, Tensor]:
    """Rows and gradients of a convolution whose loss weighs its outputs at random.

    Args:
        images: Shape (N, K, C, *space).
        shape: The weight's.
        transposed: Whether it is a transposed convolution.
        output_padding: Of a transposed convolution.
        geometry: Stride, padding, dilation and groups.
    """
    forward = _FORWARD[len(shape) - 2, transposed]
    if transposed:
        geometry["output_padding"] = output_padding
    weight = torch.zeros(shape, dtype=torch.double, requires_grad=True)
    outputs = [forward(sample.double(), weight, **geometry) for sample in images]
    grads = [torch.randn(output.shape, dtype=torch.double) for output in outputs]
    rows = [
        torch.autograd.grad(output, weight, grad)[0]
        for output, grad in zip(outputs, grads, strict=True)
    ]
    return torch.stack(rows), torch.stack(grads)


def _again(images: Tensor, grad: Tensor, shape: tuple[int, ...], **geometry: Any) -> Tensor:
    """Rows for inputs and gradients that were rounded."""
    forward = _FORWARD[len(shape) - 2, False]
    weight = torch.zeros(shape, dtype=torch.double, requires_grad=True)
    rows = [
        torch.autograd.grad(forward(sample.double(), weight, **geometry), weight, g.double())[0]
        for sample, g in zip(images, grad, strict=True)
    ]
    return torch.stack(rows)


@st.composite
def _geometries(draw: st.DrawFn) -> dict[str, Any]:
    dimensions = draw(st.integers(1, 3))

    def per_dimension(low: int, high: int) -> tuple[int, ...]:
        numbers = st.integers(low, high)
        return tuple(draw(numbers) for _ in range(dimensions))

    case: dict[str, Any] = {
        "kernel": per_dimension(1, 3),
        "stride": per_dimension(1, 3),
        "padding": per_dimension(0, 2),
        "dilation": per_dimension(1, 2),
        "output_padding": per_dimension(0, 2),
        "space": per_dimension(1, 6 if dimensions < 3 else 4),
        "groups": draw(st.integers(1, 3)),
        "transposed": draw(st.booleans()),
        "channels": (draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        "samples": draw(st.integers(1, 3)),
        "repeats": draw(st.integers(1, 2)),
        "seed": draw(st.integers(0, 2**16)),
    }
    return case


@settings(max_examples=80, deadline=None)
@given(case=_geometries())
def test_any_geometry(agree: Agree, case: dict[str, Any]) -> None:
    geometry = {name: case[name] for name in ("stride", "padding", "dilation", "groups")}
    each = zip(*(case[name] for name in ("space", "kernel", *list(geometry)[:3])), strict=True)
    if case["transposed"]:
        steps = zip(case["output_padding"], case["stride"], case["dilation"], strict=True)
        assume(all(extra < max(stride, dilation) for extra, stride, dilation in steps))
        for (size, width, stride, pad, dilation), extra in zip(
            each, case["output_padding"], strict=True
        ):
            assume((size - 1) * stride - 2 * pad + dilation * (width - 1) + extra + 1 > 0)
    else:
        for size, width, _, pad, dilation in each:
            assume(size + 2 * pad >= dilation * (width - 1) + 1)
    torch.manual_seed(case["seed"])
    groups, (more, fewer) = case["groups"], case["channels"]
    shape = (groups * more, fewer, *case["kernel"])
    channels = groups * (more if case["transposed"] else fewer)
    sizes = (case["samples"], case["repeats"], channels, *case["space"])
    images = torch.randn(sizes, dtype=torch.double)
    rows, grad = _case(images, shape, case["transposed"], case["output_padding"], **geometry)

    def make(budget: int) -> ConvolutionJacobian:
        return ConvolutionJacobian(
            images, grad, shape, *geometry.values(), case["transposed"], memory_budget=budget
        )

    agree(make, rows)
    for budget in (1, 10_000, 2**28):
        _check_pairs_of_pixels(make(budget), rows)


def _check_pairs_of_pixels(jacobian: ConvolutionJacobian, rows: Tensor) -> None:
    """The way by pairs of pixels, whether or not it would be chosen."""
    rows_NP = rows.flatten(1)
    scale = float(rows_NP.square().sum())
    tolerance = {"rtol": 1e-10, "atol": 1e-12 * scale}
    torch.testing.assert_close(jacobian._pixel_norms(), rows_NP.square().sum(1), **tolerance)
    torch.testing.assert_close(jacobian._gram_of_pixels(), rows_NP @ rows_NP.T, **tolerance)


# Single precision on a processor has a way of its own.
_SINGLE = {
    "plain": ((3, 1, 4, 6, 6), (5, 4, 3, 3), 1),
    "pointwise": ((3, 1, 4, 3, 3), (5, 4, 1, 1), 1),
    "depthwise": ((3, 1, 4, 6, 6), (4, 1, 3, 3), 4),
    "depthwise, several per channel": ((3, 1, 4, 6, 6), (8, 1, 3, 3), 4),
    "in groups": ((3, 2, 4, 6, 6), (6, 2, 3, 3), 2),
    "one position": ((5, 1, 4, 3, 3), (6, 4, 3, 3), 1),
    "large weight": ((2, 1, 64, 3, 3), (256, 64, 3, 3), 1),
    "sequence": ((3, 2, 4, 9), (5, 4, 3), 1),
    "volume": ((3, 1, 2, 4, 5, 4), (3, 2, 3, 3, 3), 1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", _SINGLE)
def test_single_precision(agree: Agree, name: str, dtype: torch.dtype) -> None:
    sizes, shape, groups = _SINGLE[name]
    torch.manual_seed(0)
    images = torch.randn(sizes).to(dtype)
    dimensions = len(shape) - 2
    geometry = {
        "stride": (1,) * dimensions,
        "padding": (0 if name in ("one position", "pointwise") else 1,) * dimensions,
        "dilation": (1,) * dimensions,
        "groups": groups,
    }
    _, grad = _case(images, shape, **geometry)
    grad = grad.to(dtype)
    rows = _again(images, grad, shape, **geometry)
    agree(
        lambda budget: ConvolutionJacobian(
            images, grad, shape, *geometry.values(), memory_budget=budget
        ),
        rows,
    )


def test_memory_in_any_order(agree: Agree) -> None:
    images = torch.randn(3, 1, 4, 6, 5, dtype=torch.double)
    geometry = {"stride": (1, 2), "padding": (1, 0), "dilation": (1, 1), "groups": 2}
    rows, grad = _case(images, (6, 2, 3, 3), **geometry)
    images = images.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    agree(
        lambda budget: ConvolutionJacobian(
            images, grad, (6, 2, 3, 3), *geometry.values(), memory_budget=budget
        ),
        rows,
    )


@pytest.mark.parametrize("budget", [20_000, 60_000, 200_000, 10**6])
def test_patches_in_chunks(budget: int) -> None:
    images = torch.randn(7, 1, 3, 8, 8, dtype=torch.double)
    geometry = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    rows, grad = _case(images, (4, 3, 3, 3), **geometry)
    jacobian = ConvolutionJacobian(
        images, grad, (4, 3, 3, 3), *geometry.values(), memory_budget=budget
    )
    found = measure(jacobian, ("gram", "column_sq_norms"))
    torch.testing.assert_close(found["gram"], rows.flatten(1) @ rows.flatten(1).T)
    torch.testing.assert_close(found["column_sq_norms"], rows.square().sum(0))
    torch.testing.assert_close(jacobian.rows([5, 1]), rows[[5, 1]])
    torch.testing.assert_close(jacobian.row_sq_norms(), rows.flatten(1).square().sum(1))


def test_through_patches_alone(agree: Agree, monkeypatch: pytest.MonkeyPatch) -> None:
    """What accelerators do in single precision, whose convolutions may round to TF32."""
    monkeypatch.setattr(ConvolutionJacobian, "_native", False)
    images = torch.randn(3, 2, 4, 6, 5, dtype=torch.double)
    geometry = {"stride": (1, 2), "padding": (1, 0), "dilation": (1, 1), "groups": 2}
    rows, grad = _case(images, (6, 2, 3, 3), **geometry)
    for dtype in (torch.double, torch.bfloat16):
        if dtype != torch.double:
            images, grad = images.to(dtype), grad.to(dtype)
            rows = _again(images, grad, (6, 2, 3, 3), **geometry)
        agree(
            lambda budget, images=images, grad=grad: ConvolutionJacobian(
                images, grad, (6, 2, 3, 3), *geometry.values(), memory_budget=budget
            ),
            rows,
        )


def test_shapes_that_do_not_fit() -> None:
    images, grad = torch.zeros(2, 1, 4, 6, 6), torch.zeros(2, 1, 8, 4, 4)
    two, one, none = (2, 2), (1, 1), (0, 0)
    ConvolutionJacobian(images, grad, (8, 4, 3, 3), one, none, one)
    with pytest.raises(ValueError, match="input and grad must have shapes"):
        ConvolutionJacobian(images, grad[:1], (8, 4, 3, 3), one, none, one)
    with pytest.raises(ValueError, match="one number for each of the 2 dimensions"):
        ConvolutionJacobian(images, grad, (8, 4, 3, 3), (1,), none, one)
    with pytest.raises(ValueError, match=r"there are no \(4, 4\) patches"):
        ConvolutionJacobian(images, grad, (8, 4, 3, 3), two, none, one)
    with pytest.raises(ValueError, match="does not fit inputs"):
        ConvolutionJacobian(images, grad, (8, 3, 3, 3), one, none, one)
