"""Where a convolution's kernel goes, and what PyTorch's own convolutions give there.

Shape suffixes: B rows of the convolution, N samples, K rows of the convolution per sample, G
groups, C channels of what patches are taken of, w channels of a group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Geometry", "Phase"]

_CONVOLVE = (functional.conv1d, functional.conv2d, functional.conv3d)


@dataclass(frozen=True)
class Phase:
    """Pixels along a dimension that are a stride apart, and the kernel's elements that meet them.

    Args:
        pixels: Those that are met, of all.
        count: How many they are.
        shifts: For each element of the kernel, which of them the first patch has there; outside of
            them there is padding.
    """

    pixels: slice
    count: int
    shifts: tuple[int, ...]


@dataclass(frozen=True)
class Geometry:
    """The numbers that say which patches a convolution sees.

    Args:
        space: Sizes of what patches are taken of.
        positions: How many patches there are along each dimension of space.
        kernel: Sizes of the kernel.
        stride: Steps between patches.
        padding: Zeros on either side.
        dilation: Steps between the elements of a patch.
        groups: How many groups the channels fall into.
    """

    space: tuple[int, ...]
    positions: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def __post_init__(self) -> None:
        numbers = (self.positions, self.kernel, self.stride, self.padding, self.dilation)
        if any(len(each) != len(self.space) for each in numbers):
            raise ValueError(
                "kernel, stride, padding and dilation must have one number for each of the "
                f"{len(self.space)} dimensions of space, got {self.kernel}, {self.stride}, "
                f"{self.padding} and {self.dilation}"
            )
        if any(count > most for count, most in zip(self.positions, self._possible, strict=True)):
            raise ValueError(
                f"there are no {self.positions} patches of {self.kernel} in {self.space} with "
                f"stride {self.stride}, padding {self.padding} and dilation {self.dilation}"
            )

    @property
    def exact(self) -> bool:
        """Whether all patches are taken; a transposed convolution may leave out the last."""
        return self.positions == self._possible

    @property
    def overlap(self) -> int:
        """In how many patches an element can stand."""
        sizes = zip(self.kernel, self.stride, self.dilation, strict=True)
        return math.prod(
            -(-width // stride) if dilation == 1 else width for width, stride, dilation in sizes
        )

    @property
    def phases(self) -> list[list[Phase]]:
        """Along each dimension, the pixels that patches see, by their place between two strides."""
        numbers = (self.space, self.positions, self.kernel, self.stride, self.padding)
        return [_phases(*each) for each in zip(*numbers, self.dilation, strict=True)]

    def patches(self, patched_NKC: Tensor) -> Tensor:
        """All patches, shape (N, G, w · kernel, K · positions)."""
        samples, repeats, channels = patched_NKC.shape[:3]
        if any(self.padding):
            sides = [side for pad in reversed(self.padding) for side in (pad, pad)]
            patched_NKC = functional.pad(patched_NKC, sides)
        sample, repeat, channel, *space = patched_NKC.stride()
        width = channels // self.groups
        steps = [step * by for step, by in zip(space, self.dilation, strict=True)]
        strides = [step * by for step, by in zip(space, self.stride, strict=True)]
        view = patched_NKC.as_strided(
            (samples, self.groups, width, *self.kernel, repeats, *self.positions),
            (sample, channel * width, channel, *steps, repeat, *strides),
        )
        return view.reshape(
            samples,
            self.groups,
            width * math.prod(self.kernel),
            repeats * math.prod(self.positions),
        )

    def correlate(self, patched_BC: Tensor, kernels: Tensor) -> Tensor:
        """Each patch's inner product with kernels, shape (B, kernels, *positions).

        Args:
            patched_BC: Shape (B, C, *space).
            kernels: Shape (kernels, w, *kernel), G equal shares of them.
        """
        answers = _CONVOLVE[len(self.kernel) - 1](
            patched_BC,
            kernels,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        for dimension, count in enumerate(self.positions, 2):
            answers = answers.narrow(dimension, 0, count)
        return answers

    def weight_gradient(self, patched_BC: Tensor, paired_BC: Tensor, repeats: int = 1) -> Tensor:
        """Sums over B and positions of outer products with patches, as PyTorch computes them.

        Args:
            patched_BC: Shape (B, repeats · C, *space).
            paired_BC: Shape (B, repeats · G · p, *positions).
            repeats: How many convolutions stand side by side in the channels.

        Returns:
            Shape (repeats · G · p, w, *kernel).
        """
        assert self.exact
        groups = repeats * self.groups
        width = patched_BC.shape[1] // groups
        weight = patched_BC.new_empty(1).expand(paired_BC.shape[1], width, *self.kernel)
        _, gradient, _ = torch.ops.aten.convolution_backward(
            paired_BC,
            patched_BC,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.kernel),
            groups,
            [False, True, False],
        )
        assert isinstance(gradient, Tensor)
        return gradient

    @property
    def _possible(self) -> tuple[int, ...]:
        sizes = zip(self.space, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple(
            (size + 2 * pad - dilation * (width - 1) - 1) // stride + 1
            for size, width, stride, pad, dilation in sizes
        )


def _phases(
    size: int, positions: int, width: int, stride: int, pad: int, dilation: int
) -> list[Phase]:
    steps: dict[int, list[int]] = {}
    for element in range(width):
        step, place = divmod(element * dilation - pad, stride)
        steps.setdefault(place, []).append(step)
    phases: list[Phase] = []
    for place, each in steps.items():
        first = max(0, min(each))
        last = min(positions - 1 + max(each), (size - 1 - place) // stride)
        count = max(0, last - first + 1)
        start = place + stride * first
        pixels = slice(start, start + stride * count, stride)
        phases.append(Phase(pixels, count, tuple(step - first for step in each)))
    return phases
