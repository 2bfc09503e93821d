"""``/data/outputs`` and ``/data/spectra``: what moves the outputs.

Shape suffixes: S steps, R rows, K values of a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.board.endpoint import Answer, Asked, Endpoint, Plan, states_of
from jacoscope.board.fields import mapping
from jacoscope.board.mistakes import NotRecordedError
from jacoscope.board.nearest import nearest_step
from jacoscope.board.recording import Recording
from jacoscope.board.reductions import to_float32

__all__ = ["OUTPUTS", "SPECTRA"]

_TENSORS = (
    ".saliency_maps",
    ".input_singular_values",
    ".ntk_spectrum",
    ".output_sensitivity",
)
_THINGS = ".saliency_things"
_SPECTRA = {"ntk": ".ntk_spectrum", "input": ".input_singular_values"}

Array = npt.NDArray[Any]


def _plan_outputs(asked: Asked) -> Plan:
    step = asked.query.integer("step")
    recording = asked.recording()
    tags = recording.tags(".probe", _THINGS, *_TENSORS)
    return Plan(states_of(tags), lambda: _outputs(recording, step))


def _outputs(recording: Recording, asked: int | None) -> Answer:
    steps = recording.steps_of(*_TENSORS).tolist()
    if not steps:
        raise NotRecordedError("this run has no probes of its outputs")
    step = nearest_step(steps, asked)
    found = {name: _at(recording, name, step) for name in _TENSORS}
    found[_THINGS] = _held(recording, _THINGS, step) if found[".saliency_maps"] else None
    record = dict(recording.texts(".probe")).get(step, {})
    meta = {
        "step": step,
        "steps": steps,
        "epoch": record.get("epoch"),
        "notes": mapping(record, "notes"),
        "withheld": mapping(record, "withheld"),
        "ids": record.get("ids", []),
        "saliency": record.get("saliency"),
        "ntk_rows": _names(found[".ntk_spectrum"]),
        "sensitivity_layers": _names(found[".output_sensitivity"]),
    }
    arrays = {name[1:]: to_float32(item[1]) for name, item in found.items() if item is not None}
    return Answer(meta, arrays)


def _names(found: tuple[list[str], Array] | None) -> list[str]:
    return found[0] if found is not None else []


def _at(recording: Recording, name: str, step: int) -> tuple[list[str], Array] | None:
    """A tensor of a probe with the names of its rows."""
    for tag, track in recording.tracks(name):
        place = int(np.searchsorted(track.steps_S, step))
        if place < len(track.steps_S) and track.steps_S[place] == step:
            return _sound(tag.names, track.values_S[place])
    return None


def _held(recording: Recording, name: str, step: int) -> tuple[list[str], Array] | None:
    """A tensor that holds until there is another one."""
    for tag, track in recording.tracks(name):
        place = int(np.searchsorted(track.steps_S, step, side="right")) - 1
        if place >= 0:
            return _sound(tag.names, track.values_S[place])
    return None


def _sound(names: list[str], value: Any) -> tuple[list[str], Array] | None:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return None
    return None if names and len(value) != len(names) else (names, value)


def _plan_spectra(asked: Asked) -> Plan:
    name = _SPECTRA[asked.query.choice("kind", _SPECTRA)]
    recording = asked.recording()
    return Plan(states_of(recording.tags(name)), lambda: _spectra(recording, name))


def _spectra(recording: Recording, name: str) -> Answer:
    """All probes' spectra side by side; where rows or lengths differ, with nan."""
    found: dict[int, tuple[list[str], Array]] = {}
    for tag, track in recording.tracks(name):
        for step, value in zip(track.steps_S.tolist(), track.values_S, strict=True):
            sound = _sound(tag.names, value)
            if sound is not None and value.ndim == 2:
                found[step] = sound[0] or [f"sample {i}" for i in range(len(value))], value
    rows = list(dict.fromkeys(row for names, _ in found.values() for row in names))
    length = max((value.shape[1] for _, value in found.values()), default=0)
    values_SRK = np.full((len(found), len(rows), length), np.nan, np.float32)
    places = {row: place for place, row in enumerate(rows)}
    steps = sorted(found)
    for place, step in enumerate(steps):
        names, value = found[step]
        values_SRK[place, [places[name] for name in names], : value.shape[1]] = to_float32(value)
    return Answer({"rows": rows}, {"step": np.array(steps, np.float64), "values": values_SRK})


OUTPUTS = Endpoint(_plan_outputs, ("run", "group", "step"), sends_arrays=True)
SPECTRA = Endpoint(_plan_spectra, ("run", "group", "kind"), sends_arrays=True)
