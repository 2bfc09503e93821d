"""Models that once gave silently wrong numbers, leaked, or changed the model probed."""

import gc

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from jacoscope.probing import (
    ProbeError,
    all_else_equal,
    input_jacobian,
    layer_jacobian,
    neural_tangent_kernel,
    output_jacobian,
)


def _tensors() -> int:
    gc.collect()
    return sum(isinstance(each, Tensor) for each in gc.get_objects())


def test_nothing_is_left_of_a_probe() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    x = torch.randn(6, 4)
    probes = (output_jacobian, neural_tangent_kernel, input_jacobian)
    for probe in probes:
        probe(model, x)
    before = _tensors()
    for _ in range(5):
        for probe in probes:
            probe(model, x)
    assert _tensors() <= before


class _Listed(nn.Module):
    """Its weights are used through a list, and dropout keeps structured operators out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 8), nn.Linear(8, 4)
        self.weights = [self.a.weight, self.b.weight]

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = F.dropout(torch.tanh(F.linear(x, weight)), 0.1, self.training)
        return self.c(x)


def test_forward_mode_is_checked_against_rows() -> None:
    model, x = _Listed().double().train(), torch.randn(6, 4, dtype=torch.float64)
    torch.manual_seed(3)
    whole = neural_tangent_kernel(model, x, mode="train")
    torch.manual_seed(3)
    blocks = neural_tangent_kernel(model, x, mode="train", memory_budget=2000)
    assert whole.trace("b.weight") > 0
    torch.testing.assert_close(blocks.gram(), whole.gram())


class _Enclosing(nn.Module):
    """A function and a hook that enclose the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.encode = lambda x: torch.tanh(self.norm(self.a(x)))
        self.features: dict[str, Tensor] = {}
        self.b.register_forward_hook(lambda m, i, out: self.features.update(out=out))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.encode(x))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_what_encloses_the_module_works_on_the_copy(mode: str) -> None:
    torch.manual_seed(0)
    model, x = _Enclosing().double(), torch.randn(5, 4, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    jacobian = output_jacobian(model, x, mode=mode)  # type: ignore[arg-type]
    neural_tangent_kernel(model, x, mode=mode)  # type: ignore[arg-type]
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.features
    assert float(jacobian.norms("a.weight").min()) > 0


def test_the_caller_s_input_gets_no_gradient() -> None:
    x = torch.randn(5, 4, requires_grad=True)
    neural_tangent_kernel(nn.Linear(4, 3), x)
    assert x.grad is None


def test_second_derivatives_of_weight_norm_are_withheld() -> None:
    """Those of torch are wrong."""
    torch.manual_seed(0)
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 3))
    model, x = model.double(), torch.randn(8, 4, dtype=torch.float64)
    before = {n: p.detach() + 0.01 * torch.randn_like(p) for n, p in model.named_parameters()}
    result = all_else_equal(model, lambda m: m(x).square().mean(), before)
    assert "weight normalisation" in (result.missing or "")
    assert result.predicted == pytest.approx(result.actual, rel=0.5)


def test_drift_of_a_sketch_is_that_of_the_kernel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 50)).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    exact = neural_tangent_kernel(model, x, max_outputs=50)
    sketched = [neural_tangent_kernel(model, x, sketches=64, seed=seed) for seed in range(20)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    wanted = neural_tangent_kernel(model, x, max_outputs=50).drift(exact)
    found = torch.tensor([
        neural_tangent_kernel(model, x, sketches=64, seed=seed).drift(first)
        for seed, first in enumerate(sketched)
    ])  # fmt: skip
    assert abs(float(found.mean()) - wanted) <= 4 * float(found.std()) / 20**0.5 + 0.02 * wanted


class _TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.at = nn.Linear(4, 8), nn.Identity()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.at(self.enter(x).transpose(0, 1))).mean(0))


def test_as_many_places_as_samples_are_told_apart() -> None:
    for places in (5, 7):
        with pytest.raises(ProbeError, match=r"none of it|not that of the samples"):
            layer_jacobian(_TimeFirst(), torch.randn(5, places, 4), "at", "head")


def test_a_mask_of_samples_by_samples() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.b(mask @ self.a(x).tanh())

    model, x = Masked().double(), torch.randn(5, 4, dtype=torch.float64)
    mask = torch.rand(5, 5, dtype=torch.float64)
    jacobian = output_jacobian(model, (x, mask))
    weight = model.b.weight.detach().requires_grad_()
    rows = torch.autograd.functional.jacobian(
        lambda w: F.linear(mask @ model.a(x).tanh(), w, model.b.bias), weight
    )
    torch.testing.assert_close(jacobian.dense("b.weight"), rows)


def test_a_model_that_counts_where_it_cannot_be_put_back() -> None:
    class Counter:
        calls = 0

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.counter = nn.Linear(4, 3), Counter()

        def forward(self, x: Tensor) -> Tensor:
            self.counter.calls += 1
            return self.a(x) * self.counter.calls

    with pytest.raises(ProbeError, match="change from one call to the next"):
        output_jacobian(Counting(), torch.randn(5, 4))
