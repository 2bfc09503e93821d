"""Many steps in few columns, without losing what stands out.

Shape suffixes: S steps, L rows, B columns, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "ABSENT",
    "MINUS_INFINITE",
    "NOT_A_NUMBER",
    "PLUS_INFINITE",
    "Extremes",
    "column_starts",
    "extremes",
    "last_finite",
    "quantile_columns",
    "to_float32",
]

Array = npt.NDArray[Any]
Starts = npt.NDArray[np.intp]

NOT_A_NUMBER, PLUS_INFINITE, MINUS_INFINITE, ABSENT = 1, 2, 4, 8
"""What a column holds besides finite numbers; ``ABSENT``: nothing at all, not even those."""

_LARGEST = 3.4e38


@dataclass(frozen=True, eq=False)
class Extremes:
    """The smallest and the largest finite value of each column, and what else it holds.

    Args:
        low_LB: ``nan`` where there is no finite value.
        high_LB: Likewise.
        flags_LB: Bits, see :data:`ABSENT` and those beside it.
    """

    low_LB: npt.NDArray[np.float32]
    high_LB: npt.NDArray[np.float32]
    flags_LB: npt.NDArray[np.uint8]


def column_starts(steps: int, most: int) -> Starts:
    """Where each column starts: one for each step, or ``most`` with about as many steps each."""
    if steps <= most:
        return np.arange(steps)
    return np.arange(most) * steps // most


def extremes(
    values_SL: Array, starts_B: Starts, present_SL: npt.NDArray[np.bool_] | None = None
) -> Extremes:
    """The extremes of each column.

    Args:
        values_SL: Values by step and row.
        starts_B: The first step of each column.
        present_SL: Where there is a value; everywhere if not given.
    """
    rows = values_SL.shape[1]
    if not len(starts_B) or not rows:
        nothing = np.empty((rows, len(starts_B)), np.float32)
        return Extremes(nothing, nothing.copy(), np.empty(nothing.shape, np.uint8))
    finite_SL = np.isfinite(values_SL)
    if present_SL is not None:
        finite_SL &= present_SL
    flags_BL = np.zeros((len(starts_B), rows), np.uint8)
    if finite_SL.all():
        low_BL = np.minimum.reduceat(values_SL, starts_B, axis=0)
        high_BL = np.maximum.reduceat(values_SL, starts_B, axis=0)
    else:
        low_BL = np.minimum.reduceat(np.where(finite_SL, values_SL, np.inf), starts_B, axis=0)
        high_BL = np.maximum.reduceat(np.where(finite_SL, values_SL, -np.inf), starts_B, axis=0)
        flags_BL |= _flags(values_SL, starts_B, present_SL)
        empty_BL = low_BL > high_BL
        low_BL[empty_BL] = np.nan
        high_BL[empty_BL] = np.nan
        flags_BL[empty_BL & (flags_BL == 0)] = ABSENT
    return Extremes(to_float32(low_BL.T), to_float32(high_BL.T), np.ascontiguousarray(flags_BL.T))


def _flags(
    values_SL: Array, starts_B: Starts, present_SL: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.uint8]:
    kinds_SL = np.zeros(values_SL.shape, np.uint8)
    kinds_SL[np.isnan(values_SL)] = NOT_A_NUMBER
    kinds_SL[np.isposinf(values_SL)] = PLUS_INFINITE
    kinds_SL[np.isneginf(values_SL)] = MINUS_INFINITE
    if present_SL is not None:
        kinds_SL[~present_SL] = 0
    return np.bitwise_or.reduceat(kinds_SL, starts_B, axis=0)


def to_float32(values: Array) -> npt.NDArray[np.float32]:
    """In single precision, without making an infinity of a large number."""
    if values.dtype != np.float32:
        finite = np.isfinite(values)
        values = np.where(finite, np.clip(values, -_LARGEST, _LARGEST), values)
    return np.ascontiguousarray(values, dtype=np.float32)


def last_finite(values_SL: Array, starts_B: Starts) -> npt.NDArray[np.float32]:
    """The last finite value of each column, shape (L, B); ``nan`` where there is none."""
    steps, rows = values_SL.shape
    if not len(starts_B) or not rows:
        return np.empty((rows, len(starts_B)), np.float32)
    places_SL = np.where(np.isfinite(values_SL), np.arange(steps)[:, None], -1)
    last_BL = np.maximum.reduceat(places_SL, starts_B, axis=0)
    found_BL = np.take_along_axis(values_SL, np.maximum(last_BL, 0), axis=0)
    return to_float32(np.where(last_BL >= 0, found_BL, np.nan).T)


def quantile_columns(values_SQ: Array, starts_B: Starts) -> npt.NDArray[np.float32]:
    """Quantiles by column, shape (Q, B).

    The lower ones are the smallest of their column, the upper ones the largest, and the middle one
    is the median of its column, so that the range of all columns together stays what it was.

    Args:
        values_SQ: Quantiles by step, an odd number of them, from the smallest to the largest.
        starts_B: The first step of each column.
    """
    middle = values_SQ.shape[1] // 2
    ends_B = np.append(starts_B[1:], len(values_SQ))[: len(starts_B)]
    with np.errstate(all="ignore"):
        columns = [_reduced(values_SQ[a:b], middle) for a, b in zip(starts_B, ends_B, strict=True)]
    shape = (len(columns), values_SQ.shape[1])
    return to_float32(np.array(columns, dtype=np.float64).reshape(shape).T)


def _reduced(values_SQ: Array, middle: int) -> Array:
    usable_SQ = values_SQ[~np.isnan(values_SQ).any(axis=1)]
    if not len(usable_SQ):
        return np.full(values_SQ.shape[1], np.nan)
    return np.concatenate(
        [
            usable_SQ[:, :middle].min(axis=0),
            np.median(usable_SQ[:, middle : middle + 1], axis=0),
            usable_SQ[:, middle + 1 :].max(axis=0),
        ]
    )
