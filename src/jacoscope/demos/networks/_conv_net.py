"""A small convolutional network."""

from typing import final

from torch import Tensor, nn
from torch.nn import functional as F


@final
class ConvNet(nn.Module):
    """Three convolutions and two linear layers for small pictures, without normalisation.

    Nothing here couples one sample to another, so every per-sample gradient is exact.

    Args:
        channels: Channels C of a picture.
        size: Height and width S of a picture, a multiple of 4.
        width: Channels after the first convolution; the others have twice as many.
        hidden: Units of the hidden linear layer.
        outputs: Classes K.
        dropout: Probability of dropping a hidden unit in training.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 8,
        width: int = 32,
        hidden: int = 128,
        outputs: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if size % 4 != 0:
            raise ValueError(
                f"size={size} must be a multiple of 4, because the picture is halved twice; "
                f"pad it to {size + -size % 4}."
            )
        self.convolution1 = nn.Conv2d(channels, width, kernel_size=3, padding=1)
        self.convolution2 = nn.Conv2d(width, 2 * width, kernel_size=3, padding=1)
        self.convolution3 = nn.Conv2d(2 * width, 2 * width, kernel_size=3, padding=1)
        self.hidden = nn.Linear(2 * width * (size // 4) ** 2, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, S, S) to logits (N, K)."""
        features = self.convolution1(images).relu()
        features = F.max_pool2d(self.convolution2(features).relu(), 2)
        features = F.max_pool2d(self.convolution3(features).relu(), 2)
        features = self.hidden(features.flatten(1)).relu()
        logits: Tensor = self.head(self.dropout(features))
        return logits
