"""The reference: plain autograd, one sample at a time. It knows nothing of jacoscope."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from capture.case import Case


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


@functools.cache
def contributions(case: Case) -> dict[str, Tensor]:
    """Contribution c_i of every sample to every parameter's gradient, name -> (N, *shape).

    The model is run on sample i alone, and that sample's part of the loss is differentiated.
    Buffers that a forward changes (power iteration) start from the same values each time.
    """
    model = case.build()
    batch = case.batch()
    parameters = named_parameters(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    rows: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for i in range(case.n):
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        gradients = torch.autograd.grad(
            case.part_of_sample(model, batch, i), list(parameters.values()), allow_unused=True
        )
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            rows[name].append(torch.zeros_like(parameter) if gradient is None else dense(gradient))
    return {name: torch.stack(row).detach() for name, row in rows.items()}


@functools.cache
def gradients(case: Case, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Gradient of the batch by plain backward, as `.grad` holds it."""
    model = case.build(dtype)
    case.loss(model, case.batch(dtype)).backward()
    return {name: p.grad for name, p in named_parameters(model).items() if p.grad is not None}
