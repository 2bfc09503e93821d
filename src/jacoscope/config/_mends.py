"""What to write instead of a value of the wrong type, where that is plain."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from jacoscope.errors import ConfigError

__all__ = ["as_field", "as_item", "as_number"]

_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(%?)")
_LONGEST = 80
"""Characters beyond which a mend is no help."""


def as_number(value: object, hint: Any) -> str:
    """A clause on how to write a number that is given as text, or as a float that has to be whole.

    YAML reads ``1e-5`` as text, since it has no point.

    Args:
        value: What was given.
        hint: ``int`` or ``float``; for other types there is nothing to say.
    """
    if hint not in (int, float) or isinstance(value, bool):
        return ""
    found = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is not None:
        number = float(found[1]) / (100 if found[2] else 1)
    elif isinstance(value, float):
        number = value
    else:
        return ""
    if not math.isfinite(number) or (hint is int and not number.is_integer()):
        return ""
    return _write(str(int(number)) if hint is int else _decimal(number))


def as_field(cls: type, value: object) -> str:
    """A clause that writes ``value`` as the first field of the dataclass ``cls``, if that can be.

    That field is the one most often given: how often, which name.
    """
    written = _mapping(cls, value)
    return _write(written) if written else ""


def as_item(value: object, hint: Any) -> str:
    """A clause that writes ``value``, which fits ``hint`` or its first field, as a list of it."""
    if not (dataclasses.is_dataclass(hint) and isinstance(hint, type)):
        return _write(f"[{value!r}]") if isinstance(value, str | int) else ""
    written = _flow(value) if isinstance(value, Mapping) else _mapping(hint, value)
    return _write(f"[{written}]") if written else ""


def _mapping(cls: type, value: object) -> str:
    if not isinstance(value, str | int | list):
        return ""
    section = {dataclasses.fields(cls)[0].name: value}
    try:
        cls(**section)
    except (ConfigError, TypeError):  # TypeError: other fields have to be given too
        return ""
    return _flow(section)


def _flow(value: object) -> str:
    """``value`` on one line, as YAML; empty if it cannot be written so."""
    try:
        return yaml.safe_dump(value, default_flow_style=True, width=math.inf).strip()
    except (yaml.YAMLError, ValueError, RecursionError):
        return ""


def _decimal(number: float) -> str:
    """A float as YAML and Python both read it: with a point, and a sign in the exponent."""
    mantissa, _, exponent = repr(number).partition("e")
    if not exponent:
        return mantissa
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}"


def _write(written: str) -> str:
    return f"; write {written}" if len(written) <= _LONGEST else ""
