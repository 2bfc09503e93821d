"""By how much a run's peak exceeds what was taken before it, in a process of its own.

    python -m benchmarking.growth '{"workload": "MLP", "sizes": {}, "tool": "TorchJD", …}'

On a processor the kernel's own high-water mark of the resident set is reset before the run (Linux),
with the allocator told to give large blocks back at once; on CUDA it is the allocator's peak.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarking.contenders import TOOLS, Contender, Plain
from benchmarking.rounds import WARM_UP
from benchmarking.workloads import make

__all__ = ["growth", "growth_here"]

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def growth(
    workload: str, tool: str, want: str, device: str, sizes: Mapping[str, int] | None = None
) -> int | None:
    """Bytes by which a warmed-up run of a contender grows a fresh process at its peak.

    Args:
        workload: Name of the workload.
        tool: Name of the tool, or ``plain``.
        want: What it is asked for.
        device: Where it runs.
        sizes: Sizes other than the workload's own.

    Returns:
        The bytes, or ``None`` where they cannot be had.
    """
    asked = {"workload": workload, "tool": tool, "want": want, "device": device}
    asked |= {"sizes": dict(sizes or {}), "threads": torch.get_num_threads()}  # type: ignore[dict-item]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarking.growth", json.dumps(asked)],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if done.returncode == 0 and lines else None


def growth_here(contender: Contender, device: str) -> int | None:
    """The same in this process."""
    for _ in range(WARM_UP):
        contender.clear()
        contender.run()
    contender.clear()
    gc.collect()
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contender.run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not _RESET.exists():
        return None
    _RESET.write_text("5")
    before = _resident("VmRSS")
    contender.run()
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def _main() -> None:
    asked: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    workload = make(asked["workload"], asked["device"], **asked["sizes"])
    tool = Plain if asked["tool"] == "plain" else TOOLS[asked["tool"]]
    print(json.dumps(growth_here(tool(workload, asked["want"]), asked["device"])))


if __name__ == "__main__":
    _main()
