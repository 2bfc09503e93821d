"""Which parameters a probe takes: tied ones by any name, those of no elements left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jacoscope import neural_tangent_kernel, output_jacobian

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))

probes = pytest.mark.parametrize("probe", [output_jacobian, neural_tangent_kernel])


class Tied(nn.Module):
    """Two layers with one weight, a parameter of no elements, and one of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.e = nn.Parameter(torch.empty(0, 3))
        self.n = nn.Parameter(torch.ones(2, dtype=torch.long), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b(self.a(x).tanh()), x @ self.e.T], 1)


@probes
def test_by_default_those_that_have_elements(probe: Callable[..., Any]) -> None:
    assert probe(Tied(), X).names == ("a.weight", "b.bias")


@probes
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("e", "parameters has 'e', which has no elements; leave it out"),
        ("n", "parameters has 'n', which is not of floating point; leave it out"),
        ("b.wieght", r"which is not a parameter of the model; did you mean '\w.weight'\?"),
    ],
)
def test_one_that_cannot_be_used(probe: Callable[..., Any], name: str, told: str) -> None:
    for names in (name, ["a.weight", name]):
        with pytest.raises(ValueError, match=told):
            probe(Tied(), X, parameters=names)


@probes
@pytest.mark.parametrize("names", ["b.weight", ["b.weight"], ["b.weight", "a.weight"]])
def test_a_tied_one_by_any_of_its_names(probe: Callable[..., Any], names: Any) -> None:
    assert probe(Tied(), X, parameters=names).names == ("a.weight",)


def test_what_is_found_of_a_tied_one_is_found_by_each_name() -> None:
    model = Tied()
    jacobian = output_jacobian(model, X)
    for what in ("norms", "sq_norm_errors", "output_norms", "spectral_norms", "dense"):
        of = getattr(jacobian, what)
        assert torch.equal(of("b.weight"), of("a.weight")), what
    kernel = neural_tangent_kernel(model, X)
    assert torch.equal(kernel.gram("b.weight"), kernel.gram("a.weight"))
    assert torch.equal(kernel.gram(["a.weight", "b.weight"]), kernel.gram("a.weight"))
