"""Where a captured step's extra time goes, operator by operator."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarking.contenders import OURS, TOOLS, WANTS, Contender, Plain
from benchmarking.rounds import WARM_UP, seconds
from benchmarking.workloads import make

__all__ = ["profiles"]

_SHOWN = 8


def profiles(name: str, device: str, runs: int) -> dict[str, Any]:
    """Milliseconds of each operator in plain and captured runs, those that grow most.

    On a processor these are times in the operator itself; on CUDA those of its kernels. Between
    operators lies Python, and with the profiler more of it than without.

    Args:
        name: The workload's name.
        device: Where to run.
        runs: Runs that are averaged.

    Returns:
        By what is wanted: the operators' times, and the extra time of all operators together.
    """
    workload = make(name, device)
    plain = _operators(Plain(workload, "batch gradient"), device, runs)
    found = {}
    for want in (want for want, parts in WANTS.items() if parts):
        print(f"{name}: profile of {want}", file=sys.stderr, flush=True)
        captured = _operators(TOOLS[OURS](workload, want), device, runs)
        extra = {
            operator: (plain.get(operator, (0.0, 0.0))[0], *captured[operator])
            for operator in captured
        }
        most = sorted(extra, key=lambda operator: extra[operator][0] - extra[operator][1])
        found[want] = {
            "plain_ms": sum(time for time, _ in plain.values()),
            "captured_ms": sum(time for time, _ in captured.values()),
            "operators": {operator: extra[operator] for operator in most[:_SHOWN]},
        }
    return {"about": workload.about, "runs": runs, "wants": found}


def _operators(contender: Contender, device: str, runs: int) -> dict[str, tuple[float, float]]:
    """Of each operator, milliseconds and calls in a run."""
    for _ in range(WARM_UP):
        seconds(contender, device)
    on_cpu = device == "cpu"
    activity = ProfilerActivity.CPU if on_cpu else ProfilerActivity.CUDA
    with profile(activities=[activity]) as profiler:
        for _ in range(runs):
            contender.clear()
            contender.run()
        if not on_cpu:
            torch.cuda.synchronize()
    contender.clear()
    key = "self_cpu_time_total" if on_cpu else "self_device_time_total"
    return {
        event.key: (getattr(event, key) / 1e3 / runs, event.count / runs)
        for event in profiler.key_averages()
    }
