"""Histograms as they are kept: packed and unpacked they are the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jacoscope.filled_bins import pack, unpack


@settings(max_examples=50, deadline=None)
@given(
    parameters=st.integers(1, 5),
    bins=st.integers(1, 9),
    share=st.floats(0, 1),
    dtype=st.sampled_from(["f2", "f4", "f8"]),
    seed=st.integers(0, 2**16),
)
def test_the_same_again(parameters: int, bins: int, share: float, dtype: str, seed: int) -> None:
    drawn = np.random.default_rng(seed)
    counts = drawn.integers(1, 9, (parameters, bins)) * (drawn.random(bins) < share)
    packed = pack(counts.astype(dtype))
    assert packed.dtype == dtype
    assert packed.shape == (parameters + 1, max(1, np.count_nonzero(counts.any(0))))
    again = unpack(packed, parameters, bins)
    assert again is not None
    np.testing.assert_array_equal(again, counts)


def test_what_is_not_packed_is_left_as_it_is() -> None:
    counts = np.ones((2, 3))
    assert unpack(counts, 2, 3) is counts


@pytest.mark.parametrize(
    "damaged",
    [np.ones(3), np.ones((2, 2)), np.ones((4, 2)), [[9.0], [1], [1]], [[np.nan], [1], [1]]],
)
def test_damaged(damaged: object) -> None:
    assert unpack(np.asarray(damaged, dtype=np.float64), 2, 3) is None
