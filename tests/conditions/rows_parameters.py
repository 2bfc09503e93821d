"""Kinds of parameters, and ways in which they are used."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from conditions.condition import Condition, Subject, withheld
from conditions.networks import made, of_network, of_run, of_tokens
from sample_training import perceptron

__all__ = ["PARAMETERS"]

_row = functools.partial(of_network, "Parameters")
_run = functools.partial(of_run, "Parameters")
_tokens = functools.partial(of_tokens, "Parameters")


def _matrix(*shape: int) -> Any:
    return lambda: nn.Parameter(torch.randn(shape) / 2)


def _head() -> nn.Module:
    return nn.Linear(5, 3)


def _before_head(layer: Any) -> Any:
    return lambda: nn.Sequential(layer(), nn.Tanh(), nn.Linear(5, 3))


def _linear() -> nn.Module:
    return nn.Linear(6, 5)


def _of_complex(network: Any, x: Tensor) -> Tensor:
    hidden = x.to(network.W.dtype) @ network.W + network.b
    return network.head(hidden.abs().to(x.dtype))


def _complex(dtype: torch.dtype, *shape: int) -> Any:
    return lambda: nn.Parameter(torch.randn(shape, dtype=dtype))


class Sometimes(nn.Module):
    """Has a layer that some batches pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.extra, self.last = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).tanh()
        if x[0, 0] >= 0.4:
            hidden = hidden + self.extra(hidden)
        return self.last(hidden)


class Configured(Subject):
    """Makes its network in ``configure_model``."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())

    def configure_model(self) -> None:
        if isinstance(self.network, nn.Identity):
            self.network = perceptron(torch.float64)


def _lazy() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.Linear(5, 3))


class Average(nn.Embedding):
    """What a bag does, in plain steps."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).mean(1)


def _bag(sparse: bool) -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(7, 5, sparse=sparse), nn.Tanh(), nn.Linear(5, 3))


def _averages() -> nn.Module:
    return nn.Sequential(Average(7, 5), nn.Tanh(), nn.Linear(5, 3))


def _with_integers() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    network.register_parameter("steps", nn.Parameter(torch.arange(3), requires_grad=False))
    network.register_buffer("count", torch.tensor(3))
    return network


def _strided() -> nn.Module:
    network = nn.Sequential(nn.Unflatten(1, (2, 3, 1)), nn.Conv2d(2, 5, (3, 1)), nn.Flatten(),
                            nn.Linear(5, 3)).to(memory_format=torch.channels_last)  # fmt: skip
    network[3].weight = nn.Parameter(torch.randn(5, 3).t())
    return network


_OF_GRADIENTS = ("grad_norm", "grad_max", "update_norm")
_BY_LOSS = ("predicted_change", "actual_change", "second_order_change")
_NO_GRADIENT = (
    "it has no gradient in this training step (the loss does not depend on it, or is None)"
)
_NOT_USED = "the loss does not depend on it"
_NOT_COMPLEX = withheld(
    "the model has complex parameters such as network.W, by which probes do not differentiate",
    quantities=(*_BY_LOSS, "output_jacobian_norm"),
)
_NOT_TWICE = withheld(
    "torch's own second derivative of weight normalisation is wrong (torch._weight_norm fails "
    "gradgradcheck)",
    quantities=("second_order_change",),
)
_NO_SECOND = withheld(
    "the loss has no second derivative (reverse over reverse: NotImplementedError: the derivative "
    "for '_embedding_bag_backward' is not implemented",
    quantities=("second_order_change",),
)
_EXTRA = ("network.extra.weight", "network.extra.bias")


def _unused(*rows: str, steps: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "parameters": withheld(_NO_GRADIENT, *rows, quantities=_OF_GRADIENTS, steps=steps),
        "samples": withheld(_NOT_USED, *rows, steps=steps),
    }


def _plain_of(make: Any) -> Any:
    return lambda: made(make)


PARAMETERS: tuple[Condition, ...] = (
    _run("a weight and its own transpose", lambda m, x: m.head(
        functional.linear(functional.linear(x, m.W).tanh(), m.W.t())), W=_matrix(5, 6),
        head=lambda: nn.Linear(6, 3)),
    _run("a weight used through F.linear alone", lambda m, x: m.head(
        functional.linear(x, m.W, m.b).tanh()), W=_matrix(5, 6), b=_matrix(5), head=_head),
    _row("parametrizations.weight_norm", _before_head(
        lambda: parametrizations.weight_norm(_linear())), probes=_NOT_TWICE),
    _row("torch.nn.utils.weight_norm", _before_head(
        lambda: nn.utils.weight_norm(_linear())), probes=_NOT_TWICE),
    _row("parametrizations.spectral_norm", _before_head(
        lambda: parametrizations.spectral_norm(_linear()))),
    _row("torch.nn.utils.spectral_norm", _before_head(
        lambda: nn.utils.spectral_norm(_linear()))),
    _row("parametrizations.orthogonal", _before_head(
        lambda: parametrizations.orthogonal(_linear()))),
    _run("low-rank adapters (LoRA) on a frozen weight", lambda m, x: m.head(
        (m.base(x) + m.up(m.down(x))).tanh()), base=lambda: _linear().requires_grad_(False),
        down=lambda: nn.Linear(6, 2), up=lambda: nn.Linear(2, 5), head=_head),
    _tokens("nn.Embedding(sparse=True)", lambda: nn.Sequential(
        nn.Embedding(7, 4, sparse=True), nn.Flatten(), nn.Linear(20, 3)),
        plain=_plain_of(lambda: nn.Sequential(
            nn.Embedding(7, 4), nn.Flatten(), nn.Linear(20, 3)))),
    _tokens("nn.EmbeddingBag", lambda: _bag(False), plain=_plain_of(_averages),
            probes=_NO_SECOND),
    _tokens("nn.EmbeddingBag(sparse=True)", lambda: _bag(True), plain=_plain_of(_averages),
            probes=_NO_SECOND),
    _tokens("padding_idx", lambda: nn.Sequential(
        nn.Embedding(7, 4, padding_idx=0), nn.Flatten(), nn.Linear(20, 3))),
    _tokens("an embedding with max_norm", lambda: nn.Sequential(
        nn.Embedding(7, 4, max_norm=1.0), nn.Flatten(), nn.Linear(20, 3))),
    _run("complex128 parameters", _of_complex, {"probes": _NOT_COMPLEX}, head=_head,
         W=_complex(torch.complex128, 6, 5), b=_complex(torch.complex128, 5)),
    _run("complex64 parameters", _of_complex, {"probes": _NOT_COMPLEX, "tolerance": 2e-4},
         W=_complex(torch.complex64, 6, 5), b=_complex(torch.complex64, 5), head=_head),
    _run("real parameters used as complex numbers (FFT)", lambda m, x: m.head(torch.fft.irfft(
        torch.fft.rfft(x) * torch.view_as_complex(m.filter), 6)[:, :5].tanh()),
        filter=_matrix(4, 2), head=_head),
    _row("lazy parameters", _lazy, plain=lambda: perceptron(torch.float64), first=1,
         note="they join at the second captured step, when the first batch has shaped them"),
    _row("integer parameters and buffers", _with_integers),
    _run("a parameter that is never used", lambda m, x: m.head(m.first(x).tanh()),
         _unused("network.unused"), first=_linear, unused=_matrix(4), head=_head),
    _row("a parameter used in some steps only", Sometimes, **_unused(*_EXTRA, steps=(0,))),
    _run("a parameter whose gradient is exactly zero", lambda m, x: m.head(
        m.first(x).tanh() * (1 + 0 * m.scale)), first=_linear, scale=_matrix(5), head=_head),
    Condition("Parameters", "parameters made in configure_model", module=Configured,
              plain=lambda: perceptron(torch.float64)),
    _run("nn.ParameterList and nn.ParameterDict", lambda m, x: m.head(
        (x @ m.several[0] + m.several[1]).tanh() * m.named["scale"]),
        several=lambda: nn.ParameterList([torch.randn(6, 5) / 2, torch.randn(5)]),
        named=lambda: nn.ParameterDict({"scale": torch.randn(5)}), head=_head),
    _run("a parameter without elements", lambda m, x: m.head(m.first(x).tanh()) + m.none.sum(),
         {"note": "it is left out"}, first=_linear, none=_matrix(0, 4), head=_head),
    _run("a parameter of zero dimensions", lambda m, x: m.head(m.first(x).tanh() * m.t.exp()),
         first=_linear, t=_matrix(), head=_head),
    _row("channels_last and transposed weights", _strided),
)  # fmt: skip
