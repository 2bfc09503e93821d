"""Some of a batch's samples tell what all of them would, on average over all ways to draw them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from jacoscope.jacobian import DenseJacobian
from jacoscope.quantities import (
    QUANTITIES,
    SampleArrays,
    SampleNeeds,
    combine_statistics,
    measure_samples,
    needs_all_samples,
    noise_parts,
    sample_statistics,
)
from quantities.sample_pipeline import PER_SAMPLE, finished
from quantities.sample_reference import defined

Array = Any
NEEDS = SampleNeeds(gram=True, columns=True)
SHAPES = [((6,), (4,)), ((6,), (2,)), ((5, 4), (3, 2)), ((5, 4), (5, 2))]
LINEAR = (
    *("sample_grad_norm", "grad_variance", "grad_diversity", "fisher_trace"),
    *("sample_alignment", "sample_opposed", "pair_negative", "pair_cosine"),
)
"""Their denominators are the same whichever samples are drawn."""


def step_of(sizes: Sequence[int]) -> tuple[list[Array], list[Array]]:
    generator = np.random.default_rng(4)
    step = [generator.normal(size=(size, 3)) + np.array([0.7, 0, 0]) for size in sizes]
    return step, [generator.integers(0, 2, size) for size in sizes]


def arrays_of(c: Array, chosen: Sequence[int]) -> SampleArrays:
    rows = torch.from_numpy(c)
    some = DenseJacobian(rows).select(torch.tensor(chosen))
    found = measure_samples(some, rows.sum(0), NEEDS, is_part=len(chosen) < len(c))
    assert found.gram_NN is not None
    return SampleArrays(
        found.sq_N.numpy(),
        found.dot_N.numpy(),
        found.gram_NN.numpy(),
        {name: float(value) for name, value in found.scalars.items()},
        c.shape[1],
        float(found.grad_sq),
        len(c) if len(chosen) < len(c) else None,
    )


def statistics_of(
    step: Sequence[Array], labels: Sequence[Array], chosen: Sequence[Sequence[int]]
) -> dict[str, float]:
    total: dict[str, float] | None = None
    for c, label, places in zip(step, labels, chosen, strict=True):
        one = sample_statistics(arrays_of(c, places), label[list(places)])
        total = one if total is None else combine_statistics(total, one)
    assert total is not None
    whole = np.sum([c.sum(0) for c in step], axis=0)
    return total | {"grad_sq": float(whole @ whole), "numel": 3.0}


def draws(sizes: Sequence[int], drawn: Sequence[int]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every way to draw so many samples of each backward."""
    each = [itertools.combinations(range(n), k) for n, k in zip(sizes, drawn, strict=True)]
    return itertools.product(*each)


@pytest.mark.parametrize(("sizes", "drawn"), SHAPES, ids=str)
def test_means_over_all_draws_are_those_of_all_samples(
    sizes: tuple[int, ...], drawn: tuple[int, ...]
) -> None:
    step, labels = step_of(sizes)
    expected = defined(step, labels)
    all_samples = statistics_of(step, labels, [range(n) for n in sizes])
    found = [statistics_of(step, labels, chosen) for chosen in draws(sizes, drawn)]
    values = [finished(each) for each in found]
    for name in LINEAR:
        mean = np.mean([value[name] for value in values])
        assert mean == pytest.approx(expected[name], rel=1e-12), name
    for name in found[0]:
        if name.endswith(("_sum", "_count")) and not name.startswith("column"):
            mean = np.mean([each[name] for each in found])
            assert mean == pytest.approx(all_samples[name], rel=1e-12), name
    for part in ("noise_trace_mean", "noise_signal_mean"):
        mean = np.mean([noise_parts(each)[part] for each in found])
        assert mean == pytest.approx(noise_parts(all_samples)[part], rel=1e-12), part
    # The variance of norms, of which the spread is the root, over their squared mean.
    squares = [(v["sample_grad_norm_cv"] * v["sample_grad_norm"]) ** 2 for v in values]
    spread = expected["sample_grad_norm_cv"] * expected["sample_grad_norm"]
    assert np.mean(squares) == pytest.approx(spread**2, rel=1e-12)


def test_extremes_are_those_of_what_was_measured() -> None:
    (c,), labels = step_of((6,))
    whole = c.sum(0)
    for (chosen,) in draws((6,), (3,)):
        some = 6 * c[list(chosen)]  # per-sample gradients
        found = finished(statistics_of([c], labels, [chosen]))
        norms = np.linalg.norm(some, axis=1)
        assert found["sample_grad_norm_max"] == pytest.approx(norms.max())
        cosines = some @ whole / (norms * np.linalg.norm(whole))
        assert found["sample_alignment_min"] == pytest.approx(cosines.min())
        dots = (some @ some.T)[~np.eye(3, dtype=bool)]
        assert found["grad_confusion"] == pytest.approx(dots.min())
        assert found["sample_grad_norm_cv"] == pytest.approx(norms.std(ddof=1) / norms.mean())


def test_the_signal_to_noise_ratio_is_that_of_the_measured_samples() -> None:
    (c,), labels = step_of((6,))
    for (chosen,) in draws((6,), (4,)):
        some = c[list(chosen)]
        ratio = some.mean(0) ** 2 / some.var(0, ddof=1) - 1 / 4
        found = finished(statistics_of([c], labels, [chosen]))
        assert found["gsnr"] == pytest.approx(ratio.mean())


def test_what_depends_on_the_number_of_samples_is_not_told_from_some() -> None:
    step, labels = step_of((6,))
    found = statistics_of(step, labels, [(0, 2, 5)])
    untold = {
        name for name in PER_SAMPLE if not set(QUANTITIES[name].needs) - _RUNNING <= set(found)
    }
    assert untold == {name for name in PER_SAMPLE if needs_all_samples(name)}
    assert untold == {
        "effective_rank",
        "top_eigenvalue_share",
        "fisher_max",
        "fisher_top_eigenvalue",
    }


_RUNNING = {"noise_trace_mean", "noise_signal_mean"}
