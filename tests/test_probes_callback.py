"""Probes from the callback, against plain autograd in double precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from helpers import trainer
from jacoscope.config import LayerRule
from jacoscope.sinks import MemorySink
from probe_expected import (
    Values,
    compare,
    expected_outputs,
    expected_step,
    kernels,
    members_of,
    simpson,
    twin,
)
from probe_training import (
    Learner,
    Witness,
    fit,
    into_memory,
    learner_class,
    missing_of,
    values_of,
    watching,
)
from sample_training import loader_of, perceptron, rows_of_pairs

NAMES = ("network.0.weight", "network.0.bias", "network.2.weight", "network.2.bias")
LAYERS = {"layer network.0": NAMES[:2], "layer network.2": NAMES[2:]}
CHAIN = ("network.0", "network.2")
DOUBLE: dict[str, Any] = {"precision": "64-true"}


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> MemorySink:
    return into_memory(monkeypatch)


def pairs(samples: int = 24, dtype: torch.dtype = torch.float64, **options: Any) -> DataLoader[Any]:
    return loader_of(rows_of_pairs(samples, dtype), **options)


def loss_of(batch: Any) -> Any:
    inputs, labels = batch[0].double(), batch[1]
    return lambda model: nn.functional.cross_entropy(model(inputs), labels)


def value_of(loss: Any, model: nn.Module) -> float:
    return float(loss(model).detach())


def check(
    sink: MemorySink,
    witness: Witness,
    module: Any,
    rtol: float = 1e-9,
    atol: float = 1e-11,
    skip: tuple[str, ...] = (),
    groups: dict[str, str] | None = None,
) -> None:
    """Every value of every record is that of plain autograd at the weights of the step."""
    allocated: Values = {}
    members, steps = members_of(NAMES, groups), sorted(witness.after)
    inputs, labels = (part.cpu() for part in witness.batches[steps[0]])
    inputs = inputs.double()
    first = kernels(twin(module, witness.after[steps[0]]), inputs, members)
    assert [record.step for record in sink.probes] == steps
    for record in sink.probes:
        start, end = witness.before[record.step], witness.after[record.step]
        now = twin(module, end).eval()
        wanted = expected_outputs(now, inputs, labels, members, first, CHAIN)
        own = loss_of(witness.batches[record.step])
        wanted |= expected_step(twin(module, start), own, start, end, LAYERS)
        reached = loss_of(witness.batches[steps[0]])
        for quantity, rows in simpson(module, reached, start, end, LAYERS).items():
            so_far = allocated.setdefault(quantity, {})
            for row, value in rows.items():
                so_far[row] = so_far.get(row, 0.0) + value
        wanted |= allocated
        kept = {name: rows for name, rows in wanted.items() if name not in skip}
        compare(values_of(record), kept, rtol, atol)
        assert not record.withheld
        assert not missing_of(record)


@pytest.mark.parametrize(
    "package", [lightning.pytorch, pytorch_lightning], ids=lambda package: package.__name__
)
def test_every_value(package: Any, sink: MemorySink, tmp_path: Path) -> None:
    """20 samples in batches of 8: the last batch of each epoch has 4."""
    module, witness = learner_class(package)(perceptron(torch.float64)), Witness()
    layers = [LayerRule(kind="bias", group="biases"), LayerRule()]
    monitor = watching(layers=layers)
    options = {**DOUBLE, "max_epochs": 2, "package": package}
    if package is pytorch_lightning:
        witness = type("Witness", (Witness, package.Callback), {})()
    torch.manual_seed(0)
    fit(tmp_path, module, pairs(20, shuffle=True), monitor, witness, **options)
    assert len(sink.probes) == 6
    assert [record.epoch for record in sink.probes] == [0, 0, 0, 1, 1, 1]
    groups = {"network.0.bias": "biases", "network.2.bias": "biases"}
    check(sink, witness, module, groups=groups)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {"gradient_clip_val": 0.01}),
        (torch.optim.SGD, {"accumulate_grad_batches": 2}),
        (torch.optim.Adam, {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}),
        (torch.optim.AdamW, {}),
        (lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, fused=True), {}),
        (torch.optim.LBFGS, {}),
    ],
    ids=["clipping", "accumulation", "Adam, clipping by value", "AdamW", "fused AdamW", "LBFGS"],
)
def test_whatever_makes_the_step(
    optimizer: Any, options: dict[str, Any], sink: MemorySink, tmp_path: Path
) -> None:
    """The step is what the weights did, and its batch the last one before it."""
    module, witness = Learner(perceptron(torch.float64), optimizer, lr=0.05), Witness()
    fit(tmp_path, module, pairs(), watching(), witness, **DOUBLE, **options)
    if "accumulate_grad_batches" in options:  # outputs are of the window's last batch, too
        assert len(sink.probes) == 2
    check(sink, witness, module)


@pytest.mark.parametrize(
    ("precision", "dtype", "rtol"),
    [("32-true", torch.float32, 1e-3), ("bf16-mixed", torch.float32, 1e-3),
     ("bf16-true", torch.bfloat16, 1e-3)],
)  # fmt: skip
def test_lower_precision_is_evaluated_in_single(
    precision: Any, dtype: torch.dtype, rtol: float, sink: MemorySink, tmp_path: Path
) -> None:
    """The weights are those that training rounds to; nothing more is rounded to 16 bits."""
    network = perceptron(torch.float64).to(dtype)
    module, witness = Learner(network), Witness()
    fit(tmp_path, module, pairs(16, torch.float32), watching(), witness, precision=precision)
    difficult = ("ntk_condition", "ntk_drift", "allocation_gap", "interaction_change")
    check(sink, witness, module, rtol, atol=2e-6, skip=difficult)
    assert all(record.dtype is np.float32 for record in sink.probes)


def test_frozen_parameters(sink: MemorySink, tmp_path: Path) -> None:
    module, witness = Learner(perceptron(torch.float64)), Witness()
    module.network[0].requires_grad_(False)
    fit(tmp_path, module, pairs(), watching(), witness, **DOUBLE)
    check(sink, witness, module)
    for record in sink.probes:
        values = values_of(record)
        assert values["output_jacobian_norm"]["layer network.0"] > 0
        for name in ("predicted_change", "actual_change", "allocated_change"):
            assert values[name]["layer network.0"] == 0.0


# The allocation over a run.


def digits(samples: int = 192) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images[:samples]) / 16, torch.tensor(labels[:samples])


@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"),
    [("64-true", torch.float64, 1e-12), ("32-true", torch.float32, 1e-6)],
)
@pytest.mark.parametrize("every", [1, 5, 7])
def test_what_is_allocated_and_the_gap_make_up_the_true_change(
    every: int,
    precision: Any,
    dtype: torch.dtype,
    tolerance: float,
    sink: MemorySink,
    tmp_path: Path,
) -> None:
    """18 steps: every fifth is probed last at step 15, every seventh at 14; both end at 17."""
    images, labels = digits()
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).to(dtype)
    module, witness = Learner(network, lr=0.5), Witness()
    dataset = TensorDataset(images.to(dtype), labels)
    monitor = watching(("allocated_change", "allocation_gap"), every=every, loss_samples=20)
    loader = DataLoader(dataset, batch_size=32, shuffle=True)
    fit(tmp_path, module, loader, monitor, witness, max_epochs=3, precision=precision)
    first = [part[:20] for part in witness.batches[0]]
    loss, start = loss_of(first), value_of(loss_of(first), twin(module, witness.before[0]))
    for record in sink.probes:
        true = value_of(loss, twin(module, witness.after[record.step])) - start
        allocation = record.allocation
        assert allocation is not None
        shares = sum(allocation.by_layer.values())
        assert shares + allocation.gap == pytest.approx(true, abs=tolerance)
        assert allocation.change == pytest.approx(true, abs=tolerance)
        assert allocation.loss - start == pytest.approx(true, abs=tolerance)
        assert allocation.since == 0
        assert set(allocation.by_layer) == {"network.0", "network.2"}
    probed = [step for step in range(18) if step % every == 0]
    assert [record.step for record in sink.probes] == [*probed, *([17] if every > 1 else [])]
    assert sink.probes[-1].epoch == 2
    assert true < -0.5, "it has learnt"
    if every == 1:
        assert abs(allocation.gap) < 0.01 * abs(true)


def test_the_allocation_goes_on_from_a_checkpoint(sink: MemorySink, tmp_path: Path) -> None:
    """What was allocated is kept; the samples, and the steps after the checkpoint, are new."""
    names = ("allocated_change", "allocation_gap", "ntk_drift")

    def module() -> Any:
        return Learner(perceptron(torch.float64))

    options: dict[str, Any] = {"logger": False, **DOUBLE}
    first = trainer(
        lightning.pytorch, tmp_path, callbacks=[watching(names)], max_epochs=1, **options
    )
    first.fit(module(), pairs())
    first.save_checkpoint(tmp_path / "half.ckpt")
    then = sink.probes[-1].allocation
    sink.probes.clear()
    witness, resumed = Witness(), module()
    callbacks = [watching(names), witness]
    second = trainer(lightning.pytorch, tmp_path, callbacks=callbacks, max_epochs=2, **options)
    second.fit(resumed, pairs(), ckpt_path=tmp_path / "half.ckpt")
    assert [record.step for record in sink.probes] == [3, 4, 5]
    loss = loss_of(witness.batches[3])
    start = value_of(loss, twin(resumed, witness.before[3]))
    assert then is not None
    for record in sink.probes:
        found = record.allocation
        assert found is not None
        assert found.since == 0
        here = value_of(loss, twin(resumed, witness.after[record.step]))
        assert found.change == pytest.approx(then.change + here - start, rel=1e-12)
        assert sum(found.by_layer.values()) + found.gap == pytest.approx(found.change, rel=1e-12)
    assert values_of(sink.probes[0])["ntk_drift"]["(all)"] == pytest.approx(0, abs=1e-12)
