"""Whole runs of the shipped experiments, with and without the callback."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from benchmarking.monitoring import PARAMETER_QUANTITIES
from jacoscope import SensitivityMonitor
from jacoscope.sinks import _drawing_time

__all__ = ["EXPERIMENTS", "whole_fits"]

_SCRIPTS = Path(__file__).parents[1]
_CONFIGS = _SCRIPTS.parent / "configs"
_STEPS = 10
"""Steps that a run takes in its turn."""
_MARK = "benchmark:"
"""Begins what a run tells of itself, among all that may be printed."""
_PARAMETERS = (
    "--monitor.schedule.every=1",
    "--monitor.layers=[]",
    "--monitor.output.pictures=[]",
)
# Without the standard tab's charts of histograms, one for each parameter, of which TensorBoard
# takes checksums in Python.
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
        times = _in_turns(name, epochs, [None, row.options])
        plain.append(times[0])
        watched.append(times[1])
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


def _in_turns(
    name: str, epochs: int | None, each: Sequence[Sequence[str] | None]
) -> tuple[_Time, ...]:
    """Time several ``fit``s of an experiment that go on in turn, some steps at a time.

    Each is in a process of its own, as what a run leaves behind slows down the next; all but one
    wait. So a machine that is slow for a while is slow for all of them.

    Args:
        name: The experiment.
        epochs: Epochs, if not its own.
        each: The monitor's options of each; ``None`` for no monitor.
    """
    with ExitStack() as stack:
        runs = [stack.enter_context(_started(name, epochs, watched)) for watched in each]
        times: dict[int, _Time] = {}
        for run in runs:
            _answer(run)  # all is built
        order = list(range(len(runs)))
        while len(times) < len(runs):
            for place in order:
                if place in times:
                    continue
                told = _answer(runs[place], "go on")
                if told:
                    times[place] = _Time(**json.loads(told))
            order.reverse()  # for whoever follows another is slowed down by it
        return tuple(times[place] for place in range(len(runs)))


def _started(name: str, epochs: int | None, watched: Sequence[str] | None) -> subprocess.Popen[str]:
    options = None if watched is None else list(watched)
    code = (
        f"import json, sys, torch; sys.path.insert(0, {str(_SCRIPTS)!r}); "
        f"torch.set_num_threads({torch.get_num_threads()}); from benchmarking.fits import _fit; "
        f"time = _fit({name!r}, {epochs!r}, {options!r}); "
        f"print({_MARK!r} + json.dumps(vars(time)), flush=True); "
        "sys.stdin.readline()"  # leaving takes time, which would be another's
    )
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _answer(run: subprocess.Popen[str], word: str = "") -> str:
    """What a run tells when it stops: nothing if it waits for its turn, or its time."""
    assert run.stdin is not None
    assert run.stdout is not None
    if word:
        run.stdin.write(word + "\n")
        run.stdin.flush()
    for line in run.stdout:
        if line.startswith(_MARK):
            return line.removeprefix(_MARK).strip()
    raise RuntimeError(f"a run ended early, with exit code {run.wait()}")


class _Turns(Callback):
    """Lets others go on after some steps, and counts the time while it is this run's turn."""

    def __init__(self) -> None:
        self.wall = 0.0
        self._waited = 0.0
        self._steps = 0
        self._since = 0.0

    def monotonic(self) -> float:
        """A clock that stands still while others go on."""
        return time.monotonic() - self._waited

    def wait(self) -> None:
        """Wait for a turn."""
        begun = time.monotonic()
        print(_MARK, flush=True)
        if not sys.stdin.readline():
            raise SystemExit("nobody gives turns any more")
        self._waited += time.monotonic() - begun
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop the clock."""
        self.wall += time.perf_counter() - self._since

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """Let others go on from time to time."""
        self._steps += 1
        if self._steps % _STEPS == 0:
            self.stop()
            self.wait()


def _fit(name: str, epochs: int | None, watched: Sequence[str] | None) -> _Time:
    """Time one ``fit``, which goes on whenever a line is read.

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
        turns = _Turns()
        callbacks.insert(0, turns)  # before the monitor begins its step
        cpu = time.process_time()
        turns.wait()
        # How often pictures are drawn goes by the time that the run takes.
        with patch.object(_drawing_time, "time", turns):
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        turns.stop()
        return _Time(turns.wall, time.process_time() - cpu)
