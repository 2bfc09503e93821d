"""A user's mistake gets one sentence that says what was given and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from capture.case import Net
from jacoscope.probing import (
    ProbeError,
    input_jacobian,
    layer_jacobian,
    neural_tangent_kernel,
    output_jacobian,
)

X = torch.ones(2, 4)
PROBES: dict[str, Callable[..., Any]] = {
    "output_jacobian": output_jacobian,
    "neural_tangent_kernel": neural_tangent_kernel,
    "input_jacobian": input_jacobian,
}

every_probe = pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES.keys())


def model(run: Callable[..., Any]) -> nn.Module:
    return Net(run, layer=nn.Linear(4, 3))


def sentence(error: BaseException) -> str:
    """The message, which is one sentence."""
    said = str(error)
    assert said
    assert "\n" not in said
    assert not re.search(r"[.!?] [A-Z]", said)
    assert not said.endswith(".")
    return said


def refused(
    kind: type[Exception], match: str, probe: Callable[..., Any], *args: Any, **settings: Any
) -> None:
    with pytest.raises(kind, match=match) as info:
        probe(*args, **settings)
    sentence(info.value)


OUTPUTS: dict[str, tuple[Callable[..., Any], str | None, str]] = {
    "integers": (
        lambda m, x: m.layer(x).argmax(1),
        None,
        r"returns \(2,\), none of it floating-point .*; set probes.output, or probes.method",
    ),
    "integers as logits": (
        lambda m, x: {"logits": m.layer(x).argmax(1)},
        None,
        r"is of torch.int64, which cannot be differentiated",
    ),
    "integers at the path": (
        lambda m, x: (m.layer(x).argmax(1), m.layer(x)),
        "0",
        r"is of torch.int64, which cannot be differentiated",
    ),
    "a mean over samples": (
        lambda m, x: m.layer(x).mean(0),
        None,
        r"returns \(3,\), none of it .* each of 2 samples; set probes.output, or probes.method",
    ),
    "a mean over samples at the path": (
        lambda m, x: (m.layer(x).mean(0),),
        "0",
        r"has shape \(3,\), whose first dimension is not the number of samples, 2",
    ),
    "a loss": (
        lambda m, x: m.layer(x).mean(),
        None,
        r"returns \(\), none of it .* each of 2 samples; set probes.output",
    ),
    "no tensor": (
        lambda m, x: {"scores": [float(v) for v in m.layer(x).flatten()]},
        None,
        r"returns no tensor, none of it .*; set probes.output",
    ),
    "not a tensor at the path": (
        lambda m, x: {"scores": "many", "h": m.layer(x)},
        "scores",
        r"the output at 'scores' is str, not a tensor; set probes.output to the path of one",
    ),
    "an unknown path": (
        lambda m, x: {"scores": m.layer(x)},
        "score",
        r"probes.output: 'score' is not in the output, .*(did you mean|valid names are).*scores",
    ),
    "an unknown place": (
        lambda m, x: (m.layer(x), x),
        "2",
        r"probes.output: '2' is not in the output",
    ),
    "an empty output": (lambda m, x: m.layer(x)[:, :0], None, r"the model's output is empty"),
}


@every_probe
@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_that_cannot_be_used(probe: Callable[..., Any], kind: str) -> None:
    run, path, match = OUTPUTS[kind]
    refused(ProbeError, match, probe, model(run), X, output=path)


@every_probe
def test_an_output_may_be_chosen_by_its_path(probe: Callable[..., Any]) -> None:
    run = lambda m, x: {"aux": x, "heads": [x, m.layer(x)]}  # noqa: E731
    assert probe(model(run), X, output="heads.1").outputs == 3
    assert probe(model(run), X).outputs == 4


@every_probe
def test_a_model_without_forward(probe: Callable[..., Any]) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def encode(self, x: Tensor) -> Tensor:
            return self.layer(x)

    match = "forward is not implemented; set probes.method or probes.module to what maps inputs"
    refused(ProbeError, match, probe, Encoder(), X)
    assert probe(Encoder(), X, method="encode").outputs == 3
    refused((ProbeError, ValueError), "encdoe", probe, Encoder(), X, method="encdoe")


@pytest.mark.parametrize("probe", [output_jacobian, neural_tangent_kernel])
def test_an_unknown_parameter(probe: Callable[..., Any]) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    match = r"parameters has '0.wieght', which is not a parameter .*mean '0.weight'\?"
    refused(ValueError, match, probe, net, X, parameters=["0.bias", "0.wieght"])
    refused(ValueError, "parameters has '1.running_mean'", probe, net, X, parameters="1.running_me"
            "an")  # fmt: skip


def test_a_parameter_that_is_not_there_to_be_asked_for() -> None:
    jacobian = output_jacobian(nn.Linear(4, 3), X, parameters="weight")
    with pytest.raises(KeyError, match=r"no Jacobian of 'bias'; "):
        jacobian.norms("bias")


def test_spectral_norms_that_were_not_asked_for() -> None:
    jacobian = output_jacobian(nn.Linear(4, 3), X, spectral=False)
    with pytest.raises(ValueError, match="inner products of rows; set spectral=True") as info:
        jacobian.spectral_norms("weight")
    sentence(info.value)


def test_a_dense_jacobian_beyond_the_memory_budget() -> None:
    net, x = nn.Linear(512, 30), torch.ones(16, 512)
    match = r"would take 28 MiB, more than the memory budget of 1 MiB; raise memory_budget"
    refused(ValueError, match, output_jacobian(net, x, memory_budget=2**20).dense, "weight")
    wide = nn.Linear(512, 512)
    match = r"the dense Jacobian would take 16 MiB, more than the memory budget of 1 MiB; raise"
    refused(ValueError, match, input_jacobian(wide, x, memory_budget=2**20).dense)


@every_probe
def test_inputs_without_samples(probe: Callable[..., Any]) -> None:
    refused(ProbeError, "no tensor with samples", probe, model(lambda m, x: x), 3.0)
    refused(ProbeError, "no tensor with samples", probe, model(lambda m, x: x), torch.tensor(1.0))


@every_probe
def test_an_empty_batch(probe: Callable[..., Any]) -> None:
    refused(ProbeError, "sample", probe, nn.Linear(4, 3), torch.ones(0, 4))


def test_integers_that_go_into_no_embedding() -> None:
    run = lambda m, x: m.layer(functional.one_hot(x, 4).float())  # noqa: E731
    match = "is of integers and goes into no nn.Embedding, so that there is nothing"
    refused(ProbeError, match, input_jacobian, model(run), torch.tensor([0, 3]))


@every_probe
def test_an_output_cut_from_its_graph(probe: Callable[..., Any]) -> None:
    """By a loop it is refused; vmap finds the zero that it is."""
    looped = lambda m, x: m.layer(x).detach() if x.sum() > 0 else x  # noqa: E731
    refused(ProbeError, "does not depend on (its parameters|the input) by autograd", probe,
            model(looped), X)  # fmt: skip
    found = probe(model(lambda m, x: m.layer(x).detach()), X)
    squares = found.sq_norms if probe is input_jacobian else None
    assert squares is None or not squares.any()


def test_checkpoints_that_autograd_cannot_see_through_are_not_zero() -> None:
    """Re-entrant checkpoints hide their parameters from ``torch.autograd.grad``."""
    net = Net(
        lambda m, x: m.head(checkpoint(m.block, m.stem(x), use_reentrant=True)),
        stem=nn.Linear(4, 4), block=nn.Linear(4, 4), head=nn.Linear(4, 3),
    )  # fmt: skip
    for names in (None, ["block.weight"]):
        with pytest.raises((ProbeError, RuntimeError), match="use_reentrant=False"):
            output_jacobian(net, X, parameters=names)


@every_probe
@pytest.mark.parametrize(
    ("settings", "match"),
    [({"mode": "evl"}, "evl"), ({"sketches": 0, "max_outputs": 1}, "sketches")],
    ids=["mode", "sketches"],
)
def test_settings_that_are_out_of_bounds(
    probe: Callable[..., Any], settings: dict[str, Any], match: str
) -> None:
    net = nn.Linear(4, 3)
    refused(ValueError, match, probe, net, X, **settings)
    with pytest.raises(ValueError, match=match):
        layer_jacobian(nn.Sequential(net), X, "0", "", **settings)
