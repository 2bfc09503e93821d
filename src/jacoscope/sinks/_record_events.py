"""The full record as events: one tensor per quantity and captured step, with a layer axis.

Tags, with the monitor's group and the digest of the axis:

- ``jacoscope/GROUP/QUANTITY/DIGEST``: values, shape (L,), or for histograms (L + 1, F): the places
  of the bins that hold anything, and the counts in them; the tag's metadata holds the axis (names,
  layers, kinds, sizes), the unit and, for histograms, the edges of all bins.
- ``jacoscope/GROUP/.steps``: the epoch of every captured step, shape (1,).
- ``jacoscope/GROUP/.status``: a text, written when it changes: which gradient the numbers are of,
  and what is missing and why.
- ``jacoscope/GROUP/.headline/DIGEST``: the headline scalars and the number of samples, (H,).
- ``jacoscope/GROUP/.sample_quantiles/DIGEST``: quantiles of ‖g_i‖ over the step's samples, (R, 7).
- ``jacoscope/GROUP/.gram``, ``.gram_spectrum``: g_i·g_k of a batch, (N, N), and its eigenvalues,
  (N,), at some steps; ``.gram_batch``: a text: which samples these are.
- ``jacoscope/GROUP/.samples``: a text per epoch, at its last step: the sample leaderboards with
  thumbnails, and the numbers of all samples seen.
- ``jacoscope/GROUP/.alerts``: a text at steps that have alerts: what is beyond its bound.
- ``jacoscope/GROUP/.probes``: the epoch of every probed step, shape (1,).
- ``jacoscope/GROUP/.probe``: a text per probe: how it went, what is missing and why, all else equal
  with its single weights, what was allocated, what the saliency is of.
- ``jacoscope/GROUP/.error/QUANTITY/DIGEST``: standard errors of values that are estimates, (L,).
- ``jacoscope/GROUP/.ntk_spectrum/DIGEST``: eigenvalues of the tangent kernel, (rows, R); the rows'
  names are in the metadata. ``.output_sensitivity/DIGEST``: (layers, C), likewise.
- ``jacoscope/GROUP/.input_singular_values``: (N, min(C, D)). ``.saliency_maps``, and
  ``.saliency_things`` where they are new: what :class:`~jacoscope.probing.Saliency` says.
- ``jacoscope/GROUP/.run``: a text: configuration, parameters, reasons for what is left out.

Texts are JSON; long ones are compressed (:mod:`jacoscope.packed_text`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.alerts import Alert, describe_alert
from jacoscope.filled_bins import pack
from jacoscope.leaderboard import EpochBoards
from jacoscope.probe_record import ProbeRecord
from jacoscope.quantities import FAMILY_OF, HISTOGRAM_EDGES, QUANTITIES
from jacoscope.record import Record, StepRecord
from jacoscope.schema import SCHEMA_VERSION
from jacoscope.sinks._events import EventWriter, add_values, tensor_value, text_value
from jacoscope.sinks._probe_events import describe_probe, probe_tensors
from jacoscope.sinks._sample_record import describe_boards
from jacoscope.sinks._sink import RunInfo
from jacoscope.sinks._step_events import (
    RecordedTensor,
    describe_gram,
    headline_tensor,
    sample_tensors,
)

__all__ = ["RecordEvents", "describe_run"]


class RecordEvents:
    """Writes full records into an event file.

    Args:
        writer: The event file.
        group: The monitor's group.
    """

    def __init__(self, writer: EventWriter, group: str) -> None:
        self._writer = writer
        self._prefix = f"jacoscope/{group}"
        self._described: set[str] = set()
        self._status = ""
        self._told: dict[str, Any] = {}
        self._things = b""
        self._run: str | None = None

    def open(self, run: RunInfo) -> None:
        """Take note of what is watched, to be written with the next step."""
        self._run = json.dumps(describe_run(run), ensure_ascii=False)

    def write(self, record: StepRecord, others: Sequence[Any] = ()) -> None:
        """Write one captured step as a single event.

        Args:
            record: The step.
            others: Values of the standard tabs that go with it.
        """
        epoch = np.array([record.epoch], dtype=np.float32)
        values = [*others, self._tensor(f"{self._prefix}/.steps", epoch, {"quantity": ".steps"})]
        for item in record.records:
            tag = f"{self._prefix}/{item.quantity}/{item.axis.digest}"
            stored = _stored(item, record.dtype)
            stored = pack(stored) if stored.ndim > 1 else stored
            schema = {} if tag in self._described else _schema(item)
            values.append(self._tensor(tag, stored, schema))
        values += self._named(headline_tensor(record.headline, record.samples), np.float64)
        if record.samples is not None:
            for tensor in sample_tensors(record.samples):
                values += self._named(tensor, record.dtype)
            if record.samples.gram is not None:
                described = describe_gram(record.samples.gram, record.epoch)
                values.append(self._text(".gram_batch", _compact(described)))
        if self._run is not None:
            values.append(self._text(".run", self._run))
            self._run = None
        status = _status(record)
        if status != self._told:
            self._told = status
            steady = json.dumps(_without_errors(status), ensure_ascii=False, sort_keys=True)
            if steady != self._status:
                text = json.dumps(status, ensure_ascii=False, sort_keys=True)
                values.append(self._text(".status", text))
                self._status = steady
        add_values(self._writer, values, record.step)

    def write_probe(self, record: ProbeRecord) -> None:
        """Write the probes of a step as a single event."""
        epoch = np.array([record.epoch], dtype=np.float32)
        values = [self._tensor(f"{self._prefix}/.probes", epoch, {"quantity": ".probes"})]
        for item in record.records:
            place = f"{item.quantity}/{item.axis.digest}"
            schema = {**_schema(item), "probe": True}
            values.append(
                self._tensor(f"{self._prefix}/{place}", _stored(item, record.dtype), schema)
            )
            if item.errors is not None:
                schema = {**schema, "quantity": ".error", "of": item.quantity}
                errors = item.errors.astype(np.float64)
                values.append(self._tensor(f"{self._prefix}/.error/{place}", errors, schema))
        values += self._named(headline_tensor(record.headline), np.float64)
        for tensor in probe_tensors(record):
            array = tensor.values.astype(record.dtype)
            if tensor.name == ".saliency_things":
                if array.tobytes() == self._things:
                    continue
                self._things = array.tobytes()
            tag = f"{self._prefix}/{tensor.name}"
            if tensor.rows:
                tag += f"/{_digest(tensor.rows)}"
            schema = {"quantity": tensor.name, "names": tensor.rows}
            values.append(self._tensor(tag, array, schema))
        if self._run is not None:
            values.append(self._text(".run", self._run))
            self._run = None
        values.append(self._text(".probe", _compact(describe_probe(record))))
        add_values(self._writer, values, record.step)

    def write_headline(self, step: int, headline: Mapping[str, float]) -> None:
        """Write headline scalars that are of no record."""
        add_values(self._writer, self._named(headline_tensor(headline), np.float64), step)

    def write_boards(self, boards: EpochBoards) -> None:
        """Write the samples of an epoch as an event of their own."""
        # Ids may hold characters that have no encoding, such as those of damaged file names; JSON
        # in ASCII does.
        text = _compact(describe_boards(boards))
        add_values(self._writer, [self._text(".samples", text)], boards.step)

    def write_alerts(self, alerts: Sequence[Alert]) -> None:
        """Write the alerts of a step as an event of their own."""
        text = _compact([describe_alert(alert) for alert in alerts])
        add_values(self._writer, [self._text(".alerts", text)], alerts[0].step)

    def _named(self, tensor: RecordedTensor | None, dtype: npt.DTypeLike) -> list[Any]:
        if tensor is None:
            return []
        tag = f"{self._prefix}/{tensor.name}"
        if tensor.rows:
            tag += f"/{_digest(tensor.rows)}"
        schema = {"quantity": tensor.name, "names": tensor.rows, **tensor.schema}
        return [self._tensor(tag, tensor.values.astype(dtype), schema)]

    def _tensor(self, tag: str, array: Any, schema: dict[str, Any]) -> Any:
        return tensor_value(tag, array, self._first(tag, schema))

    def _text(self, name: str, text: str) -> Any:
        tag = f"{self._prefix}/{name}"
        return text_value(tag, text, self._first(tag, {"quantity": name}))

    def _first(self, tag: str, schema: dict[str, Any]) -> bytes | None:
        if tag in self._described:
            return None
        self._described.add(tag)
        return json.dumps({"version": SCHEMA_VERSION, **schema}, ensure_ascii=False).encode()


def _compact(described: dict[str, Any] | list[dict[str, Any]]) -> str:
    return json.dumps(described, separators=(",", ":"), allow_nan=False)


def _digest(names: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]


def describe_run(run: RunInfo) -> dict[str, Any]:
    """What a record says of the run as a whole, as plain values."""
    parameters = [
        {
            "parameter": target.name,
            "aliases": list(target.info.aliases),
            "layer": target.info.layer,
            "type": target.info.layer_type,
            "kind": target.info.kind,
            "shape": list(target.info.parameter.shape),
            "size": target.numel,
            "rule": target.rule,
            "quantities": list(target.quantities),
        }
        for target in run.selection.targets
    ]
    left_out = [
        {"parameter": left.info.name, "layer": left.info.layer, "reason": left.reason}
        for left in run.selection.left_out
    ]
    return {
        "version": SCHEMA_VERSION,
        "versions": dict(run.versions),
        "config": run.config.to_dict(),
        "parameters": parameters,
        "left_out": left_out,
    }


def _stored(record: Record, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The values in the precision of training, or in double where that would lose any of them."""
    values = record.values
    with np.errstate(all="ignore"):
        stored = values.astype(dtype)
    is_count = QUANTITIES[record.quantity].unit == "count"
    is_whole = np.isfinite(stored).all() and np.count_nonzero(stored) == np.count_nonzero(values)
    if is_whole and not is_count:
        return stored
    rounded = (stored != values) & np.isfinite(values)
    if is_count and rounded.any():
        return values
    vanished = (stored == 0) & (values != 0)
    overflown = np.isinf(stored) & np.isfinite(values)
    return values if (vanished | overflown).any() else stored


def _schema(record: Record) -> dict[str, Any]:
    quantity = QUANTITIES[record.quantity]
    schema: dict[str, Any] = {
        "quantity": quantity.name,
        "title": quantity.title,
        "unit": quantity.unit,
        "log": quantity.is_log,
        "family": FAMILY_OF[quantity.name],
        "definition": quantity.formula,
        "reading": quantity.reading,
        "source": quantity.source,
        "names": record.axis.names,
        "layers": record.axis.layers,
        "kinds": record.axis.kinds,
        "sizes": record.axis.sizes,
    }
    if record.values.ndim > 1:
        schema["edges"] = HISTOGRAM_EDGES.tolist()
    return schema


def _status(record: StepRecord) -> dict[str, Any]:
    return {
        "gradient": dict(vars(record.gradient)),
        "missing": record.missing,
        "withheld": dict(record.withheld),
        **({"samples": dict(record.capture)} if record.capture else {}),
    }


def _without_errors(status: Mapping[str, Any]) -> dict[str, Any]:
    """The status without the sizes of rounding errors, which differ with every new structure."""
    told = {k: v for k, v in status.get("samples", {}).items() if k != "verification"}
    return {**status, "samples": told}
