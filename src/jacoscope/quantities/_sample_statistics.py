"""From per-sample inner products to the statistics that per-sample quantities are made of.

Shape suffixes: N samples of one backward.

All of it is on the host and in double precision. c_i is sample i's contribution to the gradient,
G_b the gradient of its own backward: the sum of that backward's contributions. Backwards of a step
(accumulation) and ranks then combine by addition, maximum or minimum, and only afterwards does
anything get divided. Two samples are compared only if one backward saw both.

Where n of a backward's N samples were measured, drawn so that any n are as likely, sums over
samples and over pairs are multiplied by N/n and N(N − 1)/(n(n − 1)), which leaves their expectation
what it would be over all (Horvitz and Thompson, A generalization of sampling without replacement
from a finite universe, 1952); G_b and N are those of all samples. Extremes are of what was
measured.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jacoscope.quantities._quantity import BoolArray, FloatArray, IntArray

__all__ = [
    "OF_ALL_SAMPLES",
    "OF_LABELS",
    "SAMPLE_STATISTICS",
    "SampleArrays",
    "combine_statistics",
    "group_of",
    "sample_statistics",
    "scaled",
]

SAMPLE_STATISTICS: dict[str, Literal["sum", "max", "min"]] = {
    # From |c_i|² and c_i·G_b.
    "sample_count": "sum",  # N
    "sample_norm_sum": "sum",  # Σ |c_i|
    "sample_norm_max": "max",  # max |c_i|
    "sample_sq_sum": "sum",  # Σ |c_i|²
    "sample_norm_excess": "sum",  # what (Σ |c_i|)² exceeds that of all samples by, on average
    "sample_cosine_sum": "sum",  # Σ cos(c_i, G_b), where both have a direction
    "sample_cosine_count": "sum",  # how many those are
    "sample_cosine_min": "min",
    "sample_opposed_count": "sum",  # #{i : c_i·G_b < 0}
    "sample_cross_sum": "sum",  # Σ_{i≠k} c_i·c_k = |G_b|² − Σ |c_i|²
    "sample_cross_count": "sum",  # N (N − 1) ordered pairs
    # From the pairs' inner products.
    "pair_count": "sum",  # N (N − 1) ordered pairs
    "pair_dot_min": "min",  # min_{i≠k} c_i·c_k
    "pair_negative_count": "sum",  # #{i≠k : c_i·c_k < 0}
    "pair_cosine_sum": "sum",  # Σ_{i≠k} cos(c_i, c_k), where both have a direction
    "pair_cosine_count": "sum",  # how many those are
    "pair_cosine_min": "min",
    "pair_within_sum": "sum",  # of these cosines, those of samples with the same label
    "pair_within_count": "sum",
    "pair_between_sum": "sum",  # and those of samples with different labels
    "pair_between_count": "sum",
    # From the eigenvalues λ of the Gram matrix.
    "gram_trace_sum": "sum",  # Σ λ
    "gram_top_sum": "sum",  # max λ
    "gram_entropy_sum": "sum",  # Σλ times the entropy of λ / Σλ
    # From the columns; the device has them down to a number each.
    "column_max_sum": "sum",  # max_j Σ_i c_ij²
    "column_snr_sum": "sum",  # Σ_j (mean_j² / var_j − 1/N), where var_j > 0
    "column_snr_count": "sum",  # how many scalars those are
}
"""How each statistic combines over the backwards of a step and over ranks. What a statistic needs
is in its prefix: ``pair_`` and ``gram_`` the Gram matrix, ``column_`` the columns' sums of squares,
``sample_`` neither."""

OF_ALL_SAMPLES = frozenset({"gram_trace_sum", "gram_top_sum", "gram_entropy_sum", "column_max_sum"})
"""Statistics that depend on how many samples there are, so that some do not tell them of all."""

OF_LABELS = frozenset(
    {"pair_within_sum", "pair_within_count", "pair_between_sum", "pair_between_count"}
)
"""Statistics that only the samples' labels can tell."""


@dataclass(frozen=True, eq=False)
class SampleArrays:
    """What one row's statistics are made of: a parameter or a group of them, in one backward.

    Args:
        sq_N: |c_i|², shape (N,).
        dot_N: c_i·G_b, shape (N,).
        gram_NN: c_i·c_k, shape (N, N), if it was measured.
        scalars: What was reduced from the columns, by statistic.
        numel: Number of scalars of the row.
        grad_sq: |G_b|²; ``nan`` if it was not measured.
        drawn_from: Of how many samples these N were drawn; ``None`` where these are all.
        floor: A squared norm below it is too small to be known, and its sample has no direction.
    """

    sq_N: FloatArray
    dot_N: FloatArray
    gram_NN: FloatArray | None
    scalars: Mapping[str, float]
    numel: int
    grad_sq: float = math.nan
    drawn_from: int | None = None
    floor: float = 0.0

    @property
    def has_direction_N(self) -> BoolArray:
        """Whether a sample's contribution is one with a direction, shape (N,); nan passes."""
        return ~(self.sq_N <= self.floor)

    @property
    def whole_sq(self) -> float:
        """|G_b|², as the samples tell it where they are all there."""
        return float(self.dot_N.sum()) if self.drawn_from is None else self.grad_sq


def scaled(arrays: SampleArrays, factor: float) -> SampleArrays:
    """The same for contributions that are all multiplied by ``factor``, as to undo a loss scale."""
    square = factor**2
    return SampleArrays(
        arrays.sq_N * square,
        arrays.dot_N * square,
        None if arrays.gram_NN is None else arrays.gram_NN * square,
        {
            name: value * square if name == "column_max_sum" else value
            for name, value in arrays.scalars.items()
        },
        arrays.numel,
        arrays.grad_sq * square,
        arrays.drawn_from,
        arrays.floor * square,
    )


def group_of(members: Sequence[SampleArrays]) -> SampleArrays:
    """The row of some parameters taken together: their contributions side by side.

    Args:
        members: At least one; of the same samples in the same order. What one of them lacks, the
            group lacks.
    """
    first = members[0]
    assert all(member.sq_N.shape == first.sq_N.shape for member in members), "samples differ"
    grams = [member.gram_NN for member in members if member.gram_NN is not None]
    scalars = {}
    for name in first.scalars:
        values = [member.scalars[name] for member in members if name in member.scalars]
        if len(values) == len(members):
            # The largest column is that of one of them; all else adds up.
            reduced = np.max(values) if name == "column_max_sum" else np.sum(values)
            scalars[name] = float(reduced)
    return SampleArrays(
        np.sum([member.sq_N for member in members], axis=0),
        np.sum([member.dot_N for member in members], axis=0),
        _sum(grams) if len(grams) == len(members) else None,
        scalars,
        sum(member.numel for member in members),
        sum(member.grad_sq for member in members),
        first.drawn_from,
        max(member.floor for member in members),
    )


def sample_statistics(
    arrays: SampleArrays, labels: IntArray | None, wanted: Collection[str] | None = None
) -> dict[str, float]:
    """The statistics of one row in one backward.

    Args:
        arrays: What was measured.
        labels: The samples' classes, shape (N,), if they are known.
        wanted: Names of statistics that are enough; all that can be had by default. Eigenvalues
            are what costs.

    Returns:
        By name, out of :data:`SAMPLE_STATISTICS`. Those of the Gram matrix and of the columns are
        there only if these were measured. The minimum of nothing is inf, the maximum is −inf.
    """
    names = SAMPLE_STATISTICS if wanted is None else wanted
    statistics = _of_samples(arrays) | dict(arrays.scalars)
    if arrays.gram_NN is not None:
        if any(name.startswith("pair_") for name in names):
            statistics |= _of_pairs(arrays, arrays.gram_NN, labels)
        if arrays.drawn_from is None and any(name.startswith("gram_") for name in names):
            statistics |= _of_spectrum(arrays.gram_NN)
    return {name: value for name, value in statistics.items() if name in names}


def combine_statistics(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    """The statistics of two backwards, or of two ranks, taken together.

    Args:
        a: Statistics of one.
        b: Statistics of the other.

    Returns:
        Those that both have: what is missing from a part is missing from the whole.
    """
    return {name: _combine(name, value, b[name]) for name, value in a.items() if name in b}


def _combine(name: str, a: float, b: float) -> float:
    how = SAMPLE_STATISTICS[name]
    if how == "sum":
        return a + b
    return float(np.maximum(a, b) if how == "max" else np.minimum(a, b))  # these pass on nan


def _of_samples(arrays: SampleArrays) -> dict[str, float]:
    norms_N, dot_N = _norms(arrays.sq_N), arrays.dot_N
    measured, whole_sq = len(norms_N), arrays.whole_sq
    count = measured if arrays.drawn_from is None else arrays.drawn_from
    weight = count / max(measured, 1)
    # A sum that rounding made negative has no direction; one with a nan passes it on.
    has_direction = arrays.has_direction_N & (not whole_sq <= 0)
    with np.errstate(all="ignore"):
        cosines = _cosines(dot_N, norms_N * np.sqrt(whole_sq))[has_direction]
    squares = float(np.square(norms_N).sum()) * weight
    return {
        "sample_count": float(count),
        "sample_norm_sum": float(norms_N.sum()) * weight,
        "sample_norm_max": float(norms_N.max(initial=-np.inf)),
        "sample_sq_sum": squares,
        "sample_norm_excess": _norm_excess(norms_N, count),
        "sample_cosine_sum": float(cosines.sum()) * weight,
        "sample_cosine_count": float(len(cosines)) * weight,
        "sample_cosine_min": float(cosines.min(initial=np.inf)),
        "sample_opposed_count": _count_negative(dot_N) * weight,
        "sample_cross_sum": whole_sq - squares if count > 1 else 0.0,
        "sample_cross_count": float(count * (count - 1)),
    }


def _norm_excess(norms_N: FloatArray, count: int) -> float:
    """The variance of Σ |c_i| as told by some of ``count`` samples, unbiased."""
    measured = len(norms_N)
    if measured == count:
        return 0.0
    variance = float(norms_N.var(ddof=1)) if measured > 1 else math.nan
    return count * (count - measured) / measured * variance


def _of_pairs(
    arrays: SampleArrays, gram_NN: FloatArray, labels: IntArray | None
) -> dict[str, float]:
    norms_N = _norms(arrays.sq_N)
    count = len(norms_N)
    every = count * (count - 1)
    weight = 1.0
    if arrays.drawn_from is not None and every:
        weight = arrays.drawn_from * (arrays.drawn_from - 1) / every
    pairs_NN = ~np.eye(count, dtype=bool)
    dots = gram_NN[pairs_NN]
    has_direction = np.logical_and.outer(*[arrays.has_direction_N] * 2)[pairs_NN]
    with np.errstate(all="ignore"):
        all_cosines = _cosines(dots, np.outer(norms_N, norms_N)[pairs_NN])
    cosines = all_cosines[has_direction]
    if labels is None:
        within = between = cosines[:0]
    else:
        assert labels.shape == (count,), "one label per sample"
        is_same = np.equal.outer(labels, labels)[pairs_NN][has_direction]
        within, between = cosines[is_same], cosines[~is_same]
    return {
        "pair_count": every * weight,
        "pair_dot_min": float(dots.min(initial=np.inf)),
        "pair_negative_count": _count_negative(dots) * weight,
        "pair_cosine_sum": float(cosines.sum()) * weight,
        "pair_cosine_count": float(len(cosines)) * weight,
        "pair_cosine_min": float(cosines.min(initial=np.inf)),
        "pair_within_sum": float(within.sum()) * weight,
        "pair_within_count": float(len(within)) * weight,
        "pair_between_sum": float(between.sum()) * weight,
        "pair_between_count": float(len(between)) * weight,
    }


def _of_spectrum(gram_NN: FloatArray) -> dict[str, float]:
    names = ("gram_trace_sum", "gram_top_sum", "gram_entropy_sum")
    if not np.isfinite(gram_NN).all():
        return dict.fromkeys(names, float("nan"))
    # A Gram matrix has no negative eigenvalues; rounding may have made some.
    eigenvalues = np.linalg.eigvalsh(gram_NN).clip(min=0)
    trace = float(eigenvalues.sum())
    positive = eigenvalues[eigenvalues > 0]
    entropy = -float((positive * np.log(positive / trace)).sum()) if trace > 0 else 0.0
    return dict(zip(names, (trace, float(eigenvalues.max(initial=0.0)), entropy), strict=True))


def _sum(arrays: Sequence[FloatArray]) -> FloatArray:
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    return total


def _norms(sq_N: FloatArray) -> FloatArray:
    norms_N: FloatArray = np.sqrt(np.maximum(sq_N, 0.0))  # rounding may leave less than zero
    return norms_N


def _cosines(dots: FloatArray, lengths: FloatArray) -> FloatArray:
    cosines: FloatArray = np.clip(dots / lengths, -1.0, 1.0)  # rounding may leave the range
    return cosines


def _count_negative(values: FloatArray) -> float:
    return float(np.where(np.isnan(values), np.nan, values < 0).sum())
