"""A case: a small model, a batch, and the loss of the batch and of each sample alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Batch = tuple[Any, ...]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def integers(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape)


def param(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / max((1, *shape[-1:])) ** 0.5)


def wave(output: Tensor) -> Tensor:
    """A mean over all elements, whose derivative differs from element to element."""
    return (output.sin() + 0.5 * output * output).mean()


class Net(nn.Module):
    """A model written as one function of its parts (modules and parameters) and its inputs."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, *inputs: Any) -> Any:
        return self.run(self, *inputs)


def wave_of_output(model: nn.Module, batch: Batch) -> Tensor:
    return wave(model(*batch))


def along_first(batch: Batch, i: int) -> Batch:
    return tuple(part[i : i + 1] for part in batch)


def along(*dims: int | None) -> Callable[[Batch, int], Batch]:
    """Take sample i along one dimension of each part of the batch (None: the part is shared)."""

    def take(batch: Batch, i: int) -> Batch:
        return tuple(
            part if dim is None else part.narrow(dim, i, 1)
            for part, dim in zip(batch, dims, strict=True)
        )

    return take


@dataclass(frozen=True, eq=False)
class Case:
    """One architecture.

    Args:
        name: What the test is called.
        model: Makes the model; `build` seeds it, makes it float64 and moves it off its initial
            values, so that no bias is zero and no scale is one.
        inputs: Makes a batch of n samples; seeded by `batch`.
        n: Number of samples.
        loss: Loss of the batch, from the model and the batch.
        take: The batch that holds sample i alone.
        share: What sample i adds to the loss, from the model, the batch and i, computed by running
            the model on sample i alone. None: the loss of sample i alone divided by n, which is
            right wherever the loss is a mean over samples.
        options: Further arguments of `jacoscope.capture`.
        training: Whether the model is in training mode.
        xfail: Why the case is known not to work; empty if it must.
    """

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[int], Batch]
    n: int = 4
    loss: Callable[[nn.Module, Batch], Tensor] = wave_of_output
    take: Callable[[Batch, int], Batch] = along_first
    share: Callable[[nn.Module, Batch, int], Tensor] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    training: bool = True
    xfail: str = ""

    def build(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = self.model().double()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.2 * torch.randn_like(parameter))
                for name, buffer in model.named_buffers():
                    if name.endswith(("running_mean", "running_var")):
                        buffer.add_(0.5 * torch.rand_like(buffer))
        return model.to(dtype).train(self.training)

    def batch(self, dtype: torch.dtype = torch.float64) -> Batch:
        with torch.random.fork_rng():
            torch.manual_seed(2)
            parts = self.inputs(self.n)
        return tuple(
            part.to(dtype) if isinstance(part, Tensor) and part.is_floating_point() else part
            for part in parts
        )

    def part_of_sample(self, model: nn.Module, batch: Batch, i: int) -> Tensor:
        """What sample i adds to the loss."""
        if self.share is not None:
            return self.share(model, batch, i)
        return self.loss(model, self.take(batch, i)) / self.n

    def __str__(self) -> str:
        return self.name
