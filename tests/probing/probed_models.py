"""Models that the probes are tested on besides those of capture: those that need a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from capture.case import Case, Net, integers, normal
from capture.cases_transformers import SMALL, TEXT, InDouble, words


class Cubed(torch.autograd.Function):
    """x³ with a derivative by hand, which neither vmap nor forward mode sees into."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x * x * gradient


def branching(m: Net, x: Tensor) -> Tensor:
    """Control flow that depends on data: some samples go another way."""
    h = m.a(x)
    return torch.cat([m.b(row.sin()) if row.sum() > 0 else m.b(row) for row in h.split(1)])


def asking(m: Net, x: Tensor) -> Tensor:
    """A number brought to Python in the midst of the forward, as in a log."""
    h = m.a(x)
    m.seen = h.abs().mean().item()
    return m.b(h.tanh())


def centred(m: Net, x: Tensor) -> Tensor:
    """Samples coupled by hand: none is what it is by itself."""
    h = m.a(x)
    return m.b((h - h.mean(0)).tanh())


def layers(run: Callable[..., Any], **more: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        parts = {"a": lambda: nn.Linear(4, 5), "b": lambda: nn.Linear(5, 3), **more}
        return Net(run, **{name: part() for name, part in parts.items()})

    return make


def four(n: int) -> tuple[Tensor, ...]:
    return (normal(n, 4),)


def image(n: int) -> tuple[Tensor, ...]:
    return (normal(n, 2, 5, 5),)


def sequence(n: int) -> tuple[Tensor, ...]:
    return (normal(n, 5, 4),)


def residual_block() -> nn.Module:
    def body(m: Net, x: Tensor) -> Tensor:
        h = m.stem(x)
        h = h + m.second(m.first(h).relu_())
        return m.head(h.mean((2, 3)))

    block = lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))  # noqa: E731
    return Net(body, stem=nn.Conv2d(2, 3, 3), first=block(), second=block(), head=nn.Linear(3, 3))


# --- samples that are coupled, or a forward that draws random numbers: the batch's own outputs

IN_TRAINING = (
    Case("BatchNorm1d in training",
         lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)),
         four, n=5),
    Case("BatchNorm without running statistics",
         lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False),
                               nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)), image, n=3),
    Case("ResNet with batch norm in training", residual_block, image, n=4),
    Case("ResNet with batch norm in evaluation", residual_block, image, n=4, training=False),
    Case("samples coupled by a mean", layers(centred), four, n=4),
    Case("dropout in training",
         lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3)),
         four, n=5),
    Case("dropout in evaluation",
         lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3)),
         four, n=5, training=False),
    Case("TransformerEncoderLayer with dropout in training",
         lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.3, batch_first=True), sequence, n=3),
    Case("TransformerEncoderLayer with dropout in evaluation",
         lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.3, batch_first=True), sequence, n=3,
         training=False),
    Case("LSTM with dropout between its layers",
         lambda: Net(lambda m, x: m.lstm(x)[0][:, -1],
                     lstm=nn.LSTM(4, 3, 2, dropout=0.5, batch_first=True)), sequence, n=3),
    Case("noise on the weights",
         layers(lambda m, x: functional.linear(
             m.a(x), m.b.weight * (1 + 0.1 * torch.randn_like(m.b.weight)))), four, n=4),
)  # fmt: skip

# --- what vmap refuses

REFUSED = (
    Case("control flow that depends on data", layers(branching), four, n=5),
    Case("a number in Python within the forward", layers(asking), four, n=4),
    Case("autograd function that has no vmap",
         layers(lambda m, x: m.b(Cubed.apply(m.a(x)))), four, n=4),
    Case("GRU's last state", lambda: Net(lambda m, x: m.b(m.gru(x)[1][0]),
                                         gru=nn.GRU(4, 5, batch_first=True), b=nn.Linear(5, 3)),
         sequence, n=3),
    Case("LSTM's last step", lambda: Net(lambda m, x: m.b(m.lstm(x)[0][:, -1]),
                                         lstm=nn.LSTM(4, 5, batch_first=True), b=nn.Linear(5, 3)),
         sequence, n=3),
    Case("embedding with sparse gradients and a head",
         lambda: Net(lambda m, x: m.b(m.e(x).sin().sum(1)), e=nn.Embedding(7, 4, sparse=True),
                     b=nn.Linear(4, 3)),
         lambda n: (integers(7, n, 5),), n=4),
)  # fmt: skip

EXTRA = (*IN_TRAINING, *REFUSED)


def double(network: nn.Module) -> nn.Module:
    """A model of transformers that computes in double precision throughout."""

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            with InDouble():
                return self.network(*args, **kwargs)

    return Wrapped().double()


def language_model(kind: str) -> nn.Module:
    """A tiny language model of transformers with random weights, dropout and all."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if kind == "GPT2":
            config = transformers.GPT2Config(
                **TEXT, n_embd=8, n_layer=2, n_head=2, n_positions=16, initializer_range=0.5
            )
            return double(transformers.GPT2LMHeadModel(config))
        if kind == "Bert":
            config = transformers.BertConfig(
                **TEXT, **SMALL, max_position_embeddings=16, num_labels=3, initializer_range=0.5
            )
            return double(transformers.BertForSequenceClassification(config))
        config = transformers.LlamaConfig(**TEXT, **SMALL, num_key_value_heads=1)
        return double(transformers.LlamaForCausalLM(config))


def token_inputs(n: int = 3, length: int = 4) -> dict[str, Tensor]:
    """What a tokenizer returns; the last sample has padding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        mask = torch.ones(n, length, dtype=torch.long)
        mask[-1, -1] = 0
        return {"input_ids": words(n, length), "attention_mask": mask}
