"""``/data/samples``: the samples that stood out, over any stretch of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jacoscope.board.endpoint import Answer, Asked, Endpoint, Plan, states_of
from jacoscope.board.fields import integer, listing, mapping, mappings, text
from jacoscope.board.recording import Recording

__all__ = ["SAMPLES"]

_NUMBERS = (
    "loss",
    "mean_loss",
    "norm",
    "mean_norm",
    "alignment",
    "class_alignment",
    "mean_class_alignment",
    "last_layer_norm",
)
_COLUMNS = ("id", "label", *_NUMBERS, "step")
_ENTRY = ("id", "label", "norm", "alignment", "step")

_Epoch = Mapping[str, Any]


def _plan(asked: Asked) -> Plan:
    recording = asked.recording()
    span = asked.query.span()
    return Plan(states_of(recording.tags(".samples")), lambda: Answer(_answer(recording, span)))


def _answer(recording: Recording, span: tuple[int | None, int | None]) -> Mapping[str, Any]:
    # An epoch that was taken up again is written twice; what was written last is the whole of it.
    by_epoch = {
        integer(record, "epoch"): (step, record) for step, record in recording.texts(".samples")
    }
    epochs = list(by_epoch.values())
    steps = [step for step, _ in epochs]
    first, last = span
    chosen = [
        record
        for step, record in epochs
        if (first is None or step >= first) and (last is None or step <= last)
    ]
    columns = _columns(chosen)
    latest = chosen[-1] if chosen else {}
    return {
        "id_source": text(latest, "id_source"),
        "last_layer": latest.get("last_layer"),
        "epochs": [_epoch(record) for record in chosen],
        "classes": _classes(columns["label"]),
        "columns": columns,
        "boards": _boards(chosen),
        "texts": _texts(chosen),
        "images": _by_id(chosen, "images"),
        "pushes": _by_id(chosen, "pushes"),
        "layer_boards": _layer_boards(latest),
        "thinned": any(track.is_thinned for _, track in recording.tracks(".samples")),
        "range": [min(steps), max(steps)] if steps else None,
        "first_step": min(steps, default=None),
        "last_step": max(steps, default=None),
    }


def _epoch(record: _Epoch) -> dict[str, Any]:
    return {name: record.get(name) for name in ("epoch", "step", "seen", "omitted")}


def _columns(epochs: list[_Epoch]) -> dict[str, list[Any]]:
    """Each sample once, with what was last seen of it; in the order of the first seen."""
    latest: dict[Any, tuple[Any, ...]] = {}
    for record in epochs:
        columns = mapping(record, "samples")
        lists = [listing(columns, name) for name in _COLUMNS]
        ids = lists[0]
        if any(len(column) != len(ids) for column in lists):
            continue  # not as this version writes it
        epoch = integer(record, "epoch")
        latest.update({str(row[0]): (*row, epoch) for row in zip(*lists, strict=True)})
    names = (*_COLUMNS, "epoch")
    return {name: [row[place] for row in latest.values()] for place, name in enumerate(names)}


def _classes(labels: list[Any]) -> list[Any]:
    """The labels that there are: numbers in order, then texts in order."""
    found = {label for label in labels if isinstance(label, str | int | float)}
    return sorted(found, key=lambda label: (isinstance(label, str), label))


def _boards(epochs: list[_Epoch]) -> list[dict[str, Any]]:
    """The boards over all layers; their entries follow from the columns."""
    found = {
        text(board, "name"): {
            name: board.get(name) for name in ("name", "title", "explanation", "ranked_by")
        }
        for record in epochs
        for board in mappings(record, "boards")
        if board.get("layer") is None
    }
    return list(found.values())


def _layer_boards(record: _Epoch) -> list[dict[str, Any]]:
    """The boards of single layers, of the last epoch: they cannot be put together from columns."""
    return [
        {
            "layer": board.get("layer"),
            "entries": [
                {name: entry.get(name) for name in _ENTRY} for entry in mappings(board, "entries")
            ],
        }
        for board in mappings(record, "boards")
        if board.get("layer") is not None
    ]


def _texts(epochs: list[_Epoch]) -> dict[str, str]:
    return {
        str(entry.get("id")): entry["text"]
        for record in epochs
        for entry in _entries(record)
        if isinstance(entry.get("text"), str)
    }


def _entries(record: _Epoch) -> Iterator[Mapping[str, Any]]:
    for board in mappings(record, "boards"):
        yield from mappings(board, "entries")


def _by_id(epochs: list[_Epoch], name: str) -> dict[str, Any]:
    """What is told by sample, the last of each."""
    found: dict[str, Any] = {}
    for record in epochs:
        found.update(mapping(record, name))
    return found


SAMPLES = Endpoint(_plan, ("run", "group", "from", "to"))
