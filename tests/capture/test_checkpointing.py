"""Activation checkpoints: what is outside of them is exact, and none is run an extra time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import jacoscope
from capture.case import normal, wave

SAMPLES = 4


class Blocks(nn.Module):
    """Two layers, of which the first may be a checkpoint, and a head."""

    def __init__(self, use_reentrant: bool, is_shared: bool = False) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem = nn.Linear(3, 5)
        self.inner = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Tanh())
        self.outer, self.head = nn.Linear(5, 5), nn.Linear(5, 2)
        self.use_reentrant, self.is_checkpointed = use_reentrant, True
        self.runs = 0
        if is_shared:
            self.outer.weight = self.inner[0].weight

    def counted(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.inner(x)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.stem(x)
        if self.is_checkpointed:
            hidden = checkpoint(self.counted, hidden, use_reentrant=self.use_reentrant)
        else:
            hidden = self.counted(hidden)
        return self.head(self.outer(hidden).sin())


def make(use_reentrant: bool, is_shared: bool = False) -> Blocks:
    return Blocks(use_reentrant, is_shared).double()


def plain_rows(model: Blocks, x: Tensor, name: str) -> Tensor:
    """Each sample's contribution out of one forward without a checkpoint."""
    model.is_checkpointed = False
    losses = [wave(output) / len(x) for output in model(x).unbind()]
    parameter = model.get_parameter(name)
    return torch.stack(
        [torch.autograd.grad(loss, parameter, retain_graph=True)[0] for loss in losses]
    )


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_what_is_outside_is_exact_and_the_rest_withheld(use_reentrant: bool) -> None:
    model, x = make(use_reentrant), normal(SAMPLES, 3)
    loss = wave(model(x))
    with jacoscope.capture(loss, model, batch_size=SAMPLES, want="operator") as jacobians:
        loss.backward()
    outside = {"outer.weight", "outer.bias", "head.weight", "head.bias"}
    assert set(jacobians) == outside
    assert all("activation checkpoint" in reason for reason in jacobians.missing.values())
    for name in outside:
        wanted = plain_rows(make(use_reentrant), x, name)
        torch.testing.assert_close(jacobians[name].dense(), wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_no_checkpoint_runs_an_extra_time(use_reentrant: bool) -> None:
    model, plain, x = make(use_reentrant), make(use_reentrant), normal(SAMPLES, 3)
    for _ in range(2):
        loss = wave(model(x))
        with jacoscope.capture(loss, model, batch_size=SAMPLES):
            loss.backward()
        wave(plain(x)).backward()
    assert model.runs == plain.runs == 4
    for given, wanted in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(given, wanted)


def test_a_checkpoint_that_is_turned_on_later_is_noticed() -> None:
    model, x = make(use_reentrant=False), normal(SAMPLES, 3)
    for is_checkpointed in (False, True, False):
        model.is_checkpointed = is_checkpointed
        loss = wave(model(x))
        with jacoscope.capture(loss, model, batch_size=SAMPLES) as jacobians:
            loss.backward()
        assert ("inner.0.weight" in jacobians) is not is_checkpointed


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_weight_inside_and_outside_is_withheld(use_reentrant: bool) -> None:
    model, x = make(use_reentrant, is_shared=True), normal(SAMPLES, 3)
    loss = wave(model(x))
    with jacoscope.capture(loss, model, batch_size=SAMPLES) as jacobians:
        loss.backward()
    assert "inner.0.weight" in jacobians.missing
    assert "head.weight" in jacobians


def offloaded(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return model(x)


@pytest.mark.parametrize("run", [offloaded])
def test_other_hooks_on_saved_tensors_are_no_checkpoints(
    run: Callable[[nn.Module, Tensor], Tensor],
) -> None:
    model, x = make(use_reentrant=False), normal(SAMPLES, 3)
    model.is_checkpointed = False
    loss = wave(run(model, x))
    with jacoscope.capture(loss, model, batch_size=SAMPLES) as jacobians:
        loss.backward()
    assert dict(jacobians.missing) == {}
