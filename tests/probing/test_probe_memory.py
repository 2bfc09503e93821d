"""A Jacobian that no machine here could hold is never held."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("memory_script.py")
BUDGET = 256 * 2**20

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    "OMP_NUM_THREADS": "1",
    # Twenty gigabytes of fresh pages cost more than the arithmetic; huge ones cost little.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_twenty_gigabytes_within_a_small_budget() -> None:
    """By growth of the process: the budget, and three times the model.

    Those are its copy, the leaves of a plain backward, and a row of that backward that one by vmap
    is compared with; activations of two samples are a few kilobytes.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), str(BUDGET)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["jacobian"] >= 20e9
    bound = BUDGET + 3 * report["model"]
    assert bound < report["jacobian"] / 30
    for probe in ("norms", "spectrum"):
        found = report[probe]
        print(f"{probe}: {found['seconds']:.1f} s, {found['grown'] / 2**20:.0f} MiB")
        assert found["method"] == "vmap"
        assert found["error"] <= 1e-5
        assert report["model"] < found["grown"] <= bound, probe
