"""TensorBoard as a process of its own, with the tab in it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jacoscope
from jacoscope.schema import PLUGIN_NAME

_DATA = f"data/plugin/{PLUGIN_NAME}/data"
_PATIENCE = 60.0  # seconds; a machine that does other things too may need many of them


@dataclass(frozen=True)
class Board:
    """A running server.

    Attributes:
        url: Its address, which ends in a slash.
        process: The process.
        log: The file that its standard output and errors go to.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8")

    def get(self, path: str) -> tuple[int, bytes]:
        """The status and the body of a reply, for a path below the address."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=_PATIENCE) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read()

    def runs(self) -> dict[str, Any]:
        """What the tab has of every run, by its name."""
        status, body = self.get(f"{_DATA}/runs")
        return {run["run"]: run for run in json.loads(body)["runs"]} if status == 200 else {}

    def wait_for(self, last_steps: dict[str, int]) -> None:
        """Wait until runs are loaded up to the steps named."""
        wait_until(
            lambda: (
                last_steps.items() <= {n: r["last_step"] for n, r in self.runs().items()}.items()
            ),
            lambda: f"the server has {[(n, r['last_step']) for n, r in self.runs().items()]}",
        )


Serve = Callable[..., Board]
"""Serves a folder with options of TensorBoard."""


def wait_until(is_so: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """Wait for something to become true, and fail with what there is if it does not."""
    end = time.monotonic() + _PATIENCE
    while not is_so():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.05)


@contextlib.contextmanager
def tensorboard(logdir: Path, *options: str) -> Iterator[Board]:
    """TensorBoard as users start it, which finds the tab by its entry point."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0"]
    announced = re.compile(r"^TensorBoard \S+ at (\S+) \(Press", re.MULTILINE)
    with serving([*command, "--reload_interval", "1", *options], announced) as board:
        yield board


@contextlib.contextmanager
def jacoscope_board(logdir: Path, *options: str) -> Iterator[Board]:
    """``jacoscope board`` on any free port."""
    command = [sys.executable, "-m", "jacoscope", "board", str(logdir), "--port", "0", *options]
    with serving(command, re.compile(r"^Sensitivity tab: (\S+/)#jacoscope", re.MULTILINE)) as board:
        yield board


@contextlib.contextmanager
def serving(command: list[str], announced: re.Pattern[str]) -> Iterator[Board]:
    """A server, from when it has said its address; one that does not ends the test."""
    with environment() as variables, tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                env=variables,
                stdout=file,
                stderr=subprocess.STDOUT,
                # Tests that run in a shell's background would hand Ctrl-C down as ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        try:
            url = _address(process, log, announced)
            yield Board(url, process, log)
        finally:
            process.terminate()
            process.wait(timeout=_PATIENCE)


def _address(process: subprocess.Popen[bytes], log: Path, announced: re.Pattern[str]) -> str:
    wait_until(
        lambda: bool(announced.search(log.read_text("utf-8"))) or process.poll() is not None,
        lambda: log.read_text("utf-8"),
    )
    match = announced.search(log.read_text("utf-8"))
    assert match, f"the server ended without an address:\n{log.read_text('utf-8')}"
    return match[1]


@contextlib.contextmanager
def environment() -> Iterator[dict[str, str]]:
    """Variables for a process that has this package and its entry point.

    Where the package is installed there is nothing to add. A source tree that is only on the path
    has no entry point; a folder beside it then stands for the metadata of an installation.
    """
    source = Path(jacoscope.__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(source)]
        if not metadata.entry_points(group="tensorboard_plugins", name=PLUGIN_NAME):
            paths.append(str(_installation(Path(folder))))
        yield {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
        }


def _installation(folder: Path) -> Path:
    described = folder / "jacoscope_source_tree-0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: jacoscope-source-tree\n")
    (described / "entry_points.txt").write_text(
        f"[tensorboard_plugins]\n{PLUGIN_NAME} = jacoscope.board.loader:SensitivityLoader\n"
    )
    return folder
