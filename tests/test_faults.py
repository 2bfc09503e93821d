import linecache
import threading
import warnings
from typing import Literal

import pytest

from jacoscope.faults import Faults, MonitorWarning

POLICIES: tuple[Literal["warn", "raise"], ...] = ("warn", "raise")
policies = pytest.mark.parametrize("policy", POLICIES)


def _fail(faults: Faults, subject: str = "the headline", reason: str = "boom") -> None:
    with faults.contain(subject):
        raise ValueError(reason)


@policies
def test_nothing_happens_when_nothing_fails(policy: Literal["warn", "raise"]) -> None:
    faults, cleaned = Faults(policy), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with faults.contain("the headline", lambda: cleaned.append("up")):
            pass
    assert (faults.reasons, cleaned) == ({}, [])


def test_a_fault_is_told_and_training_goes_on() -> None:
    faults = Faults("warn")
    with pytest.warns(MonitorWarning) as told:
        _fail(faults)
    assert [str(warning.message) for warning in told] == [
        "jacoscope: the headline failed and is left out; training goes on (ValueError: boom); "
        "set on_error: raise to stop instead"
    ]
    assert faults.reasons == {"the headline": "ValueError: boom"}


def test_each_subject_is_told_once() -> None:
    faults = Faults("warn")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for subject in ("pictures", "headline", "pictures", "pictures", "headline"):
            _fail(faults, subject)
    assert [str(warning.message).split()[1] for warning in told] == ["pictures", "headline"]


def test_the_line_shown_is_the_callers() -> None:
    faults = Faults("warn")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        faults.note("pictures", "boom")
        _fail(faults, "headline")
    assert [warning.filename for warning in told] == [__file__, __file__]
    shown = [linecache.getline(warning.filename, warning.lineno).strip() for warning in told]
    assert shown == ['faults.note("pictures", "boom")', "with faults.contain(subject):"]


def test_a_thread_without_a_caller_is_warned_too() -> None:
    faults = Faults("warn")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        thread = threading.Thread(target=faults.note, args=("pictures", "boom"))
        thread.start()
        thread.join()
    assert [warning.category for warning in told] == [MonitorWarning]


def test_the_latest_reason_is_kept() -> None:
    faults = Faults("warn")
    with pytest.warns(MonitorWarning, match="first"):
        _fail(faults, reason="first")
    _fail(faults, reason="second")
    assert faults.reasons == {"the headline": "ValueError: second"}


def test_two_monitors_each_tell() -> None:
    for _ in range(2):
        with pytest.warns(MonitorWarning):
            _fail(Faults("warn"))


def test_the_policy_raise_lets_the_fault_pass() -> None:
    faults = Faults("raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="boom"):
            _fail(faults)
    assert faults.reasons == {}


@policies
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_the_program_passes_whatever_the_policy(
    policy: Literal["warn", "raise"], error: type[BaseException]
) -> None:
    faults, cleaned = Faults(policy), []
    with pytest.raises(error), faults.contain("the headline", lambda: cleaned.append("up")):
        raise error
    assert (faults.reasons, cleaned) == ({}, ["up"])


@pytest.mark.filterwarnings("ignore::jacoscope.faults.MonitorWarning")
@policies
def test_clean_up_is_called_on_every_fault(policy: Literal["warn", "raise"]) -> None:
    faults, cleaned = Faults(policy), []
    for _ in range(3):
        try:
            with faults.contain("the headline", lambda: cleaned.append("up")):
                raise ValueError("boom")
        except ValueError:
            cleaned.append("passed")
    assert cleaned == (["up"] * 3 if policy == "warn" else ["up", "passed"] * 3)


def test_clean_up_comes_before_the_warning() -> None:
    faults, cleaned = Faults("warn"), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with (
            pytest.raises(MonitorWarning),
            faults.contain("the headline", lambda: cleaned.append("up")),
        ):
            raise ValueError("boom")
    assert cleaned == ["up"]
    assert faults.reasons == {"the headline": "ValueError: boom"}


def test_a_clean_up_that_fails_does_not_reach_the_training() -> None:
    def fail() -> None:
        raise OSError("disk full")

    faults = Faults("warn")
    with pytest.warns(MonitorWarning), faults.contain("the headline", fail):
        raise ValueError("boom")
    assert faults.reasons["the headline"] == "ValueError: boom"


@pytest.mark.filterwarnings("ignore::jacoscope.faults.MonitorWarning")
def test_what_is_left_of_a_contained_block_is_skipped() -> None:
    faults, done = Faults("warn"), []
    with faults.contain("the headline"):
        done.append("before")
        _fail(Faults("raise"))
        done.append("after")
    assert done == ["before"]


@pytest.mark.filterwarnings("ignore::jacoscope.faults.MonitorWarning")
def test_in_nested_stages_the_innermost_takes_the_fault() -> None:
    faults, cleaned = Faults("warn"), []
    with faults.contain("outer", lambda: cleaned.append("outer")):
        with faults.contain("inner", lambda: cleaned.append("inner")):
            raise ValueError("boom")
        cleaned.append("went on")
    assert cleaned == ["inner", "went on"]
    assert list(faults.reasons) == ["inner"]


def test_a_note_is_told_once_and_kept() -> None:
    faults = Faults("raise")
    with pytest.warns(MonitorWarning, match="the sink failed and is left out"):
        faults.note("the sink", "disk full")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        faults.note("the sink", "still full")
    assert faults.reasons == {"the sink": "still full"}


def test_the_warning_can_be_filtered_as_a_user_warning() -> None:
    assert issubclass(MonitorWarning, UserWarning)
