"""Per-sample quantities by their plain definitions, one loop each, on dense contributions.

A step is a list of backwards, each an array of contributions, shape (N_b, P).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

Array = Any

SCALING = {
    "×|s|": lambda s: abs(s),
    "×s²": lambda s: s**2,
    "unchanged (s ≠ 0)": lambda s: 1.0,
}


def cosine(x: Array, y: Array) -> float:
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def is_zero(x: Array) -> bool:
    return not np.any(x)


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def defined(step: list[Array], labels: list[Array] | None) -> dict[str, float]:
    """Every per-sample quantity of a step of at least two samples, by its definition."""
    samples = sum(len(c) for c in step)
    batches = [samples * c for c in step]  # per-sample gradients
    gradients = [g for batch in batches for g in batch]
    whole = sum(c.sum(0) for c in step)
    norms = [float(np.linalg.norm(g)) for g in gradients]
    trace = sum(float((g - whole) @ (g - whole)) for g in gradients) / (samples - 1)
    squares = sum(norm**2 for norm in norms)
    values = {
        "sample_grad_norm": mean(norms),
        "sample_grad_norm_max": max(norms),
        "sample_grad_norm_cv": float(np.std(norms, ddof=1) / np.mean(norms)),
        "grad_variance": trace,
        "noise_scale": trace / (float(whole @ whole) - trace / samples),
        "grad_diversity": squares / float(sum(gradients) @ sum(gradients)),
        "fisher_trace": squares / samples,
    }
    values |= _of_alignment(step, batches)
    values |= _of_pairs(batches, squares / samples, labels)
    values |= _of_matrices(batches, samples)
    return values


def _of_alignment(step: list[Array], batches: list[Array]) -> dict[str, float]:
    cosines = []
    opposed = []
    for c, batch in zip(step, batches, strict=True):
        whole = c.sum(0)
        cosines += [cosine(g, whole) for g in batch if not is_zero(g) and not is_zero(whole)]
        opposed += [float(g @ whole < 0) for g in batch]
    return {
        "sample_alignment": mean(cosines),
        "sample_alignment_min": min(cosines, default=math.nan),
        "sample_opposed": mean(opposed),
    }


def _of_pairs(
    batches: list[Array], mean_square: float, labels: list[Array] | None
) -> dict[str, float]:
    dots, cosines, within, between = [], [], [], []
    for index, batch in enumerate(batches):
        for i, k in itertools.permutations(range(len(batch)), 2):
            dots.append(float(batch[i] @ batch[k]))
            if is_zero(batch[i]) or is_zero(batch[k]):
                continue
            cosines.append(cosine(batch[i], batch[k]))
            if labels is not None:
                is_same = labels[index][i] == labels[index][k]
                (within if is_same else between).append(cosines[-1])
    return {
        "coherence": mean(dots) / mean_square,
        "pair_cosine": mean(cosines),
        "pair_cosine_min": min(cosines, default=math.nan),
        "grad_confusion": min(dots, default=math.nan),
        "pair_negative": mean([float(dot < 0) for dot in dots]),
        "stiffness_within": mean(within),
        "stiffness_between": mean(between),
    }


def _of_matrices(batches: list[Array], samples: int) -> dict[str, float]:
    ratios: list[float] = []
    entropies, traces, tops, top_shares, largest = [], [], [], [], []
    for batch in batches:
        count = len(batch)
        for column in batch.T:
            variance = float(np.var(column, ddof=1)) if count > 1 else 0.0
            if variance > 1e-12 * float(np.mean(column**2)):
                ratios.append(float(np.mean(column)) ** 2 / variance - 1 / count)
        fisher = batch.T @ batch / count
        largest.append(float(fisher.diagonal().max()) * count / samples)
        singular = np.linalg.svd(batch, compute_uv=False)
        spectrum = singular**2
        shares = spectrum[spectrum > 1e-25] / spectrum.sum()
        traces.append(float(spectrum.sum()))
        entropies.append(float(-(shares * np.log(shares)).sum()))
        top_shares.append(float(shares.max()))
        tops.append(float(np.linalg.eigvalsh(fisher).max()) * count / samples)
    return {
        "gsnr": mean(ratios),
        "effective_rank": float(np.exp(np.average(entropies, weights=traces))),
        "top_eigenvalue_share": float(np.average(top_shares, weights=traces)),
        "fisher_max": sum(largest),
        "fisher_top_eigenvalue": sum(tops),
    }
