"""What a finding is, and how it is put in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Finding", "Severity", "counted", "in_order", "listed", "percent", "said", "unique"]

Severity = Literal["alert", "warning", "note", "good"]

_ORDER: tuple[Severity, ...] = ("alert", "warning", "note", "good")
_LAYERS_SHOWN = 5
_SHORTEST, _LONGEST = 1e-3, 1e6
"""Beyond these, numbers are written with an exponent."""


@dataclass(frozen=True)
class Finding:
    """Something that a run's numbers say, in words.

    Args:
        kind: What it is about; one of a kind.
        severity: How grave it is.
        title: What there is to know, in a few words.
        text: The numbers behind it.
        step: The step to look at, if it is about one.
        layers: The layers that it is about.
        view: Where on the page to look: the view, and what to show there.
    """

    kind: str
    severity: Severity
    title: str
    text: str
    step: int | None = None
    layers: tuple[str, ...] = ()
    view: Mapping[str, Any] | None = None

    def described(self) -> dict[str, Any]:
        """As the page has it."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "title": self.title,
            "text": self.text,
            "step": self.step,
            "layers": list(self.layers[:_LAYERS_SHOWN]),
            "more": max(0, len(self.layers) - _LAYERS_SHOWN),
            "view": self.view,
        }


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first, and among equals as they come."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def said(value: float, digits: int = 3) -> str:
    """A number to a few digits, with a real minus sign and without a padded exponent."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "−infinite"
    size = abs(value)
    if 100 <= size < _LONGEST:
        text = f"{value:,.0f}"
    elif size == 0 or _SHORTEST <= size < 100:
        text = f"{value:.{digits}g}"
    else:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")


def percent(share: float) -> str:
    """A share in percent; never rounded to all or nothing when it is neither."""
    value = 100 * share
    if 0 < value < 0.1 or 99.9 < value < 100:
        return f"{'under' if value < 50 else 'over'} {0.1 if value < 50 else 99.9} %"
    return f"{value:.3g} %"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number and what it counts."""
    word = noun if count == 1 else plural or f"{noun}s"
    return f"{count:,} {word}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names in a sentence, the first few of them."""
    shown = list(names[:most])
    rest = len(names) - len(shown)
    if rest:
        return f"{', '.join(shown)} and {rest} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, in order."""
    return tuple(dict.fromkeys(names))
