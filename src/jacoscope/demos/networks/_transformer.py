"""A decoder-only transformer.

Shapes: N samples, T positions, D features, H heads with K = D / H features each, V tokens in the
vocabulary.
"""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@final
class Attention(nn.Module):
    """Causal self-attention with several heads (A. Vaswani et al., arXiv:1706.03762).

    Args:
        width: Features D.
        heads: Attention heads H, a divisor of ``width``.
        dropout: Probability of dropping an attention weight in training.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads != 0:
            raise ValueError(
                f"heads={heads} must divide width={width}, because each head gets an equal share."
            )
        self.heads = heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, features_NTD: Tensor) -> Tensor:
        """Let each position gather from itself and the positions before it; (N, T, D) to same."""
        query_key_value = self.query_key_value(features_NTD)
        per_head = query_key_value.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query_NHTK, key_NHTK, value_NHTK = per_head.unbind(0)
        gathered_NHTK = F.scaled_dot_product_attention(
            query_NHTK,
            key_NHTK,
            value_NHTK,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=True,
        )
        result: Tensor = self.projection(gathered_NHTK.transpose(1, 2).flatten(2))
        return result


@final
class FeedForward(nn.Module):
    """Two linear layers applied at every position, four times as wide in between.

    Args:
        width: Features D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, features_NTD: Tensor) -> Tensor:
        """Map features (N, T, D) to the same shape, each position by itself."""
        result: Tensor = self.contract(F.gelu(self.expand(features_NTD)))
        return result


@final
class Block(nn.Module):
    """Attention, then a feed-forward network, each normalised first and added to its input.

    Args:
        width: Features D.
        heads: Attention heads H.
        dropout: Probability of dropping a value in training.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features_NTD: Tensor) -> Tensor:
        """Map features (N, T, D) to the same shape."""
        attended = self.attention(self.attention_norm(features_NTD))
        features_NTD = features_NTD + self.dropout(attended)
        transformed = self.feed_forward(self.feed_forward_norm(features_NTD))
        result: Tensor = features_NTD + self.dropout(transformed)
        return result


@final
class Transformer(nn.Module):
    """A GPT-like language model: learned positions, normalisation first, one token ahead.

    Weights start as in GPT-2 (normal, standard deviation 0.02, the last layer of each branch scaled
    down by the square root of the number of branches).

    Args:
        vocabulary_size: Tokens V.
        context: Longest input, in tokens.
        width: Features D.
        blocks: Number of blocks.
        heads: Attention heads H in each block, a divisor of ``width``.
        dropout: Probability of dropping a value in training.
        tie_head: Whether the head reuses the token embedding's weight, which then is one parameter
            with two uses.
    """

    def __init__(
        self,
        vocabulary_size: int = 106,
        context: int = 128,
        width: int = 96,
        blocks: int = 3,
        heads: int = 4,
        dropout: float = 0.0,
        tie_head: bool = True,
    ) -> None:
        super().__init__()
        self.context = context
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.position_embedding = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary_size, bias=False)
        self._initialise(branches=2 * blocks)
        if tie_head:
            self.head.weight = self.token_embedding.weight

    def forward(self, tokens_NT: Tensor) -> Tensor:
        """Map tokens (N, T), int64, to logits (N, T, V) of the token after each.

        Raises:
            ValueError: If T exceeds ``context``.
        """
        length = tokens_NT.shape[1]
        if length > self.context:
            raise ValueError(
                f"The input has {length} tokens, more than context={self.context}; give shorter "
                f"inputs or build the network with context={length}."
            )
        positions_T = torch.arange(length, device=tokens_NT.device)
        embedded_NTD = self.token_embedding(tokens_NT) + self.position_embedding(positions_T)
        features_NTD = self.dropout(embedded_NTD)
        for block in self.blocks:
            features_NTD = block(features_NTD)
        logits_NTV: Tensor = self.head(self.norm(features_NTD))
        return logits_NTV

    def _initialise(self, branches: int) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(("projection.weight", "contract.weight")):
                nn.init.normal_(parameter, std=0.02 / branches**0.5)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif "norm" not in name:
                nn.init.zeros_(parameter)
