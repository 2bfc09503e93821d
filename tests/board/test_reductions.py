"""Many steps in few columns: what stands out must stay."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from board_records import CALM
from jacoscope.board.reductions import (
    ABSENT,
    MINUS_INFINITE,
    NOT_A_NUMBER,
    PLUS_INFINITE,
    column_starts,
    extremes,
    last_finite,
    quantile_columns,
    to_float32,
)

NAN, INF = float("nan"), float("inf")


@CALM
@given(st.integers(0, 5000), st.integers(2, 700))
def test_columns_cover_all_steps_evenly(steps: int, most: int) -> None:
    starts = column_starts(steps, most)
    assert len(starts) == min(steps, most)
    counts = np.diff(np.append(starts, steps))
    assert counts.sum() == steps
    if steps:
        assert starts[0] == 0
        assert counts.min() >= 1
        assert counts.max() - counts.min() <= 1


_VALUES = st.one_of(
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.sampled_from([NAN, INF, -INF, 0.0, 2.0**127, 2.0**-149]),
)


@CALM
@given(
    stn.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 4)), elements=_VALUES),
    st.integers(2, 12),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_extremes_are_those_of_a_plain_loop(
    values: Any, most: int, random: Any, everywhere: bool
) -> None:
    steps, rows = values.shape
    draws = [[random.random() < 0.7 for _ in range(rows)] for _ in range(steps)]
    present = None if everywhere else np.array(draws)
    starts = column_starts(steps, most)
    found = extremes(values, starts, present)
    ends = [*starts[1:], steps]
    for column, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for row in range(rows):
            there = [
                float(values[step, row])
                for step in range(start, end)
                if present is None or present[step, row]
            ]
            finite = [value for value in there if np.isfinite(value)]
            low, high = found.low_LB[row, column], found.high_LB[row, column]
            if finite:
                assert (low, high) == (min(finite), max(finite))
            else:
                assert np.isnan(low)
                assert np.isnan(high)
            flags = found.flags_LB[row, column]
            assert bool(flags & NOT_A_NUMBER) == any(np.isnan(value) for value in there)
            assert bool(flags & PLUS_INFINITE) == (INF in there)
            assert bool(flags & MINUS_INFINITE) == (-INF in there)
            assert bool(flags & ABSENT) == (not there)


def test_a_single_spike_among_many_steps_stays() -> None:
    values = np.zeros((20_000, 2), np.float32)
    values[12_345, 1] = 7
    values[17_000, 1] = -3
    found = extremes(values, column_starts(20_000, 600))
    assert found.high_LB.max() == 7
    assert found.low_LB.min() == -3
    assert found.low_LB.shape == (2, 600)
    assert (found.high_LB[0] == 0).all()


def test_nothing_gives_nothing() -> None:
    found = extremes(np.empty((0, 3)), column_starts(0, 10))
    assert found.low_LB.shape == found.high_LB.shape == found.flags_LB.shape == (3, 0)
    assert last_finite(np.empty((0, 3)), column_starts(0, 10)).shape == (3, 0)
    assert quantile_columns(np.empty((0, 7)), column_starts(0, 10)).shape == (7, 0)


def test_single_precision_makes_no_infinities_of_numbers() -> None:
    values = np.array([1e300, -1e300, 1e-300, NAN, INF, -INF, 1.5])
    found = to_float32(values)
    assert found.dtype == np.float32
    assert found[:2] == pytest.approx([3.4e38, -3.4e38])
    assert found[2] == 0
    np.testing.assert_array_equal(found[3:], np.array([NAN, INF, -INF, 1.5], np.float32))


def test_the_last_finite_value_of_a_column() -> None:
    values = np.array([[1, NAN], [2, NAN], [INF, NAN], [4, NAN], [NAN, 5.0]])
    found = last_finite(values, np.array([0, 3]))
    np.testing.assert_array_equal(found, np.array([[2, 4], [NAN, 5]], np.float32))


def test_quantile_columns_keep_the_range() -> None:
    values = np.array([[0, 1, 2], [-1, 5, 6], [3, 3, 9], [NAN, NAN, NAN], [1, 2, 3]], np.float64)
    found = quantile_columns(values, np.array([0, 3, 4]))
    expected = np.array([[-1, NAN, 1], [3, NAN, 2], [9, NAN, 3]], np.float32)
    np.testing.assert_array_equal(found, expected)


@CALM
@given(
    stn.arrays(np.float64, (30, 7), elements=st.floats(-1e6, 1e6)),
    st.integers(2, 30),
)
def test_quantile_columns_stay_in_order(values: Any, most: int) -> None:
    values = np.sort(values, axis=1)
    found = quantile_columns(values, column_starts(30, most)).astype(np.float64)
    assert (np.diff(found, axis=0) >= 0).all()
    assert found[0].min() == pytest.approx(values[:, 0].min(), rel=1e-6)
    assert found[-1].max() == pytest.approx(values[:, -1].max(), rel=1e-6)
