"""Parameters split over two gloo processes by the strategies of Lightning.

The reference trains the same network in one process on the samples of both, by plain autograd.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import Precision
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import post_localSGD_hook

from helpers import classifier, data
from jacoscope import SensitivityMonitor, read_run
from jacoscope._lightning import withheld_reason
from sharded_loops_script import STEPS, Even, Network
from test_callback_ddp import launch
from test_sharded_loops import UNUSED, Outcome, check, reasons_of, values_of

SCRIPT = Path(__file__).with_name("model_parallel_script.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strategies")
    done = launch(SCRIPT, str(folder), timeout=150)
    assert done.stdout.count("DONE") == 2
    return folder


def outcome_of(folder: Path, name: str) -> Outcome:
    outcome = Outcome(folder, name, 2)
    assert outcome.warned[1] == []
    return outcome


SINGLE: dict[str, Any] = {"tolerance": (2e-3, 1e-5), "counted": False, "zeros": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        ("data", [0, 1, 2], {"clip": 0.1}),
        ("accumulated", [0, 1, 2], {}),
        ("manual", [1, 3, 5], {}),
        ("tensors", [0, 1, 2], {"make": Even}),
        ("wrapped", [0, 1, 2], SINGLE),
    ],
)
def test_numbers_are_those_of_the_whole(
    name: str, steps: list[int], options: Mapping[str, Any], folder: Path
) -> None:
    outcome = outcome_of(folder, name)
    check(outcome, prefix="network.", **options)
    assert outcome.warnings == []
    assert [record.step for record in outcome.records] == steps
    assert {record.gradient.ranks for record in outcome.records} == {2}


@pytest.mark.slow
def test_a_hook_of_rank_zero_decides(folder: Path) -> None:
    outcome = outcome_of(folder, "hook")
    assert [record.step for record in outcome.records] == [1]
    assert reasons_of(outcome.records[0])["network.unused"] == {UNUSED}


@pytest.mark.slow
def test_an_exception_in_the_training_waits_for_no_one(folder: Path) -> None:
    outcome = outcome_of(folder, "stopped")
    assert [record.step for record in outcome.records] == [0, 1]
    said = "the run ended before its processes had brought their shards together"
    for record in outcome.records:
        assert not values_of(record)
        assert set.union(*reasons_of(record).values()) == {said}


@pytest.mark.slow
def test_one_flat_parameter_is_withheld(folder: Path) -> None:
    outcome = outcome_of(folder, "flattened")
    assert not outcome.records
    assert "pass use_orig_params=True" in outcome.warnings[0]


@pytest.mark.slow
def test_one_event_file_has_it_all(folder: Path) -> None:
    assert len(list((folder / "logged").rglob("*tfevents*"))) == 1
    run = read_run(folder / "logged")
    assert list(run.steps.index) == list(range(STEPS))
    names = {f"network.{name}" for name, _ in Network().named_parameters()}
    assert set(run["weight_norm"].columns) == names
    assert not run["weight_norm"].isna().any(axis=None)


def trainer_of(strategy: Any, processes: int) -> Any:
    plugin = Precision()
    return SimpleNamespace(strategy=strategy, world_size=processes, precision_plugin=plugin)


class DDPStrategy:
    pass


class DeepSpeedStrategy(DDPStrategy):
    """As Lightning's, which is a kind of DDP to it."""


class SingleDeviceStrategy:
    pass


class SwarmStrategy:
    pass


@pytest.mark.parametrize(
    ("strategy", "processes", "told"),
    [
        (DDPStrategy, 2, None),
        (SingleDeviceStrategy, 1, None),
        (SwarmStrategy, 1, None),
        (
            SwarmStrategy,
            2,
            "how SwarmStrategy spreads parameters and gradients over processes is not known",
        ),
        (
            DeepSpeedStrategy,
            2,
            "DeepSpeed keeps gradients in buffers of its own, where they cannot be read",
        ),
        (
            DeepSpeedStrategy,
            1,
            "DeepSpeed keeps gradients in buffers of its own, where they cannot be read",
        ),
    ],
)
def test_when_all_parameters_are_withheld(strategy: Any, processes: int, told: str | None) -> None:
    trainer = trainer_of(strategy(), processes)
    assert withheld_reason(trainer) == told


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        (fp16_compress_hook, None),
        (
            post_localSGD_hook,
            "the communication hook post_localSGD_hook leaves each process a gradient of its own",
        ),
    ],
)
def test_gradients_that_no_process_shares_are_withheld(hook: Any, told: str | None) -> None:
    strategy = DDPStrategy()
    vars(strategy)["_ddp_comm_hook"] = hook
    trainer = trainer_of(strategy, 2)
    assert withheld_reason(trainer) == told


def test_processes_are_left_where_the_run_cannot_begin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left: list[bool] = []
    processes = SimpleNamespace(rank=0, size=1, close=lambda: left.append(True))
    monkeypatch.setattr("jacoscope.callback.processes_of", lambda *_: (processes, None))

    def explode(*_: Any) -> Any:
        raise OSError("no space left")

    monkeypatch.setattr("jacoscope.callback.make_sinks", explode)
    options: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", callbacks=[SensitivityMonitor()], **options
    )
    with pytest.raises(OSError, match="no space left"):
        trainer.fit(classifier(), data())
    assert left == [True]
