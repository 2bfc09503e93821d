"""Inner products of the rows of matrices.

Shape suffixes: N and M rows, K columns.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["inner_products", "is_fast"]

# What torch.compile makes of a linear layer; it is there where PyTorch was built with oneDNN.
_LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_LEAST = 2**20
"""Multiplications from which on a product is worth the longer call."""


def inner_products(first_NK: Tensor, second_MK: Tensor) -> Tensor:
    """Each row's inner product with each of the other's rows, shape (N, M).

    In single precision oneDNN makes them on processors whose widest registers MKL leaves out.
    """
    (rows, columns), others = first_NK.shape, len(second_MK)
    if rows * columns * others < _LEAST or not (is_fast(first_NK) and is_fast(second_MK)):
        return first_NK @ second_MK.T
    products: Tensor = _LINEAR(first_NK, second_MK, None, "none", [], "")
    return products


def is_fast(matrix: Tensor) -> bool:
    """Whether products of a matrix's rows are left to oneDNN."""
    return (
        _LINEAR is not None
        and _is_slighted()
        and bool(torch.backends.mkldnn.enabled)
        and matrix.device.type == "cpu"
        and matrix.dtype == torch.float32
        and matrix.is_contiguous()  # others take a thousand times as long
    )


@functools.cache
def _is_slighted() -> bool:
    """Whether the processor has AVX-512, and MKL does not use it: it does on Intel's alone.

    There oneDNN is twice as fast, which is worth turning matrices round for; on AMD's without it
    the two are equally fast (measured). Others keep PyTorch's own product.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    return capability.startswith("AVX512") and "AMD" in _vendor()


def _vendor() -> str:
    """Who made the processor, such as ``AuthenticAMD``; empty where it is not told."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[-1].strip() for line in lines if line.startswith("vendor")), "")
