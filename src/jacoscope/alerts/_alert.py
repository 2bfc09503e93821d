"""What there is to tell of at a captured step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from jacoscope.config import AlertRule

__all__ = ["Alert", "AlertedRow", "describe_alert"]

_OF = {
    "value": "",
    "median": " ({:g} × the median of all rows)",
    "past": " ({:g} × its mean so far)",
    "batch": " ({:g} × the samples of the batch)",
}
"""What a bound is a multiple of, in words."""

_SAMPLES_NAMED = 5


@dataclass(frozen=True)
class AlertedRow:
    """A row beyond its bound.

    Args:
        name: The parameter, or what is measured as a whole; ``(model)`` for a headline scalar.
        value: Its value.
        bound: The bound that it is beyond.
    """

    name: str
    value: float
    bound: float


@dataclass(frozen=True)
class Alert:
    """What a rule tells of at a captured step.

    Args:
        step: Optimiser steps before it.
        epoch: Epochs completed.
        rule: The rule.
        rows: The rows that have just been beyond their bounds for long enough, those farthest
            beyond first.
        samples: Ids of samples whose loss or gradient is not finite, where the rule is on what is
            not finite and samples were captured.
    """

    step: int
    epoch: int
    rule: AlertRule
    rows: tuple[AlertedRow, ...]
    samples: tuple[str | int, ...] = ()

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.rule.name

    @property
    def severity(self) -> Literal["note", "warning", "alert"]:
        """How grave it is."""
        return self.rule.severity

    @property
    def subject(self) -> str:
        """The quantity or headline scalar that it is on."""
        return str(self.rule.quantity or self.rule.headline)

    @property
    def sentence(self) -> str:
        """What happened, in words."""
        first, rule = self.rows[0], self.rule
        more = f" and {len(self.rows) - 1} more" if len(self.rows) > 1 else ""
        where = "" if rule.headline else f" of {first.name}{more}"
        is_above = rule.above is not None and first.value > first.bound
        word, factor = ("above", rule.above) if is_above else ("below", rule.below)
        of = _OF[rule.of].format(factor)
        lasting = f" for {rule.captures} captures" if rule.captures > 1 else ""
        return (
            f"{rule.name}: {self.subject}{where} is {first.value:.3g}, {word} {first.bound:.3g}"
            f"{of}{lasting}, at step {self.step}{self._sampled}"
        )

    @property
    def _sampled(self) -> str:
        if not self.samples:
            return ""
        named = ", ".join(map(str, self.samples[:_SAMPLES_NAMED]))
        more = "" if len(self.samples) <= _SAMPLES_NAMED else " and more"
        return f"; samples that are not finite: {named}{more}"


def describe_alert(alert: Alert) -> dict[str, Any]:
    """An alert as plain values that JSON knows."""
    return {
        "step": alert.step,
        "epoch": alert.epoch,
        "name": alert.name,
        "severity": alert.severity,
        "subject": alert.subject,
        "sentence": alert.sentence,
        "stop": alert.rule.stop,
        "samples": [str(each) for each in alert.samples],
        "rows": [
            {"row": row.name, "value": _plain(row.value), "bound": _plain(row.bound)}
            for row in alert.rows
        ],
    }


def _plain(value: float) -> float | str | None:
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)
