"""Measuring the monitor's share of the training time, and keeping it within a budget.

No test here sleeps: clocks are told what time it is.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from helpers import OneOfTwo, classifier, data, fingerprint, trainer
from jacoscope import Monitor, Schedule, SensitivityMonitor
from jacoscope.gathering import SampleGathering
from jacoscope.pacing import PROBE, Budget, Overhead, rounded
from jacoscope.sinks import MemorySink

KIND = "0"


class Clock:
    """A clock that stands still until time is made to pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Run:
    """A training that never was, in which captures take time on the host and on the device.

    What it has ``spent`` leaves out the device's part of a capture in the very first step.

    Args:
        share: The budget; ``None`` captures what is due.
        step: Seconds of a step, by its number.
        host: Seconds of a capture on the host, by how many there were.
        device: Seconds of a capture that pass in the training's own calls, the same way.
        due: Whether a step is due.
        late: Steps after a captured one at which the device is done with it.
    """

    share: float | None
    step: Callable[[int], float] = lambda number: 0.1
    host: Callable[[int], float] = lambda count: 0.02
    device: Callable[[int], float] = lambda count: 0.0
    due: Callable[[int], bool] = lambda number: True
    late: int = 1
    clock: Clock = field(default_factory=Clock)
    captured: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    asked: int = 0
    spent: float = 0.0
    trained: float = 0.0

    def __post_init__(self) -> None:
        self.overhead = Overhead(self.clock)
        self.budget = None if self.share is None else Budget(self.share, self.overhead)

    def train(self, steps: int, first: int = 0) -> Run:
        rest = first
        for number in range(first, first + steps):
            with self.overhead:
                idle = not self.captured or number - self.captured[-1] >= self.late
                self.overhead.begin_step(number, is_idle=idle)
                captures = self.due(number) and number >= rest
                if captures and self.budget is not None:
                    self.asked += 1
                    captures = self.budget.allows(KIND, number)
                    if not captures:
                        rest = self.budget.rests_until(number)
                        assert rest > number
                cost = device = 0.0
                if captures:
                    cost, device = self.host(len(self.captured)), self.device(len(self.captured))
                    self.overhead.begin_capture(KIND)
                    self.captured.append(number)
                    self.clock.wait(cost)
            self.clock.wait(self.step(number) + device)
            self.spent += cost + (device if number > first else 0)
            self.trained += self.step(number) + cost + device
            self.shares.append(self.spent / self.trained)
        return self


@pytest.mark.parametrize("share", [0.01, 0.03, 0.2])
@pytest.mark.parametrize(("host", "device"), [(0.05, 0.0), (0.001, 0.3), (0.2, 1.0)])
def test_the_share_stays_within_the_budget_and_uses_it(
    share: float, host: float, device: float
) -> None:
    run = Run(share, host=lambda _: host, device=lambda _: device).train(30_000)
    # The first capture is made on trust, and the second as to the device, whose part in the very
    # first step is not told; once they are paid for, the share never exceeds the bound.
    paid_for = run.captured[2 if device else 1]
    assert max(run.shares[paid_for:]) <= share * 1.001
    assert run.shares[-1] > 0.95 * share
    gaps = [b - a for a, b in zip(run.captured[2:], run.captured[3:], strict=False)]
    assert max(gaps) - min(gaps) <= 1, "captures are spaced evenly"


def test_the_measured_share_is_the_true_one() -> None:
    run = Run(0.05, host=lambda _: 0.03, device=lambda _: 0.2).train(5000)
    assert run.overhead.spent == pytest.approx(run.spent)
    assert run.overhead.training == pytest.approx(run.trained - 0.1, rel=1e-9)


def test_asking_is_rare_where_captures_are() -> None:
    run = Run(0.01, host=lambda _: 0.05).train(20_000)
    assert len(run.captured) > 300
    assert run.asked < 2 * len(run.captured) + 20_000 / 50 + 20


def test_steps_that_become_longer_are_soon_noticed() -> None:
    run = Run(0.03, step=lambda number: 0.008 if number < 150 else 0.069, host=lambda _: 0.03)
    run.due = lambda number: number % 10 == 0
    run.train(600)
    later = [step for step in run.captured if step >= 150]
    assert later[0] <= 220
    assert max(b - a for a, b in itertools.pairwise(later)) <= 60
    assert run.shares[-1] > 0.5 * 0.03, "the mean of other steps follows more slowly"


def test_a_new_epoch_asks_the_budget_again(clock: Clock) -> None:
    model, monitor, _ = _monitor(schedule={"every": 10}, overhead=0.2)
    _loop(model, monitor, clock, range(100))
    monitor._agenda._rest = 1000
    for step in range(100, 120):
        assert not monitor.begin_step(step)
        clock.wait(0.1)
    assert monitor.begin_step(120, 1, 120)


@pytest.mark.parametrize("share", [0.03, 0.2])
def test_a_first_capture_fifty_times_as_expensive_is_paid_off(share: float) -> None:
    run = Run(share, host=lambda count: 1.0 if count == 0 else 0.02).train(20_000)
    assert run.captured[0] == 0
    first = run.captured[1]
    assert first >= 1.0 / share / 0.1 - 10, "the second waits until the first is paid off"
    assert max(run.shares[first:]) <= share * 1.001
    # It was taken for what all captures cost, but for one capture alone.
    burst = sum(first <= step < first + 100 for step in run.captured)
    assert burst <= 12 + 100 * 0.1 * share / 0.02, "what was saved up is ten captures at most"
    assert run.shares[-1] > 0.8 * share


def test_step_times_that_vary() -> None:
    draw = random.Random(3)
    times = [draw.lognormvariate(math.log(0.1), 0.5) for _ in range(30_000)]
    run = Run(0.03, step=times.__getitem__, host=lambda _: 0.03, device=lambda _: 0.05)
    run.train(len(times))
    assert run.shares[-1] <= 0.03 * 1.05
    assert run.shares[-1] > 0.03 * 0.8
    # What steps differ by comes and goes, and is not taken for the monitor's.
    assert run.overhead.share == pytest.approx(run.shares[-1], rel=0.15)


def test_steps_that_become_ten_times_as_long() -> None:
    run = Run(0.03, step=lambda number: 0.02 if number < 10_000 else 0.2, host=lambda _: 0.05)
    run.train(15_000)
    assert max(run.shares[run.captured[1] :]) <= 0.03 * 1.001
    assert run.shares[-1] > 0.03 * 0.6


def test_captures_that_become_cheaper_come_more_often() -> None:
    run = Run(0.03, host=lambda count: 0.3 if count < 20 else 0.01).train(20_000)
    assert run.shares[-1] <= 0.03 * 1.001
    before = sum(step < 2000 for step in run.captured)
    after = sum(step >= 18_000 for step in run.captured)
    assert after > 10 * before


def test_a_budget_that_is_large_enough_changes_nothing() -> None:
    run = Run(0.5, due=lambda number: number % 50 == 0).train(2000)
    assert run.captured == [*range(0, 2000, 50)]


def test_time_saved_up_is_spent_on_ten_captures_at_most() -> None:
    run = Run(0.03, due=lambda number: number < 2 or number >= 10_000).train(10_500)
    burst = [step for step in run.captured if 10_000 <= step < 10_020]
    assert 10 <= len(burst) <= 14, "ten, and what these steps themselves allow"
    assert run.shares[-1] < 0.03


def test_the_device_may_deliver_late() -> None:
    run = Run(0.05, host=lambda _: 0.001, device=lambda _: 0.4, late=4).train(10_000)
    assert run.overhead.spent == pytest.approx(run.spent)
    assert max(run.shares[run.captured[2] :]) <= 0.05 * 1.001
    assert run.shares[-1] > 0.9 * 0.05


def test_pauses_count_neither_as_training_nor_as_the_monitors() -> None:
    clock = Clock()
    overhead = Overhead(clock)
    for number in range(100):
        if number in (20, 50, 51):
            overhead.pause(number)
            clock.wait(1000)
        overhead.begin_step(number, is_idle=True)
        if number in (19, 49, 60):
            overhead.begin_capture(KIND)
            clock.wait(0.5)
        clock.wait(0.1)
    overhead.pause(100)
    assert overhead.training == pytest.approx(100 * 0.1 + 3 * 0.5)
    assert overhead.spent == pytest.approx(3 * 0.5)
    assert overhead.expected(KIND) == pytest.approx(0.5)


def test_a_pause_that_nobody_told_of_earns_little() -> None:
    clock = Clock()
    overhead = Overhead(clock)
    for number in range(201):
        overhead.begin_step(number, is_idle=True)
        clock.wait(1000 if number == 100 else 0.1)
    assert overhead.training <= 200 * 0.1 + 10 * 0.1
    assert overhead.step_seconds < 0.11


def test_a_step_of_many_batches_is_one_step() -> None:
    clock = Clock()
    overhead = Overhead(clock)
    for number in range(50):
        for _ in range(4):
            overhead.begin_step(number, is_idle=True)
            clock.wait(0.1)
    assert overhead.step_seconds == pytest.approx(0.4)
    assert overhead.training == pytest.approx(49 * 0.4)


def test_steps_that_were_not_begun_here_count_all_the_same() -> None:
    clock = Clock()
    overhead = Overhead(clock)
    for number in range(0, 1000, 50):
        overhead.begin_step(number, is_idle=True)
        clock.wait(50 * 0.1)
    assert overhead.step_seconds == pytest.approx(0.1)
    assert overhead.training == pytest.approx(950 * 0.1)


def test_before_other_steps_were_seen_the_share_is_that_of_the_host() -> None:
    run = Run(None, due=lambda number: number < 30, device=lambda _: 0.1).train(34)
    assert run.overhead.share == pytest.approx(30 * 0.02 / run.overhead.training)
    run.train(3, first=34)
    assert run.overhead.share == pytest.approx((30 * 0.02 + 29 * 0.1) / run.overhead.training)


def test_where_every_step_is_captured_the_share_is_that_of_the_host() -> None:
    assert math.isnan(Run(None).overhead.share)
    assert Run(None).train(1).overhead.share == pytest.approx(0.02 / 0.12)
    assert Run(None).train(500).overhead.share == pytest.approx(0.02 / 0.12)


def test_the_share_has_the_capture_under_way() -> None:
    run = Run(None, due=lambda number: number == 50, device=lambda _: 0.3).train(51)
    assert run.overhead.share == pytest.approx(0.32 / (51 * 0.1 + 0.32))


def _beside(work: float, *, is_asynchronous: bool) -> Overhead:
    """A run whose captured steps, of 5 ms on the host, also have work that is not the monitor's."""
    clock = Clock()
    overhead = Overhead(clock)
    for number in range(400):
        with overhead:
            overhead.begin_step(number, is_idle=True)
            if number % 50 == 0:
                overhead.begin_capture(KIND, is_asynchronous=is_asynchronous)
                clock.wait(0.005)
        clock.wait(0.01)
        clock.wait(work if number % 50 == 0 else 0.0)
    return overhead


def test_what_others_do_at_captured_steps_is_not_the_monitors() -> None:
    alone, beside = (_beside(work, is_asynchronous=False) for work in (0.0, 0.3))
    assert alone.spent == pytest.approx(8 * 0.005)
    # All but the first, of which nothing beyond the host's time is told, may count twice.
    assert beside.spent <= 8 * 0.005 + 7 * 0.005 + 1e-9
    assert beside.expected(KIND) <= 0.010 + 1e-9
    known = 7  # all but the first, before which there was no other step
    assert beside.training < alone.training + 0.3 + known * 0.1, "it earns little, as a pause"


def test_the_work_of_a_device_counts_in_full() -> None:
    assert _beside(0.3, is_asynchronous=True).spent == pytest.approx(8 * 0.005 + 7 * 0.3)


def test_a_pause_in_a_captured_step_is_not_taken_for_the_devices_work() -> None:
    paused = {6: 1000.0}
    run = Run(0.05, host=lambda _: 0.001, device=lambda count: paused.get(count, 0.2)).train(3000)
    usual = Run(0.05, host=lambda _: 0.001, device=lambda _: 0.2).train(3000)
    # Ten times what is usual, and what this long time has earned, saved up for ten captures.
    assert run.overhead.spent < usual.overhead.spent + 10 * 0.301 + 10 * 0.201
    assert run.overhead.expected(KIND) == pytest.approx(0.201)


def test_a_model_on_the_processor_keeps_nothing_waiting(clock: Clock) -> None:
    model, monitor, _ = _monitor(schedule={"every": 20, "first": 0})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(201):
        monitor.begin_step(step)
        model(torch.ones(4, 3)).square().mean().backward()
        monitor.before_optimizer_step(optimizer)
        optimizer.step()
        monitor.end_step()
        clock.wait(0.1 if step % 20 else 3.0)
    assert monitor._overhead.spent == 0


def test_time_within_the_context_counts_once() -> None:
    clock = Clock()
    overhead = Overhead(clock)
    with overhead:
        clock.wait(1)
        with overhead:
            clock.wait(2)
            assert overhead.own == 3
        clock.wait(4)
    clock.wait(8)
    overhead.add(16)
    assert overhead.own == 7 + 16
    with suppress(ZeroDivisionError), overhead:
        clock.wait(32)
        raise ZeroDivisionError
    assert overhead.own == 7 + 16 + 32


def test_a_resumed_run_goes_on_with_what_it_owes() -> None:
    run = Run(0.03, host=lambda count: 3.0 if count == 0 else 0.02).train(500)
    assert run.captured == [0]
    state = json.loads(json.dumps([run.overhead.state_dict(), run.budget.state_dict()]))  # type: ignore[union-attr]

    resumed = Run(0.03, clock=Clock(), spent=run.spent, trained=run.trained)
    resumed.overhead.load_state_dict(state[0])
    resumed.budget.load_state_dict(state[1])  # type: ignore[union-attr]
    resumed.train(2000, first=500)
    # Until what the first has taken, and what the next may take, is within the share.
    assert resumed.captured[0] * 0.1 + 3.0 == pytest.approx(2 * 3.0 / 0.03, rel=0.01)
    fresh = Run(0.03).train(10, first=500)
    assert fresh.captured[0] == 500
    assert resumed.overhead.spent == pytest.approx(resumed.spent)


@pytest.mark.parametrize("state", [{}, {"costs": {}}])
def test_a_checkpoint_without_times_starts_anew(state: dict[str, Any]) -> None:
    overhead = Overhead(Clock())
    overhead.load_state_dict(state)
    budget = Budget(0.03, overhead)
    budget.load_state_dict(state)
    assert budget.allows(KIND, 700)


def _several(share: float, steps: int, rare: int, costs: dict[str, float]) -> dict[str, list[int]]:
    """Captures by kind, where a rare and expensive kind is due now and then."""
    clock = Clock()
    overhead = Overhead(clock)
    budget = Budget(share, overhead)
    captured: dict[str, list[int]] = {kind: [] for kind in costs}
    for number in range(steps):
        with overhead:
            overhead.begin_step(number, is_idle=True)
            kind = "0,1" if number % rare == 0 else "0"
            asked = [kind, *([PROBE] if number % rare == 0 else [])]
            for each in asked:
                if each in costs and budget.allows(each, number):
                    assert budget.allows(each, number), "asking again changes nothing"
                    captured[each].append(number)
                    overhead.begin_capture(each)
                    clock.wait(costs[each])
                    if each == PROBE:
                        overhead.probed(costs[each])
        clock.wait(0.1)
    assert overhead.share <= share * 1.01
    for kind, cost in costs.items():
        assert overhead.expected(kind) == pytest.approx(cost)
    return captured


def test_a_rare_and_expensive_kind_is_saved_up_for() -> None:
    captured = _several(0.05, 40_000, 500, {"0": 0.02, "0,1": 1.5})
    rare = captured["0,1"]
    assert len(rare) > 30, "frequent captures leave it its share"
    assert len(captured["0"]) > 200, "and go on"


def test_probes_are_saved_up_for_and_told_apart() -> None:
    captured = _several(0.05, 40_000, 500, {"0": 0.02, "0,1": 0.03, PROBE: 2.0})
    assert len(captured[PROBE]) > 20
    assert len(captured["0"]) > 200
    assert len(captured["0,1"]) > 20


def test_what_one_kind_takes_is_not_left_for_another_in_the_same_step() -> None:
    overhead = Overhead(Clock())
    costs = {"0": [1.0], PROBE: [1.0]}
    overhead.load_state_dict({"training": 100.0, "host": 0.5, "costs": costs})
    budget = Budget(0.02, overhead)
    assert budget.allows("0", 5)
    assert not budget.allows(PROBE, 5)


def test_probes_in_a_captured_step_are_not_part_of_its_cost() -> None:
    clock = Clock()
    overhead = Overhead(clock)
    for number in range(20):
        with overhead:
            overhead.begin_step(number, is_idle=True)
            if number == 10:
                overhead.begin_capture(KIND)
                overhead.begin_capture(PROBE)
                clock.wait(0.5 + 3.0)
                overhead.probed(3.0)
        clock.wait(0.1)
    assert overhead.expected(KIND) == pytest.approx(0.5)
    assert overhead.expected(PROBE) == pytest.approx(3.0)
    assert overhead.spent == pytest.approx(3.5)


def test_kinds_that_are_asked_for_no_more_are_forgotten() -> None:
    clock = Clock()
    overhead = Overhead(clock)
    overhead.load_state_dict({"training": 100.0, "host": 1.0, "costs": {"0": [0.1], "1": [50.0]}})
    budget = Budget(0.02, overhead)
    assert not budget.allows("1", 5)
    assert not budget.allows("0", 5), "the other is saved up for"
    budget.forget_refused()
    assert budget.allows("0", 6)


def test_the_log_tells_once_of_captures_that_cost_too_much(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "jacoscope"):
        Run(0.03, host=lambda _: 1.0).train(20_000)
    assert not caplog.messages
    with caplog.at_level(logging.WARNING, "jacoscope"):
        Run(0.001, host=lambda _: 0.2).train(40_000)
    (told,) = caplog.messages
    assert "a capture takes 2.0 times as long as a step" in told
    assert "overhead: 0.001 leaves 2000 steps" in told


@pytest.mark.parametrize(
    ("ratio", "said"), [(0.034, "0.034"), (1, "1.0"), (2.96, "3.0"), (9.99, "10."), (40.2, "40")]
)
def test_ratios_for_people(ratio: float, said: str) -> None:
    assert rounded(ratio) == said.rstrip(".")


# The monitor and the callback, by a clock that stands in for theirs.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("jacoscope.monitor.Overhead", lambda: Overhead(clock))
    return clock


def _monitor(**config: Any) -> tuple[nn.Module, Monitor, MemorySink]:
    model, sink = nn.Linear(3, 2), MemorySink()
    monitor = Monitor(model, {"quantities": ["grad_norm", "weight_norm"], **config}, sinks=[sink])
    return model, monitor, sink


def _loop(
    model: nn.Module,
    monitor: Monitor,
    clock: Clock,
    steps: range,
    cost: float = 0.2,
    batches: int = 1,
) -> list[bool]:
    """A training in which a capture takes ``cost``; which batches were captured."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    begun = []
    for step in steps:
        for _ in range(batches):
            begun.append(monitor.begin_step(step))
            model(torch.ones(4, 3)).square().mean().backward()
            clock.wait(0.1 / batches)
        monitor.before_optimizer_step(optimizer)
        optimizer.step()
        optimizer.zero_grad()
        with monitor._overhead:
            clock.wait(cost if begun[-1] else 0.0)
        monitor.end_step()
    return begun


def test_the_headline_has_the_measured_share(clock: Clock) -> None:
    model, monitor, sink = _monitor(schedule={"every": 20, "first": 2})
    _loop(model, monitor, clock, range(201))
    assert [record.step for record in sink.records] == [0, 1, *range(20, 201, 20)], "as scheduled"
    found = {r.step: r.headline.get("monitor_overhead") for r in sink.records}
    for step, share in found.items():
        captures = 1 + step if step < 2 else 2 + step // 20
        assert share == pytest.approx(captures * 0.2 / ((step + 1) * 0.1 + captures * 0.2))


@pytest.mark.parametrize("every", [1, 1000])
def test_a_run_ends_with_the_measured_share(clock: Clock, every: int) -> None:
    model, monitor, sink = _monitor(schedule={"every": every, "first": 0})
    _loop(model, monitor, clock, range(41))
    monitor.close()
    captures = len(sink.records)
    assert captures == (41 if every == 1 else 1)
    told = [(r.step, r.headline) for r in sink.records] + sink.headlines
    assert len(told) == (41 if every == 1 else 2), "once for each step"
    step, headline = told[-1]
    assert step == 40
    share = captures * 0.2 / (41 * 0.1 + captures * 0.2)
    assert headline["monitor_overhead"] == pytest.approx(share)


def test_one_capture_that_is_too_much_is_told_in_the_files(tmp_path: Path, clock: Clock) -> None:
    from torch.utils.tensorboard import SummaryWriter

    from jacoscope import read_run
    from jacoscope.config import Output
    from jacoscope.sinks import TensorBoardSink

    sink = TensorBoardSink(SummaryWriter(str(tmp_path)), Output(), owns_writer=True)
    model = nn.Linear(3, 2)
    monitor = Monitor(model, {"quantities": ["grad_norm"], "overhead": 0.03}, sinks=[sink])
    begun = _loop(model, monitor, clock, range(30), cost=1.0)
    assert sum(begun) == 1
    monitor.close()
    shares = read_run(tmp_path).headline["monitor_overhead"]
    assert [*shares.index] == [0, 29]
    assert [*shares] == pytest.approx([1.0 / 1.1, 1.0 / 4.0])
    assert [*read_run(tmp_path)["grad_norm"].index] == [0]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    scalars = events.Scalars("sensitivity/monitor_overhead")
    assert [(each.step, each.value) for each in scalars] == [
        (0, pytest.approx(1.0 / 1.1)),
        (29, pytest.approx(1.0 / 4.0)),
    ]


def test_the_monitor_keeps_within_its_budget(clock: Clock) -> None:
    model, monitor, sink = _monitor(schedule={"every": 10}, overhead=0.05)
    begun = _loop(model, monitor, clock, range(2000))
    steps = [record.step for record in sink.records]
    assert steps == [step for step, is_captured in enumerate(begun) if is_captured]
    assert steps[0] == 0
    assert 1 < len(steps) < 60
    assert all(step % 10 == 0 for step in steps[1:] if step >= 10), "on steps that are due"
    assert sink.records[-1].headline["monitor_overhead"] <= 0.05
    assert len(steps) * 0.2 <= 0.05 * (200 + len(steps) * 0.2)
    assert len(steps) * 0.2 > 0.8 * 0.05 * 200


def test_what_is_left_out_is_left_out_for_all_batches_of_a_step(clock: Clock) -> None:
    model, monitor, _ = _monitor(schedule={"every": 1}, overhead=0.1)
    begun = _loop(model, monitor, clock, range(300), batches=4)
    windows = [set(begun[place : place + 4]) for place in range(0, len(begun), 4)]
    assert all(len(window) == 1 for window in windows)
    assert 5 < windows.count({True}) < 40


def test_next_due_wakes_for_nothing_while_the_budget_rests(clock: Clock) -> None:
    model, monitor, _ = _monitor(schedule={"every": 1}, overhead=0.02)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    wake, awake = 0.0, []
    for step in range(3000):
        clock.wait(0.1)
        if step < wake:
            continue
        awake.append(step)
        is_captured = monitor.begin_step(step)
        wake = step + 1 if is_captured else monitor.next_due(step + 1)
        if is_captured:
            model(torch.ones(4, 3)).square().mean().backward()
            monitor.before_optimizer_step(optimizer)
            with monitor._overhead:
                clock.wait(0.2)
            monitor.end_step()
    assert monitor.captures > 20
    assert len(awake) < 4 * monitor.captures + 20


def test_a_checkpoint_keeps_the_times(clock: Clock) -> None:
    model, monitor, _ = _monitor(schedule={"every": 5}, overhead=0.02)
    _loop(model, monitor, clock, range(50), cost=4.0)
    state = json.loads(json.dumps(monitor.state_dict()["overhead"]))
    assert state["training"] == pytest.approx(49 * 0.1 + 4, abs=0.2)
    whole = monitor.state_dict()
    _, resumed, sink = _monitor(schedule={"every": 5}, overhead=0.02)
    resumed.load_state_dict(whole)
    _loop(resumed._model, resumed, clock, range(50, 200), cost=4.0)
    assert not sink.records, "what the run owes is not forgotten"


def test_processes_follow_rank_zero_and_seldom_ask(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(self: SampleGathering, before: float = math.inf) -> None:
        while self._expected and self._expected[0].step < before:
            samples = self._expected.popleft().samples
            assert samples is not None
            samples.settle(None, "nothing is exchanged here")

    monkeypatch.setattr(SampleGathering, "gather", gather)
    said: list[Any] = []
    told = {"quantities": ["sample_grad_norm"], "schedule": {"every": 1}, "overhead": 0.02}
    model = nn.Linear(3, 2)
    ranks = [Monitor(model, told, processes=OneOfTwo(rank, said)) for rank in (0, 1)]  # type: ignore[arg-type]
    asked = captured = 0
    ranks[1]._overhead._clock = Clock()  # which stands still, and would decide otherwise
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(1500):
        first = ranks[0].begin_step(step)
        asked += len(said)
        assert ranks[1].begin_step(step) is first
        assert not said, "both have asked, or neither"
        captured += first
        for monitor in ranks if first else ():
            model(torch.ones(4, 3)).square().mean().backward()
            monitor.before_optimizer_step(optimizer)
            with monitor._overhead:
                clock.wait(0.2)
            monitor.end_step()
        clock.wait(0.1)
    assert 5 < captured < 30
    assert asked < 3 * captured + 1500 / 50 + 20


@pytest.mark.parametrize("overhead", [None, 0.5])
def test_a_hook_is_asked_once_before_every_step(clock: Clock, overhead: float | None) -> None:
    asked: list[int] = []

    def hook(step: int, epoch: int) -> bool:
        asked.append(step)
        return step % 3 == 0

    model, monitor, _ = _monitor(schedule={"hook": hook}, overhead=overhead)
    _loop(model, monitor, clock, range(30))
    assert asked == [*range(30)]


def test_lightning_pauses_for_validations_and_epochs(tmp_path: Path, clock: Clock) -> None:
    from lightning.pytorch import Callback

    class Passing(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            clock.wait(0.1)

        def on_validation_batch_start(self, *_: Any) -> None:
            clock.wait(1000)

        def on_train_epoch_start(self, *_: Any) -> None:
            clock.wait(1000)

    callback = SensitivityMonitor(schedule={"every": 4, "first": 0})  # type: ignore[arg-type]
    overhead: list[Overhead] = []

    class Looking(Callback):
        def on_train_end(self, *_: Any) -> None:
            assert callback._session is not None
            overhead.append(callback._session.monitor._overhead)

    batches = data()
    fit = trainer(
        _lightning(),
        tmp_path,
        callbacks=[Looking(), callback, Passing()],
        max_epochs=3,
        val_check_interval=5,
        limit_val_batches=2,
        num_sanity_val_steps=1,
    )
    module = classifier()
    module.validation_step = lambda batch, batch_idx: None
    fit.fit(module, batches, batches)
    assert fit.global_step == 36
    (found,) = overhead
    assert found.training == pytest.approx(36 * 0.1)
    assert found.step_seconds == pytest.approx(0.1)


def _lightning() -> Any:
    import lightning.pytorch

    return lightning.pytorch


def test_a_real_run_keeps_to_what_was_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than this can be asked of real clocks: the decisions are obeyed and recorded."""
    answers: dict[int, bool] = {}
    decide = Budget.allows

    def allows(self: Budget, kind: str, step: int) -> bool:
        answers[step] = decide(self, kind, step)
        return answers[step]

    monkeypatch.setattr(Budget, "allows", allows)
    callback = SensitivityMonitor(schedule=Schedule(every=2, first=0), overhead=0.3)
    prints = set()
    for callbacks in ([], [callback]):
        torch.manual_seed(0)
        module = classifier()
        trainer(_lightning(), tmp_path, callbacks=callbacks, max_epochs=4).fit(module, data())
        prints.add(fingerprint(module.state_dict()))
    assert len(prints) == 1
    from jacoscope import read_run

    assert callback.run_dir is not None
    run = read_run(callback.run_dir)
    captured = [*run["grad_norm"].index]
    assert captured == [step for step, is_allowed in answers.items() if is_allowed]
    assert all(step % 2 == 0 for step in answers)
    if len(captured) > 1:
        share = run.headline["monitor_overhead"].dropna()
        assert ((share > 0) & (share <= 1)).all()
