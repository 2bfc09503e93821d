"""A recurrent language model."""

from typing import final

from torch import Tensor, nn


@final
class LSTM(nn.Module):
    """An embedding, long short-term memory layers and a head; each input starts from zero state.

    Args:
        vocabulary_size: Tokens V.
        embedding: Features of a token.
        width: Features of the memory.
        layers: Recurrent layers.
        dropout: Probability of dropping a value between layers and before the head in training.
    """

    def __init__(
        self,
        vocabulary_size: int = 106,
        embedding: int = 64,
        width: int = 192,
        layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.recurrent = nn.LSTM(
            embedding,
            width,
            num_layers=layers,
            dropout=dropout if layers > 1 else 0.0,  # PyTorch drops between layers only
            batch_first=True,
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (N, T), int64, to logits (N, T, V) of the token after each."""
        features, _ = self.recurrent(self.embedding(tokens))
        logits: Tensor = self.head(self.dropout(features))
        return logits
