"""Two gloo processes on loopback: no hang, one event file, the numbers of one process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jacoscope import Run, read_run

SCRIPT = Path(__file__).with_name("ddp_script.py")


def launch(script: Path, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a script that trains; where it hangs, it and all that it has started is ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, str(script), *arguments]
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        try:
            output, errors = running.communicate(timeout=timeout)
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    assert running.returncode == 0, output + errors
    return subprocess.CompletedProcess(command, running.returncode, output, errors)


def run(folder: Path, processes: int, accumulate: int) -> Run:
    done = launch(SCRIPT, str(folder), str(processes), str(accumulate))
    assert done.stdout.count("DONE") == processes
    assert len(list(folder.rglob("*tfevents*"))) == 1
    return read_run(folder)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_processes_record_what_one_does(accumulate: int, tmp_path: Path) -> None:
    one = run(tmp_path / "one", 1, accumulate)
    two = run(tmp_path / "two", 2, accumulate)
    assert set(two.steps["ranks"]) == {2}
    assert "mean over processes" in two.steps["reduction"].iloc[0]
    assert set(one.steps["ranks"]) == {1}
    for quantity in one.quantities:
        np.testing.assert_allclose(
            two[quantity], one[quantity], rtol=1e-6, atol=1e-12, err_msg=quantity
        )
