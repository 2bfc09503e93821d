"""Numbers of probes in words, where some are no numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable

from jacoscope.probing import AllElseEqual
from jacoscope.sinks._words import cut_name, one_line

__all__ = ["interaction_of", "sentence_of", "signed", "total", "unsigned"]

_NAMES_SHOWN = 3


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign, or in words what is no number."""
    if value == 0:
        return "0"
    return _words_of(value) or f"{value:+.{digits}g}".replace("-", "−")


def unsigned(value: float, digits: int = 3) -> str:
    """A number, with a sign if it is negative, or in words what is no number."""
    return _words_of(value) or f"{value:.{digits}g}".replace("-", "−")


def _words_of(value: float) -> str:
    if math.isnan(value):
        return "not a number"
    return "" if math.isfinite(value) else "+infinite" if value > 0 else "−infinite"


def total(values: Iterable[float]) -> float:
    """The sum, exact where it is finite; ``nan`` of infinities of both signs."""
    try:
        return math.fsum(values)
    except (ValueError, OverflowError):
        return math.nan


def interaction_of(result: AllElseEqual) -> float:
    """The part of the change that no layer makes alone; ``nan`` if that cannot be said."""
    return result.actual - total(share.actual for share in result.layers)


def sentence_of(result: AllElseEqual, length: int) -> str:
    """The result in words, whatever its numbers are, with names no longer than ``length``."""
    broken = [s.layer for s in result.layers if not math.isfinite(s.predicted + s.actual)]
    if broken or not math.isfinite(interaction_of(result)):
        ends = f"from {unsigned(result.before)} to {unsigned(result.after)}"
        names = ", ".join(cut_name(one_line(name), length) for name in broken[:_NAMES_SHOWN])
        more = f" and {len(broken) - _NAMES_SHOWN} more" if len(broken) > _NAMES_SHOWN else ""
        alone = f"; not finite with one layer moved alone: {names}{more}" if broken else ""
        return f"The loss went {ends} in this step{alone}."
    sentence = result.sentence
    # Longer names first: shorter ones may be a part of them.
    for name in sorted((share.layer for share in result.layers), key=len, reverse=True):
        if len(name) > length:
            sentence = sentence.replace(name, cut_name(one_line(name), length))
    return one_line(sentence).replace(" -", " −")
