"""Kinds of layers and networks."""

from __future__ import annotations

import functools
from typing import Any

import transformers
from torch import Tensor, nn
from torch.nn import functional

from capture.cases_transformers import Wrapped
from capture.test_batchnorm import with_copies
from conditions.condition import Condition
from conditions.networks import of_network, of_run, of_tokens, token_losses

__all__ = ["LAYERS"]

_row = functools.partial(of_network, "Layers")
_run = functools.partial(of_run, "Layers")
_tokens = functools.partial(of_tokens, "Layers")


def _head() -> nn.Module:
    return nn.Linear(4, 3)


def _attended(network: Any, x: Tensor) -> Tensor:
    tokens = x.view(-1, 3, 2).repeat(1, 1, 2)
    return network.head(network.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def _sdpa(network: Any, x: Tensor) -> Tensor:
    q, k, v = network.qkv(x.view(-1, 3, 2)).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return network.head(mixed.transpose(1, 2).flatten(2).mean(1))


def _recurrent(network: Any, x: Tensor) -> Tensor:
    return network.head(network.cell(x.view(-1, 3, 2))[0][:, -1])


def _norms(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), norm, nn.Tanh(), nn.Linear(4, 3))


def _tied() -> nn.Module:
    token, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    head.weight = token.weight
    return nn.Sequential(token, nn.Linear(4, 4), nn.Tanh(), head)


def _bag(network: Any, ids: Tensor) -> Tensor:
    return network.head(network.bag(ids))


def _pooled(network: Any, ids: Tensor) -> Tensor:
    return network.head(network.token(ids).mean(1).sin())


def _padded(network: Any, ids: Tensor) -> Tensor:
    return network.head(functional.embedding(ids, network.table, padding_idx=0).mean(1).sin())


def _reused(network: Any, x: Tensor) -> Tensor:
    for _ in range(3):
        x = x + network.layer(x).tanh()
    return network.head(x[:, :4])


def _through_own_rows(network: nn.Module, batch: Any) -> dict[str, Tensor]:
    """What flows to the parameters through each sample's own rows, by copies of them."""
    inputs, labels = batch
    copies = {
        name: parameter.detach().expand(len(inputs), *parameter.shape).clone().requires_grad_()
        for name, parameter in network.named_parameters()
    }
    functional.cross_entropy(with_copies(network, inputs, copies), labels).backward()
    return {name: copy.grad for name, copy in copies.items() if copy.grad is not None}


def _convolved(network: Any, x: Tensor) -> Tensor:
    return network.head(network.conv(x.view(-1, 1, 2, 3)).tanh().flatten(1)[:, :4])


def _logits(model: nn.Module, batch: Any) -> Tensor:
    return model(input_ids=batch[0]).logits


def _next(model: nn.Module, batch: Any) -> Tensor:
    return model(input_ids=batch[0], use_cache=False).logits


def _image(model: nn.Module, batch: Any) -> Tensor:
    return model(pixel_values=batch[0].view(-1, 1, 2, 3)).logits


def _gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=7, n_positions=5, n_embd=4, n_layer=1, n_head=2, n_inner=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return Wrapped(transformers.GPT2LMHeadModel(config), _next)


def _llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=7, hidden_size=4, intermediate_size=4, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=5,
        pad_token_id=None, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return Wrapped(transformers.LlamaForCausalLM(config), _next)


def _bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=4, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=4, max_position_embeddings=5, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, num_labels=3,
    )  # fmt: skip
    return Wrapped(transformers.BertForSequenceClassification(config), _logits)


def _vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4,
        image_size=(2, 3), patch_size=1, num_channels=1, num_labels=3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return Wrapped(transformers.ViTForImageClassification(config), _image)


_DROPPED = "all else equal draws units by probes.seed, the same ones for each evaluation"
_SMALL: dict[str, Any] = {
    "options": {"precision": "64-true", "limit_train_batches": 1},
    "steps": 1,
    "config": {"probes": {"max_outputs": 64}},
}

LAYERS: tuple[Condition, ...] = (
    _run("nn.MultiheadAttention", _attended, head=_head,
         attention=lambda: nn.MultiheadAttention(4, 2, batch_first=True)),
    _run("scaled_dot_product_attention", _sdpa, qkv=lambda: nn.Linear(2, 12), head=_head),
    _row("nn.TransformerEncoderLayer with dropout", lambda: nn.Sequential(
        nn.Unflatten(1, (3, 2)), nn.Linear(2, 4),
        nn.TransformerEncoderLayer(4, 2, 6, 0.2, batch_first=True), nn.Flatten(),
        nn.Linear(12, 3)), note=_DROPPED, **_SMALL),
    _run("LSTM", _recurrent, cell=lambda: nn.LSTM(2, 4, batch_first=True), head=_head),
    _run("GRU", _recurrent, cell=lambda: nn.GRU(2, 4, batch_first=True), head=_head),
    _run("convolution", _convolved, conv=lambda: nn.Conv2d(1, 2, 2), head=_head),
    _row("LayerNorm", lambda: _norms(nn.LayerNorm(4))),
    _row("RMSNorm", lambda: _norms(nn.RMSNorm(4))),
    _row("GroupNorm", lambda: _norms(nn.GroupNorm(2, 4))),
    _row("BatchNorm", lambda: nn.Sequential(
        nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)),
        contributions=_through_own_rows,
         note="couples samples: a row is what flows through the sample's own activations"),
    _row("dropout", lambda: nn.Sequential(
        nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.4), nn.Linear(5, 3)), note=_DROPPED),
    _tokens("nn.Embedding", lambda: nn.Sequential(
        nn.Embedding(7, 4), nn.Flatten(), nn.Linear(20, 3))),
    _tokens("tied embedding and head", _tied, losses=token_losses,
            config={"probes": {"max_outputs": 64}}),
    _run("a module used several times", _reused, layer=lambda: nn.Linear(6, 6), head=_head),
    _tokens("GPT-2 of transformers, head tied to the embedding", _gpt2, losses=token_losses,
            **_SMALL),
    _tokens("Llama of transformers", _llama, losses=token_losses, **_SMALL),
    _tokens("BERT of transformers", _bert, **_SMALL),
    _row("ViT of transformers", _vit, **_SMALL),
)  # fmt: skip
