"""What fails while a model is probed never reaches the training, is told once, and recorded."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from helpers import fingerprint, trainer
from jacoscope import MonitorWarning, read_run
from jacoscope.config import QuantityName
from jacoscope.quantities import PROBES
from probe_training import (
    OF_LOSS,
    OF_OUTPUTS,
    PROBED,
    Learner,
    into_memory,
    missing_of,
    quietly,
    values_of,
    watching,
)
from sample_training import loader_of, perceptron, rows_of_pairs

Patch = pytest.MonkeyPatch
ALLOCATED = ("allocated_change", "allocation_gap")
OF_STEP = tuple(name for name in OF_LOSS if name not in ALLOCATED)


def explode(*_: Any, **__: Any) -> Any:
    raise RuntimeError("planted")


def families(*names: str) -> tuple[QuantityName, ...]:
    return tuple(name for name in PROBED if any(name in PROBES[each] for each in names))


BY_PARAMETERS = families("Output Jacobian", "Tangent kernel")
BY_PLACES = families("Input Jacobian", "Layer Jacobian")
STAGES: dict[str, tuple[str, tuple[QuantityName, ...], int]] = {
    "keeping the batch": ("prober.first_samples", PROBED, 1),
    "keeping the weights": ("prober.points_of", OF_LOSS, 1),
    "copying": ("probe_copies.replica", PROBED, 3),
    "isolating": ("prober.isolated", PROBED, 3),
    "targets": ("prober.targets_of", OF_OUTPUTS, 1),
    "what goes in": ("output_probe.arguments_of", OF_OUTPUTS, 1),
    "rows": ("output_probe.rows_of", OF_OUTPUTS, 3),
    "products": ("output_probe.products", BY_PARAMETERS, 1),
    "the kernel": ("output_probe.NeuralTangentKernel", BY_PARAMETERS, 1),
    "spectral norms": ("output_probe.spectral_norms", BY_PARAMETERS, 1),
    "places": ("output_probe.place_jacobian", BY_PLACES, 2),
    "saliency": ("output_probe.saliency_of", families("Input Jacobian"), 1),
    "preparing the loss": ("loss_probe.Loss", OF_LOSS, 2),
    "the batch of the loss": ("loss_probe.first_samples", OF_LOSS, 2),
    "evaluating the loss": ("probing._loss.Loss.value", OF_LOSS, 2),
    "gradients of the loss": ("probing._loss.Loss.gradient", OF_LOSS, 2),
    "the training step": ("_training_loss.TrainingLoss.__call__", OF_LOSS, 2),
    "silencing": ("_training_loss.TrainingLoss.silence", PROBED, 3),
    "comparing": ("loss_probe.compare", OF_STEP, 1),
    "allocating": ("loss_probe.allocate", ALLOCATED, 1),
}
"""By stage: what fails, what is lost, and of how many subjects is said so."""


def train(folder: Path, monitor: Any, **options: Any) -> tuple[str, Any]:
    pl.seed_everything(7, verbose=False)
    module = Learner(perceptron(dropout=0.3), torch.optim.AdamW)
    callbacks = [] if monitor is None else [monitor]
    fitting = trainer(
        pl, folder, callbacks=callbacks, **{"logger": False, "max_epochs": 1, **options}
    )
    fitting.fit(module, loader_of(rows_of_pairs(28), shuffle=True))
    states = [optimizer.state_dict() for optimizer in fitting.optimizers]
    return fingerprint(module.state_dict(), states), module


def warned(caught: list[Any]) -> list[str]:
    return [str(each.message) for each in caught if each.category is MonitorWarning]


def hooks_of(module: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in module.modules())


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_leaves_training_as_it_was(stage: str, monkeypatch: Patch, tmp_path: Path) -> None:
    plain, _ = train(tmp_path, None)
    sink = into_memory(monkeypatch)
    path, lost, subjects = STAGES[stage]
    monkeypatch.setattr(f"jacoscope.{path}", explode)
    monitor = watching(("grad_norm", *PROBED), on_error="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watched, module = train(tmp_path, monitor)
    assert watched == plain
    said = warned(caught)
    assert len(said) == len(set(said)) == subjects, said
    assert all("planted" in text and len(text.splitlines()) == 1 for text in said)
    assert hooks_of(module) == 0
    assert monitor._session is None
    assert len(sink.records) == 4
    assert [record.step for record in sink.probes] == [0, 1, 2, 3]
    for record in sink.probes:
        assert set(record.withheld) == set(lost)
        assert all("planted" in reason for reason in record.withheld.values())
        assert set(values_of(record)) == set(PROBED) - set(lost)
        assert not missing_of(record)


@pytest.mark.parametrize("stage", STAGES)
def test_on_error_raise_lets_it_through(stage: str, monkeypatch: Patch, tmp_path: Path) -> None:
    into_memory(monkeypatch)
    monkeypatch.setattr(f"jacoscope.{STAGES[stage][0]}", explode)
    monitor = watching(PROBED, on_error="raise")
    with pytest.raises(RuntimeError, match="planted"):
        train(tmp_path, monitor)
    assert monitor._session is None


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
@pytest.mark.parametrize(
    "path", ["probe_session.finish_record", "probe_session.ProbeRecord", "prober.Prober.finish"]
)
def test_a_record_that_cannot_be_made(path: str, monkeypatch: Patch, tmp_path: Path) -> None:
    plain, _ = train(tmp_path, None)
    sink = into_memory(monkeypatch)
    monkeypatch.setattr(f"jacoscope.{path}", explode)
    with pytest.warns(MonitorWarning, match="probing failed and is left out.*planted") as caught:
        watched, _ = train(tmp_path, watching(("grad_norm", *PROBED), on_error="warn"))
    assert len(warned(list(caught))) == 1
    assert watched == plain
    assert len(sink.records) == 4
    assert not sink.probes


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("sinks._record_events.describe_probe", "writing to TensorBoard"),
        ("sinks._record_events.probe_tensors", "writing to TensorBoard"),
        ("sinks._probe_pictures.ProbePictures.write", "drawing probes"),
        ("sinks._probe_pictures.ProbePictures.draw", "drawing probes"),
    ],
)
def test_a_fault_while_writing(path: str, subject: str, monkeypatch: Patch, tmp_path: Path) -> None:
    plain, _ = train(tmp_path, None)
    monkeypatch.setattr(f"jacoscope.{path}", explode)
    monitor = watching(("grad_norm", *PROBED), on_error="warn")
    logger = TensorBoardLogger(tmp_path, name="run", version=0)
    with pytest.warns(MonitorWarning, match=f"{subject} failed") as caught:
        watched, _ = train(tmp_path, monitor, logger=logger)
    assert len(warned(list(caught))) == 1
    assert watched == plain
    if subject == "drawing probes":  # the record does not hang on its pictures
        run = read_run(tmp_path)
        assert run.probes.steps == [0, 1, 2, 3]
        assert set(run.quantities) == {"grad_norm", *PROBED}


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
def test_a_fault_that_passes_costs_one_probe(monkeypatch: Patch, tmp_path: Path) -> None:
    """The allocation makes up for it with the next: it goes on from where it was."""
    import jacoscope.loss_probe as module

    sink = into_memory(monkeypatch)
    allocate, compare, calls = module.allocate, module.compare, [0, 0]

    def counted(place: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls[place] += 1
            return explode() if calls[place] == 2 else function(*arguments, **options)

        return call

    monkeypatch.setattr(module, "allocate", counted(0, allocate))
    monkeypatch.setattr(module, "compare", counted(1, compare))
    with pytest.warns(MonitorWarning) as caught:
        train(tmp_path, watching(PROBED, on_error="warn"))
    assert len(warned(list(caught))) == 2
    assert [sorted(record.withheld) for record in sink.probes] == [[], sorted(OF_LOSS), [], []]
    losses = [record.allocation for record in sink.probes]
    assert losses[0] is not None
    assert losses[2] is not None
    reached = losses[2].loss - (losses[0].loss - losses[0].change)
    assert losses[2].change == pytest.approx(reached, abs=1e-6)


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
def test_a_fault_in_the_last_probe_does_not_cost_the_record(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    """The end of the run is at the same step; a second record would take the first one's place."""
    import jacoscope.loss_probe as module

    allocate, calls = module.allocate, [0]

    def counted(*arguments: Any) -> Any:
        calls[0] += 1
        return explode() if calls[0] == 4 else allocate(*arguments)

    monkeypatch.setattr(module, "allocate", counted)
    logger = TensorBoardLogger(tmp_path, name="run", version=0)
    with pytest.warns(MonitorWarning):
        train(tmp_path, watching(PROBED, on_error="warn"), logger=logger)
    run = read_run(tmp_path)
    assert list(run["actual_change"].index) == [0, 1, 2, 3]
    assert list(run["allocated_change"].index) == [0, 1, 2]


class Crashing(Learner):
    def __init__(self, network: nn.Module, at: int = 2) -> None:
        super().__init__(network)
        self.at = at

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == self.at:
            raise ZeroDivisionError("planted")
        return super().training_step(batch, batch_idx)


def test_an_exception_in_training_leaves_nothing_attached(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    sink = into_memory(monkeypatch)
    module, monitor = Crashing(perceptron()), watching(("grad_norm", *PROBED))
    with pytest.raises(ZeroDivisionError, match="planted"):
        quietly(tmp_path, module, loader_of(rows_of_pairs(28)), monitor)
    assert monitor._session is None
    assert hooks_of(module) == 0
    assert [record.step for record in sink.probes] == [0, 1]
    assert module.training
    assert all(p.requires_grad and not p._backward_hooks for p in module.parameters())


def test_what_was_allocated_until_an_exception_is_of_the_last_step(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    """Nothing was due from step 2 on; the step that failed came to nothing."""
    sink = into_memory(monkeypatch)
    monitor = watching(ALLOCATED, every=10)
    with pytest.raises(ZeroDivisionError, match="planted"):
        quietly(tmp_path, Crashing(perceptron(), at=4), loader_of(rows_of_pairs(56)), monitor)
    assert [record.step for record in sink.probes] == [0, 3]


def test_an_exception_within_a_window_leaves_nothing_attached(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    sink = into_memory(monkeypatch)
    module, monitor = Crashing(perceptron()), watching(PROBED)
    with pytest.raises(ZeroDivisionError, match="planted"):
        quietly(tmp_path, module, loader_of(rows_of_pairs(28)), monitor, accumulate_grad_batches=4)
    assert monitor._session is None
    assert not sink.probes


class Unrepeatable(Learner):
    """What it returns depends on how often it was called, which no copy knows."""

    calls = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        type(self).calls += 1
        return super().training_step(batch, batch_idx) * (1 + type(self).calls)


def test_what_cannot_be_done_is_logged_once(
    monkeypatch: Patch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no fault: there is a reason in every record, a line in the log, and no warning."""
    sink = into_memory(monkeypatch)
    loader = loader_of(rows_of_pairs(28))
    with caplog.at_level(logging.WARNING, "jacoscope"):
        said = quietly(tmp_path, Unrepeatable(perceptron()), loader, watching(on_error="raise"))
    assert said == []
    lines = [each for each in caplog.messages if "is left out" in each]
    assert len(lines) == 2, lines
    for record in sink.probes:
        assert set(record.withheld) == set(OF_LOSS)
        assert all("the next time" in why for why in record.withheld.values())
        assert set(values_of(record)) == set(OF_OUTPUTS)


def test_numbers_that_are_not_finite_are_recorded_as_such(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    """Training that diverges is probed on: nan where a number is none, no fault, no zero."""
    sink = into_memory(monkeypatch)
    module = Learner(perceptron(), lr=math.inf)
    assert quietly(tmp_path, module, loader_of(rows_of_pairs(24)), watching()) == []
    assert [record.step for record in sink.probes] == [0, 1, 2]
    last = values_of(sink.probes[-1])
    assert math.isnan(last["output_jacobian_norm"]["(all)"])
    assert math.isnan(last["ntk_top_eigenvalue"]["(all)"])
    assert math.isnan(last["actual_change"]["(all)"])
    for record in sink.probes:
        assert not record.withheld
        assert not missing_of(record)
