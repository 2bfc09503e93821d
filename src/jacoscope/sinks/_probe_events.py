"""A probe's record as plain values and tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.probe_record import ProbeRecord
from jacoscope.probing import AllElseEqual, Saliency

__all__ = ["ProbeTensor", "describe_probe", "probe_tensors"]


@dataclass(frozen=True, eq=False)
class ProbeTensor:
    """A tensor of a probe besides its quantities.

    Args:
        name: The last part of its tag.
        rows: What its first dimension runs over, where that has names.
        values: The tensor.
    """

    name: str
    rows: tuple[str, ...]
    values: npt.NDArray[Any]


def describe_probe(record: ProbeRecord) -> dict[str, Any]:
    """Everything of a probe but its tensors, as plain values that JSON knows."""
    step, allocation = record.all_else_equal, record.allocation
    return {
        "step": record.step,
        "epoch": record.epoch,
        "notes": dict(record.notes),
        "withheld": dict(record.withheld),
        "missing": {
            str(item.quantity): dict(item.missing) for item in record.records if item.missing
        },
        "ids": list(record.ids),
        "all_else_equal": None if step is None else _step(step),
        "allocation": None
        if allocation is None
        else {
            "since": allocation.since,
            "by_layer": {layer: _plain(v) for layer, v in allocation.by_layer.items()},
            "change": _plain(allocation.change),
            "gap": _plain(allocation.gap),
            "loss": _plain(allocation.loss),
        },
        "saliency": None if record.saliency is None else _saliency(record.saliency),
    }


def probe_tensors(record: ProbeRecord) -> Iterator[ProbeTensor]:
    """The tensors of a probe besides its quantities."""
    if record.spectra:
        yield ProbeTensor(
            ".ntk_spectrum", tuple(record.spectra), np.stack(list(record.spectra.values()))
        )
    if record.singular_values is not None:
        yield ProbeTensor(".input_singular_values", (), record.singular_values)
    if record.output_sensitivity is not None:
        sensitivity = record.output_sensitivity
        yield ProbeTensor(".output_sensitivity", sensitivity.layers, sensitivity.values)
    if record.saliency is not None:
        yield ProbeTensor(".saliency_maps", (), record.saliency.maps)
        if record.saliency.things is not None:
            yield ProbeTensor(".saliency_things", (), record.saliency.things.astype(np.float64))


def _step(result: AllElseEqual) -> dict[str, Any]:
    return {
        "before": _plain(result.before),
        "after": _plain(result.after),
        "predicted": _plain(result.predicted),
        "second_order": _plain(result.second_order),
        "interaction": _plain(result.interaction),
        "sentence": result.sentence,
        "method": result.method,
        "missing": result.missing,
        "rounding": _plain(result.rounding),
        "layers": [
            {
                "layer": share.layer,
                "predicted": _plain(share.predicted),
                "second_order": _plain(share.second_order),
                "actual": _plain(share.actual),
            }
            for share in result.layers
        ],
        "weights": [
            {
                "parameter": weight.parameter,
                "index": list(weight.index),
                "derivative": _plain(weight.derivative),
                "difference": _plain(weight.difference),
                "h": _plain(weight.h),
                "error": _plain(weight.error),
                "step": _plain(weight.step),
            }
            for weight in result.weights
        ],
    }


def _saliency(saliency: Saliency) -> dict[str, Any]:
    return {
        "kind": saliency.kind,
        "outputs": saliency.outputs.tolist(),
        "values": [[_plain(value) for value in row] for row in saliency.values.tolist()],
        "labels": list(saliency.labels),
        "is_sketched": saliency.is_sketched,
    }


def _plain(value: float) -> float | str | None:
    """A number as JSON can hold it, which has neither nan nor infinity."""
    if isfinite(value):
        return float(value)
    return None if isnan(value) else str(value)
