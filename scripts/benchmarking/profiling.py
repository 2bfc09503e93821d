"""Where a captured step's extra time goes: part by part, and operator by operator."""

from __future__ import annotations

import pkgutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarking.by_hand import ByHand
from benchmarking.contenders import OURS, TOOLS, WANTS, Contender, Plain
from benchmarking.rounds import WARM_UP, frozen, seconds
from benchmarking.workloads import Workload, make

__all__ = ["profiles"]

_SHOWN = 8
_MEASURING = "jacoscope.capturing._api.measure"
_COMPARING = "jacoscope.capturing._capture.Check.of"


def profiles(name: str, device: str, runs: int) -> dict[str, Any]:
    """Milliseconds of each operator in plain and captured runs, those that grow most.

    On a processor these are times in the operator itself; on CUDA those of its kernels. Between
    operators lies Python, and with the profiler more of it than without.

    Args:
        name: The workload's name.
        device: Where to run.
        runs: Runs that are averaged.

    Returns:
        By what is wanted: the operators' times, and the extra time of all operators together; on
        a processor also which part of the plain run's time the parts of a capture take.
    """
    with frozen():
        return _profiles(name, device, runs)


def _profiles(name: str, device: str, runs: int) -> dict[str, Any]:
    workload = make(name, device)
    uncaptured = Plain(workload, "batch gradient")
    plain = _operators(uncaptured, device, runs)
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
        if device == "cpu":  # elsewhere calls return before their work is done
            found[want]["parts"] = _parts(uncaptured, TOOLS[OURS](workload, want), runs)
    profiled = {"about": workload.about, "runs": runs, "wants": found}
    if device == "cpu" and ByHand.suits(workload.model):
        profiled["by_hand"] = _added_by_hand(uncaptured, workload, runs)
    return profiled


def _added_by_hand(plain: Contender, workload: Workload, runs: int) -> float:
    """What hooks written out for this network add for norms, as part of a plain run's time."""
    hand = ByHand(workload, "norms")
    ratios = []
    for run in range(-WARM_UP, runs):
        whole = seconds(plain, "cpu", twice=True)
        if run >= 0:
            ratios.append(seconds(hand, "cpu", twice=True) / whole - 1)
        else:
            seconds(hand, "cpu", twice=True)
    return statistics.median(ratios)


def _parts(plain: Contender, captured: Contender, runs: int) -> dict[str, float]:
    """In parts of a plain run's time, in turn with it: what a capture adds, and what takes it."""
    ratios: dict[str, list[float]] = {"measuring": [], "comparing": [], "all": []}
    with ExitStack() as stack:
        measuring = stack.enter_context(_timed(_MEASURING))
        comparing = stack.enter_context(_timed(_COMPARING))
        for run in range(-WARM_UP, runs):
            measuring.clear()
            comparing.clear()
            whole = seconds(plain, "cpu", twice=True)
            extra = seconds(captured, "cpu", twice=True) - whole
            if run >= 0:
                ratios["measuring"].append(_second(measuring) / whole)
                ratios["comparing"].append(_second(comparing) / whole)
                ratios["all"].append(extra / whole)
    return {part: statistics.median(each) for part, each in ratios.items()}


def _second(times: list[float]) -> float:
    """The sum of what was counted in the second of two like runs."""
    return sum(times[len(times) // 2 :])


@contextmanager
def _timed(path: str) -> Iterator[list[float]]:
    """Seconds of each call of a function, while it is entered."""
    times: list[float] = []
    original: Callable[..., Any] = pkgutil.resolve_name(path)

    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            times.append(time.perf_counter() - begun)

    with patch(path, timed):
        yield times


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
