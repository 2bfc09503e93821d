"""Complex numbers as pairs of real ones, in a last dimension of two.

That is what torch's gradient by a complex parameter is: the derivatives by its real and imaginary
parts. Inner products of such gradients are then Re⟨g, h⟩, and norms √Σ|g|².
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["as_real"]


def as_real(tensor: Tensor) -> Tensor:
    """The same numbers as real ones; the tensor itself if it is real."""
    if not tensor.is_complex():
        return tensor
    dense = tensor.to_dense() if tensor.is_sparse else tensor
    return torch.view_as_real(dense.detach().resolve_conj())
