"""Looking for values beyond their bounds.

Shape suffixes: L rows that a rule is on.
"""

from __future__ import annotations

import fnmatch
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jacoscope.alerts._alert import Alert, AlertedRow
from jacoscope.config import AlertRule
from jacoscope.probe_record import ProbeRecord
from jacoscope.quantities import FloatArray
from jacoscope.record import Axis, StepRecord

__all__ = ["Lookout", "is_on"]

_DECAY = 0.9
"""Weight of what a row's running mean was, at each further capture."""

_LEAST_PAST = 5
"""Captures that a running mean has to have seen before anything is compared with it."""

_FEW = 512
"""Numbers that are sorted in less time than it takes to get Python's lock back."""

_WHOLE_KINDS = ("all", "layer", "group")
"""Kinds of rows that are of several parameters."""


class Lookout:
    """Looks through captured and probed steps for what rules tell of.

    Args:
        rules: What to tell of.
    """

    def __init__(self, rules: Sequence[AlertRule]) -> None:
        self._rules = tuple(rules)
        self._rows: dict[tuple[str, str], list[tuple[int, str]]] = {}
        self._streaks: dict[str, dict[str, int]] = {rule.name: {} for rule in rules}
        self._past: dict[str, dict[str, tuple[int, float]]] = {rule.name: {} for rule in rules}

    def look(self, record: StepRecord | ProbeRecord) -> list[Alert]:
        """What there is to tell of at a step."""
        told = record.samples if isinstance(record, StepRecord) else None
        samples = None if told is None else told.samples
        found = []
        for rule in self._rules:
            names, values = self._values(rule, record)
            if not names:
                continue
            rows = self._beyond(rule, names, values, samples)
            if rows:
                is_nonfinite = "grad_nonfinite" in (rule.quantity, rule.headline)
                named = told.nonfinite if told is not None and is_nonfinite else ()
                found.append(Alert(record.step, record.epoch, rule, tuple(rows), named))
        return found

    def state_dict(self) -> dict[str, Any]:
        """How long rows have been beyond their bounds, and their running means, as plain values."""
        past = {
            name: {row: list(seen) for row, seen in rows.items()}
            for name, rows in self._past.items()
            if rows
        }
        return {"streaks": {name: dict(rows) for name, rows in self._streaks.items()}, "past": past}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept of rules that are still there."""
        for name, rows in state.get("streaks", {}).items():
            if name in self._streaks:
                self._streaks[name] = {str(row): int(length) for row, length in rows.items()}
        for name, rows in state.get("past", {}).items():
            if name in self._past:
                self._past[name] = {row: (int(n), float(mean)) for row, (n, mean) in rows.items()}

    def _values(
        self, rule: AlertRule, record: StepRecord | ProbeRecord
    ) -> tuple[list[str], FloatArray]:
        if rule.headline is not None:
            value = record.headline.get(rule.headline)
            return (
                ([], np.empty(0))
                if value is None
                else (["(model)"], np.array([value], dtype=float))
            )
        names: list[str] = []
        values: list[FloatArray] = []
        for item in record.records:
            if item.quantity != rule.quantity:
                continue
            rows = self._rows_of(rule, item.axis)
            if item.missing:
                rows = [(index, name) for index, name in rows if name not in item.missing]
            names += [name for _, name in rows]
            values.append(item.values[[index for index, _ in rows]])
        return names, np.concatenate(values) if values else np.empty(0)

    def _rows_of(self, rule: AlertRule, axis: Axis) -> list[tuple[int, str]]:
        key = rule.name, axis.digest
        if key not in self._rows:
            self._rows[key] = [
                (index, name)
                for index, (name, kind) in enumerate(zip(axis.names, axis.kinds, strict=True))
                if is_on(rule, name, kind)
            ]
        return self._rows[key]

    def _beyond(
        self, rule: AlertRule, names: Sequence[str], values_L: FloatArray, samples: int | None
    ) -> list[AlertedRow]:
        """The rows that have just been beyond their bounds for long enough."""
        scales_L = self._scales(rule, names, values_L, samples)
        streaks = self._streaks[rule.name]
        with np.errstate(invalid="ignore"):  # what is not a number is on neither side
            above_L = values_L > scales_L * _or(rule.above, math.nan)
            below_L = values_L < scales_L * _or(rule.below, math.nan)
        beyond_L = above_L | below_L
        if not streaks and not beyond_L.any():
            return []
        rows = []
        for index, name in enumerate(names):
            if not beyond_L[index]:
                streaks.pop(name, None)
                continue
            streaks[name] = streaks.get(name, 0) + 1
            if streaks[name] == rule.captures:
                bound = rule.above if above_L[index] else rule.below
                assert bound is not None
                value, scale = float(values_L[index]), float(scales_L[index])
                rows.append(AlertedRow(name, value, scale * bound))
        return sorted(rows, key=_distance, reverse=True)

    def _scales(
        self, rule: AlertRule, names: Sequence[str], values_L: FloatArray, samples: int | None
    ) -> FloatArray:
        """What the bounds are multiples of, row by row; ``nan`` where it is not known."""
        if rule.of == "median":
            return np.full(len(names), _median(values_L[np.isfinite(values_L)]))
        if rule.of == "batch":
            return np.full(len(names), math.nan if samples is None else float(samples))
        if rule.of == "past":
            past = self._past[rule.name]
            scales = [_mean(past.get(name)) for name in names]
            for name, value in zip(names, values_L.tolist(), strict=True):
                if math.isfinite(value) and value > 0:
                    past[name] = _taken(past.get(name), math.log(value))
            return np.array(scales)
        return np.ones(len(names))


def is_on(rule: AlertRule, name: str, kind: str) -> bool:
    """Whether a rule is on the row of this name and kind."""
    if rule.kind is not None and kind not in _many(rule.kind):
        return False
    if rule.match is None:
        return kind not in _WHOLE_KINDS
    parts = name.split(".")
    paths = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
    return any(
        fnmatch.fnmatchcase(path, pattern) for pattern in _many(rule.match) for path in paths
    )


def _many(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _median(values: FloatArray) -> float:
    """The median, ``nan`` of nothing."""
    if not values.size:
        return math.nan
    if values.size > _FEW:
        return float(np.median(values))
    # NumPy lets go of Python's lock to sort, which TensorBoard's thread then takes for a while.
    return float(statistics.median(values.tolist()))


def _mean(seen: tuple[int, float] | None) -> float:
    """The geometric mean so far, ``nan`` until it has seen enough."""
    return math.exp(seen[1]) if seen is not None and seen[0] >= _LEAST_PAST else math.nan


def _taken(seen: tuple[int, float] | None, logarithm: float) -> tuple[int, float]:
    """A running mean with one more value; the first ones weigh the same, as in Adam's means."""
    count, mean = seen or (0, 0.0)
    weight = (1 - _DECAY) / (1 - _DECAY ** (count + 1))
    return count + 1, mean + weight * (logarithm - mean)


def _distance(row: AlertedRow) -> float:
    """How many times a row is beyond its bound, as a logarithm."""
    if not math.isfinite(row.value) or row.value <= 0 or row.bound <= 0:
        return math.inf
    return abs(math.log(row.value / row.bound))
