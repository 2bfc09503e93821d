"""Nothing of a captured step is held after it: five hundred of them are as light as one."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from jacoscope import Monitor
from jacoscope.sinks import Sink
from sample_training import (
    PER_SAMPLE,
    Learner,
    cross_entropies,
    fit,
    loader_of,
    perceptron,
    rows_of_pairs,
    watching,
)

STEPS = 500
SETTLED = 100


class Nowhere(Sink):
    """Writes records away; a sink that keeps them would grow by itself."""

    subject = "writing records nowhere"

    def __init__(self) -> None:
        self.written = 0

    def open(self, run: Any) -> None:
        pass

    def write(self, record: Any) -> None:
        self.written += 1
        assert record.headline["sample_coverage"] == 1.0

    def close(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


class Scales(pl.Callback):
    """Counts what is alive at the end of some steps."""

    def __init__(self) -> None:
        self.tensors: dict[int, int] = {}
        self.objects: dict[int, int] = {}
        self.bytes: dict[int, int] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        step = trainer.global_step
        if step in (SETTLED, 250, STEPS):
            gc.collect()
            alive = gc.get_objects()
            # isinstance would ask proxies for their class, which may run anything.
            self.tensors[step] = sum(issubclass(type(each), Tensor) for each in alive)
            self.objects[step] = len(alive)
            self.bytes[step] = tracemalloc.get_traced_memory()[0]


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Nowhere:
    sink = Nowhere()
    monkeypatch.setattr("jacoscope.callback.make_sinks", lambda *_: ([sink], None))
    return sink


@pytest.mark.slow
def test_five_hundred_captured_steps_are_flat(nowhere: Nowhere, tmp_path: Path) -> None:
    """Ten epochs of fifty steps; running means by sample have met every sample by step 100."""
    scales = Scales()
    module = Learner(perceptron(dropout=0.2))
    loader = loader_of(rows_of_pairs(200), batch_size=4, shuffle=True)
    tracemalloc.start()
    try:
        fit(tmp_path, module, loader, watching(), scales, max_epochs=10)
    finally:
        tracemalloc.stop()
    assert nowhere.written == STEPS
    assert scales.tensors[STEPS] == scales.tensors[SETTLED] == scales.tensors[250]
    assert abs(scales.objects[STEPS] - scales.objects[SETTLED]) < 200
    assert scales.bytes[STEPS] - scales.bytes[SETTLED] < 64 * 1024


class Activation(nn.Module):
    """Keeps a weak reference to what autograd has to keep until the backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[weakref.ref[Tensor]] = []

    def forward(self, given: Tensor) -> Tensor:
        result = given.exp()  # which its backward needs
        self.seen.append(weakref.ref(result))
        return result


class Looking(pl.Callback):
    """Asserts that a step's graph, hooks and operators are gone when the step is."""

    def __init__(self, activation: Activation) -> None:
        self.activation = activation
        self.steps = 0
        self.losses: list[weakref.ref[Any]] = []

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        self.losses.append(weakref.ref(loss))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        assert not any(reference() is not None for reference in self.activation.seen)
        for parameter in pl_module.parameters():
            assert not parameter._backward_hooks
            assert parameter.grad.grad_fn is None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.steps += 1
        assert not any(reference() is not None for reference in self.activation.seen)
        assert not any(reference() is not None for reference in self.losses[:-1])
        optimizer = trainer.optimizers[0]
        assert not optimizer._optimizer_step_post_hooks
        assert not optimizer._optimizer_step_pre_hooks
        for module in pl_module.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert not module._backward_hooks


@pytest.mark.parametrize("window", [1, 3])
def test_no_graph_is_held_after_its_backward(window: int, nowhere: Nowhere, tmp_path: Path) -> None:
    """By reference counts alone: there is no cycle for the collector to find."""
    activation = Activation()
    network = nn.Sequential(nn.Linear(6, 4), activation, nn.Linear(4, 3))
    looking = Looking(activation)
    loader = loader_of(rows_of_pairs(40))
    gc.collect()
    gc.disable()
    try:
        fit(
            tmp_path,
            Learner(network),
            loader,
            watching(),
            looking,
            accumulate_grad_batches=window,
        )
    finally:
        gc.enable()
    assert looking.steps == 5
    assert nowhere.written == {1: 5, 3: 2}[window]


def captured(monitor: Monitor, model: nn.Module, batch: Any, step: int, *, ends: bool) -> Tensor:
    """One captured step in a plain loop; the loss is returned after its backward, or failure."""
    assert monitor.begin_step(step)
    monitor.begin_batch(batch)
    loss = cross_entropies(model, batch).mean()
    monitor.before_backward(loss)
    if ends:
        loss.backward()
        monitor.after_backward()
    return loss


def hooks_of(loss: Tensor) -> int:
    """How many nodes below the loss call something before they run."""
    assert loss.grad_fn is not None
    found, stack, seen = 0, [loss.grad_fn], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        probe = node.register_prehook(lambda grads: None)
        # Handles number the hooks of their node from 0 on; a node without others has one now.
        found += len(probe.hooks_dict_ref() or ()) - 1
        probe.remove()
        stack += [each for each, _ in node.next_functions if each is not None]
    return found


@pytest.mark.parametrize("ends", [True, False], ids=["backward", "no backward"])
def test_hooks_are_gone(ends: bool) -> None:
    model = perceptron()
    batch = next(iter(loader_of(rows_of_pairs(8))))
    config = {"quantities": list(PER_SAMPLE), "on_error": "raise"}
    with Monitor(model, config, sinks=[Nowhere()]) as monitor:
        kept = monitor
        loss = captured(monitor, model, batch, 0, ends=ends)
        if not ends:
            assert hooks_of(loss) > 0, "they are seen while they are there"
            kept.abandon_step()
        assert hooks_of(loss) == 0
        kept.abandon_step()


def test_an_abandoned_backward_lets_go_of_its_graph(nowhere: Nowhere, tmp_path: Path) -> None:
    activation = Activation()
    network = nn.Sequential(nn.Linear(6, 4), activation, nn.Linear(4, 3))
    batch = next(iter(loader_of(rows_of_pairs(8))))
    monitor = Monitor(network, {"quantities": list(PER_SAMPLE), "on_error": "raise"}, sinks=[])
    for step in range(3):
        loss = captured(monitor, network, batch, step, ends=False)
        del loss
        monitor.abandon_step()
        assert not any(reference() is not None for reference in activation.seen)
    monitor.close()


def test_batches_are_not_held(nowhere: Nowhere, tmp_path: Path) -> None:
    """The next step's batch is all that is left of the last one's at most."""
    seen: list[weakref.ref[Any]] = []

    class Noting(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, _: int) -> None:
            assert sum(reference() is not None for reference in seen) <= 1
            seen.append(weakref.ref(batch[0]))

    fit(tmp_path, Learner(perceptron()), loader_of(rows_of_pairs(64)), watching(), Noting())
    gc.collect()
    assert len(seen) == 8
    assert sum(reference() is not None for reference in seen) == 0


def test_torch_is_as_it_was_after_a_step() -> None:
    """Global switches that a capture may touch on its way."""
    model = perceptron()
    batch = next(iter(loader_of(rows_of_pairs(8))))
    state = torch.get_rng_state()
    with Monitor(model, {"quantities": list(PER_SAMPLE)}, sinks=[Nowhere()]) as monitor:
        captured(monitor, model, batch, 0, ends=True)
        monitor.abandon_step()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert torch.equal(torch.get_rng_state(), state)
