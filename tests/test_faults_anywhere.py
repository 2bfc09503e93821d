"""Wherever the monitor fails, the training ends as without it, and someone is told."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from helpers import trainer
from jacoscope import Monitor, SensitivityMonitor
from jacoscope.faults import MonitorWarning
from jacoscope.sinks import MemorySink
from sample_training import Learner, fit, loader_of, perceptron, rows_of_pairs

PLACES = [
    "callback:loss_scale",
    "callback:gradient_info",
    "callback:_completed",
    "callback:_stepped",
    "_sampler:SampledIndices.of_batch",
    "_sampler:SampledIndices.watch",
    "monitor:Monitor.next_due",
    "agenda:Agenda.due",
    "agenda:Agenda.next_due",
    "agenda:Agenda.conclude",
    "opening:StepOpening.open",
    "captured_samples:CapturedSamples.begin_batch",
    "captured_samples:CapturedSamples.begin_window",
    "captured_samples:CapturedSamples.before_backward",
    "captured_samples:CapturedSamples.after_backward",
    "captured_samples:CapturedSamples.before_step",
    "captured_samples:EagerForward.end",
    "captured_step:CapturedStep.record",
    "captured_step:CapturedStep.send",
    "capturing:Versions.changed",
    "capturing:OptimizerStepCapture.before_step",
    "capturing:OptimizerStepCapture.finish",
    "capturing:OptimizerStepCapture.detach",
    "transit:Transit.send",
    "transit:Transit.arrived",
    "transit:Transit.give_up",
    "reduction:Transfer.result",
    "reduction:_Crossing.wait",
    "pacing:Overhead.begin_step",
    "pacing:Overhead.begin_capture",
    "pacing:Overhead.add",
    "pacing:Overhead.once",
    "pacing:Overhead.probed",
    "pacing:Overhead.pause",
    "pacing:Overhead.state_dict",
    "adapting:Adaptation.saw",
    "adapting:Adaptation.ends_at",
    "adapting:Adaptation.state_dict",
    "prober:Prober.begin",
    "prober:Prober.begin_batch",
    "prober:Prober.before_step",
    "prober:Prober.finish",
    "prober:Prober.conclude",
    "prober:Prober.abandon",
    "prober:Prober.state_dict",
    "quantities:RunningMeans.update",
    "quantities:RunningMeans.state_dict",
    "leaderboard:Leaderboard.add",
    "leaderboard:Leaderboard.close_epoch",
    "leaderboard:Leaderboard.state_dict",
    "alerts._messenger:Messenger.tell",
    "alerts._messenger:Messenger.state_dict",
    "recorder:Recorder.write",
    "recorder:Recorder.rank",
    "recorder:Recorder.write_probe",
    "recorder:Recorder.tell_withheld",
    "recorder:Recorder.close_epoch",
    "sinks:TensorBoardSink.write",
    "sinks:TensorBoardSink.close",
]


def monitor() -> SensitivityMonitor:
    return SensitivityMonitor(
        quantities=("grad_norm", "update_ratio", "sample_grad_norm", "coherence", "actual_change"),
        schedule={"every": 2, "first": 2},  # type: ignore[arg-type]
        overhead=0.9,
        output={"pictures": ()},  # type: ignore[arg-type]
        samples={"compiled": "eager"},  # type: ignore[arg-type]
    )


class Validated(Learner):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.training_step(batch, batch_idx))


def weights(folder: Path, watched: SensitivityMonitor | None) -> list[list[float]]:
    torch.manual_seed(0)
    module = Validated(perceptron())
    loader = loader_of(rows_of_pairs(40))
    callbacks = [watched] if watched is not None else []
    fitting = trainer(pl, folder, callbacks=callbacks, logger=False, max_epochs=2)
    fitting.fit(module, loader, loader)
    return [parameter.flatten().tolist() for parameter in module.parameters()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    return weights(tmp_path_factory.mktemp("plain"), None)


@pytest.fixture(autouse=True)
def _stance() -> Iterator[None]:
    """What a planted fault has left of the compiler's stance is put back."""
    yield
    torch.compiler.set_stance("default")


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
@pytest.mark.parametrize("place", PLACES)
def test_a_fault(
    place: str, plain: list[list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, what = place.split(":")
    owner: Any = importlib.import_module(f"jacoscope.{where}")
    *path, name = what.split(".")
    for each in path:
        owner = getattr(owner, each)
    failures = []

    def fail(*_: Any, **__: Any) -> Any:
        failures.append(place)
        raise RuntimeError("this was planted")

    assert callable(getattr(owner, name))
    monkeypatch.setattr(owner, name, fail)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert weights(tmp_path, monitor()) == plain
    assert failures, "this place is not reached"
    sentences = [str(each.message) for each in told if each.category is MonitorWarning]
    assert any("this was planted" in sentence for sentence in sentences)
    assert len(set(sentences)) == len(sentences), "each is told once"


class _OwnError(Exception):
    pass


@pytest.mark.parametrize("policy", ["warn", "raise"])
@pytest.mark.filterwarnings("ignore::jacoscope.faults.MonitorWarning")
def test_an_error_of_the_training_is_the_one_that_is_raised(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = SensitivityMonitor(
        schedule={"every": 1},  # type: ignore[arg-type]
        on_error=policy,  # type: ignore[arg-type]
    )

    class Failing(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 2:

                def fail(*_: Any) -> Any:
                    raise RuntimeError("the device is gone")

                monkeypatch.setattr("jacoscope.reduction._Shipment.unpack", fail)
                monkeypatch.setattr("jacoscope.recorder.Recorder.close", fail)
                raise _OwnError("of the training")
            return super().training_step(batch, batch_idx)

    with pytest.raises(_OwnError) as caught:
        fit(tmp_path, Failing(perceptron()), loader_of(rows_of_pairs(40)), watched)
    assert caught.value.__context__ is None


def test_sinks_are_closed_even_where_faults_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closing(MemorySink):
        is_closed = False

        def close(self) -> None:
            self.is_closed = True

    sink = Closing()
    watched = Monitor(torch.nn.Linear(2, 1), {"on_error": "raise"}, sinks=[sink])

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("this was planted")

    monkeypatch.setattr("jacoscope.transit.Transit.give_up", fail)
    with pytest.raises(RuntimeError, match="planted"):
        watched.close()
    assert sink.is_closed
