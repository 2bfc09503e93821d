"""How per-sample statistics scale, join and combine."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jacoscope.quantities import (
    QUANTITIES,
    SAMPLE_STATISTICS,
    SampleArrays,
    SampleNeeds,
    combine_statistics,
    group_of,
    sample_statistics,
    scaled,
)
from quantities.sample_pipeline import PER_SAMPLE, arrays_of, finished, measured, statistics_of

Array = Any


def draw(seed: int, samples: int, scalars: int = 6) -> Array:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(samples, scalars)) + 0.4


def same(got: dict[str, float], expected: dict[str, float]) -> None:
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-8, atol=1e-9, err_msg=name)


def test_every_statistic_is_made_and_no_other() -> None:
    labels = np.array([0, 1, 1])
    assert set(sample_statistics(arrays_of(draw(0, 3)), labels)) == set(SAMPLE_STATISTICS)
    prefixes = ("sample_", "pair_", "gram_", "column_")
    assert all(name.startswith(prefixes) for name in SAMPLE_STATISTICS)
    needed = {need for name in PER_SAMPLE for need in QUANTITIES[name].needs}
    assert set(SAMPLE_STATISTICS) <= needed


@pytest.mark.parametrize("gram", [False, True])
@pytest.mark.parametrize("columns", [False, True])
def test_what_was_not_measured_is_not_there(gram: bool, columns: bool) -> None:
    got = sample_statistics(arrays_of(draw(0, 3), SampleNeeds(gram, columns)), None)
    assert any(name.startswith(("pair_", "gram_")) for name in got) is gram
    assert any(name.startswith("column_") for name in got) is columns


def test_only_what_is_wanted() -> None:
    arrays = arrays_of(draw(0, 4))
    everything = sample_statistics(arrays, None)
    for wanted in (["sample_count"], ["pair_dot_min", "sample_sq_sum"], ["gram_top_sum"], []):
        same(sample_statistics(arrays, None, wanted), {name: everything[name] for name in wanted})


def test_eigenvalues_are_left_out_where_none_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(np.linalg, "eigvalsh", fail)
    sample_statistics(arrays_of(draw(0, 4)), None, ["pair_count", "column_max_sum"])


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), samples=st.integers(1, 6), factor=st.floats(1e-4, 1e4))
def test_scaling_arrays_is_scaling_contributions(seed: int, samples: int, factor: float) -> None:
    c = draw(seed, samples)
    labels = np.arange(samples) % 2
    got = sample_statistics(scaled(arrays_of(factor * c), 1 / factor), labels)
    same(got, sample_statistics(arrays_of(c), labels))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    samples=st.integers(0, 6),
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_a_group_is_its_parameters_side_by_side(seed: int, samples: int, widths: list[int]) -> None:
    c = draw(seed, samples, sum(widths))
    members = np.split(c, np.cumsum(widths)[:-1], axis=1)
    group = group_of([arrays_of(member) for member in members])
    assert group.numel == sum(widths)
    labels = np.arange(samples) % 2
    same(sample_statistics(group, labels), sample_statistics(arrays_of(c), labels))


def test_a_group_lacks_what_a_member_lacks_and_leaves_members_alone() -> None:
    one = arrays_of(draw(0, 3))
    other = arrays_of(draw(1, 3), SampleNeeds())
    assert one.gram_NN is not None
    before = one.gram_NN.copy()
    assert group_of([one, other]).gram_NN is None
    assert group_of([one, other]).scalars == group_of([other, one]).scalars == {}
    group_of([one, one])
    np.testing.assert_array_equal(one.gram_NN, before)


def test_a_group_of_different_samples_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="samples differ"):
        group_of([arrays_of(draw(0, 3)), arrays_of(draw(0, 4))])


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), sizes=st.lists(st.integers(1, 5), min_size=3, max_size=3))
def test_backwards_combine_in_any_order(seed: int, sizes: list[int]) -> None:
    a, b, c = (
        sample_statistics(arrays_of(draw(seed + index, size)), np.arange(size) % 2)
        for index, size in enumerate(sizes)
    )
    left = combine_statistics(combine_statistics(a, b), c)
    same(left, combine_statistics(a, combine_statistics(b, c)))
    same(left, combine_statistics(combine_statistics(c, a), b))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 7))
def test_splitting_a_batch_changes_only_what_is_within_backwards(seed: int, cut: int) -> None:
    c = draw(seed, 8)
    whole, split = measured([c]), measured([c[:cut], c[cut:]])
    for name in (
        "sample_grad_norm",
        "sample_grad_norm_max",
        "sample_grad_norm_cv",
        "grad_variance",
        "noise_scale",
        "grad_diversity",
        "fisher_trace",
    ):
        np.testing.assert_allclose(split[name], whole[name], rtol=1e-8, err_msg=name)
    # Of the same pairs fewer are seen, and extremes are of parts.
    assert split["pair_cosine_min"] >= whole["pair_cosine_min"] - 1e-9
    assert split["grad_confusion"] >= whole["grad_confusion"] - 1e-9
    assert split["fisher_max"] >= whole["fisher_max"] * (1 - 1e-9)
    assert split["fisher_top_eigenvalue"] >= whole["fisher_top_eigenvalue"] * (1 - 1e-9)


def test_repeating_a_backward_repeats_its_means() -> None:
    c = draw(5, 6)
    labels = np.array([0, 0, 1, 1, 2, 2])
    once, twice = measured([c], [labels]), measured([c / 2, c / 2], [labels, labels])
    # The variance is over one sample less twice, so that its estimates differ.
    estimates = {"grad_variance", "noise_scale", "grad_diversity", "sample_grad_norm_cv"}
    for name in set(PER_SAMPLE) - estimates:
        np.testing.assert_allclose(twice[name], once[name], rtol=1e-9, err_msg=name)


def test_what_one_backward_lacks_the_step_lacks() -> None:
    full = sample_statistics(arrays_of(draw(0, 4)), None)
    lean = sample_statistics(arrays_of(draw(1, 4), SampleNeeds()), None)
    combined = combine_statistics(full, lean)
    assert set(combined) == set(combine_statistics(lean, full)) == set(lean)
    got = finished(combined | {"grad_sq": 1.0, "numel": 6.0})
    assert math.isnan(got["pair_cosine"])
    assert math.isfinite(got["coherence"])


@pytest.mark.parametrize("name", SAMPLE_STATISTICS)
def test_nan_stays_nan_when_combined(name: str) -> None:
    for a, b in ((math.nan, 1.0), (1.0, math.nan)):
        assert math.isnan(combine_statistics({name: a}, {name: b})[name])


def test_rounding_below_zero_is_no_gradient() -> None:
    arrays = SampleArrays(
        np.array([-1e-20, 1.0]), np.array([-1e-21, 1.0]), np.diag([-1e-20, 1.0]), {}, 3
    )
    got = sample_statistics(arrays, None)
    assert got["sample_norm_sum"] == 1.0
    assert got["sample_cosine_count"] == 1.0
    assert got["gram_trace_sum"] == got["gram_top_sum"] == 1.0
    assert got["gram_entropy_sum"] == 0.0


def test_cosines_stay_in_range_when_rounded() -> None:
    c = np.float32(np.tile(np.random.default_rng(0).normal(size=50), (3, 1)))
    gram = np.float64(c @ c.T) * (1 + 1e-6)
    arrays = SampleArrays(np.float64((c**2).sum(1)), gram.sum(1), gram, {}, 50)
    got = sample_statistics(arrays, None)
    assert got["pair_cosine_min"] == 1.0
    assert got["pair_cosine_sum"] == 6.0
    assert got["sample_cosine_min"] <= 1.0


def test_statistics_of_a_step_hold_the_whole_gradient() -> None:
    step = [draw(0, 3), draw(1, 4)]
    whole = step[0].sum(0) + step[1].sum(0)
    np.testing.assert_allclose(statistics_of(step)["grad_sq"], whole @ whole)
