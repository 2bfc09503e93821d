"""Parameters that are used in other ways than by the layer that owns them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from capture.case import Batch, Case, Net, integers, normal, param, wave


def used(name: str, run: Callable[..., Any], *shape: int, n: int = 3, **parts: Any) -> Case:
    """One input of this shape per sample; parts are functions that make the model's parts."""
    settings = {
        key: parts.pop(key) for key in ("loss", "training", "xfail", "options") if key in parts
    }
    return Case(
        name,
        lambda: Net(run, **{key: make() for key, make in parts.items()}),
        lambda n: (normal(n, *shape),),
        n=n,
        **settings,
    )


def by_ids(name: str, run: Callable[..., Any], *shape: int, n: int = 3, **parts: Any) -> Case:
    """One input of ids below seven per sample."""
    return Case(
        name,
        lambda: Net(run, **{key: make() for key, make in parts.items()}),
        lambda n: (integers(7, n, *shape),),
        n=n,
    )


def w(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: param(*shape)


def language_loss(model: nn.Module, batch: Batch) -> Tensor:
    ids = batch[0]
    return functional.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:])


def reused(model: Net, x: Tensor) -> Tensor:
    for _ in range(3):
        x = x + model.layer(x).tanh()
    return x


def recurrence(model: Net, x: Tensor) -> Tensor:
    state = x.new_zeros(len(x), 3)
    for step in x.unbind(1):
        state = model.cell(torch.cat((step, state), 1)).tanh()
    return state


def weight_and_bias_recurrence(model: Net, x: Tensor) -> Tensor:
    state = x.new_zeros(len(x), 3)
    for t in range(x.shape[1]):
        state = (x[:, t] @ model.W + state @ model.U + model.b).sigmoid()
    return state


SHARED = (
    Case("tied embedding and head",
         lambda: Net(lambda m, x: functional.linear(m.mix(m.token(x)).tanh(), m.token.weight),
                     token=nn.Embedding(7, 4), mix=nn.Linear(4, 4)),
         lambda n: (integers(7, n, 6),), n=4, loss=language_loss),
    Case("tied embedding and head as modules, N equals T",
         lambda: _tied(), lambda n: (integers(7, n, 5),), n=4, loss=language_loss),
    used("module reused at several depths", reused, 4, n=4, layer=lambda: nn.Linear(4, 4)),
    used("module reused at several depths with time", reused, 5, 4,
         layer=lambda: nn.Linear(4, 4)),
    used("module used at several resolutions",
         lambda m, x: m.conv(x).mean((2, 3)) + m.conv(functional.avg_pool2d(x, 2)).mean((2, 3)),
         2, 8, 8, conv=lambda: nn.Conv2d(2, 3, 3)),
    used("linear used on two-dimensional and three-dimensional inputs",
         lambda m, x: m.layer(m.layer(x).tanh().mean(1)), 5, 4, layer=lambda: nn.Linear(4, 4)),
    used("recurrence over time with one Linear", recurrence, 5, 4, cell=lambda: nn.Linear(7, 3)),
    used("recurrence by hand, bias and two weights", weight_and_bias_recurrence, 4, 4, n=4,
         W=w(4, 3), U=w(3, 3), b=w(3)),
    used("weight and its transpose (autoencoder)",
         lambda m, x: (x @ m.W.t() + m.b).tanh() @ m.W - x, 5, n=4, W=w(3, 5), b=w(3)),
    used("weight twice: as matrix and as table of norms",
         lambda m, x: (x @ m.W) * m.W.square().sum(0), 5, W=w(5, 4)),
    used("weight used as bias and as scale", lambda m, x: (x * m.v).sin() + m.v, 4, n=4, v=w(4)),
    used("convolution kernel shared by two dilations",
         lambda m, x: functional.conv2d(x, m.k, padding=1)
         + functional.conv2d(x, m.k, padding=2, dilation=2), 2, 5, 5, k=w(3, 2, 3, 3)),
    used("encoder and decoder by transposed convolution share a kernel",
         lambda m, x: functional.conv_transpose2d(functional.conv2d(x, m.k).tanh(), m.k),
         2, 5, 5, k=w(3, 2, 3, 3)),
)  # fmt: skip


def _tied() -> nn.Module:
    token, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=True)
    head.weight = token.weight
    return nn.Sequential(token, nn.LayerNorm(4), head)


def old_weight_norm() -> nn.Module:
    return nn.utils.weight_norm(nn.Linear(5, 3))


def old_spectral_norm() -> nn.Module:
    return nn.utils.spectral_norm(nn.Linear(5, 3))


PARAMETRIZED = (
    used("weight_norm, old", lambda m, x: m.layer(x), 5, n=4, layer=old_weight_norm),
    used("weight_norm, parametrized", lambda m, x: m.layer(x), 4, 5,
         layer=lambda: parametrizations.weight_norm(nn.Linear(5, 3))),
    used("weight_norm of Conv2d", lambda m, x: m.layer(x), 2, 5, 5,
         layer=lambda: parametrizations.weight_norm(nn.Conv2d(2, 3, 3))),
    used("spectral_norm, old, evaluation", lambda m, x: m.layer(x), 5, layer=old_spectral_norm,
         training=False),
    used("spectral_norm, old, training", lambda m, x: m.layer(x), 5, layer=old_spectral_norm),
    used("spectral_norm, parametrized, evaluation", lambda m, x: m.layer(x), 5, training=False,
         layer=lambda: parametrizations.spectral_norm(nn.Linear(5, 3))),
    used("spectral_norm of Conv2d, parametrized, training", lambda m, x: m.layer(x), 2, 5, 5,
         layer=lambda: parametrizations.spectral_norm(nn.Conv2d(2, 3, 3))),
    used("orthogonal by matrix_exp", lambda m, x: m.layer(x), 4, n=4,
         layer=lambda: parametrizations.orthogonal(
             nn.Linear(4, 4), orthogonal_map="matrix_exp")),
    used("orthogonal by householder", lambda m, x: m.layer(x), 5,
         layer=lambda: parametrizations.orthogonal(
             nn.Linear(5, 3), orthogonal_map="householder")),
    used("weight standardisation of Conv2d",
         lambda m, x: functional.conv2d(x, (m.k - m.k.mean((1, 2, 3), keepdim=True))
                                        / m.k.std((1, 2, 3), keepdim=True)),
         2, 5, 5, k=w(3, 2, 3, 3)),
    used("cosine classifier", lambda m, x: functional.normalize(m.body(x))
         @ functional.normalize(m.W, dim=1).t() * m.scale, 5, n=4,
         body=lambda: nn.Linear(5, 4), W=w(3, 4), scale=w()),
    used("LoRA as W + B @ A", lambda m, x: functional.linear(x, m.W + 0.5 * m.B @ m.A), 6, 5, n=3,
         W=w(4, 5), A=w(2, 5), B=w(4, 2)),
    used("LoRA as two layers",
         lambda m, x: m.base(x) + 0.5 * m.up(m.down(x)), 6, 5, base=lambda: nn.Linear(5, 4),
         down=lambda: nn.Linear(5, 2, bias=False), up=lambda: nn.Linear(2, 4, bias=False)),
    used("product of two weights by elements", lambda m, x: x @ (m.W1 * m.W2), 5, W1=w(5, 4),
         W2=w(5, 4)),
    used("exp(s) times W", lambda m, x: functional.linear(x, m.s.exp() * m.W), 5, s=w(4, 1),
         W=w(4, 5)),
    used("product of two weights by matrices", lambda m, x: x @ (m.W1 @ m.W2), 5, n=5, W1=w(5, 3),
         W2=w(3, 4)),
    used("weight from outer product and Kronecker product",
         lambda m, x: x @ torch.outer(m.a, m.b) + x @ torch.kron(m.A, m.B), 4, a=w(4), b=w(6),
         A=w(2, 2), B=w(2, 3)),
    used("masked weight", lambda m, x: x @ m.W.tril(), 4, n=4, W=w(4, 4)),
    used("bias through softplus", lambda m, x: m.layer(x) + functional.softplus(m.rho), 4,
         layer=lambda: nn.Linear(4, 3), rho=w(3)),
    used("weights generated by a network from a learned code",
         lambda m, x: functional.linear(x, m.hyper(m.code).view(3, 4)), 4,
         hyper=lambda: nn.Linear(2, 12), code=w(2)),
    used("weights generated from the sample",
         lambda m, x: torch.bmm(m.hyper(x).view(-1, 3, 4), x.unsqueeze(2)).squeeze(2), 4,
         hyper=lambda: nn.Linear(4, 12)),
    used("stacked weights of an ensemble", lambda m, x: torch.einsum(
        "bi,eio->beo", x, torch.stack((m.a, m.b))), 4, a=w(4, 3), b=w(4, 3)),
    used("ensemble by vmap over stacked weights",
         lambda m, x: torch.vmap(lambda W, b: (x @ W + b).tanh(), out_dims=1)(m.W, m.b), 4,
         W=w(3, 4, 2), b=w(3, 2)),
    used("quantised weight with a straight-through estimator",
         lambda m, x: functional.linear(x, m.W + (m.W.round() - m.W).detach()), 4, W=w(3, 4)),
)  # fmt: skip

MATRICES = (
    used("einsum btd,de->bte", lambda m, x: torch.einsum("btd,de->bte", x, m.W), 6, 4, W=w(4, 5)),
    used("einsum btd,de->bte, N equals T",
         lambda m, x: torch.einsum("btd,de->bte", x, m.W), 4, 4, n=4, W=w(4, 5)),
    used("einsum btd,hde->bhte, heads",
         lambda m, x: torch.einsum("btd,hde->bhte", x, m.W), 5, 4, W=w(2, 4, 3)),
    used("einsum bthd,hde->bthe, weights per head",
         lambda m, x: torch.einsum("bthd,hde->bthe", x, m.W), 5, 2, 4, W=w(2, 4, 3)),
    used("einsum bthd,hde->bthe, N equals heads",
         lambda m, x: torch.einsum("bthd,hde->bthe", x, m.W), 3, 3, 4, n=3, W=w(3, 4, 3)),
    used("einsum bi,oij,bj->bo, bilinear",
         lambda m, x: torch.einsum("bi,oij,bj->bo", x, m.W, x), 4, W=w(3, 4, 4)),
    used("einsum nchw,co->nohw", lambda m, x: torch.einsum("nchw,co->nohw", x, m.W), 3, 4, 5,
         W=w(3, 2)),
    used("einsum bgi,gio->bgo, groups", lambda m, x: torch.einsum("bgi,gio->bgo", x, m.W), 3, 4,
         n=4, W=w(3, 4, 2)),
    used("einsum bt,ts->bs, weight over time", lambda m, x: torch.einsum("bt,ts->bs", x, m.W), 4,
         n=4, W=w(4, 5)),
    used("matmul with the parameter on the left", lambda m, x: m.W @ x, 5, 6, n=3, W=w(4, 5)),
    used("matmul with the parameter on the left, N equals both",
         lambda m, x: m.W @ x, 4, 4, n=4, W=w(4, 4)),
    used("samples as columns, W @ x", lambda m, x: (m.W @ x.t() + m.b).t(), 5, n=4, W=w(3, 5),
         b=w(3, 1)),
    used("samples as columns, N equals width", lambda m, x: (m.W @ x.t()).tanh().t() @ m.V, 4,
         n=4, W=w(4, 4), V=w(4, 4)),
    used("mv", lambda m, x: torch.mv(x, m.v), 5, n=4, v=w(5)),
    used("matmul with a vector, N equals T", lambda m, x: x @ m.v, 4, 5, n=4, v=w(5)),
    used("addmv and addmm with beta",
         lambda m, x: torch.addmm(m.b, x, m.W, beta=0.5, alpha=2.0), 5, b=w(4), W=w(5, 4)),
    used("baddbmm", lambda m, x: torch.baddbmm(m.b, x.transpose(0, 1), m.W).transpose(0, 1), 2, 5,
         b=w(2, 1, 3), W=w(2, 5, 3)),
    used("tensordot", lambda m, x: torch.tensordot(x, m.W, dims=([1, 2], [0, 1])), 3, 4,
         W=w(3, 4, 2)),
    used("F.linear with sliced weights",
         lambda m, x: functional.linear(x, m.W[:2]) * functional.linear(x, m.W[2:], m.b[1:]), 5,
         W=w(4, 5), b=w(3)),
    used("chunks of one packed projection",
         lambda m, x: torch.cat([x @ c for c in m.W.chunk(3, dim=1)][::-1], -1), 4, 5, n=4,
         W=w(5, 6)),
    used("every second column of a weight", lambda m, x: x @ m.W[:, ::2], 5, W=w(5, 6)),
    used("weight padded and rolled",
         lambda m, x: x @ functional.pad(m.W, (1, 1)).roll(1, 0), 5, W=w(5, 3)),
    used("cdist to learned centres (RBF)",
         lambda m, x: torch.exp(-m.beta * torch.cdist(x, m.centres).square()) @ m.W, 4, n=4,
         beta=w(5), centres=w(5, 4), W=w(5, 2)),
    used("distances by broadcasting",
         lambda m, x: (x[:, None] - m.centres).square().sum(-1), 4, n=4, centres=w(4, 4)),
)  # fmt: skip


def class_token(model: Net, x: Tensor) -> Tensor:
    token = model.token.expand(len(x), -1, -1)
    x = torch.cat((token, x), 1) + model.position
    return model.encoder(x)[:, 0]


def relative_bias(model: Net, x: Tensor) -> Tensor:
    t = torch.arange(x.shape[1])
    bias = model.table[(t[:, None] - t[None, :]) + x.shape[1] - 1].permute(2, 0, 1)
    q, k, v = model.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    return (((q @ k.transpose(-1, -2)) + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)


def penalty(model: nn.Module, batch: Batch) -> Tensor:
    return wave(model(*batch)) + 0.3 * model.layer.weight.square().sum()


def penalties(model: nn.Module, batch: Batch) -> Tensor:
    return wave(model(*batch)) + 0.1 * sum(p.abs().sum() for p in model.parameters())


POSITIONS = (
    used("class token, expand and cat, positions", class_token, 5, 4, n=3, token=w(1, 1, 4),
         position=w(6, 4),
         encoder=lambda: nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True)),
    used("class token by repeat, N equals T",
         lambda m, x: m.head(torch.cat((m.token.repeat(len(x), 1, 1), x), 1).tanh().mean(1)), 3, 4,
         n=4, token=w(1, 1, 4), head=lambda: nn.Linear(4, 2)),
    used("position embeddings added, sliced", lambda m, x: (x + m.position[:, : x.shape[1]]).sin(),
         5, 4, n=5, position=w(1, 8, 4)),
    by_ids("position embeddings by arange",
           lambda m, x: (m.token(x) + m.position(torch.arange(x.shape[1]))).sin(), 5, n=5,
           token=lambda: nn.Embedding(7, 4), position=lambda: nn.Embedding(9, 4)),
    used("position embeddings resized",
         lambda m, x: m.conv(x + functional.interpolate(m.position, size=(6, 5), mode="bilinear")),
         2, 6, 5, position=w(1, 2, 3, 3), conv=lambda: nn.Conv2d(2, 3, 3)),
    by_ids("table indexed by the data", lambda m, x: (m.table[x] * 2).sin(), 6, n=4,
           table=w(7, 3)),
    by_ids("table indexed by the data, one id per sample",
           lambda m, x: m.head(m.table[x]), n=4, table=w(7, 4), head=lambda: nn.Linear(4, 3)),
    by_ids("table indexed in two dimensions", lambda m, x: m.table[x[:, 0], x[:, 1]].sin(), 2, n=4,
           table=w(7, 7, 3)),
    by_ids("index_select and gather", lambda m, x: m.table.index_select(0, x.flatten()).view(
        *x.shape, 3).sin() + torch.gather(m.row.expand(len(x), 7), 1, x)[..., None], 4, n=4,
        table=w(7, 3), row=w(7)),
    by_ids("F.embedding of a scaled table",
           lambda m, x: functional.embedding(x, m.table * m.scale).sin(), 5, table=w(7, 3),
           scale=w(3)),
    by_ids("one-hot times a table",
           lambda m, x: functional.one_hot(x, 7).to(m.table.dtype) @ m.table, 5, n=4,
           table=w(7, 3)),
    used("relative position bias by a constant index", relative_bias, 4, 6, n=4, table=w(7, 2),
         qkv=lambda: nn.Linear(6, 18)),
    used("mask token by where",
         lambda m, x: m.layer(torch.where(x[..., :1] > 0, x, m.token)), 5, 4, token=w(4),
         layer=lambda: nn.Linear(4, 3)),
    used("learned queries without a batch dimension",
         lambda m, x: ((m.query @ m.key(x).transpose(1, 2)).softmax(-1) @ x), 5, 4, n=3,
         query=w(3, 4), key=lambda: nn.Linear(4, 4)),
    used("learned queries expanded", lambda m, x: m.attention(
        m.query.expand(len(x), -1, -1), x, x, need_weights=False)[0], 5, 4, n=3, query=w(1, 3, 4),
        attention=lambda: nn.MultiheadAttention(4, 2, batch_first=True)),
)  # fmt: skip

SCALARS = (
    used("temperature of zero dimensions",
         lambda m, x: m.layer(x) * m.t.exp(), 5, n=4, layer=lambda: nn.Linear(5, 3), t=w()),
    used("zero-dimensional bias and divisor", lambda m, x: (x + m.a) / (2 + m.b.square()), 5,
         a=w(), b=w()),
    used("scale per feature", lambda m, x: (m.gamma * x).sin(), 5, 4, n=4, gamma=w(4)),
    used("scale per position, N equals T", lambda m, x: (m.gamma[:, None] * x).sin(), 4, 4, n=4,
         gamma=w(4)),
    used("FiLM by a learned table and by the sample",
         lambda m, x: m.gamma(x[:, 0])[:, None] * x + m.beta, 5, 4, n=4,
         gamma=lambda: nn.Linear(4, 4), beta=w(1, 5, 1)),
    used("layer scale", lambda m, x: x + m.scale * m.layer(x).tanh(), 6, 4, n=4,
         layer=lambda: nn.Linear(4, 4), scale=w(4)),
    used("layer scale of images", lambda m, x: x + m.scale * m.layer(x), 3, 4, 4,
         layer=lambda: nn.Conv2d(3, 3, 3, padding=1), scale=w(3, 1, 1)),
    used("learned exponent and threshold",
         lambda m, x: torch.maximum(x, m.t) * x.abs().pow(m.p.abs() + 1), 4, n=4, t=w(4), p=w(4)),
    used("lerp by a gate", lambda m, x: torch.lerp(x, x.sin(), m.gate.sigmoid()), 4, gate=w(4)),
    used("scalar mixture of layers", lambda m, x: torch.stack((x, x.sin(), m.layer(x)), 0).mul(
        m.mix.softmax(0)[:, None, None]).sum(0), 4, n=3, mix=w(3),
        layer=lambda: nn.Linear(4, 4)),
    used("hand-written RMSNorm", lambda m, x: x * torch.rsqrt(
        x.square().mean(-1, keepdim=True) + 1e-6) * m.gamma, 5, 4, gamma=w(4)),
    used("hand-written LayerNorm over channels first",
         lambda m, x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
         * m.gamma[:, None, None] + m.beta[:, None, None], 4, 3, 5, n=4, gamma=w(4), beta=w(4)),
    used("learned slopes of attention (ALiBi)",
         lambda m, x: (x @ x.transpose(1, 2) - m.slope.exp()
                       * (torch.arange(4)[:, None] - torch.arange(4)).abs()).softmax(-1) @ x, 4, 3,
         n=4, slope=w()),
    used("penalty on one weight", lambda m, x: m.layer(x), 5, n=4, layer=lambda: nn.Linear(5, 3),
         loss=penalty),
    used("penalty on all parameters", lambda m, x: m.b(m.a(x).tanh()), 5, n=4,
         a=lambda: nn.Linear(5, 4), b=lambda: nn.Linear(4, 3), loss=penalties),
    used("parameter only in the penalty", lambda m, x: m.layer(x), 5, n=4,
         layer=lambda: nn.Linear(5, 3), free=w(3),
         loss=lambda m, b: wave(m(*b)) + (m.free.square() * m.layer.bias.sin()).sum()),
)  # fmt: skip

CASES = (*SHARED, *PARAMETRIZED, *MATRICES, *POSITIONS, *SCALARS)
