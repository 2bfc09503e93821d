"""Models with a batch and a loss, for all contenders alike.

A workload is added by a function from a device to a :class:`Workload`, named in ``MAKERS``.

Shapes: N samples, T positions, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from jacoscope.demos import Transformer

__all__ = ["DEFAULT", "MAKERS", "Workload", "make"]

DEFAULT = ("MLP", "CNN", "GPT")


@dataclass(frozen=True)
class Workload:
    """A model, a batch, and the mean cross-entropy over its samples.

    Args:
        name: What tables call it.
        about: What it is, in a line.
        model: The model; outputs have the classes in their last dimension.
        inputs: The batch, N in its first dimension.
        targets: A class for each output.
    """

    name: str
    about: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor

    @property
    def samples(self) -> int:
        """N."""
        return len(self.inputs)

    @property
    def scalars(self) -> int:
        """P, all parameters together."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def loss(self, model: nn.Module) -> Tensor:
        """The batch's loss: the mean over samples, and positions where there are some."""
        return batch_loss(model(self.inputs), self.targets)

    def losses(self, model: nn.Module) -> Tensor:
        """Each sample's own loss, shape (N,); their mean is :meth:`loss`."""
        return sample_losses(model(self.inputs), self.targets)


def batch_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of all outputs."""
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def sample_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each sample, the mean over its positions."""
    each = nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")
    return each.view(len(outputs), -1).mean(1)


class UntiedGPT(nn.Module):
    """The demos' transformer in the form that every peer can read.

    The head has a weight of its own, and positions are looked up for each sample, so that all
    layers see the batch in their first dimension.

    Args:
        transformer: The network, with an untied head.
    """

    def __init__(self, transformer: Transformer) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, tokens_NT: Tensor) -> Tensor:
        """Map tokens (N, T) to logits (N, T, V)."""
        network = self.transformer
        positions_NT = torch.arange(tokens_NT.shape[1], device=tokens_NT.device)
        positions_NT = positions_NT.expand_as(tokens_NT).contiguous()
        features_NTD = network.token_embedding(tokens_NT)
        features_NTD = features_NTD + network.position_embedding(positions_NT)
        for block in network.blocks:
            features_NTD = block(features_NTD)
        logits_NTV: Tensor = network.head(network.norm(features_NTD))
        return logits_NTV


def mlp(device: str, samples: int = 256, width: int = 512, inputs: int = 784) -> Workload:
    """A fully connected network with two hidden layers, and ten classes."""
    sizes = (inputs, width, width, 10)
    layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
    images, labels = torch.randn(samples, inputs), torch.randint(10, (samples,))
    model = nn.Sequential(*layers[:-1]).to(device)
    about = f"MLP {'-'.join(map(str, sizes))}, N = {samples}"
    return Workload("MLP", about, model, images.to(device), labels.to(device))


def cnn(device: str, samples: int = 64) -> Workload:
    """Four 3×3 convolutions 3→32→64→128→128 on images of 32×32."""
    widths, strides = (3, 32, 64, 128, 128), (1, 2, 2, 1)
    layers: list[nn.Module] = []
    for (i, o), stride in zip(pairwise(widths), strides, strict=True):
        layers += [nn.Conv2d(i, o, 3, stride, padding=1), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    images, labels = torch.randn(samples, 3, 32, 32), torch.randint(10, (samples,))
    model = nn.Sequential(*layers).to(device)
    about = f"CNN, four 3×3 convolutions to 128 channels, 32×32, N = {samples}"
    return Workload("CNN", about, model, images.to(device), labels.to(device))


def gpt(
    device: str,
    samples: int = 16,
    length: int = 128,
    width: int = 256,
    blocks: int = 4,
    heads: int = 4,
    tied: bool = False,
) -> Workload:
    """A GPT with a vocabulary of 512, as peers can read it, or as the demos write it (tied)."""
    network = Transformer(512, length, width, blocks, heads, tie_head=tied)
    model = (network if tied else UntiedGPT(network)).to(device)
    tokens, following = torch.randint(512, (2, samples, length))
    about = f"GPT, {blocks} blocks of {width}, {heads} heads, T = {length}, N = {samples}"
    if tied:
        about += ", tied head, positions shared by the samples"
    return Workload("GPT", about, model, tokens.to(device), following.to(device))


def large_gpt(device: str, blocks: int | None = None, samples: int | None = None) -> Workload:
    """A GPT of width 768: 12 blocks on an accelerator, 2 on a processor."""
    on_cpu = device == "cpu"
    blocks = blocks or (2 if on_cpu else 12)
    return gpt(device, samples or (8 if on_cpu else 16), width=768, blocks=blocks, heads=12)


def tiny(device: str) -> Workload:
    """A fully connected network to try the script with ``--no-memory``.

    Its runs take no time, but memory takes a process for each tool and result all the same.
    """
    return mlp(device, samples=8, width=6, inputs=5)


def tied_gpt(device: str) -> Workload:
    """The GPT as the demos write it."""
    return gpt(device, tied=True)


MAKERS: dict[str, Callable[..., Workload]] = {
    "MLP": mlp,
    "CNN": cnn,
    "GPT": gpt,
    "GPT-tied": tied_gpt,
    "GPT-large": large_gpt,
    "tiny": tiny,
}


def make(name: str, device: str, **sizes: int) -> Workload:
    """A workload by its name, the same weights and batch at every call.

    Args:
        name: One of ``MAKERS``.
        device: Where to put it.
        **sizes: Sizes other than the workload's own, as its function takes them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = MAKERS[name](device, **sizes)
    return Workload(name, made.about, made.model, made.inputs, made.targets)
