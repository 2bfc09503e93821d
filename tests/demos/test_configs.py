"""Every shipped experiment is built and trained as LightningCLI would, without the monitor."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["jacoscope"])  # LightningCLI warns of pytest's arguments


def _fit(path: Path, trainer: dict[str, Any], **replacements: Any) -> LightningCLI:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config.pop("monitor", None)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    config["trainer"] |= quiet | trainer
    cli = LightningCLI(args=config | replacements, run=False, save_config_callback=None)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return cli


def _config(name: str) -> Path:
    return next(path for path in CONFIGS if path.stem == name)


def test_all_experiments_are_here() -> None:
    assert [path.stem for path in CONFIGS] == [
        "diabetes_mlp",
        "digits_cnn",
        "digits_mlp",
        "digits_resnet",
        "topics_lstm",
        "topics_transformer",
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_batches_train(path: Path) -> None:
    cli = _fit(path, {"fast_dev_run": 2})
    assert cli.trainer.global_step == 2
    assert cli.trainer.callback_metrics["train/loss"].isfinite()
    assert cli.trainer.callback_metrics["val/loss"].isfinite()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_runs_land_under_the_name_of_the_config(path: Path) -> None:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    logger = config["trainer"]["logger"]
    assert logger["class_path"] == "lightning.pytorch.loggers.TensorBoardLogger"
    assert logger["init_args"]["save_dir"] == "runs"
    assert logger["init_args"]["name"] == path.stem


@pytest.mark.parametrize("name", ["digits_cnn", "topics_transformer"])
def test_same_seed_gives_the_same_weights(name: str) -> None:
    first, second = (_fit(_config(name), {"fast_dev_run": 2}).model for _ in range(2))
    for before, after in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(before, after)


def test_optimizer_key_overrides_the_task_s_own() -> None:
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    cli = _fit(_config("digits_mlp"), {"fast_dev_run": 1}, optimizer=sgd)
    assert isinstance(cli.trainer.optimizers[0], torch.optim.SGD)


def test_main_experiment_learns_the_digits() -> None:
    short = {"max_epochs": 10, "logger": False, "enable_checkpointing": False}
    cli = _fit(_config("digits_cnn"), short)
    assert cli.trainer.callback_metrics["val/accuracy"] >= 0.97
