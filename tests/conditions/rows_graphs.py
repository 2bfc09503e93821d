"""Ways in which training builds its graph."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from capture.case import Net
from conditions.condition import Condition, withheld
from conditions.networks import made, of_network, of_run
from sample_training import perceptron

__all__ = ["GRAPHS"]

_row = functools.partial(of_network, "Graphs")
_run = functools.partial(of_run, "Graphs")

_LAYERS = {
    "first": lambda: nn.Linear(6, 5),
    "last": lambda: nn.Linear(5, 3),
}
_THREE = {**_LAYERS, "middle": lambda: nn.Linear(5, 5)}
_UNCOMPILED = {"samples": {"compiled": "eager"}}
_JIT = "network.0 is compiled by torch.jit, so that a copy's parameters cannot be exchanged"


def _compiled() -> nn.Module:
    return torch.compile(perceptron(torch.float64), backend="aot_eager")  # type: ignore[return-value]


def _partly_compiled() -> nn.Module:
    network = perceptron(torch.float64)
    network[0] = torch.compile(network[0], backend="aot_eager")
    return network


def _plain() -> nn.Module:
    return perceptron(torch.float64)


def _hidden(network: Any, x: Tensor) -> Tensor:
    hidden: Tensor = network.middle(network.first(x).tanh()).sin()
    return hidden


def _checkpointed(use_reentrant: bool) -> Any:
    def run(network: Any, x: Tensor) -> Tensor:
        hidden = network.first(x).tanh()
        inside = checkpoint(lambda h: network.middle(h).sin(), hidden, use_reentrant=use_reentrant)
        return network.last(inside)

    return run


def _offloaded(network: Any, x: Tensor) -> Tensor:
    with save_on_cpu():
        return _hidden_to_last(network, x)


def _packed(network: Any, x: Tensor) -> Tensor:
    with saved_tensors_hooks(lambda saved: saved.numpy().copy(), torch.from_numpy):
        return _hidden_to_last(network, x)


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


def _custom(network: Any, x: Tensor) -> Tensor:
    return network.last(_Square.apply(network.first(x)))


def _added_in_place(network: Any, x: Tensor) -> Tensor:
    hidden = network.first(x)
    hidden += network.middle(hidden.tanh())
    hidden[:, :2] *= 2
    hidden[:, 2:].add_(1).sub_(0.5)
    return network.last(hidden)


def _hooked(hook: Any) -> Any:
    def run(network: Any, x: Tensor) -> Tensor:
        hidden = network.first(x)
        if hidden.requires_grad:
            hidden.register_hook(hook)
        return network.last(hidden.tanh())

    return run


def _normalised(network: Any, x: Tensor) -> Tensor:
    hidden = checkpoint(lambda x: network.norm(network.first(x)).tanh(), x, use_reentrant=False)
    return network.last(hidden)


def _hidden_to_last(network: Any, x: Tensor) -> Tensor:
    return network.last(_hidden(network, x))


_looked_at = _hooked(lambda grad: None)
_clamped = _hooked(lambda grad: grad.clamp(-0.01, 0.01))


def _mapped(network: Any, x: Tensor) -> Tensor:
    return network.last(torch.vmap(lambda row: network.middle(network.first(row).tanh()))(x).sin())


def _slope(network: Any, x: Tensor) -> Tensor:
    """The derivative by the input of a network's output, as in physics-informed networks."""
    slopes = torch.func.vmap(torch.func.jacrev(lambda row: network.first(row).tanh().sum()))(x)
    return network.last(network.first(x).tanh() + slopes[:, :5])


def _looping(network: Any, x: Tensor) -> Tensor:
    return network.last(torch.stack([network.first(row).tanh() for row in x]))


def _traced() -> nn.Module:
    network = perceptron(torch.float64)
    network[0] = torch.jit.trace(network[0], torch.ones(2, 6, dtype=torch.float64))
    return network


def _scripted() -> nn.Module:
    network = perceptron(torch.float64)
    network[0] = torch.jit.script(network[0])
    return network


def _masked(network: nn.Module, batch: Any) -> Tensor:
    losses = functional.cross_entropy(network(batch[0]), batch[1], reduction="none")
    return losses * (batch[1] != 0)


def _in_a_loop(network: nn.Module, batch: Any) -> Tensor:
    return torch.stack(
        [functional.cross_entropy(network(x[None]), y[None]) for x, y in zip(*batch, strict=True)]
    )


def _nested(network: Any, x: Tensor) -> Tensor:
    """Samples of one or two tokens of three features each."""
    ragged = torch.nested.as_nested_tensor(
        [row.view(-1, 3)[: 1 + (i % 2)] for i, row in enumerate(x)], layout=torch.jagged
    )
    return network.last(torch.stack([part.mean(0) for part in network.first(ragged).unbind()]))


def _padded(network: Any, x: Tensor) -> Tensor:
    tokens = network.first(x.view(-1, 2, 3))
    second = torch.arange(len(x)).remainder(2).to(x)[:, None]
    return network.last((tokens[:, 0] + second * tokens[:, 1]) / (1 + second))


_REENTRANT = (
    "re-entrant checkpoints hide their parameters from torch.autograd.grad; pass "
    "use_reentrant=False to torch.utils.checkpoint"
)
_FIRST = ("network.first.weight", "network.first.bias")
_INSIDE = (*_FIRST, "network.middle.weight", "network.middle.bias")

GRAPHS: tuple[Condition, ...] = (
    _row("torch.compile of the network", _compiled, plain=_plain, samples=withheld(
        "torch.compile makes one node of what its gradient comes through; samples.compiled: eager "
        "would run the forward of captured steps uncompiled")),
    _row("torch.compile of the network, samples.compiled: eager", _compiled, plain=_plain,
         config=_UNCOMPILED, note="captured steps run uncompiled, which differs by rounding",
         is_identical=False),
    _row("torch.compile of a part", _partly_compiled, plain=_plain, samples=withheld(
        "torch.compile makes one node of what its gradient comes through; samples.compiled: eager "
        "would run the forward of captured steps uncompiled",
        "network.0.weight", "network.0.bias")),
    _row("torch.compile of a part, samples.compiled: eager", _partly_compiled, plain=_plain,
         config=_UNCOMPILED, note="captured steps run uncompiled, which differs by rounding",
         is_identical=False),
    _run("activation checkpointing, non-reentrant", _checkpointed(False), {
        "samples": withheld("its gradient comes through an activation checkpoint, which hands out "
                         "what it saved only once", *_INSIDE)}, **_THREE),
    _run("activation checkpointing, non-reentrant, around BatchNorm", _normalised, {
        "samples": withheld("its gradient comes through an activation checkpoint, which hands out "
                         "what it saved only once", *_FIRST, "network.norm.weight",
                         "network.norm.bias")},
         norm=lambda: nn.BatchNorm1d(5), **_LAYERS),
    _run("activation checkpointing, reentrant", _checkpointed(True), {
        "plain": lambda: made(lambda: Net(_hidden_to_last, **{n: f() for n, f in _THREE.items()})),
        "samples": withheld("its gradient comes through a reentrant activation checkpoint, which "
                         "hides its graph", *_INSIDE), "probes": withheld(_REENTRANT)}, **_THREE),
    _run("saved tensors on the CPU (save_on_cpu)", _offloaded, **_THREE),
    _run("saved tensors through hooks that pack and unpack", _packed, **_THREE),
    _row("torch.jit.script of a part", _scripted, plain=_plain, probes=withheld(_JIT)),
    _row("torch.jit.trace of a part", _traced, plain=_plain, probes=withheld(_JIT)),
    _run("an autograd function of one's own", _custom, {"samples": withheld(
        "its gradient comes through the autograd function _Square, whose backward may not be run "
        'more than once; say custom_functions="run" if it may', *_FIRST)}, **_LAYERS),
    _run("an autograd function of one's own, samples.custom_functions: run", _custom,
         {"config": {"samples": {"custom_functions": "run"}}}, **_LAYERS),
    _row("in-place activations", lambda: nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 5), nn.ELU(inplace=True),
        nn.Linear(5, 3))),
    _run("in-place arithmetic, also on views", _added_in_place, **_THREE),
    _run("a hook that only looks at a gradient in the graph", _looked_at, **_LAYERS),
    _run("a hook that clamps a gradient in the graph", _clamped, {
        "samples": withheld("its rows differ from masked back-propagation", *_FIRST),
        "probes": withheld("a hook within the network changes gradients, which a second derivative "
                        "would pass twice", quantities=("second_order_change",))}, **_LAYERS),
    _run("torch.vmap in the forward", _mapped, **_THREE),
    _run("torch.func.jacrev in the forward", _slope, **_LAYERS),
    _run("a loop over samples in the network", _looping, **_LAYERS),
    _row("a loss computed sample by sample", perceptron, _in_a_loop),
    _row("samples that the loss masks out", perceptron, _masked),
    _run("nested tensors (jagged)", _nested, {
        "plain": lambda: made(lambda: Net(_padded, first=nn.Linear(3, 5), last=nn.Linear(5, 3))),
        "samples": withheld("its gradient comes through a nested tensor, which has no dimension "
                            "that tells samples apart", *_FIRST),
        "probes": withheld("the loss has no second derivative",
                           quantities=("second_order_change",))},
         first=lambda: nn.Linear(3, 5), last=lambda: nn.Linear(5, 3)),
)  # fmt: skip
