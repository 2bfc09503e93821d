"""Whole runs of the shipped experiments, with and without the callback."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from benchmarking.monitoring import PARAMETER_QUANTITIES
from jacoscope import SensitivityMonitor

__all__ = ["EXPERIMENTS", "whole_fits"]

EXPERIMENTS = ("digits_cnn", "topics_transformer")
_CONFIGS = Path(__file__).parents[2] / "configs"
_WITHOUT = "without the callback"
_EVERY_STEP = ("--monitor.schedule.every=1", "--monitor.layers=[]", "--monitor.output.pictures=[]")
_VARIANTS: dict[str, tuple[str, ...]] = {
    "as shipped": (),
    "default quantities, every step": (*_EVERY_STEP, "--monitor.quantities={default}"),
    "all parameter quantities, every step": (*_EVERY_STEP, "--monitor.quantities={all}"),
}


class _CLI(LightningCLI):
    """Builds an experiment's Trainer, model and data, and runs nothing."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the section ``monitor``."""
        parser.add_lightning_class_args(SensitivityMonitor, "monitor")


def whole_fits(
    names: Sequence[str], rounds: int, epochs: int | None = None
) -> dict[str, dict[str, Any]]:
    """Ratios of a whole ``fit`` with the callback to the same without, by experiment.

    Args:
        names: The experiments.
        rounds: Times that all variants are run, in turn.
        epochs: Epochs, if not the experiment's own.
    """
    rows = {}
    for name in names:
        _fit(name, _WITHOUT, 1)  # reads the data, which later runs find read
        times: dict[str, list[float]] = {variant: [] for variant in (_WITHOUT, *_VARIANTS)}
        for index in range(rounds):
            for variant, seconds in times.items():
                seconds.append(_fit(name, variant, epochs))
                done = f"{name}: round {index + 1} of {rounds}, {variant}: {seconds[-1]:.2f} s"
                print(done, file=sys.stderr, flush=True)
        plain = times[_WITHOUT]
        rows[name] = {
            "epochs": epochs,
            "rounds": rounds,
            "plain_s": statistics.median(plain),
            "ratios": {
                variant: statistics.median(
                    t / p for t, p in zip(times[variant], plain, strict=True)
                )
                for variant in _VARIANTS
            },
        }
    return rows


def _fit(name: str, variant: str, epochs: int | None) -> float:
    """Seconds of one ``fit``."""
    with tempfile.TemporaryDirectory() as folder:
        options = _options(name, variant, epochs, folder)
        with patch.object(sys, "argv", sys.argv[:1]):  # our own options are not the experiment's
            cli = _CLI(run=False, save_config_callback=None, args=options)
        callbacks: list[Any] = cli.trainer.callbacks  # type: ignore[attr-defined]
        if variant == _WITHOUT:
            callbacks[:] = [each for each in callbacks if not isinstance(each, SensitivityMonitor)]
        start = time.perf_counter()
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        return time.perf_counter() - start


def _options(name: str, variant: str, epochs: int | None, folder: str) -> list[str]:
    default = SensitivityMonitor().config.quantities
    lists = {"{default}": default, "{all}": PARAMETER_QUANTITIES}
    options = [
        f"--config={_CONFIGS / name}.yaml",
        f"--trainer.logger.init_args.save_dir={folder}",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]
    if epochs is not None:
        options.append(f"--trainer.max_epochs={epochs}")
    for option in _VARIANTS.get(variant, ()):
        for key, names in lists.items():
            option = option.replace(key, f"[{','.join(names)}]")
        options.append(option)
    return options
