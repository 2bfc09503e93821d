"""Running means over captures."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jacoscope.quantities import RunningMeans, noise_parts

_finite = st.floats(-1e6, 1e6)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(values=st.lists(_finite, min_size=1, max_size=12), decay=st.floats(0, 0.99))
def test_a_mean_is_the_weighted_one(values: list[float], decay: float) -> None:
    means = RunningMeans(decay)
    for value in values:
        got = means.update("row", {"x": value})
    weights = [decay**age for age in reversed(range(len(values)))]
    np.testing.assert_allclose(got["x"], np.average(values, weights=weights), rtol=1e-9, atol=1e-6)


def test_the_first_value_is_the_first_mean() -> None:
    assert RunningMeans().update("row", {"x": 7.0})["x"] == pytest.approx(7.0, rel=1e-15)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_skipped(bad: float) -> None:
    means = RunningMeans()
    assert math.isnan(means.update("row", {"x": bad})["x"])
    means.update("row", {"x": 1.0})
    before = means.update("row", {"x": 2.0})["x"]
    assert means.update("row", {"x": bad})["x"] == before
    assert math.isfinite(means.update("row", {"x": 3.0})["x"])


def test_rows_and_statistics_are_apart() -> None:
    means = RunningMeans()
    means.update("a", {"x": 1.0, "y": 10.0})
    assert dict(means.update("b", {"x": 5.0})) == pytest.approx({"x": 5.0})
    assert means.update("a", {"x": 1.0})["x"] == pytest.approx(1.0)
    assert set(means.update("a", {"y": 10.0})) == {"y"}


def test_state_is_plain_and_carries_on() -> None:
    means, other = RunningMeans(0.5), RunningMeans(0.5)
    means.update("a", {"x": 1.0, "y": math.nan})
    means.update("a.b", {"x": 0.1})
    other.update("stale", {"x": 9.0})
    state = json.loads(json.dumps(means.state_dict()))
    other.load_state_dict(state)
    assert other.state_dict() == means.state_dict()
    for row in ("a", "a.b", "new"):
        one, two = means.update(row, {"x": 3.0}), other.update(row, {"x": 3.0})
        assert dict(one) == dict(two)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0, math.nan])
def test_a_decay_out_of_range_is_a_mistake(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\)"):
        RunningMeans(decay)


def test_noise_parts_of_a_known_batch() -> None:
    # Gradients 2 and 4: mean 3, variance 2, so that 9 - 2/2 = 8 is left for the signal.
    parts = noise_parts({"sample_count": 2.0, "sample_sq_sum": 1.0 + 4.0, "grad_sq": 9.0})
    assert parts == pytest.approx({"noise_trace_mean": 2.0, "noise_signal_mean": 8.0})


@pytest.mark.parametrize("count", [0.0, 1.0])
def test_noise_parts_of_less_than_two_samples_are_nan(count: float) -> None:
    parts = noise_parts({"sample_count": count, "sample_sq_sum": 3.0, "grad_sq": 2.0})
    assert all(math.isnan(value) for value in parts.values())
