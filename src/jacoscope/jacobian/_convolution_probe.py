"""Inner products of a convolution's rows with a direction of rank one.

Shape suffixes: K samples of a chunk, R rows of the convolution per sample, B all of these, C
channels, G groups, w and p channels of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jacoscope.jacobian._geometry import Geometry

__all__ = ["probe"]


def probe(
    geometry: Geometry,
    patched_KRC: Tensor,
    paired_KRC: Tensor,
    left_Gp: Tensor,
    kernel: Tensor,
    width_w: Tensor | None = None,
) -> Tensor:
    """By a convolution with one kernel for each group, shape (K,).

    Args:
        geometry: The convolution's.
        patched_KRC: What patches are taken of, shape (K, R, C, *space).
        paired_KRC: What stands beside them, shape (K, R, C, *positions).
        left_Gp: Along the weight's first dimension.
        kernel: Along the others, shape (1, w, *kernel).
        width_w: What channels are added up with first; then w is 1 in ``kernel``.
    """
    groups = len(left_Gp)
    patched_BC = patched_KRC.flatten(0, 1)
    if width_w is not None:
        patched_BC = _contracted(patched_BC, width_w.expand(groups, -1))
    answers = geometry.correlate(patched_BC, kernel.expand(groups, *kernel.shape[1:]))
    scales = _contracted(paired_KRC.flatten(0, 1), left_Gp)
    products = scales.flatten(1).mul_(answers.reshape(len(scales), -1))
    return products.view(len(paired_KRC), -1).sum(1)


def _contracted(factor_BC: Tensor, weights_Gw: Tensor) -> Tensor:
    """Channels of each group added up with weights, shape (B, G, *space)."""
    rows, _, *space = factor_BC.shape
    groups, width = weights_Gw.shape
    if groups == 1:  # other ways to write it are up to twenty times slower on processors
        summed = torch.matmul(weights_Gw[0], factor_BC.flatten(2))
    else:
        grouped = factor_BC.reshape(rows, groups, width, -1)
        summed = torch.matmul(weights_Gw.unsqueeze(1), grouped).squeeze(2)
    return summed.reshape(rows, groups, *space)
