"""Query strings, which anyone may have written, into values of known types."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl

from jacoscope.board.mistakes import BadQueryError, shown

__all__ = ["Query"]

_LONGEST_QUERY = 16_384
_LONGEST_VALUE = 2048
_MOST_FIELDS = 16
_INTEGER = re.compile(r"-?[0-9]{1,15}")
"""Up to 15 digits, which a double, and so a page's script, holds exactly."""


class Query:
    """The parameters of a request.

    Args:
        values: By name, what was given.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    @classmethod
    def parse(cls, raw: str, allowed: Collection[str]) -> Query:
        """Read a query string.

        Args:
            raw: The part of the address after the question mark, still encoded.
            allowed: The names that the route takes.

        Raises:
            BadQueryError: If it is malformed, too long, or names something twice or unknown.
        """
        if len(raw) > _LONGEST_QUERY:
            raise BadQueryError(
                f"the query has {len(raw)} characters; {_LONGEST_QUERY} are the most"
            )
        try:
            pairs = parse_qsl(
                raw, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
            )
        except UnicodeDecodeError:
            raise BadQueryError("the query is not in UTF-8") from None
        except ValueError:
            raise BadQueryError(f"the query has more than {_MOST_FIELDS} parameters") from None
        values: dict[str, str] = {}
        for name, value in pairs:
            if name not in allowed:
                takes = ", ".join(allowed) or "none"
                raise BadQueryError(f"{shown(name)} is not a parameter here, those are: {takes}")
            if name in values:
                raise BadQueryError(f"{name} is given twice")
            if len(value) > _LONGEST_VALUE:
                raise BadQueryError(
                    f"{name} has {len(value)} characters; {_LONGEST_VALUE} are the most"
                )
            if "\0" in value:
                raise BadQueryError(f"{name} holds a null character")
            values[name] = value
        return cls(values)

    @property
    def canonical(self) -> str:
        """A text that is the same for the same parameters."""
        return repr(sorted(self._values.items()))

    def text(self, name: str) -> str:
        """A text that must be given."""
        if name not in self._values:
            raise BadQueryError(f"{name} is missing")
        return self._values[name]

    def optional_text(self, name: str) -> str | None:
        """A text, or ``None`` if it is not given."""
        return self._values.get(name)

    def choice(self, name: str, choices: Collection[str]) -> str:
        """One of a few words, which must be given."""
        value = self.text(name)
        if value not in choices:
            raise BadQueryError(f"{name} is {shown(value)}, must be one of: {', '.join(choices)}")
        return value

    def integer(self, name: str) -> int | None:
        """A whole number, or ``None`` if it is not given."""
        value = self._values.get(name)
        return None if value is None else _integer(name, value)

    def required_integer(self, name: str) -> int:
        """A whole number that must be given."""
        return _integer(name, self.text(name))

    def count(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number within bounds."""
        value = self.integer(name)
        if value is None:
            return default
        if not least <= value <= most:
            raise BadQueryError(f"{name} is {value}, must be from {least} to {most}")
        return value

    def span(self) -> tuple[int | None, int | None]:
        """The steps ``from`` and ``to``, both included; ``None`` where one is not given."""
        first, last = self.integer("from"), self.integer("to")
        if first is not None and last is not None and first > last:
            raise BadQueryError(f"from is {first}, which is after to, {last}")
        return first, last

    def indices(self, name: str) -> tuple[int, ...] | None:
        """Whole numbers from 0 with commas between them, or ``None`` if they are not given."""
        value = self._values.get(name)
        if value is None:
            return None
        found = tuple(_integer(name, part) for part in value.split(","))
        if min(found) < 0:
            raise BadQueryError(f"{name} holds {min(found)}; rows are counted from 0")
        if len(set(found)) < len(found):
            raise BadQueryError(f"{name} names a row twice")
        return found


def _integer(name: str, value: str) -> int:
    if not _INTEGER.fullmatch(value):
        raise BadQueryError(f"{name} is {shown(value)}, must be a whole number")
    return int(value)
