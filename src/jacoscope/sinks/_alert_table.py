"""The table of a run's alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jacoscope.sinks._words import escaped, one_line

__all__ = ["alerts_text"]

_SHOWN = 200
_ROWS_SHOWN = 5


def alerts_text(alerts: Sequence[Mapping[str, Any]]) -> str:
    """All alerts so far as Markdown, the latest first.

    Args:
        alerts: Alerts as :func:`jacoscope.alerts.describe_alert` describes them.
    """
    lines = ["| step | epoch | severity | what | rows |", "|---|---|---|---|---|"]
    for alert in list(reversed(alerts))[:_SHOWN]:
        rows = [row["row"] for row in alert["rows"]]
        named = ", ".join(rows[:_ROWS_SHOWN])
        more = f" and {len(rows) - _ROWS_SHOWN} more" if len(rows) > _ROWS_SHOWN else ""
        cells = alert["step"], alert["epoch"], alert["severity"], alert["sentence"], named + more
        lines.append("| " + " | ".join(escaped(one_line(each)) for each in cells) + " |")
    left = len(alerts) - _SHOWN
    return "\n".join(lines) + (f"\n\n{left} earlier ones are not shown." if left > 0 else "")
