"""What the run itself told of while it trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jacoscope.board.fields import integer, mappings, text
from jacoscope.board.findings._finding import Finding, counted, unique

__all__ = ["raised"]


def raised(alerts: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """One finding per rule that told of something.

    Args:
        alerts: What the record says of each alert, in the order of steps.
    """
    found = []
    for name in unique(text(alert, "name") for alert in alerts):
        own = [alert for alert in alerts if text(alert, "name") == name]
        first, last = own[0], own[-1]
        severity = text(first, "severity")
        several = f" {counted(len(own), 'time')}, last at step {integer(last, 'step')}."
        sentence = text(first, "sentence").removeprefix(f"{name}: ")
        subject = text(first, "subject")
        found.append(
            Finding(
                f"alert: {name}",
                "alert" if severity == "alert" else "note" if severity == "note" else "warning",
                f"Alert “{name}” at step {integer(first, 'step')}.",
                f"{sentence[:1].upper()}{sentence[1:]}.{several if len(own) > 1 else ''}",
                integer(first, "step"),
                unique(
                    text(row, "row")
                    for alert in own
                    for row in mappings(alert, "rows")
                    if text(row, "row") != "(model)"
                ),
                {"view": "layers", "quantity": subject} if subject else None,
            )
        )
    return found
