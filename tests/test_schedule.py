import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jacoscope.config import Schedule
from jacoscope.errors import ConfigError
from jacoscope.schedule import Timetable, describe_schedule

often = settings(derandomize=True, deadline=None, max_examples=200)

_schedules = st.builds(
    Schedule,
    every=st.none() | st.integers(1, 12),
    first=st.integers(0, 12),
    steps=st.lists(st.integers(0, 50), max_size=4).map(tuple),
    per_epoch=st.integers(0, 4),
    hook=st.just(lambda step, epoch: None),  # lets every option be off
)
_runs = st.lists(st.integers(1, 9), min_size=1, max_size=8)  # epochs by their number of steps


def _without_hook(schedule: Schedule) -> Timetable:
    """The timetable of the schedule's other options; with none of them, of a step far away."""
    options = {name: getattr(schedule, name) for name in ("every", "first", "steps", "per_epoch")}
    is_idle = not any(options.values())
    return Timetable(Schedule(**{**options, "steps": (10**6,)} if is_idle else options))


def _walk(epochs: list[int]) -> Iterator[tuple[int, int, int]]:
    """Each step of a run: its number, the epoch, the step at which the epoch began."""
    start = 0
    for epoch, length in enumerate(epochs):
        for step in range(start, start + length):
            yield step, epoch, start
        start += length


def _is_asked_for(schedule: Schedule, step: int, epoch_start: int) -> bool:
    """What the schedule's docstring says, option by option."""
    return (
        (schedule.every is not None and step % schedule.every == 0)
        or step < schedule.first
        or step in schedule.steps
        or step - epoch_start < schedule.per_epoch
    )


@often
@given(_schedules, _runs)
def test_due_steps_are_those_that_any_option_asks_for(
    schedule: Schedule, epochs: list[int]
) -> None:
    timetable = _without_hook(schedule)
    for step, epoch, start in _walk(epochs):
        due = timetable.is_due(step, epoch, start)
        assert due is _is_asked_for(schedule, step, start)


@often
@given(_schedules, st.integers(0, 60), st.integers(0, 60))
def test_next_due_is_the_first_due_step_of_a_long_epoch(
    schedule: Schedule, step: int, since: int
) -> None:
    epoch_start = max(0, step - since)
    horizon = range(step, step + 120)
    expected = next((s for s in horizon if _is_asked_for(schedule, s, epoch_start)), math.inf)
    found = _without_hook(schedule).next_due(step, epoch_start)
    assert found == (10**6 if not _has_an_option(schedule) else expected)


def _has_an_option(schedule: Schedule) -> bool:
    return bool(schedule.every or schedule.first or schedule.steps or schedule.per_epoch)


@often
@given(_schedules, _runs)
def test_asking_only_when_next_due_says_so_misses_nothing(
    schedule: Schedule, epochs: list[int]
) -> None:
    timetable = _without_hook(schedule)
    captured, wake = [], 0.0
    for step, epoch, start in _walk(epochs):
        if step == start:
            wake = step  # a new epoch, where per_epoch may ask again
        if step < wake:
            continue
        if timetable.is_due(step, epoch, start):
            captured.append(step)
        wake = timetable.next_due(step + 1, start)
        assert wake > step
    assert captured == [s for s, _, start in _walk(epochs) if _is_asked_for(schedule, s, start)]


_NAMED = [
    (Schedule(every=5, first=0), [0, 5, 10, 15]),
    (Schedule(every=None, first=3), [0, 1, 2]),
    (Schedule(every=None, first=0, steps=(9, 2, 2)), [2, 9]),
    (Schedule(every=None, first=0, per_epoch=1), [0, 6, 12, 18]),
    (Schedule(every=8, first=1, steps=(3,), per_epoch=2), [0, 1, 3, 6, 7, 8, 12, 13, 16, 18, 19]),
]


@pytest.mark.parametrize(("schedule", "due"), _NAMED)
def test_three_epochs_of_six_steps(schedule: Schedule, due: list[int]) -> None:
    timetable = Timetable(schedule)
    run = [*_walk([6, 6, 6, 2])]
    assert [step for step, epoch, start in run if timetable.is_due(step, epoch, start)] == due


def test_when_nothing_is_left_next_due_is_never() -> None:
    timetable = Timetable(Schedule(every=None, first=2, steps=(7,)))
    assert [timetable.next_due(step, 0) for step in (1, 2, 7, 8)] == [1, 7, 7, math.inf]


def test_large_steps_are_exact() -> None:
    timetable = Timetable(Schedule(every=1, first=0))
    assert timetable.is_due(2**53 + 1, 0, 0)


@often
@given(_schedules, _runs, st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=9))
def test_a_hook_overrules_or_leaves_it_to_the_others(
    schedule: Schedule, epochs: list[int], answers: list[bool | None]
) -> None:
    asked: list[tuple[int, int]] = []

    def hook(step: int, epoch: int) -> bool | None:
        asked.append((step, epoch))
        return answers[step % len(answers)]

    timetable = Timetable(
        Schedule(schedule.every, schedule.first, schedule.steps, schedule.per_epoch, hook)
    )
    for step, epoch, start in _walk(epochs):
        answer = answers[step % len(answers)]
        expected = _is_asked_for(schedule, step, start) if answer is None else answer
        assert timetable.next_due(step, start) == step
        assert timetable.is_due(step, epoch, start) is expected
    assert asked == [(step, epoch) for step, epoch, _ in _walk(epochs)]


def test_an_exception_in_a_hook_is_not_swallowed() -> None:
    def hook(step: int, epoch: int) -> bool | None:
        raise ZeroDivisionError(f"at {step}")

    with pytest.raises(ZeroDivisionError, match="at 4"):
        Timetable(Schedule(hook=hook)).is_due(4, 0, 0)


@pytest.fixture
def _hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with hooks, as a user may have beside a training script."""
    package = tmp_path / "users_package"
    package.mkdir()
    (package / "__init__.py").write_text("def on_odd(step, epoch): return step % 2 == 1\n")
    (package / "hooks.py").write_text(
        "def on_epoch_two(step, epoch): return epoch == 2\nnumber = 3\n"
    )
    (package / "faulty.py").write_text("1 / 0\n")
    (package / "misspelt.py").write_text("def on_odd(:\n")
    (package / "needy.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("users_package")]:
        del sys.modules[name]


@pytest.mark.usefixtures("_hooks")
@pytest.mark.parametrize("path", ["users_package.on_odd", "users_package:on_odd"])
def test_a_hook_by_its_import_path(path: str) -> None:
    timetable = Timetable(Schedule(every=1, hook=path))
    assert [timetable.is_due(step, 0, 0) for step in range(4)] == [False, True, False, True]


@pytest.mark.usefixtures("_hooks")
@pytest.mark.parametrize(
    "path", ["users_package.hooks.on_epoch_two", "users_package.hooks:on_epoch_two"]
)
def test_a_hook_in_a_module_of_a_package(path: str) -> None:
    timetable = Timetable(Schedule(hook=path))
    assert [timetable.is_due(9, epoch, 0) for epoch in range(4)] == [False, False, True, False]


_BAD_PATHS = {
    "no such module": ("no_such_package.hooks.f", "cannot be imported (No module named"),
    "no such submodule": ("users_package.hoks.f", "cannot be imported (No module named"),
    "no such function": ("users_package.hooks.f", "has no attribute 'f'"),
    "no such function after a colon": ("users_package.hooks:f", "has no attribute 'f'"),
    "what the module imports": ("users_package.needy.f", "No module named 'a_module_that_nobody"),
    "not callable": ("users_package.hooks.number", "is not callable; name a function"),
    "a module": ("os.path", "is not callable; name a function"),
    "no module part": ("on_odd", "write package.module.function"),
    "no function part": ("users_package.hooks.", "write package.module.function"),
    "no module part before a colon": (":on_odd", "write package.module.function"),
    "empty": ("", "write package.module.function"),
    "two dots": ("users_package..hooks.f", "write package.module.function"),
    "relative": (".hooks.on_odd", "write package.module.function"),
    "a module that fails": ("users_package.faulty.f", "division by zero"),
    "a module with bad syntax": ("users_package.misspelt.f", "invalid syntax"),
}


@pytest.mark.usefixtures("_hooks")
@pytest.mark.parametrize(("path", "said"), _BAD_PATHS.values(), ids=_BAD_PATHS)
def test_a_path_that_leads_to_no_hook(path: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Timetable(Schedule(hook=path))
    assert caught.value.key == "hook"
    assert repr(path) in str(caught.value)
    assert said in str(caught.value)
    assert str(caught.value).splitlines() == [str(caught.value)]


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (Schedule(), "every: 50, first: 10"),
        (Schedule(every=None, first=0, steps=(7,)), "steps: [7]"),
        (Schedule(every=None, steps=tuple(range(9))), "first: 10, steps: [0, 1, 2, 3, 4, …]"),
        (Schedule(every=None, first=0, per_epoch=2, hook=max), "per_epoch: 2, hook: max"),
        (Schedule(every=3, first=0, hook="a.b"), "every: 3, hook: a.b"),
    ],
)
def test_a_schedule_in_words(schedule: Schedule, said: str) -> None:
    assert describe_schedule(schedule) == said


@pytest.mark.parametrize("answer", [True, np.True_, torch.tensor(True)])
def test_a_hook_may_answer_with_any_flag(answer: object) -> None:
    hook = Timetable(Schedule(every=None, first=0, hook=lambda *_: answer))  # type: ignore[arg-type, return-value]
    assert hook.is_due(3, 0, 0) is True


@pytest.mark.parametrize("answer", ["yes", 1, 0, 0.5, [], torch.tensor(1)])
def test_a_hook_that_answers_otherwise_is_refused(answer: object) -> None:
    hook = Timetable(Schedule(hook=lambda *_: answer))  # type: ignore[arg-type, return-value]
    said = f"hook: returned a value of type {type(answer).__name__}; return True, False or None"
    with pytest.raises(ConfigError, match=said):
        hook.is_due(0, 0, 0)
