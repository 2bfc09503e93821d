"""Whole runs of the shipped experiments, with and without the callback."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from benchmarking.monitoring import PARAMETER_QUANTITIES
from jacoscope import SensitivityMonitor

__all__ = ["EXPERIMENTS", "whole_fits"]

_SCRIPTS = Path(__file__).parents[1]
_CONFIGS = _SCRIPTS.parent / "configs"
_PARAMETERS = (
    "--monitor.schedule.every=1",
    "--monitor.layers=[]",
    "--monitor.output.pictures=[]",
)
# Without the standard tab's charts of histograms, one for each parameter: TensorBoard's checksum of
# these costs more than all the rest.
_ALL = (
    *_PARAMETERS,
    "--monitor.output.histograms=false",
    f"--monitor.quantities=[{','.join(PARAMETER_QUANTITIES)}]",
)


@dataclass(frozen=True)
class _Row:
    """A row of the table.

    Args:
        watched: What is watched, in words.
        options: Of the command line.
        epochs: Epochs, if not the experiment's own: where all steps cost alike, a few will do.
    """

    watched: str
    options: tuple[str, ...] = ()
    epochs: int | None = None


_ROWS: Mapping[str, tuple[_Row, ...]] = {
    "digits_cnn": (_Row("as shipped"),),
    "topics_transformer": (
        _Row("as shipped"),
        _Row("the default quantities of parameters, every step", _PARAMETERS, epochs=2),
        _Row("all quantities of parameters, every step", _ALL, epochs=2),
    ),
}
EXPERIMENTS = tuple(_ROWS)


@dataclass(frozen=True)
class _Time:
    """Seconds of a ``fit``: by the clock, and of the processor."""

    wall: float
    cpu: float


class _CLI(LightningCLI):
    """Builds an experiment's Trainer, model and data, and runs nothing."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the section ``monitor``."""
        parser.add_lightning_class_args(SensitivityMonitor, "monitor")


def whole_fits(
    names: Sequence[str], rounds: int, epochs: int | None = None
) -> list[dict[str, Any]]:
    """Ratios of a whole ``fit`` with the callback to the same without.

    Args:
        names: The experiments.
        rounds: Times that both are run, in turn.
        epochs: Epochs, if not the row's own.

    Returns:
        A row for each experiment and each thing that is watched.
    """
    rows = []
    for name in names:
        for row in _ROWS.get(name, (_Row("as shipped"),)):
            rows.append(_measured(name, row, rounds, epochs or row.epochs))
    return rows


def _measured(name: str, row: _Row, rounds: int, epochs: int | None) -> dict[str, Any]:
    plain, watched = [], []
    for index in range(rounds):
        plain.append(_alone(name, epochs, None))
        watched.append(_alone(name, epochs, row.options))
        done = f"{name}, {row.watched}: round {index + 1} of {rounds}"
        seconds = f"{watched[-1].wall:.2f} s against {plain[-1].wall:.2f} s"
        print(f"{done}: {seconds}", file=sys.stderr, flush=True)
    pairs = list(zip(watched, plain, strict=True))
    return {
        "experiment": name,
        "watched": row.watched,
        "epochs": epochs,
        "rounds": rounds,
        "plain_s": statistics.median(each.wall for each in plain),
        "ratios": [with_.wall / without.wall for with_, without in pairs],
        "cpu_ratios": [with_.cpu / without.cpu for with_, without in pairs],
    }


def _alone(name: str, epochs: int | None, watched: Sequence[str] | None) -> _Time:
    """Time one ``fit`` in a process of its own: what a run leaves behind slows down the next."""
    options = None if watched is None else list(watched)
    code = (
        f"import json, sys, torch; sys.path.insert(0, {str(_SCRIPTS)!r}); "
        f"torch.set_num_threads({torch.get_num_threads()}); from benchmarking.fits import _fit; "
        f"time = _fit({name!r}, {epochs!r}, {options!r}); print(json.dumps(vars(time)))"
    )
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    return _Time(**json.loads(told.stdout.splitlines()[-1]))


def _fit(name: str, epochs: int | None, watched: Sequence[str] | None) -> _Time:
    """Time one ``fit``.

    Args:
        name: The experiment.
        epochs: Epochs, if not its own.
        watched: The monitor's options; ``None`` for no monitor.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = [
            f"--config={_CONFIGS / name}.yaml",
            f"--trainer.logger.init_args.save_dir={folder}",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            *(watched or ()),
        ]
        if epochs is not None:
            options.append(f"--trainer.max_epochs={epochs}")
        with patch.object(sys, "argv", sys.argv[:1]):  # our own options are not the experiment's
            cli = _CLI(run=False, save_config_callback=None, args=options)
        callbacks: list[Any] = cli.trainer.callbacks  # type: ignore[attr-defined]
        if watched is None:
            callbacks[:] = [each for each in callbacks if not isinstance(each, SensitivityMonitor)]
        wall, cpu = time.perf_counter(), time.process_time()
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        return _Time(time.perf_counter() - wall, time.process_time() - cpu)
