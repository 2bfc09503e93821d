"""A model that changes all that a forward can change, and what it is told by."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def use_all() -> None:
    """Draw from every random source."""
    torch.rand(3)
    np.random.rand(3)
    random.random()


class Busy(nn.Module):
    """Changes what a forward can change: buffers, parameters, counters, lists, random states."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.drop, self.last = nn.Dropout(0.4), nn.Linear(4, 1)
        self.slow = nn.Parameter(torch.ones(4), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("seen", torch.zeros(()))
        self.calls, self.kept = 0, []
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        use_all()
        self.calls += 1
        hidden = self.drop(self.norm(self.first(x)))
        self.cache["hidden"] = hidden
        self.kept.append(hidden)
        with torch.no_grad():
            self.seen += 1
            self.slow.mul_(0.9).add_(hidden.mean(0), alpha=0.1)
        return self.last(hidden * self.slow)


def traces(model: Busy) -> dict[str, Any]:
    """All that could have changed, as plain values."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found: dict[str, Any] = {
        name: (tensor.tolist(), tensor.data_ptr(), tensor._version, tensor.requires_grad)
        for name, tensor in tensors.items()
    }
    found |= {
        f"{n}.grad": None if p.grad is None else p.grad.tolist()
        for n, p in model.named_parameters()
    }
    found |= {f"{n} trains": module.training for n, module in model.named_modules()}
    found |= {f"{n} has": sorted(vars(module)) for n, module in model.named_modules()}
    found |= {"calls": model.calls, "kept": [id(each) for each in model.kept]}
    found |= {"cache": {key: id(value) for key, value in model.cache.items()}}
    return found


def made_busy() -> Busy:
    """One that has run once, with gradients, and with modes that differ."""
    torch.manual_seed(0)
    model = Busy().double()
    model.drop.eval()
    model(torch.randn(5, 3, dtype=torch.float64)).square().mean().backward()
    model.drop.train()
    model.last.eval()
    return model
