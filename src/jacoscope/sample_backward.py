"""One backward's samples: attached to its loss, sent to the host, opened there."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from jacoscope.batches import (
    Thing,
    batch_size_of,
    labels_of,
    pick,
    rows_of,
    size_and_source_of,
    things_of,
)
from jacoscope.capturing import Calibrations, Closure, JacobianCapture, sample_losses, samples_of
from jacoscope.config import Samples
from jacoscope.errors import ConfigError
from jacoscope.extent import Extent
from jacoscope.faults import Faults
from jacoscope.jacobian import Jacobian
from jacoscope.quantities import (
    FloatArray,
    IntArray,
    SampleArrays,
    SampleNeeds,
    SampleTensors,
    measure_samples,
    scaled,
)
from jacoscope.ranges import Ranges, lowest_square
from jacoscope.reduction import Parcel

__all__ = ["Ids", "OpenedBackward", "SampleBackward", "attach_samples"]

Item = TypeVar("Item")

Ids = tuple[str, Sequence[str | int]]
"""Where samples' ids come from, in words, and the ids in order."""


@dataclass(frozen=True, eq=False)
class OpenedBackward:
    """What a backward sent, on the host.

    Args:
        of: By parameter, what was measured; the loss's scale is taken out.
        classes: Labels as numbers from 0, shape (N,).
        labels: Labels as they were.
        losses: Loss of each sample, shape (N,).
        errors: By parameter, the closure error.
        sums: By parameter, its gradient along the direction of the checks, and what an error of
            that is relative to; the loss's scale is taken out.
    """

    of: Mapping[str, SampleArrays]
    classes: IntArray | None
    labels: Sequence[Any] | None
    losses: FloatArray | None
    errors: Mapping[str, float]
    sums: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Added:
    """What of a closure is sent along: how the rows of some parameters add up."""

    up: Closure


@dataclass(eq=False)
class SampleBackward:
    """One backward's capture, and what is known of its batch.

    Args:
        capture: The capture.
        samples: Number of samples.
        labels: Labels that are not numbers, one per sample.
        ids: Ids, one per sample.
        id_source: Where they come from.
        thing: How to show a sample.
        extras: Tensors to be sent along.
        chosen: The samples that are measured, in order; ``None`` for all of them.
        ranges: What contributions are multiplied by before they are squared.
        once: Seconds that finding out how to capture took.
        unknown: Why the samples' ``label`` or ``loss`` is not known, where it should be.
    """

    capture: JacobianCapture[SampleTensors | None]
    samples: int
    labels: Sequence[Any] | None
    ids: Sequence[str | int]
    id_source: str
    thing: Callable[[int], Thing | None]
    extras: dict[Hashable, Tensor]
    ranges: Ranges
    chosen: tuple[int, ...] | None = None
    once: float = 0.0
    unknown: Mapping[str, str] = field(default_factory=dict)
    parcel: Parcel | None = None

    @property
    def measured(self) -> int:
        """Number of samples that were measured."""
        return self.samples if self.chosen is None else len(self.chosen)

    def of_measured(self, items: Sequence[Item]) -> Sequence[Item]:
        """Of something that each sample has one of, what the measured ones have."""
        return items if self.chosen is None else [items[place] for place in self.chosen]

    def send(self) -> None:
        """Send what was measured to the host; the backward is over."""
        self.parcel = Parcel(self._tensors())
        self.extras = {}

    @property
    def is_done(self) -> bool:
        """Whether :meth:`open` would not have to wait."""
        return self.parcel is None or self.parcel.is_done

    def open(self) -> OpenedBackward:
        """Unpack what was sent, waiting for the device if need be, and judge its closure."""
        assert self.parcel is not None
        values = self.parcel.unpack()
        scale = float(values["scale"]) if "scale" in values else 1.0
        errors: dict[str, float] = {}
        sums: dict[str, tuple[float, float]] = {}
        along: dict[str, float] = {}
        for key in [key for key in values if isinstance(key, _Added)]:
            for name, found in zip(key.up.names, key.up.read(values[key].tolist()), strict=True):
                errors[name], along[name] = found.error, found.along
                sums[name] = found.total / scale, found.size / scale
        self.capture.judge(errors)
        arrays = {
            name: self._arrays(name, rows.value, values, scale, along[name])
            for name, rows in self.capture.rows.items()
            if rows.value is not None
        }
        labels: Sequence[Any] | None = self.labels
        if "labels" in values:
            labels = values["labels"].astype(np.int64).tolist()
        classes = None
        if labels is not None:
            order = {label: place for place, label in enumerate(dict.fromkeys(labels))}
            classes = np.array([order[label] for label in labels], dtype=np.int64)
        return OpenedBackward(arrays, classes, labels, values.get("losses"), errors, sums)

    def _arrays(
        self,
        name: str,
        found: SampleTensors,
        values: Mapping[Hashable, FloatArray],
        scale: float,
        along: float,
    ) -> SampleArrays:
        """What was measured of a parameter, without the factors that it was multiplied by."""
        sq_N, numel = values[name, "sq"], self.capture.sizes[name]
        scalars = {
            str(key[2]): float(value)
            for key, value in values.items()
            if isinstance(key, tuple) and key[:2] == (name, "scalar")
        }
        reason = self.ranges.judge(
            name, sq_N, along, factor=found.factor, dtype=found.dtype, numel=numel
        )
        if reason is not None:
            self.capture.missing.setdefault(name, reason)
        arrays = SampleArrays(
            sq_N,
            values[name, "dot"],
            values.get((name, "gram")),
            scalars,
            numel,
            float(values[name, "grad_sq"]),
            None if self.chosen is None else self.samples,
            lowest_square(found.dtype),
        )
        return scaled(arrays, 1 / (scale * found.factor))

    def how(self) -> dict[str, Any]:
        """How samples were captured, as plain values for the record."""
        if self.capture.calibration is None:
            return {}
        plan = self.capture.calibration.plan
        return {
            "rules": dict(plan.rules),
            "layouts": dict(plan.described),
            "verification": dict(self.capture.calibration.errors),
            "verified_samples": list(self.capture.calibration.checked),
            "coupled": list(plan.coupled),
        }

    def _tensors(self) -> dict[Hashable, Tensor]:
        tensors = dict(self.extras)
        for each in self.capture.closures():
            tensors[_Added(each)] = each.told
        for name, rows in self.capture.rows.items():
            found = rows.value
            if found is None:
                continue
            tensors[name, "grad_sq"] = found.grad_sq
            tensors[name, "sq"] = found.sq_N
            tensors[name, "dot"] = found.dot_N
            if found.gram_NN is not None:
                tensors[name, "gram"] = found.gram_NN
            for statistic, value in found.scalars.items():
                tensors[name, "scalar", statistic] = value
        return tensors


def attach_samples(
    loss: Tensor,
    parameters: Mapping[str, Tensor],
    batch: Any,
    config: Samples,
    calibrations: Calibrations,
    ranges: Ranges,
    needs: Mapping[str, SampleNeeds],
    *,
    batch_size: int | None,
    scale: Tensor | None,
    ids: Ids | None,
    position: str,
    seed: int,
    memory_budget: int,
    faults: Faults,
    extent: Extent = Extent(),
    resting: Collection[str] = (),
    needs_of_part: Mapping[str, SampleNeeds] | None = None,
) -> SampleBackward | None:
    """Attach to the graph of a loss whose backward is about to run.

    Args:
        loss: The loss.
        parameters: The parameters wanted, by name.
        batch: The batch.
        config: How samples are told apart.
        calibrations: Plans of earlier captures.
        ranges: What contributions are multiplied by before they are squared.
        needs: By parameter, what to measure.
        batch_size: Number of samples, where it is known.
        scale: A factor that the loss carries.
        ids: The samples' ids, where they are known.
        position: What to call the batch where they are not.
        seed: Tells apart the random directions of captures.
        memory_budget: Bytes that temporary tensors may take.
        faults: What to do where labels are not where they should be: without them all but what is
            made of them can be had.
        extent: On how many samples to measure.
        resting: Parameters that are checked and not measured.
        needs_of_part: By parameter, what to measure where it is not on all samples.

    Returns:
        The capture under way; ``None``, with nothing attached, if the batch has no samples.

    Raises:
        ConfigError: If a path of the configuration does not fit the batch.
        ValueError: If the number of samples cannot be told.
    """
    rows = pick(batch, config.rows, "samples.rows") if config.rows else rows_of(batch)
    count, advice = _count(batch, config, rows, batch_size)
    if count == 0 or (isinstance(rows, Tensor) and not rows.numel()):
        return None
    samples, index = samples_of(count, rows)
    chosen = extent.drawn(samples, position)
    if chosen is not None and needs_of_part is not None:
        needs = needs_of_part
    places: dict[torch.device, Tensor] = {}

    def measured(name: str, jacobian: Jacobian, grad: Tensor) -> SampleTensors | None:
        if name in resting:
            return None
        need, is_part = needs.get(name, SampleNeeds()), chosen is not None
        if chosen is not None:
            device = jacobian.device
            if device not in places:
                places[device] = torch.tensor(chosen).to(device, non_blocking=True)
            jacobian = jacobian.select(places[device])
        factor = ranges.factor(name)
        found = measure_samples(jacobian, grad, need, is_part=is_part, factor=factor)
        factor = ranges.at_first(name, found)
        if factor == found.factor:
            return found
        return measure_samples(jacobian, grad, need, is_part=is_part, factor=factor)

    made, begun = calibrations.made, time.perf_counter()
    capture = JacobianCapture(
        loss,
        parameters,
        samples,
        index,
        calibrations,
        measured,
        memory_budget,
        seed=seed,
        dim=config.batch_dim,
    )
    once = time.perf_counter() - begun if calibrations.made > made else 0.0
    capture.missing.update({name: capture.missing[name] + advice for name in capture.untold})
    extras: dict[Hashable, Tensor] = {}
    if scale is not None:
        extras["scale"] = scale
    unknown: dict[str, str] = {}
    labels: Tensor | list[Any] | None = None
    try:
        labels = _labels(batch, config, samples)
    except ConfigError as error:
        if faults.policy == "raise":
            raise
        unknown["label"] = str(error)
        faults.note("reading the samples' labels", unknown["label"])
    if isinstance(labels, Tensor):
        extras["labels"] = labels
    if config.leaderboard:
        losses = sample_losses(loss, samples, capture.frontier_layout, index)
        if isinstance(losses, str):
            unknown["loss"] = losses
        else:
            extras["losses"] = losses
    id_source, names = _identify(batch, config, samples, ids, position)
    thing = things_of(batch, config.thing if config.leaderboard else "none", samples)
    known = labels if isinstance(labels, list) else None
    backward = SampleBackward(
        capture, samples, known, names, id_source, thing, extras, ranges, chosen, once, unknown
    )
    capture.attach()
    return backward


def _count(
    batch: Any, config: Samples, rows: Tensor | None, batch_size: int | None
) -> tuple[int | None, str]:
    """The number of samples, and what to do where nothing has so many rows.

    The latter ends a sentence; it is empty where the user's own code gave the number.
    """
    given = config.batch_size if batch_size is None else batch_size
    if rows is not None:
        graphs = getattr(batch, "num_graphs", None)
        whose = f"samples.rows ({config.rows!r})" if config.rows else "the batch's own 'batch'"
        return (
            given or (graphs if isinstance(graphs, int) else None),
            f"; as many as {whose} has, which has to name the sample of each row",
        )
    if batch_size is not None:
        return batch_size, ""
    if config.batch_size is not None:
        return config.batch_size, (
            f"; samples.batch_size: {config.batch_size} says so, which has to be the number of "
            "samples in every batch, the last one too"
        )
    count, source = size_and_source_of(batch)
    return count, (
        f"; {count} is {source}: where that is not the number of samples, say how many there are "
        "by samples.batch_size, or which sample each row belongs to by samples.rows"
    )


def _labels(batch: Any, config: Samples, samples: int) -> Tensor | list[Any] | None:
    if config.label is None:
        return labels_of(batch, samples)
    given = pick(batch, config.label, "samples.label")
    if isinstance(given, Tensor):
        _check_count(given.numel(), samples, config.label, "samples.label", config, batch)
        return given.detach().flatten()
    _check_count(len(given), samples, config.label, "samples.label", config, batch)
    return list(given)


def _identify(batch: Any, config: Samples, samples: int, ids: Ids | None, position: str) -> Ids:
    if config.id is not None:
        given = pick(batch, config.id, "samples.id")
        named = given.tolist() if isinstance(given, Tensor) else list(given)
        _check_count(len(named), samples, config.id, "samples.id", config, batch)
        return f"batch key {config.id!r}", named
    if ids is not None and len(ids[1]) == samples:
        return ids
    return "position in the batch, since no id was to be had", [
        f"{position} #{place}" for place in range(samples)
    ]


def _check_count(
    count: int, samples: int, path: str, key: str, config: Samples, batch: Any
) -> None:
    """Refuse what has not one entry for each sample; the number of samples may be what is wrong."""
    if count == samples:
        return
    if config.batch_size == samples and count == batch_size_of(batch):
        raise ConfigError(
            f"{samples} is not the number of samples in this batch, in which {path!r} has {count} "
            "entries; leave it out, or let the loader drop a last batch of another size",
            key="samples.batch_size",
        )
    raise ConfigError(
        f"{path!r} has {count} entries, but the batch has {samples} samples; name what has one "
        "for each",
        key=key,
    )
