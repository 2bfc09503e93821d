"""What fails while samples are captured never reaches the training, and is told once."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import RandomSampler

from helpers import fingerprint
from jacoscope import Monitor, MonitorWarning
from jacoscope.capturing._backward import BackwardCapture
from jacoscope.capturing._capture import JacobianCapture
from jacoscope.capturing._passes import is_extra_pass
from jacoscope.capturing._straight import Straight
from jacoscope.capturing.rules import RULES
from jacoscope.sinks import MemorySink
from sample_training import (
    PER_SAMPLE,
    Learner,
    fit,
    into_memory,
    loader_of,
    perceptron,
    rows_of_pairs,
    watching,
)

Patch = pytest.MonkeyPatch


def explode(*_: Any, **__: Any) -> Any:
    raise RuntimeError("planted")


def at(path: str) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(path, explode)


def every_rule(patch: Patch) -> None:
    for key in RULES:
        patch.setitem(RULES, key, explode)  # type: ignore[misc]
    patch.setattr(Straight, "taken", explode)


def rules_after_the_plan(patch: Patch) -> None:
    """The rehearsal goes well, the backward itself does not."""
    told, taken = BackwardCapture._told, Straight.taken

    def told_until_now(capture: BackwardCapture, *arguments: Any) -> Any:
        return told(capture, *arguments) if capture._rehearsal else explode()

    def taken_until_now(layer: Straight, *arguments: Any) -> Any:
        return taken(layer, *arguments) if is_extra_pass() else explode()

    patch.setattr(BackwardCapture, "_told", told_until_now)
    patch.setattr(Straight, "taken", taken_until_now)


CAPTURE = "jacoscope.sample_backward"
RESULTS = "jacoscope.sample_results"
STAGES: dict[str, Callable[[Patch], None]] = {
    "telling samples apart": at(f"{CAPTURE}.samples_of"),
    "labels": at(f"{CAPTURE}.labels_of"),
    "losses": at(f"{CAPTURE}.sample_losses"),
    "things": at(f"{CAPTURE}.things_of"),
    "walking": at("jacoscope.capturing._capture.walk"),
    "planning": at("jacoscope.capturing._calibration.make_plan"),
    "verifying": at("jacoscope.capturing._calibration._Verification.run"),
    "every rule": every_rule,
    "rules in the backward": rules_after_the_plan,
    "attaching": at("jacoscope.capturing._capture.JacobianCapture.attach"),
    "attaching half": at("jacoscope.capturing._capture.JacobianCapture._at_leaf"),
    "checking": at("jacoscope.capturing._capture.Check.of"),
    "measuring": at(f"{CAPTURE}.measure_samples"),
    "the parcel": at(f"{CAPTURE}.Parcel"),
    "unpacking": at("jacoscope.reduction.Parcel.unpack"),
    "judging": at("jacoscope.capturing._capture.JacobianCapture.judge"),
    "grouping": at(f"{RESULTS}.group_of"),
    "statistics": at(f"{RESULTS}.sample_statistics"),
    "running means": at("jacoscope.captured_step.noise_parts"),
    "batch for the leaderboard": at(f"{RESULTS}.SampleBatch"),
    "leaderboard": at("jacoscope.leaderboard.Leaderboard.add"),
    "end of the epoch": at("jacoscope.leaderboard.Leaderboard.close_epoch"),
    "listening to the sampler": at("jacoscope._sampler.SampledIndices.watch"),
    "reading the sampler": at("jacoscope._sampler.SampledIndices.of_batch"),
    "leaving the sampler": at("jacoscope._sampler.SampledIndices.release"),
    "groups": at("jacoscope.opening.groups_of"),
}


class Gone:
    """Every capture that was made; none may outlive its step."""

    def __init__(self, patch: Patch) -> None:
        self.captures: list[weakref.ref[Any]] = []
        for kind in (BackwardCapture, JacobianCapture):
            patch.setattr(kind, "__init__", self._noting(kind.__init__))  # type: ignore[misc]

    def _noting(self, make: Any) -> Any:
        def noting(capture: Any, *arguments: Any, **options: Any) -> None:
            self.captures.append(weakref.ref(capture))
            make(capture, *arguments, **options)

        return noting

    def alive(self) -> int:
        gc.collect()
        return sum(capture() is not None for capture in self.captures)


def train(folder: Path, monitor: Any) -> tuple[str, Any]:
    pl.seed_everything(7, verbose=False)
    loader = loader_of(rows_of_pairs(28), shuffle=True)
    module = Learner(perceptron(dropout=0.3), optimizer=torch.optim.AdamW)
    fitting = fit(folder, module, loader, monitor, max_epochs=2)
    states = [optimizer.state_dict() for optimizer in fitting.optimizers]
    return fingerprint(module.state_dict(), states), loader


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_leaves_training_as_it_was(stage: str, monkeypatch: Patch, tmp_path: Path) -> None:
    plain, _ = train(tmp_path, None)
    sink = into_memory(monkeypatch)
    gone = Gone(monkeypatch)
    STAGES[stage](monkeypatch)
    monitor = watching(quantities=("grad_norm", *PER_SAMPLE), on_error="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watched, loader = train(tmp_path, monitor)
    assert watched == plain
    said = [str(each.message) for each in caught if each.category is MonitorWarning]
    assert said, "it must be said"
    assert len(said) == len(set(said)) <= 2, said
    assert all("planted" in text and len(text.splitlines()) == 1 for text in said)
    assert gone.alive() == 0
    assert monitor._session is None
    if stage != "leaving the sampler":
        assert type(loader.batch_sampler.sampler) is RandomSampler
    check_records(stage, sink)


ONLY_BOARDS = ("leaderboard", "end of the epoch")
ONLY_IDS = ("listening to the sampler", "reading the sampler", "leaving the sampler")
ALL_LOST = ("groups",)


def check_records(stage: str, sink: MemorySink) -> None:
    """What did not depend on what failed is there; what did has its reason."""
    if stage in ALL_LOST:
        return
    assert [record.step for record in sink.records] == list(range(8))
    for record in sink.records:
        assert "grad_norm" in {each.quantity for each in record.records}
        if stage in (*ONLY_BOARDS, *ONLY_IDS):
            assert not record.withheld
            assert record.headline["sample_coverage"] == 1.0
            continue
        reasons = {*record.withheld.values()}
        for missing in record.missing.values():
            reasons |= set(missing.values())
        assert reasons, "a reason is in the record"
        assert all("planted" in reason for reason in reasons), reasons
    if stage not in (*ONLY_IDS, "running means"):
        assert not sink.boards


@pytest.mark.parametrize("stage", STAGES)
def test_on_error_raise_lets_it_through(stage: str, monkeypatch: Patch, tmp_path: Path) -> None:
    into_memory(monkeypatch)
    gone = Gone(monkeypatch)
    STAGES[stage](monkeypatch)
    monitor = watching(quantities=("grad_norm", *PER_SAMPLE), on_error="raise")
    loader = loader_of(rows_of_pairs(28), shuffle=True)
    with pytest.raises(RuntimeError, match="planted") as raised:
        fit(tmp_path, Learner(perceptron()), loader, monitor, max_epochs=2)
    del raised
    assert monitor._session is None
    assert gone.alive() == 0
    if stage != "leaving the sampler":
        assert loader.batch_sampler is not None
        assert type(loader.batch_sampler.sampler) is RandomSampler  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
def test_a_fault_that_passes_costs_one_step(monkeypatch: Patch, tmp_path: Path) -> None:
    """What failed once is tried again at the next captured step."""
    sink = into_memory(monkeypatch)
    walk = __import__("jacoscope.capturing._capture", fromlist=["walk"]).walk
    calls: list[int] = []

    def walk_but_once(*arguments: Any) -> Any:
        calls.append(1)
        return explode() if len(calls) == 2 else walk(*arguments)

    monkeypatch.setattr("jacoscope.capturing._capture.walk", walk_but_once)
    loader, monitor = loader_of(rows_of_pairs(32)), watching(on_error="warn")
    with pytest.warns(MonitorWarning, match="capturing per-sample gradients failed") as caught:
        fit(tmp_path, Learner(perceptron()), loader, monitor)
    assert sum(each.category is MonitorWarning for each in caught) == 1
    withheld = [sorted(record.withheld) for record in sink.records]
    assert withheld == [[], sorted(PER_SAMPLE), [], []]
    assert [record.headline["sample_coverage"] for record in sink.records] == [1, 0, 1, 1]


@pytest.mark.parametrize("rows", [None, "rows"])
def test_a_batch_without_samples_is_no_fault(rows: str | None) -> None:
    """Its samples are withheld; those of the next batch are there."""
    model, sink = torch.nn.Linear(3, 2), MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = {
        "quantities": ["grad_norm", "sample_grad_norm"],
        "samples": {"rows": rows},
        "on_error": "raise",
    }
    with Monitor(model, config, sinks=[sink]) as monitor:
        for step, size in enumerate((4, 0, 4)):
            batch = {"x": torch.ones(size, 3), "rows": torch.arange(size)}
            monitor.begin_step(step)
            monitor.begin_batch(batch)
            optimizer.zero_grad()
            loss = model(batch["x"]).square().sum()
            monitor.before_backward(loss)
            loss.backward()
            monitor.after_backward()
            monitor.before_optimizer_step(optimizer)
            optimizer.step()
            monitor.end_step()
    withheld = [record.withheld.get("sample_grad_norm") for record in sink.records]
    assert withheld == [None, "the batch has no samples", None]
    assert all("grad_norm" not in record.withheld for record in sink.records)
