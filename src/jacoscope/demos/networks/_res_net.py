"""A small residual network."""

from collections import OrderedDict
from typing import final

from torch import Tensor, nn


@final
class ResidualBlock(nn.Module):
    """Two normalised convolutions with a way around them.

    Where the shape changes, the way around is a normalised 1 x 1 convolution (K. He et al.,
    arXiv:1512.03385, option B).

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: Step of the first convolution; 2 halves the picture.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.convolution2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                OrderedDict(
                    convolution=nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
                    norm=nn.BatchNorm2d(outputs),
                )
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        inner = self.norm1(self.convolution1(features)).relu()
        inner = self.norm2(self.convolution2(inner))
        result: Tensor = (inner + self.shortcut(features)).relu()
        return result


@final
class ResNet(nn.Module):
    """A stem, three stages of residual blocks and a head, with batch normalisation.

    Batch normalisation couples the samples of a batch in training: a sample's gradient depends on
    its neighbours.

    Args:
        channels: Channels C of a picture.
        width: Channels of the first stage; the second has twice and the third four times as many.
        blocks: Residual blocks in each stage.
        outputs: Classes K.
    """

    def __init__(
        self, channels: int = 1, width: int = 16, blocks: int = 1, outputs: int = 10
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(
                convolution=nn.Conv2d(channels, width, 3, padding=1, bias=False),
                norm=nn.BatchNorm2d(width),
                activation=nn.ReLU(),
            )
        )
        self.stage1 = _stage(width, width, blocks, stride=1)
        self.stage2 = _stage(width, 2 * width, blocks, stride=2)
        self.stage3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.head = nn.Linear(4 * width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, K)."""
        features = self.stage3(self.stage2(self.stage1(self.stem(images))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = ResidualBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(ResidualBlock(outputs, outputs) for _ in range(blocks - 1)))
