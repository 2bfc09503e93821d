"""Reading what records say, of which older, newer or foreign ones may lack or twist any part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jacoscope.packed_text import unpack_text

__all__ = [
    "integer",
    "listing",
    "mapping",
    "mappings",
    "number",
    "parsed",
    "parsed_list",
    "text",
    "texts",
]

_NUMBERS = {"NaN": None, "Infinity": "inf", "-Infinity": "-inf"}


def parsed(data: bytes | str) -> dict[str, Any] | None:
    """An object from JSON, or ``None`` if it is not one."""
    found = _loaded(data)
    return found if isinstance(found, dict) else None


def parsed_list(data: bytes | str) -> list[dict[str, Any]]:
    """The objects of a list from JSON; none if it is not a list."""
    found = _loaded(data)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _loaded(data: bytes | str) -> Any:
    try:
        return json.loads(unpack_text(data), parse_constant=_NUMBERS.__getitem__)
    except (ValueError, RecursionError):
        return None


def mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A field that is an object; empty if it is not."""
    found = record.get(name)
    return found if isinstance(found, Mapping) else {}


def listing(record: Mapping[str, Any], name: str) -> list[Any]:
    """A field that is a list; empty if it is not."""
    found = record.get(name)
    return found if isinstance(found, list) else []


def mappings(record: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The objects of a field that is a list."""
    return [item for item in listing(record, name) if isinstance(item, Mapping)]


def texts(record: Mapping[str, Any], name: str) -> list[str]:
    """The texts of a field that is a list of nothing else; empty if it is not."""
    found = listing(record, name)
    return found if all(isinstance(item, str) for item in found) else []


def text(record: Mapping[str, Any], name: str, default: str = "") -> str:
    """A field that is a text."""
    found = record.get(name)
    return found if isinstance(found, str) else default


def integer(record: Mapping[str, Any], name: str, default: int = 0) -> int:
    """A field that is a whole number."""
    found = record.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) else default


def number(value: Any) -> float:
    """A number as records hold it; ``nan`` if it is none."""
    if isinstance(value, str) and value in ("inf", "-inf"):
        return float(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else float("nan")
