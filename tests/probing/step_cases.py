"""Small models, their losses, and real steps of optimisers on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from probing.step_reference import LossOf, Parameters, copies_of

Optimizer = Callable[[Any], torch.optim.Optimizer]


@dataclass(frozen=True)
class Case:
    """A model, in the mode that it trains in, and its loss.

    Where gradients are stopped, the loss moves with parameters in ways that they do not tell.
    """

    name: str
    model: Callable[[], nn.Module]
    loss: Callable[[], LossOf]
    stops_gradients: bool = False

    def built(self) -> tuple[nn.Module, LossOf]:
        torch.manual_seed(3)
        return self.model().double(), self.loss()


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def stepped(
    model: nn.Module, loss: LossOf, optimizer: Optimizer, steps: int = 2
) -> tuple[Parameters, Parameters]:
    """Parameters before and after the last of several steps; the model is left after it."""
    active = optimizer([p for p in model.parameters() if p.requires_grad])
    before = copies_of(model)
    for _ in range(steps):
        before = copies_of(model)
        active.zero_grad()
        loss(model).backward()
        active.step()
    active.zero_grad()
    return before, copies_of(model)


def squared(*shape: int, out: tuple[int, ...] | None = None) -> Callable[[], LossOf]:
    """Squared outputs, or their distance to targets of a shape."""

    def made() -> LossOf:
        x, y = normal(*shape), 0.0 if out is None else normal(*out)
        return lambda model: (model(x) - y).square().mean()

    return made


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()


X = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
"""Inputs of :func:`linear`."""


def mean_square(model: Any) -> Tensor:
    return model(X).square().mean()


def started(model: nn.Module) -> Parameters:
    """Where a step started that took a tenth off every weight."""
    return {name: p.detach() + 0.1 for name, p in model.named_parameters()}


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.LayerNorm(3), nn.SiLU(), nn.Linear(3, 2)
    )


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


def dropping() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 6),
        nn.Dropout(0.5),
        nn.Tanh(),
        nn.Linear(6, 6),
        nn.Dropout(0.3),
        nn.Linear(6, 1),
    )


class Recurrent(nn.Module):
    """A recurrent layer with dropout between its own, and a head on the last output."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(2, 3, num_layers=2, dropout=0.4, batch_first=True)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 3)
        self.middle = nn.Linear(3, 3)
        self.head = nn.Linear(3, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.middle(self.embedding(ids)).tanh())


class MomentumEncoder(nn.Module):
    """He et al., arXiv:1911.05722: keys come from a moving average, and go into a queue."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = mlp(), mlp()
        self.key.requires_grad_(False)
        self.queue: Tensor
        self.register_buffer("queue", functional.normalize(normal(6, 2), dim=1))

    def contrast(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            pairs = zip(self.key.parameters(), self.query.parameters(), strict=True)
            for slow, fast in pairs:
                slow.mul_(0.9).add_(fast, alpha=0.1)
            keys = functional.normalize(self.key(x + 0.1), dim=1)
        queries = functional.normalize(self.query(x), dim=1)
        others = queries @ self.queue.clone().T
        logits = torch.cat(((queries * keys).sum(1, keepdim=True), others), 1)
        with torch.no_grad():
            self.queue.copy_(torch.cat((self.queue[len(keys) :], keys)))
        return functional.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long))


def contrasted() -> LossOf:
    x = normal(3, 4)
    return lambda model: model.contrast(x)


class Remembering(nn.Module):
    """Keeps what it saw last, as many models do for pictures and penalties."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 3), nn.Linear(3, 2)
        self.hidden: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = self.layer(x).sin()
        return self.head(self.hidden)


def next_token(ids: Tensor, logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:])


def language() -> LossOf:
    ids = torch.randint(6, (3, 4))
    return lambda model: next_token(ids, model(ids))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=6, n_positions=4, n_embd=4, n_layer=1, n_head=2, n_inner=6, use_cache=False
    )
    return GPT2LMHeadModel(config).train()


def gpt2_loss() -> LossOf:
    ids = torch.randint(6, (2, 4))
    return lambda model: next_token(ids, model(input_ids=ids).logits)


def normed() -> nn.Module:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 2))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.3))
        self.layer = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.layer(x).tanh()


CASES = [
    Case("mlp", mlp, squared(5, 4, out=(5, 2))),
    Case("convolutions and BatchNorm", convolutional, squared(4, 1, 6, 6, out=(4, 2))),
    Case("dropout", dropping, squared(5, 4, out=(5, 1))),
    Case("gru", lambda: Recurrent(nn.GRU), squared(3, 4, 2, out=(3, 1))),
    Case("lstm", lambda: Recurrent(nn.LSTM), squared(3, 4, 2, out=(3, 1))),
    Case(
        "transformer",
        lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.2, batch_first=True),
        squared(2, 3, 4, out=(2, 3, 4)),
    ),
    Case("tied weights", Tied, language),
    Case("momentum encoder", MomentumEncoder, contrasted, stops_gradients=True),
    Case("kept activation", Remembering, squared(5, 4, out=(5, 2))),
    Case("spectral norm", normed, squared(5, 4, out=(5, 2)), stops_gradients=True),
    Case("one weight without dimensions", Scaled, squared(3, 2, out=(3, 1))),
    Case("gpt2", gpt2, gpt2_loss),
]


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.02),
    "adamw": lambda p: torch.optim.AdamW(p, 0.02, weight_decay=0.1),
}
