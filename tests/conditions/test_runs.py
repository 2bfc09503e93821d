"""Trainings that are searched for options, interrupted and resumed, or that skip a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.tuner import Tuner

from conditions.condition import Condition
from conditions.expected import expected_parameters, expected_probes, expected_samples
from conditions.rows_precision import scaled
from conditions.rows_trainer import Searched
from conditions.test_conditions import compare, recorded, watching
from conditions.witness import Witness
from helpers import fingerprint, trainer
from jacoscope import SensitivityMonitor
from jacoscope.sinks import MemorySink
from sample_training import into_memory, perceptron


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> MemorySink:
    return into_memory(monkeypatch)


def fitting_of(folder: Path, monitor: SensitivityMonitor | None, **options: Any) -> Any:
    callbacks = [] if monitor is None else [monitor]
    given = {"logger": False, "max_epochs": 2, "precision": "64-true", **options}
    return trainer(pl, folder, callbacks=[*callbacks, *given.pop("more", [])], **given)


def searched() -> Searched:
    pl.seed_everything(7, verbose=False)
    return Searched(perceptron(torch.float64))


_SAVED = 2
PLAIN = Condition("Runs", "plain", module=searched)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("search", ["lr_find", "scale_batch_size"])
def test_nothing_of_a_tuner_s_search_is_recorded(
    search: str, sink: MemorySink, tmp_path: Path
) -> None:
    digests = []
    for monitor in (watching(PLAIN), None):
        module = searched()
        fitting = fitting_of(tmp_path, monitor)
        tuner = Tuner(fitting)
        if search == "lr_find":
            tuner.lr_find(module, num_training=4, early_stop_threshold=None)
        else:
            tuner.scale_batch_size(module, max_trials=1, steps_per_trial=2)
        assert not sink.records or monitor is None, "the search was recorded"
        fitting.fit(module)
        digests.append(fingerprint(module.state_dict()))
    assert digests[0] == digests[1]
    steps = [record.step for record in sink.records]
    assert steps == list(range(fitting.global_step))
    assert [record.step for record in sink.probes] == steps
    assert not any(record.withheld for record in [*sink.records, *sink.probes])


class _SavesInTheMiddle(pl.Callback):
    """Saves in the middle of an epoch."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == _SAVED:
            trainer.save_checkpoint(self._path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("window", [1, 2])
def test_a_run_resumed_in_the_middle_of_an_epoch(
    window: int, sink: MemorySink, tmp_path: Path
) -> None:
    path = tmp_path / "middle.ckpt"
    options = {"accumulate_grad_batches": window}
    fitting_of(tmp_path, watching(PLAIN), more=[_SavesInTheMiddle(path)], **options).fit(searched())
    sink.records.clear()
    sink.probes.clear()
    witnesses = []
    for monitor in (watching(PLAIN), None):
        witnesses.append(Witness())
        module = searched()
        fitting = fitting_of(tmp_path, monitor, more=witnesses[-1:], **options)
        fitting.fit(module, ckpt_path=path)
    assert witnesses[0].digests == witnesses[1].digests
    found = recorded(sink)
    assert sorted(found) == list(range(_SAVED, fitting.global_step))
    for number, values in found.items():
        for expected in (expected_parameters, expected_samples, expected_probes):
            wanted = expected(PLAIN, witnesses[0].step(number), witnesses[0].step(_SAVED))
            compare(PLAIN, PLAIN.parameters, values, wanted, "all", number)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_record_of_a_step_that_the_gradient_scaler_skips(
    sink: MemorySink, tmp_path: Path
) -> None:
    plugins = scaled(init_scale=2.0**30, backoff_factor=2.0**-20)()
    module = Searched(perceptron())
    asked = {"quantities": ["grad_norm", "grad_nonfinite", "update_norm", "update_ratio"]}
    monitor = SensitivityMonitor(**asked, schedule={"every": 1}, alerts=[])
    data = [(x.float(), y) for x, y in searched().train_dataloader().dataset]
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    fitting_of(tmp_path, monitor, precision=None, plugins=plugins, max_epochs=1).fit(module, loader)
    first, second = sink.records[:2]
    values = {record.quantity: record.values for record in first.records}
    assert values["grad_nonfinite"].sum() > 0
    assert (values["update_norm"] == 0).all()
    assert "skips a step whose gradients are not finite" in first.gradient.scaling
    values = {record.quantity: record.values for record in second.records}
    assert values["grad_nonfinite"].sum() == 0
    assert (values["update_norm"] > 0).all()
