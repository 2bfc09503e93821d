"""The samples of each epoch, as frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["board_frame", "sample_frame"]

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
_SAMPLES = ("epoch", "id", "label", *_NUMBERS, "step")
_BOARDS = ("epoch", "board", "layer", "rank", "id", "label", *_NUMBERS[:-1], "step")


def sample_frame(epochs: Mapping[int, Mapping[str, Any]]) -> pd.DataFrame:
    """One row per epoch and sample.

    Args:
        epochs: By epoch, what the record says of its samples.
    """
    rows = [
        (epoch, *row)
        for epoch in sorted(epochs)
        for row in zip(*(epochs[epoch]["samples"][name] for name in _SAMPLES[1:]), strict=True)
    ]
    return _frame(rows, _SAMPLES)


def board_frame(epochs: Mapping[int, Mapping[str, Any]]) -> pd.DataFrame:
    """One row per epoch, board and place.

    Args:
        epochs: By epoch, what the record says of its samples.
    """
    rows = [
        (epoch, board["name"], board["layer"], *(entry[name] for name in _BOARDS[3:]))
        for epoch in sorted(epochs)
        for board in epochs[epoch]["boards"]
        for entry in board["entries"]
    ]
    return _frame(rows, _BOARDS)


def _frame(rows: list[tuple[Any, ...]], columns: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    # Labels stay what they were: among whole numbers, an unknown one would make all of them floats.
    frame = pd.DataFrame(rows, columns=list(columns), dtype=object)
    numbers = {name: "float64" for name in columns if name in _NUMBERS}
    whole = {name: "int64" for name in columns if name in ("epoch", "rank", "step")}
    return frame.astype({**numbers, **whole})
