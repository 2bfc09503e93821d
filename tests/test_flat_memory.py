"""Hundreds of captured steps with probes hold no more memory, files, hooks or graphs than a few."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import many

SCRIPT = Path(__file__).with_name("flat_memory_script.py")
STEPS = many(400, 1000)
PROBES = STEPS // 100
COUNTS = (
    *("handles", "tensors", "in_a_graph", "nodes"),
    *("module_hooks", "tensor_hooks", "optimizer_hooks"),
)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc of Linux")
def test_hundreds_of_captured_steps_hold_no_more_than_a_few(tmp_path: Path) -> None:
    """In a process of its own, whose memory is no other test's."""
    command = [sys.executable, str(SCRIPT), str(STEPS), "small", str(tmp_path)]
    surroundings = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout.strip().splitlines()[-1])
    assert said["captures"] == STEPS + PROBES
    notes = said["notes"]
    quarter = len(notes) // 4
    third, fourth = notes[2 * quarter : 3 * quarter], notes[3 * quarter :]
    resident = [statistics.median(n["resident"] for n in part) for part in (third, fourth)]
    assert resident[1] < 1.01 * resident[0], resident
    for name in COUNTS:
        counts = [max(note[name] for note in part) for part in (third, fourth)]
        assert counts[1] <= counts[0], (name, counts)
    last = notes[-1]
    assert not any(last[name] for name in COUNTS[2:]), last
