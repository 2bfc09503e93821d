"""Recurrent layers, attention and transformers of torch.nn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from capture.case import Batch, Case, Net, along, integers, normal, wave


def first(model: nn.Module, batch: Batch) -> Tensor:
    """Loss on the first of a layer's outputs."""
    return wave(model(*batch)[0])


def recurrent(name: str, model: Callable[[], nn.Module], n: int = 3, length: int = 5) -> Case:
    """A recurrent layer with batch_first."""
    return Case(name, model, lambda n: (normal(n, length, 4),), n=n, loss=first)


def sequence_first(name: str, model: Callable[[], nn.Module], n: int = 3, length: int = 5) -> Case:
    return Case(name, model, lambda n: (normal(length, n, 4),), n=n, loss=first, take=along(1))


def packed(name: str, layer: Callable[[], nn.Module], *, enforce_sorted: bool) -> Case:
    """Sequences of unequal lengths; the outputs padded to the same length for every sample."""
    lengths = torch.tensor([5, 4, 2] if enforce_sorted else [2, 5, 4])

    def run(model: Net, inputs: Tensor, lengths: Tensor) -> Tensor:
        sequence = pack_padded_sequence(
            inputs, lengths, batch_first=True, enforce_sorted=enforce_sorted
        )
        outputs, _ = pad_packed_sequence(model.layer(sequence)[0], batch_first=True, total_length=5)
        return model.head(outputs.sum(1))

    return Case(
        name,
        lambda: Net(run, layer=layer(), head=nn.Linear(3, 2)),
        lambda n: (normal(n, 5, 4), lengths[:n]),
        n=3,
    )


def cells(name: str, cell: Callable[[], nn.Module], states: int) -> Case:
    """A loop over time around one cell."""

    def run(model: Net, inputs: Tensor) -> Tensor:
        state = tuple(inputs.new_zeros(len(inputs), 3) for _ in range(states))
        for step in inputs.unbind(1):
            new = model.cell(step, state if states > 1 else state[0])
            state = new if states > 1 else (new,)
        return model.head(state[0])

    return Case(
        name,
        lambda: Net(run, cell=cell(), head=nn.Linear(3, 2)),
        lambda n: (normal(n, 5, 4),),
        n=3,
    )


RECURRENT = (
    recurrent("LSTM", lambda: nn.LSTM(4, 3, batch_first=True)),
    recurrent("LSTM, N equals T and width", lambda: nn.LSTM(4, 4, batch_first=True), n=4, length=4),
    sequence_first("LSTM, sequence first", lambda: nn.LSTM(4, 3)),
    sequence_first("LSTM, sequence first, N equals T", lambda: nn.LSTM(4, 3), n=5),
    recurrent("LSTM without bias", lambda: nn.LSTM(4, 3, bias=False, batch_first=True)),
    recurrent("LSTM stacked and bidirectional",
              lambda: nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True)),
    recurrent("LSTM with projections, stacked",
              lambda: nn.LSTM(4, 5, num_layers=2, proj_size=3, batch_first=True)),
    recurrent("GRU", lambda: nn.GRU(4, 3, batch_first=True)),
    sequence_first("GRU stacked, bidirectional, sequence first",
                   lambda: nn.GRU(4, 3, num_layers=2, bidirectional=True), n=4),
    recurrent("RNN tanh", lambda: nn.RNN(4, 3, batch_first=True)),
    sequence_first("RNN relu, bidirectional, sequence first",
                   lambda: nn.RNN(4, 3, nonlinearity="relu", bidirectional=True), n=2),
    packed("LSTM packed", lambda: nn.LSTM(4, 3, batch_first=True), enforce_sorted=True),
    packed("LSTM packed, sorted inside", lambda: nn.LSTM(4, 3, batch_first=True),
           enforce_sorted=False),
    packed("GRU packed, sorted inside", lambda: nn.GRU(4, 3, batch_first=True),
           enforce_sorted=False),
    packed("RNN packed", lambda: nn.RNN(4, 3, batch_first=True), enforce_sorted=True),
    cells("LSTMCell", lambda: nn.LSTMCell(4, 3), 2),
    cells("GRUCell", lambda: nn.GRUCell(4, 3), 1),
    cells("RNNCell", lambda: nn.RNNCell(4, 3, nonlinearity="relu"), 1),
    Case("LSTM behind an embedding, last state to a head",
         lambda: Net(lambda m, x: m.head(m.lstm(m.embedding(x))[1][0][-1]),
                     embedding=nn.Embedding(7, 4), lstm=nn.LSTM(4, 3, batch_first=True),
                     head=nn.Linear(3, 2)),
         lambda n: (integers(7, n, 6),), n=4),
    Case("LSTM with learned initial state",
         lambda: Net(lambda m, x: m.lstm(x, (m.h.expand(1, len(x), 3).contiguous(),
                                             m.c.expand(1, len(x), 3).contiguous()))[0],
                     lstm=nn.LSTM(4, 3, batch_first=True), h=nn.Parameter(torch.randn(1, 1, 3)),
                     c=nn.Parameter(torch.randn(1, 1, 3))),
         lambda n: (normal(n, 4, 4),), n=3),
)  # fmt: skip


def attention(
    name: str, run: Callable[..., Any], layer: Callable[[], nn.Module], **settings: Any
) -> Case:
    return Case(name, lambda: Net(run, layer=layer()), **settings)


def itself(model: Net, x: Tensor) -> Tensor:
    return model.layer(x, x, x, need_weights=False)[0]


def itself_with_weights(model: Net, x: Tensor) -> Tensor:
    return model.layer(x, x, x)[0]


def other(model: Net, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return model.layer(x, key, value, need_weights=False)[0]


def padded(model: Net, x: Tensor, mask: Tensor) -> Tensor:
    return model.layer(x, x, x, key_padding_mask=mask)[0]


def causal(model: Net, x: Tensor) -> Tensor:
    mask = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), 1)
    return model.layer(x, src_mask=mask)


ATTENTION = (
    attention("MultiheadAttention", itself, lambda: nn.MultiheadAttention(4, 2, batch_first=True),
              inputs=lambda n: (normal(n, 5, 4),), n=3),
    attention("MultiheadAttention with weights, N equals T and width", itself_with_weights,
              lambda: nn.MultiheadAttention(4, 2, batch_first=True),
              inputs=lambda n: (normal(n, 4, 4),), n=4),
    attention("MultiheadAttention, sequence first", itself, lambda: nn.MultiheadAttention(4, 2),
              inputs=lambda n: (normal(5, n, 4),), n=3, take=along(1)),
    attention("MultiheadAttention, sequence first, N equals T", itself,
              lambda: nn.MultiheadAttention(4, 2, bias=False),
              inputs=lambda n: (normal(4, n, 4),), n=4, take=along(1)),
    attention("MultiheadAttention cross with kdim and vdim", other,
              lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5, batch_first=True),
              inputs=lambda n: (normal(n, 5, 4), normal(n, 6, 3), normal(n, 6, 5)), n=3),
    attention("MultiheadAttention cross with one memory", other,
              lambda: nn.MultiheadAttention(4, 2, batch_first=True),
              inputs=lambda n: (normal(n, 5, 4), *(normal(n, 6, 4),) * 2), n=3),
    attention("MultiheadAttention with bias_kv and a zero key", itself,
              lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True, add_zero_attn=True,
                                            batch_first=True),
              inputs=lambda n: (normal(n, 5, 4),), n=3),
    attention("MultiheadAttention with padded keys", padded,
              lambda: nn.MultiheadAttention(4, 2, batch_first=True),
              inputs=lambda n: (normal(n, 5, 4),
                                torch.arange(5) >= torch.tensor([[5], [3], [4], [2]])[:n]), n=4),
    Case("TransformerEncoderLayer",
         lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True),
         lambda n: (normal(n, 5, 4),), n=3),
    Case("TransformerEncoderLayer, norm first, gelu, no bias, sequence first",
         lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, activation="gelu",
                                            norm_first=True, bias=False),
         lambda n: (normal(5, n, 4),), n=3, take=along(1)),
    Case("TransformerEncoderLayer, causal, N equals T",
         lambda: Net(causal, layer=nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True)),
         lambda n: (normal(n, 4, 4),), n=4),
    Case("TransformerEncoder",
         lambda: nn.TransformerEncoder(
             nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True), 2,
             norm=nn.LayerNorm(4)),
         lambda n: (normal(n, 5, 4),), n=4),
    Case("TransformerEncoder, sequence first, N equals T",
         lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0), 2,
                                       enable_nested_tensor=False),
         lambda n: (normal(4, n, 4),), n=4, take=along(1)),
    Case("TransformerDecoderLayer",
         lambda: nn.TransformerDecoderLayer(4, 2, 6, dropout=0.0, batch_first=True),
         lambda n: (normal(n, 5, 4), normal(n, 3, 4)), n=3),
    Case("Transformer",
         lambda: nn.Transformer(4, 2, 1, 1, 6, dropout=0.0, batch_first=True),
         lambda n: (normal(n, 5, 4), normal(n, 3, 4)), n=2),
    Case("Transformer, sequence first",
         lambda: nn.Transformer(4, 2, 1, 1, 6, dropout=0.0),
         lambda n: (normal(5, n, 4), normal(3, n, 4)), n=3, take=along(1, 1)),
    Case("token classification by TransformerEncoder",
         lambda: Net(lambda m, x: m.head(m.encoder(m.token(x) + m.position[:, : x.shape[1]])),
                     token=nn.Embedding(7, 4), position=nn.Parameter(torch.randn(1, 8, 4)),
                     encoder=nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True),
                     head=nn.Linear(4, 3)),
         lambda n: (integers(7, n, 5), integers(3, n, 5)), n=3,
         loss=lambda m, b: functional.cross_entropy(m(b[0]).transpose(1, 2), b[1])),
)  # fmt: skip

CASES = (*RECURRENT, *ATTENTION)
