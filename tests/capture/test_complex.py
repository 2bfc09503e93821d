"""Complex parameters: rows are the derivatives by their real and imaginary parts.

The reference differentiates by the two as parameters of their own, each sample by itself, which
takes no complex derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jacoscope
from capture.agreement import errors, scale_of
from capture.case import wave

ASKED = ("row_sq_norms", "column_sq_norms", "gram", "sum", "matvec", "rmatvec", "rows", "dense")
SAMPLES = 4
Run = Callable[[dict[str, Tensor], Tensor], Tensor]


def parts(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.complex128) for shape in shapes]


def linear(p: dict[str, Tensor], x: Tensor) -> Tensor:
    return (x.to(p["a"].dtype) @ p["a"] + p["b"]).abs()


def transposed(p: dict[str, Tensor], x: Tensor) -> Tensor:
    hidden = x.to(p["a"].dtype) @ p["a"].mT
    return (hidden @ p["a"].conj() + p["b"][:5]).real


def convolved(p: dict[str, Tensor], x: Tensor) -> Tensor:
    return torch.view_as_real(torch.conv1d(x.to(p["a"].dtype), p["a"], p["b"])).flatten(1)


def spectral(p: dict[str, Tensor], x: Tensor) -> Tensor:
    """A layer of a Fourier neural operator."""
    spectrum = torch.einsum("bix,iox->box", torch.fft.rfft(x), p["a"])
    return torch.fft.irfft(spectrum, x.shape[-1]) + p["b"].real


def polar(p: dict[str, Tensor], x: Tensor) -> Tensor:
    """What is made of parameters alone: phases, products, parts."""
    weight = p["a"] * torch.exp(1j * p["b"].real) + p["b"].imag
    return (x.to(weight.dtype) @ weight).angle().sin() + (p["a"].abs() @ p["b"].real.exp()).sum()


def looked_up(p: dict[str, Tensor], x: Tensor) -> Tensor:
    rows = p["a"][(x[:, 0] > 0).long()]
    return torch.view_as_real(rows * p["b"]).flatten(1) * x[:, :1]


def scaled(p: dict[str, Tensor], x: Tensor) -> Tensor:
    return (x * p["a"].square() * p["b"].unsqueeze(0)).imag


CASES: dict[str, tuple[Run, tuple[tuple[int, ...], tuple[int, ...]], tuple[int, ...]]] = {
    "linear": (linear, ((5, 3), (3,)), (5,)),
    "weight, transposed and conjugate": (transposed, ((3, 5), (6,)), (5,)),
    "convolution": (convolved, ((3, 2, 2), (3,)), (2, 5)),
    "Fourier neural operator": (spectral, ((2, 3, 4), (3, 1)), (2, 6)),
    "made of parameters": (polar, ((5, 3), (3,)), (5,)),
    "table": (looked_up, ((2, 3), (3,)), (2,)),
    "of zero dimensions": (scaled, ((), (4,)), (4,)),
}


class Complex(nn.Module):
    def __init__(self, run: Run, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.run = run
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(dict(self.named_parameters()), x)


def build(name: str) -> tuple[Complex, Tensor]:
    run, shapes, shape = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Complex(run, *parts(*shapes)), torch.randn(SAMPLES, *shape, dtype=torch.float64)


def reference(name: str) -> dict[str, Tensor]:
    """By parameter, each sample's contribution, shape (N, *parameter, 2)."""
    model, x = build(name)
    pairs = {
        n: torch.view_as_real(p.detach()).requires_grad_() for n, p in model.named_parameters()
    }
    rows: dict[str, list[Tensor]] = {n: [] for n in pairs}
    for sample in x.split(1):
        given = {n: torch.complex(pair[..., 0], pair[..., 1]) for n, pair in pairs.items()}
        loss = wave(model.run(given, sample)) / SAMPLES
        found = torch.autograd.grad(loss, list(pairs.values()))
        for n, grad in zip(pairs, found, strict=True):
            rows[n].append(grad)
    return {n: torch.stack(each) for n, each in rows.items()}


def captured(name: str, want: Any) -> tuple[Complex, Any]:
    model, x = build(name)
    loss = wave(model(x))
    with jacoscope.capture(loss, model, batch_size=SAMPLES, want=want) as jacobians:
        loss.backward()
    return model, jacobians


@pytest.mark.parametrize("name", CASES)
def test_rows_are_the_derivatives_by_both_parts(name: str) -> None:
    rows, (_, jacobians) = reference(name), captured(name, "operator")
    assert dict(jacobians.missing) == {}
    assert jacobians.coverage == 1
    size = scale_of(rows)
    wrong = {}
    for parameter, expected in rows.items():
        off = errors(jacobians[parameter], expected, ASKED, floor=1e-4 * size)
        wrong.update({f"{parameter}: {what}": e for what, e in off.items() if not e <= 1e-10})
    assert wrong == {}


@pytest.mark.parametrize("name", CASES)
def test_rows_add_up_to_torch_s_own_gradient(name: str) -> None:
    model, jacobians = captured(name, ("sum",))
    for parameter, p in model.named_parameters():
        given = jacobians[parameter].sum()
        torch.testing.assert_close(given, torch.view_as_real(p.grad), rtol=1e-10, atol=1e-14)


def test_a_penalty_is_shared_evenly() -> None:
    model, x = build("linear")
    loss = wave(model(x)) + model.a.abs().square().sum()
    with jacoscope.capture(loss, model, batch_size=SAMPLES, want="operator") as jacobians:
        loss.backward()
    share = 2 * torch.view_as_real(model.a.detach()) / SAMPLES
    torch.testing.assert_close(jacobians["a"].dense(), reference("linear")["a"] + share)


@pytest.mark.parametrize("name", CASES)
def test_verify_agrees(name: str) -> None:
    model, x = build(name)
    assert jacoscope.verify(wave(model(x)), model, batch_size=SAMPLES).ok
