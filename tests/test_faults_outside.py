"""Faults of the world around: full disks, folders that cannot be written, killed runs, odd states.

Whatever happens, the training ends as without the monitor.
"""

import copy
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import tensorboard.summary.writer.record_writer as record_writer
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jacoscope import Monitor, SensitivityMonitor, read_run
from jacoscope.faults import MonitorWarning
from sample_training import Learner, fit, loader_of, perceptron, rows_of_pairs


def _weights(folder: Path, monitor: SensitivityMonitor | None) -> list[list[float]]:
    torch.manual_seed(0)
    module = Learner(perceptron(dropout=0.2))
    fit(folder, module, loader_of(rows_of_pairs(120)), monitor)
    return [parameter.flatten().tolist() for parameter in module.parameters()]


def _monitor(**output: Any) -> SensitivityMonitor:
    return SensitivityMonitor(
        quantities=("grad_norm", "sample_grad_norm"),
        schedule={"every": 1},  # type: ignore[arg-type]
        output={"pictures": (), **output},  # type: ignore[arg-type]
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _weights(tmp_path / "plain", None)
    write, room = record_writer.RecordWriter.write, 8

    def full(writer: Any, data: bytes) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(28, "No space left on device")
        write(writer, data)

    monkeypatch.setattr(record_writer.RecordWriter, "write", full)
    with pytest.warns(MonitorWarning, match="No space left on device") as told:
        assert _weights(tmp_path / "full", _monitor()) == plain
    assert len([each for each in told if each.category is MonitorWarning]) == 1


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    plain = _weights(tmp_path / "plain", None)
    monitor = _monitor(directory=str(tmp_path / "file" / "below"))
    with pytest.warns(MonitorWarning, match="writing to TensorBoard failed") as told:
        assert _weights(tmp_path / "other", monitor) == plain
    assert len([each for each in told if each.category is MonitorWarning]) == 1


@pytest.mark.slow
def test_a_run_that_is_killed_can_be_read_up_to_its_last_flush(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import os, signal, torch
        from torch.utils.tensorboard import SummaryWriter
        from jacoscope import Monitor
        from jacoscope.config import Output
        from jacoscope.sinks import TensorBoardSink
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        writer = SummaryWriter({str(tmp_path)!r})
        with Monitor(model, {{"schedule": {{"every": 1}}}},
                     sinks=[TensorBoardSink(writer, Output())]) as monitor:
            for step in range(100):
                monitor.begin_step(step)
                optimizer.zero_grad()
                model(torch.ones(4, 3)).square().mean().backward()
                monitor.before_optimizer_step(optimizer)
                optimizer.step()
                monitor.end_step()
                if step == 30:
                    writer.flush()
                if step == 50:
                    os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    run = read_run(tmp_path)
    assert len(run.steps) >= 31
    assert run["grad_norm"].notna().all(axis=None)


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def _state() -> dict[str, Any]:
    model = torch.nn.Linear(3, 1)
    with Monitor(model, {"quantities": ["sample_grad_norm", "noise_scale"]}) as monitor:
        return monitor.state_dict()


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::jacoscope.faults.MonitorWarning")
def test_a_checkpoint_s_state_of_any_kind_stops_nothing(data: st.DataObject) -> None:
    """Of another version, damaged, or somebody else's: parts of it replaced by anything."""
    state = copy.deepcopy(_state())
    key = data.draw(st.sampled_from([*state, "unknown"]))
    state[key] = data.draw(_JUNK)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, {"quantities": ["grad_norm", "noise_scale"]}) as monitor:
        monitor.load_state_dict(state)
        monitor.begin_step(0)
        monitor.begin_batch((torch.ones(4, 3),))
        loss = model(torch.ones(4, 3)).square().mean()
        monitor.before_backward(loss, batch_size=4)
        loss.backward()
        monitor.after_backward()
        monitor.before_optimizer_step(optimizer)
        optimizer.step()
        monitor.end_step()
        monitor.state_dict()
