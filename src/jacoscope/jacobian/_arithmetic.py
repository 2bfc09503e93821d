"""How the operators compute: in full precision, outside autograd and autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

import torch
from torch import Tensor

__all__ = ["compute_dtype", "computed", "lengths"]


class _OnDevice(Protocol):
    @property
    def device(self) -> torch.device: ...


_Self = TypeVar("_Self", bound=_OnDevice)
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def compute_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """What inputs of these types are computed in: double if any of them is, else single precision.

    Raises:
        ValueError: If one of them is not a real floating type.
    """
    for dtype in dtypes:
        if not dtype.is_floating_point:
            raise ValueError(f"a Jacobian is made of real floating point numbers, got {dtype}")
    return torch.float64 if torch.float64 in dtypes else torch.float32


def computed(
    method: Callable[Concatenate[_Self, _Arguments], _Result],
) -> Callable[Concatenate[_Self, _Arguments], _Result]:
    """Let a method compute without recording a graph and without autocast rounding its products.

    Products of matrices of single precision are as exact as
    :func:`torch.set_float32_matmul_precision` has them.
    """

    @functools.wraps(method)
    def wrapper(self: _Self, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        is_cast = torch.is_autocast_enabled(self.device.type)
        if not is_cast and not torch.is_grad_enabled():
            return method(self, *args, **kwargs)  # entering a context takes as long as a small sum
        with torch.no_grad():
            if is_cast:
                with torch.autocast(self.device.type, enabled=False):
                    return method(self, *args, **kwargs)
            return method(self, *args, **kwargs)

    return cast("Callable[Concatenate[_Self, _Arguments], _Result]", wrapper)


def lengths(vectors: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Euclidean norms along a dimension, a new tensor without that dimension.

    Args:
        vectors: The vectors.
        dim: The dimension along which each of them lies.
        dtype: What to compute in; by default the vectors' type.
    """
    result: Tensor = torch.linalg.vector_norm(vectors, dim=dim, dtype=dtype)
    return result
