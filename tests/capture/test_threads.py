"""Captures in several threads, each of a model of its own."""

from __future__ import annotations

import threading

import torch
from torch import nn

import jacoscope

_WANT = ("row_sq_norms", "gram")


def _wrong(seed: int, said: list[str]) -> None:
    """Captures of ever new structures, compared with plain autograd sample by sample."""
    generator = torch.Generator().manual_seed(seed)
    for turn in range(12):
        samples, width = 3 + turn % 4, 4 + seed + turn % 7
        model = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2)).double()
        x = torch.randn(samples, 3, generator=generator, dtype=torch.double)
        loss = model(x).square().sum(1).mean()
        with jacoscope.capture(loss, model, samples, _WANT) as jacobians:
            loss.backward()
        said += jacobians.missing.values()
        each = model(x).square().sum(1) / samples
        for name, parameter in model.named_parameters():
            rows = [torch.autograd.grad(one, parameter, retain_graph=True)[0] for one in each]
            expected = torch.stack([row.square().sum() for row in rows])
            if name in jacobians:
                got = jacobians[name].row_sq_norms()
                said += [] if torch.allclose(got, expected) else [f"{name}: {got} {expected}"]


def test_each_has_all_of_its_own() -> None:
    said: list[str] = []
    threads = [threading.Thread(target=_wrong, args=(seed, said)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not said
