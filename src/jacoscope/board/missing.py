"""``/data/missing``: why a number is not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jacoscope.board.endpoint import Answer, Asked, Endpoint, Plan, states_of
from jacoscope.board.fields import mapping, text
from jacoscope.board.mistakes import NotRecordedError, shown
from jacoscope.board.recording import Recording
from jacoscope.errors import nearest

__all__ = ["MISSING", "Gap", "gaps_now", "partly_now", "reasons_at"]

_ROWS_SHOWN = 20
_OF_SAMPLES = "per-sample quantities"
_NOT_DUE = "it was not watched, or not due, at this step"

Told = list[tuple[int, Mapping[str, Any]]]


@dataclass(frozen=True)
class Gap:
    """Numbers that are not there, for one reason.

    Args:
        quantity: What is missing.
        reason: Why.
        rows: Of which rows; empty if of all.
        since: The first step from which on it has been so.
    """

    quantity: str
    reason: str
    rows: tuple[str, ...]
    since: int

    def described(self) -> dict[str, Any]:
        """As the page has it."""
        return {
            "quantity": self.quantity,
            "reason": self.reason,
            "rows": list(self.rows[:_ROWS_SHOWN]),
            "count": len(self.rows),
            "since_step": self.since,
        }


def gaps_now(backwards: Iterable[tuple[int, Mapping[str, Any]]]) -> list[Gap]:
    """What is missing at the end, and since when without a break.

    Args:
        backwards: By step, from the last to the first, what a record says of what is missing and
            withheld; each holds until the next. No more of it is read than is needed.
    """
    told = iter(backwards)
    last = next(told, None)
    if last is None:
        return []
    gaps = _reasons(last[1])
    since = dict.fromkeys(gaps, last[0])
    unbroken = set(gaps)
    while unbroken:
        earlier = next(told, None)
        if earlier is None:
            break
        unbroken &= _reasons(earlier[1]).keys()
        since.update(dict.fromkeys(unbroken, earlier[0]))
    return [Gap(*key, rows, since[key]) for key, rows in gaps.items()]


def partly_now(backwards: Iterable[tuple[int, Mapping[str, Any]]]) -> list[Gap]:
    """On how much of a step per-sample quantities are measured at the end, if it is not all.

    Args:
        backwards: By step, from the last to the first, what a record says of how it was captured.
    """
    gap: Gap | None = None
    for step, record in backwards:
        extent = text(mapping(record, "samples"), "extent")
        if not extent or (gap is not None and gap.reason != extent):
            break
        gap = Gap(_OF_SAMPLES, extent, (), step)
    return [] if gap is None else [gap]


def _reasons(record: Mapping[str, Any]) -> dict[tuple[str, str], tuple[str, ...]]:
    """By quantity and reason, the rows; none for a quantity that is withheld altogether."""
    found: dict[tuple[str, str], tuple[str, ...]] = {
        (quantity, str(reason)): () for quantity, reason in mapping(record, "withheld").items()
    }
    missing = mapping(record, "missing")
    for quantity in missing:
        for row, reason in mapping(missing, quantity).items():
            key = quantity, str(reason)
            found[key] = (*found.get(key, ()), row)
    return found


def reasons_at(told: Told, quantity: str, step: int, exact: bool) -> dict[str, str]:
    """By row, why a quantity is missing at a step; ``*`` is every row.

    Args:
        told: By step, what a record says of what is missing and withheld.
        quantity: The quantity.
        step: The step.
        exact: Whether what is told holds for its own step alone, or until the next.
    """
    held = [record for at, record in told if at == step or (at < step and not exact)]
    if not held:
        return {}
    withheld = mapping(held[-1], "withheld").get(quantity)
    rows = mapping(mapping(held[-1], "missing"), quantity)
    found = {row: str(reason) for row, reason in rows.items()}
    return found if withheld is None else {"*": str(withheld), **found}


def _plan(asked: Asked) -> Plan:
    query = asked.query
    step, row = query.required_integer("step"), query.optional_text("row")
    name = query.text("quantity")
    recording = asked.recording()
    tags = [*recording.tags(".status", ".probe"), *recording.group.of(name)]
    return Plan(states_of(tags), lambda: _answer(recording, name, step, row))


def _answer(recording: Recording, name: str, step: int, row: str | None) -> Answer:
    tags = recording.group.of(name)
    is_probe = any(tag.is_probe for tag in tags)
    told = recording.texts(".probe" if is_probe else ".status")
    found = reasons_at(told, name, step, exact=is_probe)
    if not tags and not found:  # a quantity that was never had; ask both
        found = reasons_at(recording.texts(".probe"), name, step, exact=True)
    if not tags and not found:
        hint = nearest(name, recording.group.quantities)
        raise NotRecordedError(f"the run has no quantity {shown(name)}; {hint}")
    if row is not None:
        known = {*found, *(known for tag in tags for known in tag.names)}
        if row not in known and "*" not in found:
            raise NotRecordedError(f"{name} has no row {shown(row)}; {nearest(row, known)}")
        reason = found.get(row, found.get("*"))
        if reason is None and not _has(recording, name, step, row):
            reason = _NOT_DUE
        found = {} if reason is None else {row: reason}
    reasons = [{"row": row, "reason": reason} for row, reason in found.items()]
    return Answer({"step": step, "reasons": reasons})


def _has(recording: Recording, name: str, step: int, row: str) -> bool:
    """Whether there is a value of a row at a step."""
    return any(
        row in tag.names and bool((track.steps_S == step).any())
        for tag, track in recording.tracks(name)
    )


MISSING = Endpoint(_plan, ("run", "group", "quantity", "step", "row"))
