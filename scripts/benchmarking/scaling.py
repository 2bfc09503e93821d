"""What a captured step costs as the problem grows, one size at a time."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarking.contenders import OURS, Jacoscope, Plain
from benchmarking.growth import growth
from benchmarking.rounds import Label, in_turn, products
from benchmarking.workloads import Workload, make

__all__ = ["BASE", "SWEEPS", "Sweep", "scaling"]


@dataclass(frozen=True)
class Sweep:
    """One size that grows while the others stay.

    Args:
        title: What figures call it.
        key: The size's name.
        values: What it takes.
    """

    title: str
    key: str
    values: tuple[int, ...]


WANTED = ("norms", "norms + Gram", "norms + columns", "all three")
BASE = {
    "cpu": {"samples": 16, "length": 64, "width": 128, "blocks": 2},
    "cuda": {"samples": 32, "length": 256, "width": 512, "blocks": 4},
}
SWEEPS = {
    "cpu": (
        Sweep("samples N", "samples", (4, 8, 16, 32, 64)),
        Sweep("positions T", "length", (16, 32, 64, 128, 256)),
        Sweep("width", "width", (64, 128, 256, 512)),
        Sweep("depth (blocks)", "blocks", (1, 2, 4, 8)),
        Sweep("blocks watched of 8", "watched", (1, 2, 4, 8)),
    ),
    "cuda": (
        Sweep("samples N", "samples", (8, 16, 32, 64, 128)),
        Sweep("positions T", "length", (64, 128, 256, 512, 1024)),
        Sweep("width", "width", (256, 512, 1024, 2048)),
        Sweep("depth (blocks)", "blocks", (2, 4, 8, 16)),
        Sweep("blocks watched of 8", "watched", (1, 2, 4, 8)),
    ),
}
_WATCHED_OF = 8


def scaling(device: str, rounds: int, with_memory: bool) -> dict[str, Any]:
    """All sweeps of the GPT.

    Args:
        device: Where to run.
        rounds: Rounds that count, at each point.
        with_memory: Whether to measure memory against the width too.

    Returns:
        The base sizes, the rate of a large matrix product in operations per second, and the points.
    """
    rate = product_rate(device)
    points = [
        point
        for sweep in SWEEPS[device]
        for value in sweep.values
        for point in _points(sweep, value, device, rounds)
    ]
    return {
        "base": BASE[device],
        "rounds": rounds,
        "product_rate": max(rate, product_rate(device)),
        "points": points,
        "memory": list(_memory(device)) if with_memory else [],
    }


def product_rate(device: str) -> float:
    """Operations per second of a large product of square matrices, the fastest of a few."""
    size = 2048 if device == "cpu" else 8192
    left, right = torch.randn(2, size, size, device=device)
    best = float("inf")
    for _ in range(10):
        if device != "cpu":
            torch.cuda.synchronize()
        start = time.perf_counter()
        left @ right
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _sizes(sweep: Sweep, value: int, device: str) -> dict[str, int]:
    if sweep.key == "watched":
        return BASE[device] | {"blocks": _WATCHED_OF}
    return BASE[device] | {sweep.key: value}


def _points(sweep: Sweep, value: int, device: str, rounds: int) -> Iterator[dict[str, Any]]:
    """A point of each want's curve."""
    workload = make("GPT", device, **_sizes(sweep, value, device))
    watched = _first_blocks(workload, value) if sweep.key == "watched" else None
    plain = Plain(workload, "batch gradient")
    contenders: dict[Label, Jacoscope] = {
        (OURS, want): Jacoscope(workload, want, watched) for want in WANTED
    }
    title = f"{sweep.title} = {value}"
    plain_seconds, timings = in_turn(plain, contenders, device, rounds, title)
    plain_time = statistics.median(plain_seconds)
    plain_work = products(plain.run)
    for (_, want), timing in timings.items():
        point: dict[str, Any] = {"sweep": sweep.title, "value": value, "want": want}
        point |= {"plain_ms": 1e3 * plain_time, "plain_rate": plain_work / plain_time}
        if timing.failure is not None:
            yield point | {"failure": timing.failure}
            continue
        contender = contenders[OURS, want]
        contender.clear()
        work = products(contender.run)
        low, high = timing.quartiles
        point |= {"ratio": timing.ratio, "low": low, "high": high, "products": work / plain_work}
        point["ratios"] = timing.ratios
        yield point | {"rate": work / statistics.median(timing.seconds)}


def _first_blocks(workload: Workload, count: int) -> list[str]:
    """Names of the parameters in the first blocks."""
    places = [f".blocks.{index}." for index in range(count)]
    names = [name for name, _ in workload.model.named_parameters()]
    return [name for name in names if any(place in name for place in places)]


def _memory(device: str) -> Iterator[dict[str, Any]]:
    """Peak growth beyond the plain run's against the width, and what all rows would take."""
    sweep = next(each for each in SWEEPS[device] if each.key == "width")
    for value in sweep.values:
        sizes: Mapping[str, int] = _sizes(sweep, value, device)
        plain = growth("GPT", "plain", "batch gradient", device, sizes)
        scalars = make("GPT", device, **sizes).scalars
        for want in WANTED:
            print(f"memory at width {value}: {want}", file=sys.stderr, flush=True)
            grown = growth("GPT", OURS, want, device, sizes)
            if plain is not None and grown is not None:
                rows = 4 * sizes["samples"] * scalars
                point = {"value": value, "want": want, "memory": grown - plain, "rows": rows}
                yield point | {"plain": plain}
