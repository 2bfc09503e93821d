"""Putting a run together from its events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
from tensorboard.util import tensor_util

from jacoscope.filled_bins import unpack
from jacoscope.packed_text import unpack_text
from jacoscope.reader._grams import grams_of
from jacoscope.reader._probes import ProbedSteps
from jacoscope.reader._run import Histogram, Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RunBuilder"]

_OF_SAMPLES = (".sample_quantiles", ".gram", ".gram_spectrum")
"""Tensors of captured steps; all others are of probes."""
_EXTENT = ("samples", "measured_samples", "extent")
"""What a status says of the samples where not all of a step is measured."""


class RunBuilder:
    """Collects a group's events of one folder."""

    def __init__(self, folder: Path, group: str) -> None:
        self._folder = folder
        self._group = group
        self._columns: dict[str, dict[int, dict[str, float]]] = {}
        self._histograms: dict[str, Histogram] = {}
        self._steps: dict[int, dict[str, Any]] = {}
        self._status: dict[str, Any] = {}
        self._described: dict[str, Any] = {}
        self._units: dict[str, str] = {}
        self._missing: dict[int, list[dict[str, Any]]] = {}
        self._samples: dict[int, dict[str, Any]] = {}
        self._probed: set[str] = set()
        self._probes: dict[int, dict[str, Any]] = {}
        self._tensors: dict[str, dict[int, tuple[tuple[str, ...], npt.NDArray[Any]]]] = {}
        self._errors: dict[str, dict[int, dict[str, float]]] = {}
        self._headline: dict[int, dict[str, float]] = {}
        self._batches: dict[int, dict[str, Any]] = {}
        self._alerts: dict[int, list[dict[str, Any]]] = {}
        self._quantiles: tuple[float, ...] = ()
        self._unknown: dict[str, str] = {}

    def add(
        self, step: int, wall_time: float, tag: str, schema: dict[str, Any], value: Any
    ) -> None:
        """Take up an event.

        Args:
            step: Its step.
            wall_time: When it was written, in seconds.
            tag: Its tag without the group.
            schema: What it carries so that readers know it.
            value: Its value.
        """
        array = tensor_util.make_ndarray(value.tensor)
        if tag == ".run":
            self._described = json.loads(unpack_text(array.item()))
        elif tag == ".status":
            self._status = json.loads(unpack_text(array.item()))
            self._note_status(step)
        elif tag == ".samples":
            epoch = json.loads(unpack_text(array.item()))
            self._samples[epoch["epoch"]] = epoch
        elif tag == ".steps":
            self._begin(step, int(array[0]), wall_time)
        elif tag == ".probes":
            self._begin_probe(step)
        elif tag == ".probe":
            self._probes[step] = json.loads(unpack_text(array.item()))
        elif tag.startswith(".error/"):
            row = self._errors.setdefault(schema["of"], {}).setdefault(step, {})
            row.update(zip(schema["names"], array.tolist(), strict=True))
        elif tag == ".alerts":
            self._alerts[step] = json.loads(unpack_text(array.item()))
        elif tag == ".gram_batch":
            self._batches[step] = json.loads(unpack_text(array.item()))
        elif tag.startswith(".headline/"):
            scalars = zip(schema["names"], array.tolist(), strict=True)
            self._headline.setdefault(step, {}).update(scalars)
        elif tag.startswith("."):
            self._quantiles = tuple(schema.get("quantiles", self._quantiles))
            rows = tuple(schema.get("names", ()))
            self._tensors.setdefault(schema["quantity"], {})[step] = rows, array
        else:
            self._take(step, schema, array)

    def _begin(self, step: int, epoch: int, wall_time: float) -> None:
        import pandas as pd

        when = pd.Timestamp(wall_time, unit="s")
        self._steps[step] = {"epoch": epoch, "wall_time": when}
        for quantity, columns in self._columns.items():
            if quantity not in self._probed:
                columns.pop(step, None)
        for histogram in self._histograms.values():
            histogram.counts.pop(step, None)
        for name in _OF_SAMPLES:
            self._tensors.get(name, {}).pop(step, None)
        self._batches.pop(step, None)
        self._alerts.pop(step, None)
        self._note_status(step)

    def _begin_probe(self, step: int) -> None:
        for quantity in self._probed:
            self._columns.get(quantity, {}).pop(step, None)
            self._errors.get(quantity, {}).pop(step, None)
        for name, tensors in self._tensors.items():
            if name not in _OF_SAMPLES:
                tensors.pop(step, None)

    def _note_status(self, step: int) -> None:
        told = self._status.get("samples", {})
        self._unknown.update(told.get("unknown", {}))
        self._steps.setdefault(step, {}).update(
            self._status.get("gradient", {}), **{name: told.get(name) for name in _EXTENT}
        )
        rows = [
            {"step": step, "quantity": quantity, "parameter": name, "reason": reason}
            for quantity, names in self._status.get("missing", {}).items()
            for name, reason in names.items()
        ]
        rows += [
            {"step": step, "quantity": quantity, "parameter": "*", "reason": reason}
            for quantity, reason in self._status.get("withheld", {}).items()
        ]
        self._missing[step] = rows

    def _take(self, step: int, schema: dict[str, Any], array: npt.NDArray[Any]) -> None:
        quantity, names = schema["quantity"], schema["names"]
        self._units[quantity] = schema["unit"]
        if schema.get("probe"):
            self._probed.add(quantity)
        if array.ndim == 1:
            row = self._columns.setdefault(quantity, {}).setdefault(step, {})
            row.update(zip(names, array.tolist(), strict=True))
            return
        counts_LN = unpack(array, len(names), len(schema["edges"]) - 1)
        if counts_LN is None:
            return
        for name, counts in zip(names, counts_LN, strict=True):
            self._histograms.setdefault(name, Histogram(schema["edges"])).counts[step] = counts

    def build(self) -> Run:
        """The run that the events tell of."""
        import pandas as pd

        order = [item["parameter"] for item in self._described.get("parameters", [])]
        values = {}
        for quantity, rows in self._columns.items():
            frame = pd.DataFrame.from_dict(rows, orient="index").sort_index()
            known = [name for name in order if name in frame]
            frame = frame[known + [name for name in frame if name not in known]]
            for step, row in rows.items():
                self._missing.setdefault(step, []).extend(
                    {
                        "step": step,
                        "quantity": quantity,
                        "parameter": name,
                        "reason": "it was not watched, or not due, at this step",
                    }
                    for name in frame
                    if name not in row
                )
            frame.index.name, frame.columns.name = "step", None
            values[quantity] = frame
        for step, told in self._steps.items():
            if told.get("extent") is None:  # all that were captured, if any were
                count = self._headline.get(step, {}).get("sample_count")
                told["samples"] = told["measured_samples"] = count
        steps = pd.DataFrame.from_dict(self._steps, orient="index").sort_index()
        for name in ("samples", "measured_samples"):
            if name in steps:
                steps[name] = steps[name].astype("float64")
        steps.index.name = "step"
        for step, probe in self._probes.items():
            self._missing.setdefault(step, []).extend(_missing_of(step, probe))
        rows_missing = [row for step in sorted(self._missing) for row in self._missing[step]]
        missing = pd.DataFrame(rows_missing, columns=["step", "quantity", "parameter", "reason"])
        return Run(
            self._folder,
            self._group,
            values,
            self._histograms,
            steps,
            missing,
            self._units,
            self._described,
            self._samples,
            self._status.get("samples", {}),
            ProbedSteps(self._probes, self._tensors),
            {quantity: _frame(rows) for quantity, rows in self._errors.items()},
            _frame(self._headline),
            self._alerts,
            grams_of(self._batches, self._tensors),
            (self._tensors.get(".sample_quantiles", {}), self._quantiles),
            self._unknown,
        )


def _frame(rows: dict[int, dict[str, float]]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame.from_dict(rows, orient="index").sort_index()
    frame.index.name = "step"
    return frame


def _missing_of(step: int, probe: dict[str, Any]) -> list[dict[str, Any]]:
    """What a probe lacks, as rows."""
    rows = [
        {"step": step, "quantity": quantity, "parameter": name, "reason": reason}
        for quantity, names in probe["missing"].items()
        for name, reason in names.items()
    ]
    return rows + [
        {"step": step, "quantity": quantity, "parameter": "*", "reason": reason}
        for quantity, reason in probe["withheld"].items()
    ]
