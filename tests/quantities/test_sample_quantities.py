"""Per-sample quantities against their plain definitions, closed forms and invariances."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import jacoscope
from jacoscope.jacobian import DenseJacobian
from jacoscope.quantities import (
    QUANTITIES,
    SAMPLE_HEADLINES,
    SampleNeeds,
    inputs_of,
    is_per_sample,
    measure_samples,
)
from quantities.sample_pipeline import PER_SAMPLE, measured
from quantities.sample_reference import SCALING, defined

Array = Any


def draw(seed: int, *sizes: int, scalars: int = 7, shift: float = 0.3) -> list[Array]:
    generator = np.random.default_rng(seed)
    direction = shift * generator.normal(size=scalars)
    return [generator.normal(size=(size, scalars)) + direction for size in sizes]


def classes(seed: int, step: list[Array], number: int = 3) -> list[Array]:
    generator = np.random.default_rng(seed)
    return [generator.integers(number, size=len(c)) for c in step]


def agree(got: dict[str, float], expected: dict[str, float], rtol: float = 1e-9) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=rtol, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("sizes", [(2,), (6,), (9, 9), (5, 3, 2), (4, 1)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_every_quantity_equals_its_definition(sizes: tuple[int, ...], seed: int) -> None:
    step = draw(seed, *sizes)
    labels = classes(seed, step)
    expected = defined(step, labels)
    assert set(expected) == set(PER_SAMPLE)
    agree(measured(step, labels), expected)


@pytest.mark.parametrize("seed", range(3))
def test_zero_samples_and_constant_scalars_are_left_out_as_defined(seed: int) -> None:
    step = draw(seed, 6, 5)
    step[0][2] = 0
    step[1][:, 3] = 1.5
    step[0][:, 4] = 0
    labels = classes(seed, step)
    agree(measured(step, labels), defined(step, labels))


def test_more_scalars_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jacoscope.quantities._sample_measure._CHUNK", 4)
    step = draw(0, 6, scalars=13)
    agree(measured(step), defined(step, None))


@pytest.mark.parametrize("copies", [2, 5])
def test_equal_samples_agree_in_everything(copies: int) -> None:
    got = measured([np.tile([[3.0, 4.0]], (copies, 1))], [np.zeros(copies, dtype=np.int64)])
    expected = {
        "sample_grad_norm": 5.0 * copies,
        "sample_grad_norm_max": 5.0 * copies,
        "sample_grad_norm_cv": 0.0,
        "sample_alignment": 1.0,
        "sample_alignment_min": 1.0,
        "sample_opposed": 0.0,
        "grad_variance": 0.0,
        "noise_scale": 0.0,
        "gsnr": math.nan,
        "grad_diversity": 1 / copies,
        "coherence": 1.0,
        "pair_cosine": 1.0,
        "pair_cosine_min": 1.0,
        "grad_confusion": 25.0 * copies**2,
        "pair_negative": 0.0,
        "stiffness_within": 1.0,
        "stiffness_between": math.nan,
        "effective_rank": 1.0,
        "top_eigenvalue_share": 1.0,
        "fisher_trace": 25.0 * copies**2,
        "fisher_max": 16.0 * copies**2,
        "fisher_top_eigenvalue": 25.0 * copies**2,
    }
    assert set(expected) == set(PER_SAMPLE)
    agree(got, expected)


@pytest.mark.parametrize("samples", [2, 4])
def test_orthogonal_samples_have_nothing_in_common(samples: int) -> None:
    got = measured([np.eye(samples)])
    expected = {
        "sample_alignment": samples**-0.5,
        "grad_diversity": 1.0,
        "coherence": 0.0,
        "noise_scale": math.inf,
        "pair_cosine": 0.0,
        "pair_negative": 0.0,
        "gsnr": 0.0,
        "effective_rank": samples,
        "top_eigenvalue_share": 1 / samples,
        "fisher_top_eigenvalue": samples,
    }
    agree(got, expected)


def test_opposite_samples_cancel() -> None:
    got = measured([np.array([[1.0, 2.0], [-1.0, -2.0]])])
    expected = {
        "sample_alignment": math.nan,
        "sample_opposed": 0.0,
        "grad_diversity": math.inf,
        "coherence": -1.0,
        "pair_cosine_min": -1.0,
        "pair_negative": 1.0,
        "noise_scale": -2.0,
        "gsnr": -0.5,
        "effective_rank": 1.0,
    }
    agree(got, expected)


@pytest.mark.parametrize("seed", range(4))
def test_coherence_and_noise_scale_say_the_same_of_one_batch(seed: int) -> None:
    got = measured(draw(seed, 8))
    np.testing.assert_allclose(
        got["noise_scale"], (1 - got["coherence"]) / got["coherence"], rtol=1e-9
    )


_OF_ONE = {
    "sample_grad_norm": 5.0,
    "sample_grad_norm_max": 5.0,
    "sample_alignment": 1.0,
    "sample_alignment_min": 1.0,
    "sample_opposed": 0.0,
    "grad_diversity": 1.0,
    "effective_rank": 1.0,
    "top_eigenvalue_share": 1.0,
    "fisher_trace": 25.0,
    "fisher_max": 16.0,
    "fisher_top_eigenvalue": 25.0,
}


def test_of_one_sample_all_else_is_nan() -> None:
    got = measured([np.array([[3.0, 4.0]])], [np.array([1])])
    agree(got, dict.fromkeys(PER_SAMPLE, math.nan) | _OF_ONE)


def test_backwards_of_one_sample_have_no_pairs_but_a_variance() -> None:
    step = [np.array([[3.0, 4.0]]), np.array([[1.0, 0.0]])]
    expected = defined(step, None)
    missing = {"gsnr", "coherence", "grad_confusion", "pair_cosine", "pair_negative"}
    assert {name for name in missing if math.isnan(expected[name])} == missing
    agree(measured(step), expected)


def test_no_sample_at_all_is_nan_throughout() -> None:
    got = measured([np.zeros((0, 3))])
    assert {name for name, value in got.items() if not math.isnan(value)} == set()


def test_gradients_of_zero() -> None:
    got = measured([np.zeros((4, 3))])
    zero = {"sample_grad_norm", "sample_grad_norm_max", "sample_opposed", "grad_variance"}
    zero |= {"grad_confusion", "pair_negative"}
    zero |= {"fisher_trace", "fisher_max", "fisher_top_eigenvalue"}
    agree(got, dict.fromkeys(PER_SAMPLE, math.nan) | dict.fromkeys(zero, 0.0))


def test_a_sample_that_is_nan_makes_everything_nan() -> None:
    (c,) = draw(0, 5)
    c[2, 1] = math.nan
    got = measured([c], [np.zeros(5, dtype=np.int64)])
    # No pair has different labels, so that nothing reaches this one.
    assert {name for name, value in got.items() if not math.isnan(value)} == set()


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_an_infinite_sample_is_never_hidden(bad: float) -> None:
    (c,) = draw(0, 5)
    c[2, 1] = bad
    got = measured([c], [np.zeros(5, dtype=np.int64)])
    shares = {"sample_opposed", "pair_negative", "sample_grad_norm_cv"}
    finite = {name for name, value in got.items() if math.isfinite(value)}
    assert finite <= shares


def test_without_labels_there_is_no_stiffness() -> None:
    got = measured(draw(0, 5))
    assert math.isnan(got["stiffness_within"])
    assert math.isnan(got["stiffness_between"])


def test_labels_known_for_one_backward_only_serve_it() -> None:
    step = draw(3, 5, 6)
    labels = classes(3, step)
    distinct = np.arange(5)
    # Labels that all differ add no pair within classes, and the other backward's are as alone.
    both = measured(step, [distinct, labels[1]])["stiffness_within"]
    np.testing.assert_allclose(both, measured(step[1:], labels[1:])["stiffness_within"])


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    factor=st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3),
)
def test_scaling_the_loss_scales_as_documented(seed: int, sizes: list[int], factor: float) -> None:
    step = draw(seed, *sizes)
    labels = classes(seed, step)
    before, after = measured(step, labels), measured([factor * c for c in step], labels)
    for name in PER_SAMPLE:
        ratio = SCALING[QUANTITIES[name].scaling](factor)
        # What is nearly 0 / 0 has no digits to compare.
        assert_close(after[name], ratio * before[name], 1e-7 * ratio, name)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), samples=st.integers(2, 8))
def test_neither_the_order_of_samples_nor_the_axes_matter(seed: int, samples: int) -> None:
    (c,) = draw(seed, samples)
    (labels,) = classes(seed, [c])
    generator = np.random.default_rng(seed)
    order = generator.permutation(samples)
    agree(measured([c[order]], [labels[order]]), measured([c], [labels]), rtol=1e-7)
    rotation, _ = np.linalg.qr(generator.normal(size=(7, 7)))
    turned, straight = measured([c @ rotation], [labels]), measured([c], [labels])
    of_columns = {"gsnr", "fisher_max"}
    for name in set(PER_SAMPLE) - of_columns:
        assert_close(turned[name], straight[name], 1e-7, name)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), samples=st.integers(2, 8))
def test_ranges(seed: int, samples: int) -> None:
    (c,) = draw(seed, samples)
    got = measured([c], classes(seed, [c]))
    assert got["sample_grad_norm"] <= got["sample_grad_norm_max"] * (1 + 1e-12)
    assert -1 <= got["sample_alignment_min"] <= got["sample_alignment"] <= 1
    assert -1 / (samples - 1) - 1e-9 <= got["coherence"] <= 1 + 1e-9
    assert -1 <= got["pair_cosine_min"] <= got["pair_cosine"] <= 1
    assert 1 / samples - 1e-9 <= got["grad_diversity"]
    assert 1 - 1e-9 <= got["effective_rank"] <= samples + 1e-9
    assert 1 / samples - 1e-9 <= got["top_eigenvalue_share"] <= 1 + 1e-9
    assert got["fisher_max"] <= got["fisher_top_eigenvalue"] * (1 + 1e-9)
    assert got["fisher_top_eigenvalue"] <= got["fisher_trace"] * (1 + 1e-9)


def assert_close(got: float, expected: float, atol: float, name: str) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=atol, err_msg=name)


def test_the_table_of_per_sample_quantities() -> None:
    assert set(SAMPLE_HEADLINES) <= set(PER_SAMPLE)
    for name, quantity in QUANTITIES.items():
        inputs = inputs_of(name)
        assert ("samples" in inputs) is is_per_sample(name)
        if is_per_sample(name):
            assert ("gradient" in inputs) is ("grad_sq" in quantity.needs)
            assert quantity.scaling in SCALING
            assert "arXiv:" in quantity.source or "EUSIPCO" in quantity.source


def test_gradients_that_are_zero_but_for_rounding_have_no_part_in_gsnr() -> None:
    """Softmax is the same whatever is added to all keys: their bias has a gradient of zero."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    with torch.no_grad():
        attention.in_proj_bias.normal_()
    x = torch.randn(12, 8, 16)

    def losses(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        attended: torch.Tensor = network(x, x, x)[0]
        return attended.square().sum((1, 2)) / len(x)

    loss = losses(attention, x).sum()
    with jacoscope.capture(loss, attention, 12, "operator") as jacobians:
        loss.backward()
    single = jacobians["in_proj_bias"].dense()
    got = measure_samples(DenseJacobian(single), single.sum(0), SampleNeeds(columns=True)).scalars

    exact = copy.deepcopy(attention).double()
    each = losses(exact, x.double())
    rows = [torch.autograd.grad(one, exact.in_proj_bias, retain_graph=True)[0] for one in each]
    c = torch.stack(rows)[:, [*range(16), *range(32, 48)]]
    expected = c.mean(0).square() / c.var(0) - 1 / 12
    assert got["column_snr_count"] == 32
    assert float(got["column_snr_sum"] / 32) == pytest.approx(float(expected.mean()), rel=1e-3)
