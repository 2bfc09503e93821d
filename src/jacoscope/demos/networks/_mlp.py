"""A fully connected network."""

from collections.abc import Sequence
from itertools import pairwise
from typing import final

from torch import Tensor, nn


@final
class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        inputs: Features D of a sample, counted after flattening.
        hidden: Width of each hidden layer; empty for a linear model.
        outputs: Values K predicted for each sample.
        dropout: Probability of dropping a hidden unit in training.
    """

    def __init__(
        self,
        inputs: int = 64,
        hidden: Sequence[int] = (128, 64),
        outputs: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map samples of any shape (N, ...) with D features each to outputs (N, K)."""
        features = inputs.flatten(1)
        for layer in self.hidden:
            features = self.dropout(layer(features).relu())
        output: Tensor = self.head(features)
        return output
