"""The past of a quantity: bounded in length, and what matters in it survives."""

import io
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jacoscope.record import Axis
from jacoscope.sinks._history import History

Columns = list[list[float]]

_LAYERS = 3
_AXIS = Axis(("a.weight", "a.bias", "b"), ("a", "a", ""), ("weight", "bias", "other"), (4, 2, 1))
_FINITE = st.floats(-1e30, 1e30)
_WITH_INFINITIES = st.floats(allow_nan=False)


def _columns(number: st.SearchStrategy[float]) -> st.SearchStrategy[Columns]:
    return st.lists(st.lists(number, min_size=_LAYERS, max_size=_LAYERS), min_size=1, max_size=60)


def _filled(columns: Columns, limit: int = 240) -> History:
    history = History(_AXIS, limit)
    for step, values in enumerate(columns):
        history.append(step, np.array(values))
    return history


@given(_columns(_FINITE), st.integers(1, 12))
def test_never_longer_than_its_limit(columns: Columns, limit: int) -> None:
    history = History(_AXIS, limit)
    for step, values in enumerate(columns):
        history.append(step, np.array(values))
        assert 1 <= len(history) <= limit
        assert history.values_LS.shape == (_LAYERS, len(history))
        assert history.last_step == step
        assert history.is_thinned == (step >= limit) or history.is_thinned
    assert history.is_thinned == (len(columns) > limit)


@given(_columns(_FINITE), st.integers(1, 12))
def test_steps_ascend_from_the_first_one(columns: Columns, limit: int) -> None:
    steps = _filled(columns, limit).steps
    assert steps[0] == 0
    assert steps == sorted(set(steps))
    assert steps[-1] < len(columns)


@given(_columns(_FINITE))
def test_below_the_limit_everything_is_kept(columns: Columns) -> None:
    history = _filled(columns)
    assert history.steps == list(range(len(columns)))
    np.testing.assert_array_equal(history.values_LS, np.array(columns).T)


@given(_columns(_WITH_INFINITIES), st.integers(1, 12))
def test_the_largest_magnitude_survives(columns: Columns, limit: int) -> None:
    history = _filled(columns, limit)
    kept_L = np.abs(history.values_LS).max(axis=1)
    np.testing.assert_array_equal(kept_L, np.abs(columns).max(axis=0))


@given(_columns(_WITH_INFINITIES), st.integers(1, 12))
def test_nothing_is_made_up(columns: Columns, limit: int) -> None:
    history = _filled(columns, limit)
    for kept_S, given_S in zip(history.values_LS, np.array(columns).T, strict=True):
        assert set(kept_S) <= set(given_S)


@pytest.mark.parametrize("fault", [np.inf, -np.inf, np.nan])
def test_a_fault_survives_thinning(fault: float) -> None:
    for place in range(9):
        columns = [[1.0] * _LAYERS for _ in range(9)]
        columns[place][1] = fault
        assert np.sum(~np.isfinite(_filled(columns, 4).values_LS)) == 1


@given(st.lists(st.tuples(st.integers(0, 20), _FINITE), max_size=40))
def test_a_step_replaces_itself_and_all_later_ones(appended: list[tuple[int, float]]) -> None:
    history = History(_AXIS)
    expected: dict[int, float] = {}
    for step, value in appended:
        history.append(step, np.full(_LAYERS, value))
        expected = {known: v for known, v in expected.items() if known < step} | {step: value}
        assert history.steps == list(expected)
        np.testing.assert_array_equal(history.values_LS[0], list(expected.values()))
        assert history.last_step == step


def test_values_are_copied() -> None:
    values = np.zeros(_LAYERS)
    history = History(_AXIS)
    history.append(0, values)
    values[:] = 7
    assert (history.values_LS == 0).all()


def _through_json(state: dict[str, Any]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(json.dumps(state))
    return loaded


def _through_checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("through", [_through_json, _through_checkpoint])
@given(columns=_columns(st.floats()), limit=st.integers(1, 12))
def test_state_survives_a_round_trip(through: Any, columns: Columns, limit: int) -> None:
    before, after = _filled(columns, limit), History(_AXIS, limit)
    after.load_state_dict(through(before.state_dict()))
    assert after.steps == before.steps
    assert after.last_step == before.last_step
    assert after.is_thinned == before.is_thinned
    np.testing.assert_array_equal(after.values_LS, before.values_LS)


@given(_columns(_FINITE), _columns(_FINITE), st.integers(1, 12))
def test_a_restored_history_goes_on_as_if_never_interrupted(
    earlier: Columns, later: Columns, limit: int
) -> None:
    whole, resumed = _filled(earlier, limit), History(_AXIS, limit)
    resumed.load_state_dict(whole.state_dict())
    for history in (whole, resumed):
        for step, values in enumerate(later, start=len(earlier)):
            history.append(step, np.array(values))
    assert resumed.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    "other",
    [
        Axis(("a.weight", "a.bias", "c"), _AXIS.layers, _AXIS.kinds, _AXIS.sizes),
        Axis(_AXIS.names, _AXIS.layers, _AXIS.kinds, (4, 2, 2)),
        Axis(_AXIS.names[::-1], _AXIS.layers[::-1], _AXIS.kinds[::-1], _AXIS.sizes[::-1]),
    ],
    ids=["other name", "other size", "other order"],
)
def test_the_history_of_other_parameters_is_not_taken_up(other: Axis) -> None:
    history = History(other)
    history.load_state_dict(_filled([[1.0, 2.0, 3.0]]).state_dict())
    assert len(history) == 0
    assert history.last_step == -1


def test_no_state_is_no_history() -> None:
    history = History(_AXIS)
    history.load_state_dict({})
    assert len(history) == 0


def _steps_and_first_row(history: History) -> tuple[list[int], npt.NDArray[Any]]:
    return history.steps, history.values_LS[0]


def test_pairs_are_merged_and_the_newest_stays() -> None:
    columns = [[value] * _LAYERS for value in (1.0, -5.0, 2.0, 0.0, 3.0)]
    steps, row = _steps_and_first_row(_filled(columns, 4))
    assert steps == [0, 2, 4]
    assert row.tolist() == [-5.0, 2.0, 3.0]
