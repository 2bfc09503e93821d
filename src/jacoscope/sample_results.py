"""What the samples of a step say, from what its backwards sent.

Shape suffixes: R rows, N samples.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jacoscope.capturing import tolerance
from jacoscope.extent import Extent
from jacoscope.groups import ALL, Group
from jacoscope.leaderboard import SampleBatch
from jacoscope.quantities import (
    FloatArray,
    IntArray,
    SampleArrays,
    combine_statistics,
    group_of,
    sample_statistics,
    scaled,
)
from jacoscope.record import BatchGram
from jacoscope.reduction import Parcel
from jacoscope.sample_backward import OpenedBackward, SampleBackward

__all__ = ["NAMED", "OpenedStep", "SampleResults", "StepSum", "Whole", "not_closed", "open_step"]
__all__ += ["results_of"]

NAMED = 10
"""How many samples that are not finite are named."""
_COMPRESSED = 5e-2  # what a communication hook may round gradients to
_NOT_CLOSED = (
    "the gradients of this step's batches do not add up to the one that the optimiser got: it was "
    "changed after a backward, or not set to zero before the first"
)


@dataclass(frozen=True, eq=False)
class Whole:
    """The step that backwards are a part of, where other processes have had some of it.

    Args:
        samples: Number of samples of all processes.
        missing: By parameter, why one of the backwards lacks it.
        processes: How many processes average their gradients.
    """

    samples: int
    missing: Mapping[str, str]
    processes: int = 1


@dataclass(frozen=True)
class StepSum:
    """Whether the backwards of a step add up to its gradient, along one direction.

    Args:
        total: Their sum.
        size: What an error of it is relative to.
        grad: The gradient that the optimiser was given.
        tolerance: The largest relative error that a sound sum may have.
    """

    total: float
    size: float
    grad: float
    tolerance: float


@dataclass(frozen=True, eq=False)
class OpenedStep:
    """What the backwards of a step sent, on the host.

    Args:
        backwards: The backwards, at least one.
        arrays: What each of them sent.
        missing: By parameter, why one of them lacks it.
        sums: By parameter, what is known of the sum of the backwards, where there are several.
    """

    backwards: Sequence[SampleBackward]
    arrays: Sequence[OpenedBackward]
    missing: Mapping[str, str]
    sums: Mapping[str, StepSum] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(backward.samples for backward in self.backwards)

    @property
    def alone(self) -> Whole:
        """The step, if there are no others who have had a part of it."""
        return Whole(self.samples, {**not_closed([self.sums]), **self.missing})


def open_step(
    backwards: Sequence[SampleBackward],
    left_out: Mapping[str, str],
    grads: Parcel | None = None,
) -> OpenedStep:
    """Open what the backwards of a step sent, waiting for the device if need be.

    Args:
        backwards: The backwards, at least one.
        left_out: By parameter that was not captured, why.
        grads: By parameter, the gradient that the optimiser was given along the direction of the
            checks, and its scale; where it has to be compared.
    """
    arrays = [backward.open() for backward in backwards]
    missing = dict(left_out)
    for backward in backwards:
        for name, reason in backward.capture.missing.items():
            missing.setdefault(name, reason)
    found = {} if grads is None else grads.unpack()
    scale = float(found.pop("scale", 1.0))
    sums = {}
    for name, grad in ((str(key), value) for key, value in found.items()):
        parts = [each.sums[name] for each in arrays if name in each.sums]
        checks = [each.capture.rows[name].check for each in backwards if name in each.capture.rows]
        sums[name] = StepSum(
            total=sum(total for total, _ in parts),
            size=sum(size for _, size in parts),
            grad=float(grad) / scale,
            tolerance=max((tolerance(check.epsilon) for check in checks), default=0.0),
        )
    return OpenedStep(backwards, arrays, missing, sums)


def not_closed(parts: Sequence[Mapping[str, StepSum]]) -> dict[str, str]:
    """By parameter, why the step's gradient is not that of its backwards.

    Args:
        parts: What each process knows, one at least; their gradients are averaged.
    """
    found = {}
    for name, first in parts[0].items():
        sums = [part[name] for part in parts if name in part]
        total = sum(each.total for each in sums) / len(parts)
        size = sum(each.size for each in sums) / len(parts)
        bound = max(each.tolerance for each in sums)
        if len(parts) > 1:
            bound = max(bound, _COMPRESSED)
        difference = abs(total - first.grad)
        if difference != 0 and not difference <= bound * size:
            found[name] = _NOT_CLOSED
    return found


@dataclass(frozen=True, eq=False)
class SampleResults:
    """What a step's samples say, on the host.

    Args:
        statistics: By row (parameters and groups), then by statistic.
        missing: By row, why it has none.
        batches: The samples themselves, for leaderboards.
        capture: How they were captured: rules, layouts, verification, what couples samples, and
            what is not known of them.
        closure: The largest relative closure error of a parameter that stood the check.
        samples: Number of samples.
        measured: Number of those of them that were measured.
        norms: By row, ‖g_i‖ of every measured sample, shape (N,).
        nonfinite: Ids of samples whose loss or gradient is not finite, the first ten.
        gram: The Gram matrix of the first backward, if it was asked for and measured.
        factor: What turns a contribution into a sample's own gradient, over N.
        grad_sq: By row, |g|² where the step had one backward: of this very backward, whatever has
            been done to the gradient since.
        resting: Rows that are missing since their turn comes at another step.
    """

    statistics: Mapping[str, Mapping[str, float]]
    missing: Mapping[str, str]
    batches: tuple[SampleBatch, ...]
    capture: Mapping[str, Any]
    closure: float
    samples: int
    measured: int
    norms: Mapping[str, FloatArray]
    nonfinite: tuple[str | int, ...]
    gram: BatchGram | None
    factor: float
    grad_sq: Mapping[str, float] = field(default_factory=dict)
    resting: frozenset[str] = frozenset()


def results_of(
    opened: OpenedStep,
    whole: Whole,
    parameters: Collection[str],
    groups: Sequence[Group],
    wanted: Collection[str],
    *,
    step: int,
    window: int,
    is_mean: bool,
    ranks: bool,
    gram_samples: int = 0,
    extent: Extent = Extent(),
    resting: Collection[str] = (),
) -> SampleResults:
    """What the backwards of a step say.

    Of several processes each sees a part of the step's backwards. As their gradients are averaged,
    a sample's contribution to the step's gradient is that to its own process's, over the number of
    processes, just as if so many more batches had been accumulated.

    Args:
        opened: What they sent.
        whole: The step that they are a part of.
        parameters: Names of the parameters that were wanted.
        groups: What is measured as a whole.
        wanted: Names of statistics.
        step: The step.
        window: Batches that the loss was divided by for accumulation.
        is_mean: Whether the loss is a mean over samples.
        ranks: Whether leaderboards are wanted.
        gram_samples: On how many samples the Gram matrix is wanted; 0 for none.
        extent: How much of the step was to be measured.
        resting: Parameters whose turn comes at another step.
    """
    window *= whole.processes
    factor = 1.0 if is_mean else window / whole.samples
    missing = dict(whole.missing)
    rest = _rest(groups, extent, resting, missing)
    members = _members(parameters, groups, missing)
    statistics: dict[str, dict[str, float]] = {}
    batches = []
    norms: dict[str, list[FloatArray]] = {}
    gram: BatchGram | None = None
    nonfinite: list[str | int] = []
    grad_sq: dict[str, float] = {}
    for backward, arrays in zip(opened.backwards, opened.arrays, strict=True):
        rows = {
            row: scaled(group_of([arrays.of[name] for name in names]), factor / whole.processes)
            for row, names in members.items()
        }
        for row, each in rows.items():
            found = sample_statistics(each, _classes(backward, arrays), wanted)
            known = statistics.get(row)
            statistics[row] = found if known is None else combine_statistics(known, found)
        grad_sq = {row: each.grad_sq for row, each in rows.items()}
        # What a contribution is a part of, so that samples of unequal batches compare.
        own = backward.samples * window if is_mean else whole.samples
        for row, each in rows.items():
            norms.setdefault(row, []).append(np.sqrt(np.maximum(each.sq_N, 0.0)) * own)
        nonfinite += _nonfinite(backward, arrays, rows)
        if gram_samples and gram is None and ALL in rows:
            gram = _gram(backward, arrays, rows[ALL], own, gram_samples)
        if ALL in rows and ranks:
            batches.append(_batch(backward, arrays, rows, groups, step, own))
    errors = [each for arrays in opened.arrays for each in arrays.errors.items()]
    closure = [error for name, error in errors if name not in whole.missing]
    return SampleResults(
        statistics=statistics,
        missing=missing,
        batches=tuple(batches),
        capture=_how(opened.backwards),
        closure=max(closure, default=math.nan),
        samples=opened.samples,
        measured=sum(backward.measured for backward in opened.backwards),
        norms={row: np.concatenate(parts) for row, parts in norms.items()},
        nonfinite=tuple(nonfinite[:NAMED]),
        gram=gram,
        factor=factor,
        grad_sq=grad_sq if len(opened.backwards) * whole.processes == 1 else {},
        resting=rest,
    )


def _how(backwards: Sequence[SampleBackward]) -> dict[str, Any]:
    """How the samples of the first were captured, and what is not known of those of any."""
    unknown = {name: why for each in backwards for name, why in each.unknown.items()}
    return {**backwards[0].how(), **({"unknown": unknown} if unknown else {})}


def _rest(
    groups: Sequence[Group], extent: Extent, resting: Collection[str], missing: dict[str, str]
) -> frozenset[str]:
    """Rows whose turn comes at another step, which are added to the missing.

    What is measured as a whole is so only where none of it rests.
    """
    new = dict.fromkeys(resting, f"its turn comes at another step, {extent.why}")
    for group in groups:
        count = sum(name in resting for name in group.members)
        whose = "its turn" if count == len(group.members) else "the turn of a part of it"
        if count:
            new[group.name] = f"{whose} comes at another step, {extent.why}"
    rest = frozenset(name for name in new if name not in missing)
    missing.update({name: new[name] for name in rest})
    return rest


def _classes(backward: SampleBackward, arrays: OpenedBackward) -> IntArray | None:
    """The classes of the samples that were measured."""
    if arrays.classes is None or backward.chosen is None:
        return arrays.classes
    return arrays.classes[list(backward.chosen)]


def _losses(backward: SampleBackward, arrays: OpenedBackward) -> FloatArray | None:
    """The losses of the samples that were measured."""
    if arrays.losses is None or backward.chosen is None:
        return arrays.losses
    return arrays.losses[list(backward.chosen)]


def _members(
    parameters: Collection[str], groups: Sequence[Group], missing: dict[str, str]
) -> dict[str, tuple[str, ...]]:
    """By row, the parameters that it is of; rows that cannot be had are added to the missing."""
    members: dict[str, tuple[str, ...]]
    members = {name: (name,) for name in parameters if name not in missing}
    for group in groups:
        if group.name in missing:
            continue
        had = tuple(name for name in group.members if name not in missing)
        lost = next((name for name in group.members if name in missing), None)
        if had and (lost is None or group.kind == "all"):
            members[group.name] = had
        else:
            missing[group.name] = f"{lost}: {missing.get(str(lost), '')}"
    return members


def _batch(
    backward: SampleBackward,
    arrays: OpenedBackward,
    rows: Mapping[str, SampleArrays],
    groups: Sequence[Group],
    step: int,
    own: int,
) -> SampleBatch:
    """A backward's samples for the leaderboard."""
    layers = [group for group in groups if group.kind == "layer" and group.name in rows]
    names = [ALL, *(group.name for group in layers)]
    norms = np.sqrt(np.maximum([rows[name].sq_N for name in names], 0.0))
    dots = np.array([rows[name].dot_N for name in names])
    whole_sq = dots.sum(axis=1, keepdims=True)
    if backward.chosen is not None:
        whole_sq = np.array([[rows[name].whole_sq] for name in names])
    whole = np.sqrt(np.maximum(whole_sq, 0.0))
    with np.errstate(all="ignore"):
        alignments = dots / (norms * whole)
    alignments[~np.array([rows[name].has_direction_N for name in names])] = np.nan
    shown = ["all", *(group.name.removeprefix("layer ") for group in layers)]
    chosen = backward.chosen
    return SampleBatch(
        ids=backward.of_measured(backward.ids),
        id_source=backward.id_source,
        step=step,
        labels=None if arrays.labels is None else backward.of_measured(arrays.labels),
        losses=_losses(backward, arrays),
        rows=tuple(shown),
        norms_RN=norms * own,
        alignments_RN=alignments,
        class_alignments_N=_class_alignments(rows[ALL].gram_NN, _classes(backward, arrays)),
        unknown=backward.unknown,
        thing=backward.thing if chosen is None else lambda place: backward.thing(chosen[place]),
    )


def _nonfinite(
    backward: SampleBackward, arrays: OpenedBackward, rows: Mapping[str, SampleArrays]
) -> list[str | int]:
    """Samples whose loss, or as far as it was measured gradient, is not finite."""
    bad_N = np.zeros(backward.samples, dtype=bool)
    if arrays.losses is not None:
        bad_N |= ~np.isfinite(arrays.losses)
    measured = slice(None) if backward.chosen is None else list(backward.chosen)
    for row in (rows[ALL],) if ALL in rows else rows.values():
        bad_N[measured] |= ~np.isfinite(row.sq_N)
    return [backward.ids[place] for place in np.flatnonzero(bad_N).tolist()]


def _gram(
    backward: SampleBackward, arrays: OpenedBackward, row: SampleArrays, own: int, limit: int
) -> BatchGram | None:
    """The Gram matrix of a backward's first samples that were measured, if it was asked for."""
    if row.gram_NN is None:
        return None
    shown = slice(0, limit)
    values_NN = row.gram_NN[shown, shown] * own**2
    eigenvalues_N = np.full(len(values_NN), np.nan)
    if np.isfinite(values_NN).all():
        eigenvalues_N = np.linalg.eigvalsh(values_NN)[::-1]
    labels = None if arrays.labels is None else backward.of_measured(arrays.labels)
    losses = _losses(backward, arrays)
    return BatchGram(
        ids=tuple(backward.of_measured(backward.ids)[shown]),
        id_source=backward.id_source,
        labels=None if labels is None else tuple(labels[shown]),
        losses=None if losses is None else losses[shown],
        samples=backward.samples,
        row=ALL,
        values_NN=values_NN,
        eigenvalues_N=eigenvalues_N,
    )


def _class_alignments(gram_NN: FloatArray | None, classes: IntArray | None) -> FloatArray | None:
    """Mean of cos(g_i, g_k) over the others of its class, ``nan`` where there are none.

    Gradients that are zero or not finite have no direction, and no part in it.
    """
    if gram_NN is None or classes is None:
        return None
    with np.errstate(all="ignore"):
        norms_N = np.sqrt(np.diag(gram_NN))
        norms_N[np.isinf(norms_N)] = np.nan
        cosines_NN = gram_NN / np.multiply.outer(norms_N, norms_N)
        same_NN = np.equal.outer(classes, classes) & np.isfinite(cosines_NN)
        np.fill_diagonal(same_NN, False)
        found: FloatArray = np.where(same_NN, cosines_NN, 0.0).sum(1) / same_NN.sum(1)
    return found
