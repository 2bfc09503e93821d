"""What a record says of an epoch's samples, as plain values that JSON knows."""

from __future__ import annotations

from math import isfinite, isnan
from typing import Any

from jacoscope.leaderboard import Entry, EpochBoards
from jacoscope.sinks._images import data_url

__all__ = ["describe_boards"]


def describe_boards(boards: EpochBoards) -> dict[str, Any]:
    """Everything, with images as thumbnails.

    Numbers have nine digits, which is single precision; ``None`` is not a number, and infinity is
    the text ``inf``.
    """
    columns = boards.columns
    return {
        "epoch": boards.epoch,
        "step": boards.step,
        "seen": boards.seen,
        "omitted": boards.omitted,
        "id_source": boards.id_source,
        "last_layer": boards.last_layer,
        "boards": [
            {
                "name": board.name,
                "title": board.title,
                "explanation": board.explanation,
                "ranked_by": board.ranked_by,
                "layer": board.layer,
                "entries": [_entry(entry) for entry in board.entries],
            }
            for board in boards.boards
        ],
        "samples": {
            "id": columns.ids,
            "label": columns.labels,
            "loss": _numbers(columns.losses),
            "mean_loss": _numbers(columns.mean_losses),
            "norm": _numbers(columns.norms),
            "mean_norm": _numbers(columns.mean_norms),
            "alignment": _numbers(columns.alignments),
            "class_alignment": _numbers(columns.class_alignments),
            "mean_class_alignment": _numbers(columns.mean_class_alignments),
            "last_layer_norm": _numbers(columns.last_layer_norms),
            "step": columns.steps,
        },
        "images": _images(boards),
        "pushes": {
            str(name): [[layer, _plain(share)] for layer, share in layers]
            for name, layers in boards.pushes.items()
        },
    }


def _images(boards: EpochBoards) -> dict[str, str]:
    """By sample on a board, its thumbnail as a data URL."""
    things = {
        entry.id: entry.thing
        for board in boards.boards
        for entry in board.entries
        if entry.thing is not None and not isinstance(entry.thing, str)
    }
    return {str(name): data_url(thing) for name, thing in things.items() if thing.size}


def _entry(entry: Entry) -> dict[str, Any]:
    described: dict[str, Any] = {
        "rank": entry.rank,
        "id": entry.id,
        "label": entry.label,
        "loss": _plain(entry.loss),
        "mean_loss": _plain(entry.mean_loss),
        "norm": _plain(entry.norm),
        "mean_norm": _plain(entry.mean_norm),
        "alignment": _plain(entry.alignment),
        "class_alignment": _plain(entry.class_alignment),
        "mean_class_alignment": _plain(entry.mean_class_alignment),
        "step": entry.step,
    }
    if isinstance(entry.thing, str):
        described["text"] = entry.thing
    return described


def _numbers(column: Any) -> list[float | str | None]:
    return [_plain(value) for value in column.tolist()]


def _plain(value: float) -> float | str | None:
    """A number to the digits that single precision needs; JSON has neither nan nor infinity."""
    if isfinite(value):
        return float(f"{value:.9g}")
    return None if isnan(value) else str(value)
