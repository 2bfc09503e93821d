"""``/data/probes``, ``/data/probe``, ``/data/allocation``: the loss, all else equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.board.endpoint import Answer, Asked, Endpoint, Plan, states_of
from jacoscope.board.fields import integer, mapping, mappings, number, text
from jacoscope.board.mistakes import NotRecordedError
from jacoscope.board.recording import Recording
from jacoscope.board.reductions import to_float32

__all__ = ["ALLOCATION", "PROBE", "PROBES"]

_ALLOCATION = ("since", "change", "gap", "loss")


def _plan_probes(asked: Asked) -> Plan:
    recording = asked.recording()
    return Plan(states_of(recording.tags(".probe")), lambda: _probes(recording))


def _probes(recording: Recording) -> Answer:
    texts = recording.texts(".probe")
    layers = dict.fromkeys(
        name
        for _, record in texts
        for name in (
            *(text(share, "layer") for share in mappings(_step_of(record), "layers")),
            *mapping(mapping(record, "allocation"), "by_layer"),
        )
    )
    return Answer(
        {"steps": [_described(step, record) for step, record in texts], "layers": list(layers)}
    )


def _described(step: int, record: Mapping[str, Any]) -> dict[str, Any]:
    result, allocation = _step_of(record), mapping(record, "allocation")
    missing = mapping(record, "missing")
    actual = number(result.get("after")) - number(result.get("before"))
    return {
        "step": step,
        "epoch": record.get("epoch"),
        "before": result.get("before"),
        "after": result.get("after"),
        "actual": actual,
        "predicted": result.get("predicted"),
        "second_order": result.get("second_order"),
        "interaction": result.get("interaction"),
        "sentence": text(result, "sentence"),
        "allocation": {name: allocation.get(name) for name in _ALLOCATION} if allocation else None,
        "withheld": mapping(record, "withheld"),
        "missing_count": sum(len(mapping(missing, quantity)) for quantity in missing),
    }


def _step_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(record, "all_else_equal")


def _plan_probe(asked: Asked) -> Plan:
    step = asked.query.required_integer("step")
    recording = asked.recording()
    return Plan(states_of(recording.tags(".probe")), lambda: _probe(recording, step))


def _probe(recording: Recording, step: int) -> Answer:
    texts = dict(recording.texts(".probe"))
    if step not in texts:
        raise NotRecordedError(f"no probe is recorded at step {step}")
    return Answer({**texts[step], "steps": list(texts)})


def _plan_allocation(asked: Asked) -> Plan:
    recording = asked.recording()
    return Plan(states_of(recording.tags(".probe")), lambda: _allocation(recording))


def _allocation(recording: Recording) -> Answer:
    found = [(step, mapping(record, "allocation")) for step, record in recording.texts(".probe")]
    found = [(step, allocation) for step, allocation in found if allocation]
    layers = list(
        dict.fromkeys(name for _, allocation in found for name in mapping(allocation, "by_layer"))
    )
    by_layer = np.full((len(found), len(layers)), np.nan)
    for row, (_, allocation) in enumerate(found):
        amounts = mapping(allocation, "by_layer")
        by_layer[row] = [number(amounts.get(name)) for name in layers]
    arrays: dict[str, npt.NDArray[Any]] = {
        "step": np.array([step for step, _ in found], np.float64),
        "since": np.array([integer(a, "since") for _, a in found], np.float64),
        "by_layer": to_float32(by_layer),
    }
    for name in ("change", "gap", "loss"):
        values = np.array([number(allocation.get(name)) for _, allocation in found], np.float64)
        arrays[name] = to_float32(values)
    return Answer({"layers": layers}, arrays)


PROBES = Endpoint(_plan_probes, ("run", "group"))
PROBE = Endpoint(_plan_probe, ("run", "group", "step"))
ALLOCATION = Endpoint(_plan_allocation, ("run", "group"), sends_arrays=True)
