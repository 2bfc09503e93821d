"""Models of the transformers library, from tiny random configurations without dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from capture.case import Batch, Case, integers, normal


class InDouble(TorchFunctionMode):
    """Leaves float64 alone where a model casts to float32 on its own (norms, softmax, scans).

    Without it the models round at 1e-7, and the comparison at 1e-10 would mean nothing.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                return args[0]
            args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


class Wrapped(nn.Module):
    """A model of transformers as a function of tensors; names of parameters are the model's own."""

    def __init__(self, model: nn.Module, run: Callable[[nn.Module, Batch], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.run = run

    def forward(self, *batch: Any) -> Tensor:
        if self.model.dtype == torch.float32:
            return self.run(self.model, batch)
        with InDouble():
            return self.run(self.model, batch)


def classified(model: nn.Module, batch: Batch) -> Tensor:
    return model(pixel_values=batch[0]).logits


def next_tokens(model: nn.Module, batch: Batch) -> Tensor:
    return model(input_ids=batch[0], use_cache=False).logits[:, :-1]


def tokens(model: nn.Module, batch: Batch) -> Tensor:
    return model(input_ids=batch[0], attention_mask=batch[2]).logits


def translated(model: nn.Module, batch: Batch) -> Tensor:
    return model(input_ids=batch[0], decoder_input_ids=batch[1]).logits


def transcribed(model: nn.Module, batch: Batch) -> Tensor:
    return model(input_features=batch[0], decoder_input_ids=batch[1]).logits


def label_loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(*batch), batch[-1])


def next_token_loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(*batch).transpose(1, 2), batch[0][:, 1:])


def token_loss(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(*batch).transpose(1, 2), batch[1])


def words(*shape: int) -> Tensor:
    """Ids other than that of padding."""
    return 1 + integers(10, *shape)


def lively(model: nn.Module) -> None:
    """Initial values with which the signal lives through evaluation-mode batch norms."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=2 / module.weight[0].numel() ** 0.5)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 0.5)


def images(size: int, channels: int = 3) -> Callable[[int], Batch]:
    return lambda n: (normal(n, channels, size, size), integers(3, n))


def text(length: int) -> Callable[[int], Batch]:
    return lambda n: (words(n, length),)


def pairs(length: int, other: int) -> Callable[[int], Batch]:
    return lambda n: (words(n, length), words(n, other))


def masked_text(length: int) -> Callable[[int], Batch]:
    lengths = torch.tensor([length, 2, length - 1, 3])
    return lambda n: (
        words(n, length),
        words(n, length),
        (torch.arange(length) < lengths[:n, None]).long(),
    )


def hugging(
    name: str, config: str, model: str, run: Any, options: dict[str, Any], **settings: Any
) -> Case:
    """A case of transformers, imported only when it is built."""

    def make() -> nn.Module:
        import transformers

        network = getattr(transformers, model)(getattr(transformers, config)(**options))
        lively(network)
        return Wrapped(network, run)

    return Case(name, make, **settings)


TEXT: dict[str, Any] = {"vocab_size": 11, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL: dict[str, Any] = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
WHOLE: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

VISION = (
    hugging("transformers ResNet", "ResNetConfig", "ResNetForImageClassification", classified,
            {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 2], "num_labels": 3,
             "layer_type": "basic"},
            inputs=images(16), n=3, loss=label_loss, training=False),
    hugging("transformers ViT", "ViTConfig", "ViTForImageClassification", classified,
            {**SMALL, **WHOLE, "image_size": 8, "patch_size": 4, "num_labels": 3},
            inputs=images(8), n=3, loss=label_loss),
    hugging("transformers ViT, N equals tokens", "ViTConfig", "ViTForImageClassification",
            classified, {**SMALL, **WHOLE, "image_size": 8, "patch_size": 4, "num_labels": 3},
            inputs=images(8), n=5, loss=label_loss),
    hugging("transformers Swin", "SwinConfig", "SwinForImageClassification", classified,
            {**WHOLE, "image_size": 16, "patch_size": 2, "embed_dim": 4, "depths": [2, 1],
             "num_heads": [1, 2], "window_size": 4, "drop_path_rate": 0.0, "num_labels": 3},
            inputs=images(16), n=3, loss=label_loss),
    hugging("transformers ConvNeXt", "ConvNextConfig", "ConvNextForImageClassification",
            classified, {"hidden_sizes": [4, 6], "depths": [1, 2], "patch_size": 2, "num_stages": 2,
                         "layer_scale_init_value": 0.5, "num_labels": 3},
            inputs=images(8), n=3, loss=label_loss),
    hugging("transformers MobileNetV2", "MobileNetV2Config", "MobileNetV2ForImageClassification",
            classified, {"depth_multiplier": 0.1, "depth_divisible_by": 4, "min_depth": 4,
                         "num_labels": 3, "image_size": 32, "classifier_dropout_prob": 0.0},
            inputs=images(32), n=2, loss=label_loss, training=False),
)  # fmt: skip

LANGUAGE = (
    hugging("transformers GPT-2", "GPT2Config", "GPT2LMHeadModel", next_tokens,
            {**TEXT, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16, "resid_pdrop": 0.0,
             "embd_pdrop": 0.0, "attn_pdrop": 0.0},
            inputs=text(6), n=3, loss=next_token_loss),
    hugging("transformers GPT-2, N equals T", "GPT2Config", "GPT2LMHeadModel", next_tokens,
            {**TEXT, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "resid_pdrop": 0.0,
             "embd_pdrop": 0.0, "attn_pdrop": 0.0, "attn_implementation": "eager"},
            inputs=text(4), n=4, loss=next_token_loss),
    hugging("transformers Llama", "LlamaConfig", "LlamaForCausalLM", next_tokens,
            {**TEXT, **SMALL, "num_key_value_heads": 1, "tie_word_embeddings": False},
            inputs=text(5), n=3, loss=next_token_loss),
    hugging("transformers Mixtral", "MixtralConfig", "MixtralForCausalLM", next_tokens,
            {**TEXT, **SMALL, "num_key_value_heads": 1, "num_local_experts": 3,
             "num_experts_per_tok": 2, "sliding_window": None,
             "experts_implementation": "eager"},
            inputs=text(5), n=3, loss=next_token_loss),
    hugging("transformers Mamba", "MambaConfig", "MambaForCausalLM", next_tokens,
            {**TEXT, "hidden_size": 6, "state_size": 3, "num_hidden_layers": 2, "conv_kernel": 3,
             "time_step_rank": 2, "tie_word_embeddings": True},
            inputs=text(5), n=3, loss=next_token_loss),
    hugging("transformers BERT", "BertConfig", "BertForMaskedLM", tokens,
            {**TEXT, **SMALL, **WHOLE, "max_position_embeddings": 16},
            inputs=masked_text(5), n=3, loss=token_loss),
    hugging("transformers DistilBERT", "DistilBertConfig", "DistilBertForMaskedLM", tokens,
            {"vocab_size": 11, "dim": 8, "hidden_dim": 12, "n_layers": 2, "n_heads": 2,
             "max_position_embeddings": 16, "dropout": 0.0, "attention_dropout": 0.0},
            inputs=masked_text(5), n=3, loss=token_loss),
    hugging("transformers T5", "T5Config", "T5ForConditionalGeneration", translated,
            {**TEXT, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2,
             "dropout_rate": 0.0, "decoder_start_token_id": 0},
            inputs=pairs(6, 4), n=3, loss=token_loss),
    hugging("transformers Whisper", "WhisperConfig", "WhisperForConditionalGeneration", transcribed,
            {**TEXT, "num_mel_bins": 4, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 12,
             "decoder_ffn_dim": 12, "max_source_positions": 6, "max_target_positions": 8,
             "dropout": 0.0, "decoder_start_token_id": 1, "suppress_tokens": None,
             "begin_suppress_tokens": None},
            inputs=lambda n: (normal(n, 4, 12), words(n, 4)), n=3, loss=token_loss),
)  # fmt: skip

CASES = (*VISION, *LANGUAGE)
