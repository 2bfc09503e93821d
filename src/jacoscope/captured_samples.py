"""The samples of one captured training step: one capture per backward, then statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from jacoscope.batches import batch_size_of, labels_of, pick, rows_of, tensors_of
from jacoscope.capturing import Calibrations, JacobianCapture, sample_losses, samples_of
from jacoscope.config import Samples
from jacoscope.errors import ConfigError
from jacoscope.faults import Faults
from jacoscope.jacobian import Jacobian
from jacoscope.leaderboard import SampleBatch, Thing
from jacoscope.quantities import (
    QUANTITIES,
    FloatArray,
    IntArray,
    SampleArrays,
    SampleNeeds,
    SampleTensors,
    combine_statistics,
    group_of,
    measure_samples,
    sample_needs,
    sample_statistics,
    scaled,
)
from jacoscope.reduction import Parcel
from jacoscope.selection import Target

__all__ = ["ALL", "CapturedSamples", "SampleResults", "groups_of"]

ALL = "(all)"
"""The row of all watched parameters together."""

_SUBJECT = "capturing per-sample gradients"


@dataclass(frozen=True)
class Group:
    """Parameters that are measured as a whole.

    Args:
        name: What its row is called.
        kind: What it groups by.
        members: Names of its parameters.
    """

    name: str
    kind: Literal["all", "group", "layer"]
    members: tuple[str, ...]


def groups_of(targets: Sequence[Target], groups: Sequence[str | None]) -> tuple[Group, ...]:
    """All targets together, the groups that rules name, and layers of several parameters.

    Args:
        targets: The targets that have per-sample quantities.
        groups: The name of each one's group, or ``None``.
    """
    found = [Group(ALL, "all", tuple(target.name for target in targets))]
    for name in dict.fromkeys(group for group in groups if group is not None):
        among = [t.name for t, group in zip(targets, groups, strict=True) if group == name]
        found.append(Group(f"group {name}", "group", tuple(among)))
    for layer in dict.fromkeys(target.info.layer for target in targets):
        members = tuple(target.name for target in targets if target.info.layer == layer)
        found.append(Group(f"layer {layer}" if layer else "layer", "layer", members))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class SampleResults:
    """What a step's samples say, on the host.

    Args:
        statistics: By row (parameters and groups), then by statistic.
        missing: By row, why it has none.
        batches: The samples themselves, for leaderboards.
        capture: How they were captured: rules, layouts, verification, and what couples samples.
        closure: The largest relative closure error of a parameter that stood the check.
        samples: Number of samples.
        factor: What turns a contribution into a sample's own gradient, over N.
    """

    statistics: Mapping[str, Mapping[str, float]]
    missing: Mapping[str, str]
    batches: tuple[SampleBatch, ...]
    capture: Mapping[str, Any]
    closure: float
    samples: int
    factor: float


@dataclass(eq=False)
class _Backward:
    """One backward's capture, and what is known of its batch."""

    capture: JacobianCapture[SampleTensors]
    samples: int
    labels: Sequence[Any] | None
    ids: Sequence[str | int]
    id_source: str
    thing: Callable[[int], Thing | None]
    extras: dict[Hashable, Tensor]
    parcel: Parcel | None = None


class CapturedSamples:
    """Captures the samples of one training step, backward by backward.

    Args:
        step: The step, for the record.
        targets: The parameters whose samples are wanted.
        groups: What is measured as a whole.
        config: How samples are told apart.
        calibrations: Plans of earlier captures.
        faults: What to do when something fails.
    """

    def __init__(
        self,
        step: int,
        targets: Sequence[Target],
        groups: Sequence[Group],
        config: Samples,
        calibrations: Calibrations,
        faults: Faults,
    ) -> None:
        self._step = step
        self._parameters = {
            target.name: target.info.parameter
            for target in targets
            if target.info.parameter.requires_grad
        }
        self._frozen = [t.name for t in targets if t.name not in self._parameters]
        self._needs = {target.name: sample_needs(target.quantities) for target in targets}
        quantities = {name for target in targets for name in target.quantities}
        self._statistics = {need for name in quantities for need in QUANTITIES[name].needs}
        # The noise's running means are made of these.
        self._statistics |= {"sample_count", "sample_sq_sum"}
        self._groups = groups
        self._config = config
        self._calibrations = calibrations
        self._faults = faults
        self._batch: Any = None
        self._ids: tuple[str, Sequence[str | int]] | None = None
        self._batches = 0
        self._open: _Backward | None = None
        self._done: list[_Backward] = []
        self._window = 1
        self.withheld: str | None = None

    def begin_batch(self, batch: Any, ids: tuple[str, Sequence[str | int]] | None) -> None:
        """Take note of a batch whose backward is to come.

        Args:
            batch: The batch.
            ids: Where its samples' ids come from, and the ids.
        """
        self._batch, self._ids = batch, ids
        self._batches += 1

    def before_backward(
        self,
        loss: Tensor,
        scale: Tensor | None = None,
        batch_size: int | None = None,
        window: int = 1,
    ) -> None:
        """Attach to the graph of a loss whose backward is about to run.

        Args:
            loss: The loss.
            scale: A factor that it carries, without dimensions.
            batch_size: Number of samples, where it is known.
            window: Batches that it was divided by for accumulation.
        """
        self._window = window
        self.abandon()
        if self.withheld is not None:
            return
        with self._faults.contain(_SUBJECT, self.abandon):
            if len(self._done) >= max(self._batches, 1):
                self.withheld = (
                    "the loss of one batch went backward more than once in this step, so that "
                    "samples would count several times"
                )
                return
            self._open = self._attach(loss, scale, batch_size)
            return
        self.withheld = self._faults.reasons[_SUBJECT]

    def after_backward(self) -> None:
        """Detach, and send what was measured to the host."""
        backward, self._open = self._open, None
        if backward is None:
            return
        with self._faults.contain(_SUBJECT, backward.capture.detach):
            backward.capture.detach()
            self._tell(backward.capture.fault)
            backward.parcel = Parcel(_tensors(backward))
            backward.extras = {}
            self._done.append(backward)
            return
        self.withheld = self._faults.reasons[_SUBJECT]

    def _tell(self, fault: Exception | None) -> None:
        """Some parameters were lost by an exception; the others stay."""
        if fault is None:
            return
        if self._faults.policy == "raise":
            raise fault
        self._faults.note(
            "capturing some parameters' per-sample gradients", f"{type(fault).__name__}: {fault}"
        )

    def abandon(self) -> None:
        """Remove all that is attached; safe at any time."""
        if self._open is not None:
            self._open.capture.detach()
        self._open = None
        self._batch = None if self.withheld else self._batch

    @property
    def is_done(self) -> bool:
        """Whether :meth:`results` would not have to wait."""
        return all(each.parcel is None or each.parcel.is_done for each in self._done)

    def results(self) -> SampleResults | None:
        """The statistics of the step, waiting for the device if need be; ``None`` if withheld."""
        self._batch = None
        if self.withheld is None and not self._done:
            self.withheld = (
                "no backward was seen; call before_backward and after_backward around it"
            )
        if self.withheld is not None:
            return None
        opened = [_opened(each) for each in self._done]
        samples = sum(each.samples for each in self._done)
        factor = 1.0 if self._config.loss_reduction == "mean" else self._window / samples
        missing: dict[str, str] = dict.fromkeys(self._frozen, "it is frozen")
        for backward in self._done:
            for name, reason in backward.capture.missing.items():
                missing.setdefault(name, reason)
        members: dict[str, tuple[str, ...]]
        members = {name: (name,) for name in self._parameters if name not in missing}
        for group in self._groups:
            had = tuple(name for name in group.members if name not in missing)
            lost = next((name for name in group.members if name in missing), None)
            if had and (lost is None or group.kind == "all"):
                members[group.name] = had
            else:
                missing[group.name] = f"{lost}: {missing.get(str(lost), '')}"
        statistics: dict[str, dict[str, float]] = {}
        batches = []
        for backward, arrays in zip(self._done, opened, strict=True):
            rows = {
                row: scaled(group_of([arrays.of[name] for name in names]), factor)
                for row, names in members.items()
            }
            for row, each in rows.items():
                found = sample_statistics(each, arrays.classes, self._statistics)
                known = statistics.get(row)
                statistics[row] = found if known is None else combine_statistics(known, found)
            if ALL in rows and self._config.leaderboard:
                batches.append(self._sample_batch(backward, arrays, rows, samples))
        closure = [
            error for each in opened for name, error in each.errors.items() if name not in missing
        ]
        return SampleResults(
            statistics=statistics,
            missing=missing,
            batches=tuple(batches),
            capture=_how(self._done[0].capture),
            closure=max(closure, default=math.nan),
            samples=samples,
            factor=factor,
        )

    def _attach(self, loss: Tensor, scale: Tensor | None, batch_size: int | None) -> _Backward:
        config, batch = self._config, self._batch
        rows = pick(batch, config.rows, "samples.rows") if config.rows else rows_of(batch)
        count = batch_size or config.batch_size
        if count is None and rows is None:
            count = batch_size_of(batch)
        if count is None and rows is not None and batch is not None:
            graphs = getattr(batch, "num_graphs", None)
            count = graphs if isinstance(graphs, int) else None
        samples, index = samples_of(count, rows)
        capture = JacobianCapture(
            loss,
            self._parameters,
            samples,
            index,
            self._calibrations,
            self._measured,
            config.memory_budget * 2**20,
            seed=self._step * 1009 + len(self._done),
        )
        extras: dict[Hashable, Tensor] = {}
        if scale is not None:
            extras["scale"] = scale
        labels = self._labels(batch, samples)
        if isinstance(labels, Tensor):
            extras["labels"] = labels
        if config.leaderboard:
            losses = sample_losses(loss, samples, capture.frontier_layout, index)
            if losses is not None:
                extras["losses"] = losses
        id_source, ids = self._identify(batch, samples)
        thing = _things(batch, config.thing, samples) if config.leaderboard else _nothing
        known = labels if isinstance(labels, list) else None
        backward = _Backward(capture, samples, known, ids, id_source, thing, extras)
        capture.attach()
        return backward

    def _measured(self, name: str, jacobian: Jacobian, grad: Tensor) -> SampleTensors:
        return measure_samples(jacobian, grad, self._needs.get(name, SampleNeeds()))

    def _labels(self, batch: Any, samples: int) -> Tensor | list[Any] | None:
        if self._config.label is None:
            return labels_of(batch, samples)
        given = pick(batch, self._config.label, "samples.label")
        if isinstance(given, Tensor):
            _check_count(given.numel(), samples, self._config.label, "samples.label")
            return given.detach().flatten()
        _check_count(len(given), samples, self._config.label, "samples.label")
        return list(given)

    def _identify(self, batch: Any, samples: int) -> tuple[str, Sequence[str | int]]:
        if self._config.id is not None:
            given = pick(batch, self._config.id, "samples.id")
            ids = given.tolist() if isinstance(given, Tensor) else list(given)
            _check_count(len(ids), samples, self._config.id, "samples.id")
            return f"batch key {self._config.id!r}", ids
        if self._ids is not None and len(self._ids[1]) == samples:
            return self._ids
        first = f"step {self._step}" + (f".{len(self._done)}" if self._done else "")
        return "position in the batch, since no id was to be had", [
            f"{first} #{place}" for place in range(samples)
        ]

    def _sample_batch(
        self,
        backward: _Backward,
        arrays: _Opened,
        rows: Mapping[str, SampleArrays],
        samples: int,
    ) -> SampleBatch:
        layers = [group for group in self._groups if group.kind == "layer" and group.name in rows]
        names = [ALL, *(group.name for group in layers)]
        norms = np.sqrt(np.maximum([rows[name].sq_N for name in names], 0.0))
        dots = np.array([rows[name].dot_N for name in names])
        whole = np.sqrt(np.maximum(dots.sum(axis=1, keepdims=True), 0.0))
        with np.errstate(all="ignore"):
            alignments = dots / (norms * whole)
        # What a contribution is a part of, so that samples of unequal batches compare.
        is_mean = self._config.loss_reduction == "mean"
        own = backward.samples * self._window if is_mean else samples
        shown = ["all", *(group.name.removeprefix("layer ") for group in layers)]
        return SampleBatch(
            ids=backward.ids,
            id_source=backward.id_source,
            step=self._step,
            labels=arrays.labels,
            losses=arrays.losses,
            rows=tuple(shown),
            norms_RN=norms * own,
            alignments_RN=alignments,
            class_alignments_N=_class_alignments(rows[ALL].gram_NN, arrays.classes),
            thing=backward.thing,
        )


@dataclass(frozen=True, eq=False)
class _Opened:
    """What a backward sent, on the host, by parameter."""

    of: Mapping[str, SampleArrays]
    classes: IntArray | None
    labels: Sequence[Any] | None
    losses: FloatArray | None
    errors: Mapping[str, float]


def _how(capture: JacobianCapture[SampleTensors]) -> dict[str, Any]:
    """How samples were captured, as plain values for the record."""
    if capture.calibration is None:
        return {}
    plan = capture.calibration.plan
    return {
        "rules": dict(plan.rules),
        "layouts": dict(plan.described),
        "verification": dict(capture.calibration.errors),
        "verified_samples": list(capture.calibration.checked),
        "coupled": list(plan.coupled),
    }


def _tensors(backward: _Backward) -> dict[Hashable, Tensor]:
    tensors = dict(backward.extras)
    for name, rows in backward.capture.rows.items():
        tensors[name, "error"] = rows.check.error()
        tensors[name, "sq"] = rows.value.sq_N
        tensors[name, "dot"] = rows.value.dot_N
        if rows.value.gram_NN is not None:
            tensors[name, "gram"] = rows.value.gram_NN
        for statistic, value in rows.value.scalars.items():
            tensors[name, "scalar", statistic] = value
    return tensors


def _opened(backward: _Backward) -> _Opened:
    """Unpack a backward's parcel and judge its closure."""
    assert backward.parcel is not None
    values = backward.parcel.unpack()
    names = list(backward.capture.rows)
    errors = {name: float(values[name, "error"]) for name in names}
    backward.capture.judge(errors)
    scale = float(values["scale"]) if "scale" in values else 1.0
    sizes = backward.capture.sizes
    arrays = {
        name: scaled(
            SampleArrays(
                values[name, "sq"],
                values[name, "dot"],
                values.get((name, "gram")),
                {
                    str(key[2]): float(value)
                    for key, value in values.items()
                    if isinstance(key, tuple) and key[:2] == (name, "scalar")
                },
                sizes[name],
            ),
            1 / scale,
        )
        for name in names
    }
    labels: Sequence[Any] | None = backward.labels
    if "labels" in values:
        labels = values["labels"].astype(np.int64).tolist()
    classes = None
    if labels is not None:
        order = {label: place for place, label in enumerate(dict.fromkeys(labels))}
        classes = np.array([order[label] for label in labels], dtype=np.int64)
    return _Opened(arrays, classes, labels, values.get("losses"), errors)


def _class_alignments(gram_NN: FloatArray | None, classes: IntArray | None) -> FloatArray | None:
    """cos(g_i, mean gradient of the others of its class), ``nan`` where there are none."""
    if gram_NN is None or classes is None:
        return None
    same_NN = np.equal.outer(classes, classes) & ~np.eye(len(classes), dtype=bool)
    weights_NN = same_NN.astype(np.float64)
    dots = (gram_NN * weights_NN).sum(1)
    others_sq = np.einsum("ij,jk,ik->i", weights_NN, gram_NN, weights_NN)
    with np.errstate(all="ignore"):
        lengths = np.sqrt(np.maximum(np.diag(gram_NN), 0) * np.maximum(others_sq, 0))
        found: FloatArray = np.where(same_NN.any(1), dots / lengths, np.nan)
    return found


def _check_count(count: int, samples: int, path: str, key: str) -> None:
    if count != samples:
        raise ConfigError(
            f"{path!r} has {count} entries, but the batch has {samples} samples; name what has one "
            "for each",
            key=key,
        )


def _nothing(place: int) -> Thing | None:
    return None


def _things(batch: Any, path: str | None, samples: int) -> Callable[[int], Thing | None]:
    """How to show a sample: its image or its text."""
    if path == "none":
        return _nothing
    given = pick(batch, path, "samples.thing") if path else _first_shown(batch, samples)
    if isinstance(given, Tensor) and given.dim() and len(given) == samples:
        return lambda place: _shown(given[place].detach())
    if isinstance(given, list | tuple) and len(given) == samples:
        return lambda place: str(given[place])
    return _nothing


def _first_shown(batch: Any, samples: int) -> Tensor | list[str] | None:
    tensors = [t for _, t in tensors_of(batch) if t.dim() and len(t) == samples]
    for tensor in tensors:
        if tensor.dim() == 4 and tensor.shape[1] in (1, 3, 4):
            return tensor
    for tensor in tensors:
        if tensor.dim() == 2 and not tensor.is_floating_point():
            return tensor
    return None


def _shown(sample: Tensor) -> Thing | None:
    """An image as (H, W, C) bytes, its darkest value black and its brightest white; ids as text."""
    if sample.dim() == 1 and not sample.is_floating_point():
        return " ".join(str(each) for each in sample[:64].tolist())
    if sample.dim() == 2:
        sample = sample.unsqueeze(0)
    if sample.dim() != 3:
        return None
    image = sample[:3].float().cpu()
    if image.shape[0] not in (1, 3):
        image = image[:1]
    low, high = image.min(), image.max()
    image = (image - low) / (high - low).clamp(min=1e-12) * 255
    result: Thing = image.round().to(torch.uint8).permute(1, 2, 0).numpy()
    return result
