"""Contenders in turn, round by round, so that a noisy machine disturbs all alike."""

from __future__ import annotations

import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarking.contenders import Contender

__all__ = ["WARM_UP", "Label", "Timing", "frozen", "in_turn", "products", "reason", "seconds"]

WARM_UP = 2
_SLOW = 10
"""Times the plain run beyond which a contender has rounds of its own."""
_FEW = 5
Label = tuple[str, str]  # tool and want


@dataclass
class Timing:
    """Seconds of a contender's runs, and of the plain one's in the same rounds.

    Attributes:
        first: Seconds of the very first run, which finds things out.
        latest: Seconds of the latest run.
        seconds: Of each round.
        ratios: To the plain run of the same round.
        failure: Why there are none, in a line.
    """

    first: float = 0.0
    latest: float = 0.0
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def ratio(self) -> float:
        """The median round's."""
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the rounds lie below, a quarter above."""
        if len(self.ratios) < 2:
            return self.ratio, self.ratio
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high


def in_turn(
    plain: Contender, contenders: Mapping[Label, Contender], device: str, rounds: int, title: str
) -> tuple[list[float], dict[Label, Timing]]:
    """Time the plain run and all contenders in every round.

    Each runs twice in its turn, and the second run counts: the first pays for what others have
    done to caches and to the allocator. Those that take more than ten times as long as the plain
    run, or slow down what comes after them, have rounds of their own, in which each runs once.
    Gradients and results of the last run are dropped before the next, outside what is timed. The
    first rounds warm up and do not count. A contender that fails once takes no further part.

    Args:
        plain: Forward and backward alone.
        contenders: The others by label.
        device: Where they run.
        rounds: Rounds that count; of slow ones at most five.
        title: What progress is shown under.

    Returns:
        Seconds of the plain runs, those beside slow contenders only if there are no others, and
        each contender's timing.
    """
    timings = {label: Timing() for label in contenders}
    with frozen():
        _show(f"{title}: first runs")
        for label, timing in timings.items():
            _take_turn(contenders[label], timing, device, None)
        plain_seconds = [seconds(plain, device) for _ in range(WARM_UP)]
        most = _SLOW * plain_seconds[-1]
        slow = [
            label
            for label, timing in timings.items()
            if _again(contenders[label], timing, device) > most or contenders[label].lingers
        ]
        quick = [label for label in timings if label not in slow]
        plain_seconds = []
        if quick or not slow:  # the plain run is timed even if nobody else is
            turns = {label: contenders[label] for label in quick}
            plain_seconds = _rounds(plain, turns, timings, device, rounds, title, twice=True)
        if slow:
            turns = {label: contenders[label] for label in slow}
            few = min(rounds, _FEW)
            beside = _rounds(plain, turns, timings, device, few, title, twice=False)
            plain_seconds = plain_seconds or beside
    _show("")
    return plain_seconds, timings


def _rounds(
    plain: Contender,
    contenders: Mapping[Label, Contender],
    timings: Mapping[Label, Timing],
    device: str,
    count: int,
    title: str,
    *,
    twice: bool,
) -> list[float]:
    """Rounds of the plain run and some contenders; returns the plain runs' seconds."""
    plain_seconds = []
    for index in range(-WARM_UP, count):
        _show(f"{title}: round {index + 1} of {count}")
        plain_time = seconds(plain, device, twice=True)
        if index >= 0:
            plain_seconds.append(plain_time)
        for label, contender in contenders.items():
            if timings[label].failure is None:
                counts = plain_time if index >= 0 else None
                _take_turn(contender, timings[label], device, counts, twice=twice)
    return plain_seconds


@contextmanager
def frozen() -> Iterator[None]:
    """What is there already is not gone through again when garbage is collected."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _again(contender: Contender, timing: Timing, device: str) -> float:
    """Seconds of a second run, zero where there is none."""
    if timing.failure is not None:
        return 0.0
    _take_turn(contender, timing, device, None)
    return timing.latest


def _take_turn(
    contender: Contender,
    timing: Timing,
    device: str,
    plain_time: float | None,
    *,
    twice: bool = False,
) -> None:
    """One turn, which counts if there is a plain run's time to compare with."""
    try:
        timing.latest = seconds(contender, device, twice=twice)
    except Exception as error:  # a peer that cannot run a workload is a row of the table
        timing.failure = reason(error)
        return
    finally:
        contender.clear()
    timing.first = timing.first or timing.latest
    if plain_time is not None:
        timing.seconds.append(timing.latest)
        timing.ratios.append(timing.latest / plain_time)


def seconds(contender: Contender, device: str, *, twice: bool = False) -> float:
    """Seconds of a run; on CUDA by events, with an empty queue.

    Args:
        contender: What runs.
        device: Where.
        twice: Whether it runs twice, and the second counts.
    """
    contender.clear()
    gc.collect()
    if twice:
        contender.run()
        contender.clear()
    if device == "cpu":
        start = time.perf_counter()
        contender.run()
        return time.perf_counter() - start
    begin, end = (_event() for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    contender.run()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def products(run: Callable[[], None]) -> int:
    """Floating-point operations of the matrix products, convolutions and attention in a run."""
    formulas = {torch.ops.aten.convolution_backward: _convolution_backward}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        formulas[torch.ops.mkldnn._linear_pointwise] = _linear
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        run()
    return int(counter.get_total_flops())


def _linear(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *others: Any,
    out_shape: Any = None,
    **more: Any,
) -> int:
    """Operations of oneDNN's linear layer."""
    return 2 * math.prod(input_shape) * weight_shape[0]


def _convolution_backward(
    grad_shape: Sequence[int],
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *others: Any,
    out_shape: Any = None,
) -> int:
    """Operations of a convolution's backward; PyTorch's own count leaves groups out."""
    transposed, wanted = others[4], others[-1]
    places = math.prod(input_shape if transposed else grad_shape)
    return int(2 * places * math.prod(weight_shape[1:]) * sum(wanted[:2]))


def reason(error: Exception) -> str:
    """An exception in one line of a table."""
    text = " ".join(str(error).split()).replace("|", "/")
    first = text.split(". ")[0]
    short = first if len(first) <= 160 else f"{first[:157]}…"
    return f"{type(error).__name__}: {short}" if short else type(error).__name__


def _show(text: str) -> None:
    """Progress, in place, where somebody looks on."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)
