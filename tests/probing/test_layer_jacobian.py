"""∂h_b/∂h_a against plain autograd with a leaf in the place of h_a."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capture.case import Net, normal
from jacoscope.errors import ConfigError
from jacoscope.probing import PlaceJacobian, ProbeError, layer_jacobian
from probing.probed_models import language_model, token_inputs
from probing.reference import by_module, distance


def drawn(*shape: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return normal(*shape)


def seeded(make: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make().double()


def perceptron(activation: nn.Module) -> nn.Module:
    names = ("first", "act", "second", "norm", "third")
    layers = (nn.Linear(4, 5), activation, nn.Linear(5, 3), nn.LayerNorm(3), nn.Linear(3, 6))
    return nn.Sequential(OrderedDict(zip(names, layers, strict=True)))


def check(jacobian: PlaceJacobian, rows: Tensor) -> None:
    values = torch.linalg.svdvals(rows.flatten(2))
    assert jacobian.shape == tuple(rows.shape[2:])
    assert distance(jacobian.dense(), rows) <= 1e-10
    assert distance(jacobian.sq_norms, rows.square().flatten(1).sum(1)) <= 1e-10
    mean = values.square().sum(1) / rows.shape[1]
    assert distance(jacobian.mean_sq_singular_values, mean) <= 1e-10
    assert jacobian.singular_values is not None
    assert distance(jacobian.singular_values, values) <= 1e-10


@pytest.mark.parametrize(
    ("source", "target"),
    [("first", "third"), ("first", "second"), ("act", "norm"), ("second", "third"), ("norm", "")],
)
def test_layers_of_a_perceptron(source: str, target: str) -> None:
    model, x = seeded(lambda: perceptron(nn.Tanh())), drawn(3, 4)
    jacobian = layer_jacobian(model, x, source, target)
    assert jacobian.method == "vmap"
    assert jacobian.place == source
    check(jacobian, by_module(model, x, source, target))


def test_neighbours_by_closed_form() -> None:
    model, x = seeded(lambda: perceptron(nn.Tanh())), drawn(3, 4)
    weight = model.get_submodule("second").weight.detach()
    slope = 1 - model.get_submodule("first")(x).tanh().square()
    check(layer_jacobian(model, x, "act", "second"), weight.expand(3, 3, 5))
    check(layer_jacobian(model, x, "first", "second"), (weight * slope[:, None]).detach())
    itself = layer_jacobian(model, x, "second", "second")
    check(itself, torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    assert itself.conditions.tolist() == pytest.approx([1.0] * 3)


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip


@pytest.mark.parametrize(("source", "target"), [("0", "3"), ("1", "5"), ("3", "5"), ("0", "1")])
@pytest.mark.parametrize("training", [False, True])
def test_layers_of_a_convolutional_network(source: str, target: str, training: bool) -> None:
    """With batch norm in training mode: each sample's own part, in this batch."""
    model, x = seeded(conv_net).train(training), drawn(3, 2, 6, 6)
    jacobian = layer_jacobian(model, x, source, target, mode="train", max_outputs=500)
    assert jacobian.method == ("loop" if training else "vmap")
    check(jacobian, by_module(model, x, source, target))


@pytest.mark.parametrize(("source", "target"), [("first", "first"), ("first", "second")])
def test_what_is_written_over_afterwards(source: str, target: str) -> None:
    """A layer's output is what the layer put out, whatever works on it in place later."""
    names = ("zeroth", "first", "second", "act", "last")
    layers = (nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(True), nn.Linear(4, 2))
    model = seeded(lambda: nn.Sequential(OrderedDict(zip(names, layers, strict=True))))
    x = drawn(3, 4)
    jacobian = layer_jacobian(model, x, source, target)
    at = names.index(target)
    h = x
    for layer in layers[: at + 1]:
        h = layer(h)
    assert distance(jacobian.values, h.detach()) <= 1e-12
    check(jacobian, by_module(model, x, source, target))


@pytest.mark.parametrize("kind", ["residual", "GRU", "LSTM", "attention", "control flow"])
def test_layers_of_other_networks(kind: str) -> None:
    """A residual connection around the target is held fixed; recurrent layers give tuples."""
    parts: dict[str, Any] = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}
    run, more = {
        "residual": (lambda m, x: m.b(m.a(x).tanh() + x) + x, {}),
        "GRU": (lambda m, x: m.b(m.r(m.a(x))[0]), {"r": nn.GRU(4, 4, batch_first=True)}),
        "LSTM": (lambda m, x: m.b(m.r(m.a(x))[0][:, -1]), {"r": nn.LSTM(4, 4, batch_first=True)}),
        "attention": (
            lambda m, x: m.b(m.r(m.a(x), x, x)[0]),
            {"r": nn.MultiheadAttention(4, 2, batch_first=True)},
        ),
        "control flow": (lambda m, x: m.b(m.a(x) if x.sum() > 0 else m.a(x).sin()), {}),
    }[kind]
    model, x = seeded(lambda: Net(run, **parts, **more)), drawn(3, 4, 4)
    pairs = [("a", "r"), ("r", "b")] if kind in ("GRU", "LSTM") else [("a", "b")]
    for source, target in pairs:
        jacobian = layer_jacobian(model, x, source, target, max_outputs=100)
        assert jacobian.method == ("vmap" if kind in ("residual", "attention") else "loop")
        check(jacobian, by_module(model, x, source, target))


def test_rows_that_vmap_gets_wrong_below_all_parameters_are_found_out() -> None:
    """torch's derivative of cdist is right under vmap for one cotangent, and wrong for two."""
    centres = drawn(6, 4)
    model = seeded(
        lambda: Net(
            lambda m, x: m.b(torch.exp(-torch.cdist(m.a(x), centres))),
            a=nn.Tanh(),
            b=nn.Linear(6, 3),
        )
    )
    jacobian = layer_jacobian(model, drawn(5, 4), "a", "b")
    assert jacobian.method == "loop"
    check(jacobian, by_module(model, drawn(5, 4), "a", "b"))


def test_blocks_of_a_model_of_transformers() -> None:
    model, inputs = language_model("GPT2").eval(), token_inputs()
    first, second = "network.transformer.h.0", "network.transformer.h.1"
    jacobian = layer_jacobian(model, inputs, first, second, max_outputs=100)
    assert jacobian.shape == (4, 8)
    check(jacobian, by_module(model, inputs, first, second))


@dataclasses.dataclass
class Found:
    features: Tensor


class Returning(nn.Module):
    """A layer whose output is not a tensor alone."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        h = self.layer(x)
        penalty = h.square().mean()
        return {
            "tuple": (h, penalty),
            "penalty first": (penalty, h),
            "dictionary": {"features": h},
            "dataclass": Found(h),
        }[self.kind]


@pytest.mark.parametrize("kind", ["tuple", "penalty first", "dictionary", "dataclass"])
def test_the_output_with_samples_is_meant(kind: str) -> None:
    def run(m: Net, x: Tensor) -> Tensor:
        found = m.a(x)
        if kind == "dataclass":
            return m.b(found.features)
        return m.b(found["features"] if kind == "dictionary" else found[kind != "tuple"])

    model, x = seeded(lambda: Net(run, a=Returning(kind), b=nn.Linear(3, 2))), drawn(5, 4)
    check(layer_jacobian(model, x, "a", "b"), model.b.weight.detach().expand(5, 2, 3))


def test_what_does_not_depend_on_the_source_is_zero() -> None:
    model = seeded(lambda: perceptron(nn.Tanh()))
    jacobian = layer_jacobian(model, drawn(3, 4), "third", "second")
    assert not jacobian.norms.any()
    assert jacobian.conditions.isnan().all()


@pytest.mark.parametrize("what", ["source", "target"])
@pytest.mark.parametrize("times", ["not at all", "2 times"])
def test_a_module_must_run_once(what: str, times: str) -> None:
    twice = times == "2 times"
    model = seeded(
        lambda: Net(
            lambda m, x: m.c(m.a(m.a(x)) if twice else m.b(x)),
            a=nn.Linear(4, 4),
            b=nn.Linear(4, 4),
            c=nn.Linear(4, 4),
        )
    )
    names = ("a", "c") if what == "source" else ("c", "a")
    with pytest.raises(ProbeError, match=rf"^the module 'a' runs {times} in a forward, not once"):
        layer_jacobian(model, drawn(3, 4), *names)


def test_a_module_that_does_not_exist() -> None:
    model = seeded(lambda: perceptron(nn.Tanh()))
    with pytest.raises(ConfigError, match=r"source: .* no module 'frist'; did you mean 'first'\?"):
        layer_jacobian(model, drawn(3, 4), "frist", "third")
    with pytest.raises(ConfigError, match=r"target: .* no module 'thrid'; did you mean 'third'\?"):
        layer_jacobian(model, drawn(3, 4), "first", "thrid")


def test_a_layer_whose_output_is_of_other_rows_than_samples() -> None:
    model = seeded(
        lambda: Net(
            lambda m, x: m.b(m.a(x.flatten(0, 1)).unflatten(0, x.shape[:2])),
            a=nn.Linear(4, 3),
            b=nn.Linear(3, 2),
        )
    )
    with pytest.raises(ProbeError, match=r"\(15, 3\), none of it .* each of 5 samples"):
        layer_jacobian(model, drawn(5, 3, 4), "a", "b")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    model, x = seeded(conv_net).eval(), drawn(3, 2, 6, 6)
    rows = by_module(model, x, "1", "5")
    jacobian = layer_jacobian(model.cuda(), x.cuda(), "1", "5")
    assert distance(jacobian.dense().cpu(), rows) <= 1e-10
