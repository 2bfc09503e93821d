"""The alerts of a run, as a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["alert_frame"]

_OF_ALERTS = ("step", "epoch", "name", "severity", "subject")
_OF_ROWS = ("row", "value", "bound")


def alert_frame(steps: Mapping[int, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """One row per alert and row of it.

    Args:
        steps: By step, what the record says of its alerts.
    """
    import pandas as pd

    rows = [
        (*(alert[key] for key in _OF_ALERTS), *(row[key] for key in _OF_ROWS), alert["sentence"])
        for step in sorted(steps)
        for alert in steps[step]
        for row in alert["rows"]
    ]
    frame = pd.DataFrame(rows, columns=[*_OF_ALERTS, *_OF_ROWS, "sentence"])
    return frame.astype({"value": "float64", "bound": "float64"})
