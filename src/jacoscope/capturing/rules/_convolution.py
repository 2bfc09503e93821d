"""Convolutions of one to three dimensions, plain, grouped and transposed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from jacoscope.capturing._terms import ConvolutionTerm, Term
from jacoscope.capturing.rules._call import Use

__all__ = ["convolution_bias_rule", "convolution_weight_rule"]


def convolution_weight_rule(use: Use) -> Term:
    """The kernel: patches of the input times the gradient (arXiv:1912.06015, section 3)."""
    node = use.node
    return ConvolutionTerm(
        use.rows(use.saved("input"), (0,)),
        use.rows(use.grad, (0,)),
        use.shape,
        stride=tuple(node._saved_stride),
        padding=tuple(node._saved_padding),
        dilation=tuple(node._saved_dilation),
        groups=int(node._saved_groups),
        transposed=bool(node._saved_transposed),
    )


def convolution_bias_rule(use: Use) -> Term:
    """The gradient, summed over positions."""
    return use.summed(use.grad, channels(use.shape, use.grad))


def channels(shape: Sequence[int], output: Tensor) -> tuple[int, ...]:
    """The shape of a tensor of channels as it broadcasts to (N, C, *spatial)."""
    return (*shape, *[1] * (output.dim() - 2))
