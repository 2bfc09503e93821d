"""What is recorded: runs, groups, tags and what their metadata say, without reading a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from jacoscope.board.fields import integer, parsed, text, texts
from jacoscope.board.known import PROBE_SCALARS
from jacoscope.board.mistakes import NotRecordedError, shown
from jacoscope.errors import nearest
from jacoscope.schema import SCHEMA_VERSION

__all__ = ["Catalogue", "RunGroup", "Tag"]

_PREFIX = "jacoscope/"


@dataclass(frozen=True)
class Tag:
    """A tag of a record.

    Args:
        name: The tag as TensorBoard knows it.
        group: The monitor's group.
        quantity: What it holds; names that start with a dot are not quantities.
        schema: What its metadata say.
        max_step: The last step that it has.
        max_wall_time: When it was last written to.
    """

    name: str
    group: str
    quantity: str
    schema: Mapping[str, Any] = field(compare=False)
    max_step: int
    max_wall_time: float

    @property
    def state(self) -> tuple[str, int, float]:
        """Differs when the tag has new data."""
        return self.name, self.max_step, self.max_wall_time

    @property
    def names(self) -> list[str]:
        """What its first dimension runs over, where that has names."""
        return texts(self.schema, "names")

    @property
    def is_probe(self) -> bool:
        """Whether probes wrote it."""
        if self.quantity == ".headline":
            return PROBE_SCALARS.issuperset(self.names)
        return self.schema.get("probe") is True or self.quantity in _OF_PROBES


_OF_PROBES = frozenset(
    {
        ".probe",
        ".probes",
        ".error",
        ".ntk_spectrum",
        ".output_sensitivity",
        ".input_singular_values",
        ".saliency_maps",
        ".saliency_things",
    }
)


@dataclass(frozen=True)
class RunGroup:
    """What one monitor recorded in one run.

    Args:
        run: The run's name.
        group: The monitor's group.
        tags: Its tags, those that this version can read.
        problem: Why some or all of it cannot be read, in a sentence.
    """

    run: str
    group: str
    tags: tuple[Tag, ...]
    problem: str | None = None

    @cached_property
    def _by_quantity(self) -> dict[str, tuple[Tag, ...]]:
        found: dict[str, list[Tag]] = {}
        for tag in self.tags:
            found.setdefault(tag.quantity, []).append(tag)
        return {name: tuple(tags) for name, tags in found.items()}

    def of(self, *quantities: str) -> tuple[Tag, ...]:
        """The tags of these quantities."""
        return tuple(tag for name in quantities for tag in self._by_quantity.get(name, ()))

    def has(self, *quantities: str) -> bool:
        """Whether any of these is recorded."""
        return any(name in self._by_quantity for name in quantities)

    @property
    def quantities(self) -> list[str]:
        """The quantities with a value per row."""
        return [name for name in self._by_quantity if not name.startswith(".")]

    def quantity(self, name: str) -> tuple[Tag, ...]:
        """The tags of a quantity that a request names.

        Raises:
            NotRecordedError: If it is not recorded.
        """
        if name.startswith(".") or name not in self._by_quantity:
            hint = nearest(name, self.quantities)
            raise NotRecordedError(f"the run has no quantity {shown(name)}; {hint}")
        return self._by_quantity[name]


class Catalogue:
    """All records that TensorBoard has.

    Args:
        listing: By run and tag, what a data provider lists.
    """

    def __init__(self, listing: Mapping[str, Mapping[str, Any]]) -> None:
        self._groups: dict[tuple[str, str], RunGroup] = {}
        for run in sorted(listing):
            for group in _groups_of(run, listing[run]):
                self._groups[run, group.group] = group

    @property
    def groups(self) -> Iterable[RunGroup]:
        """Every monitor of every run."""
        return self._groups.values()

    def find(self, run: str, group: str) -> RunGroup:
        """What a monitor recorded in a run.

        Raises:
            NotRecordedError: If there is no such run, or the run no such group.
        """
        if (run, group) in self._groups:
            return self._groups[run, group]
        among = [found.group for found in self.groups if found.run == run]
        if not among:
            hint = nearest(run, (found.run for found in self.groups))
            raise NotRecordedError(f"there is no record of a run {shown(run)}; {hint}")
        raise NotRecordedError(
            f"run {shown(run)} has no group {shown(group)}; {nearest(group, among)}"
        )


def _groups_of(run: str, listing: Mapping[str, Any]) -> list[RunGroup]:
    tags: dict[str, list[Tag]] = {}
    problems: dict[str, str] = {}
    for name in sorted(listing):
        group, _, rest = name.removeprefix(_PREFIX).partition("/")
        schema = _schema(bytes(listing[name].plugin_content))
        if not name.startswith(_PREFIX) or not rest or schema is None:
            continue
        found = tags.setdefault(group, [])
        version = integer(schema, "version")
        if version != SCHEMA_VERSION:
            problems[group] = _problem(version)
        elif _is_sound(rest, schema):
            series = listing[name]
            quantity = text(schema, "quantity")
            found.append(Tag(name, group, quantity, schema, series.max_step, series.max_wall_time))
    return [
        RunGroup(run, group, tuple(found), problems.get(group))
        for group, found in sorted(tags.items())
        if found or group in problems
    ]


@lru_cache(maxsize=4096)
def _schema(content: bytes) -> Mapping[str, Any] | None:
    """What a tag's metadata say; the same for every request, and long where rows are many."""
    return parsed(content)


def _is_sound(rest: str, schema: Mapping[str, Any]) -> bool:
    """Whether the metadata fit the tag and have what readers rely on."""
    quantity = text(schema, "quantity")
    if not quantity or (rest != quantity and not rest.startswith(f"{quantity}/")):
        return False
    if quantity.startswith(".") and quantity != ".error":
        return True
    rows = len(texts(schema, "names"))
    return rows > 0 and all(
        key not in schema or (isinstance(schema[key], list) and len(schema[key]) == rows)
        for key in ("layers", "kinds", "sizes")
    )


def _problem(version: int) -> str:
    if version > SCHEMA_VERSION:
        return (
            f"Some of this run was recorded by a newer Jacoscope (record version {version}; this "
            f"one reads {SCHEMA_VERSION}); update Jacoscope to see it."
        )
    return f"Some of this run has a record version that this Jacoscope does not read: {version}."
