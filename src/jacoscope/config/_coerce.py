"""From plain values (YAML, dictionaries, lists) to the types that a dataclass declares."""

from __future__ import annotations

import dataclasses
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, Union

from jacoscope.config._mends import as_field, as_item, as_number
from jacoscope.errors import ConfigError, nearest

__all__ = ["build", "coerce", "coerce_fields", "shown"]

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 120


def coerce(value: Any, hint: Any, key: str) -> Any:
    """``value`` as the type ``hint``.

    Nothing is guessed: a string is never read as a number, a number never as a flag. Lists become
    tuples and mappings become dataclasses, since that is what YAML can write.

    Args:
        value: The value given.
        hint: A scalar type, ``Literal``, ``tuple[X, ...]``, a union, ``Callable`` or a dataclass.
        key: Where the value stands, for the message.

    Raises:
        ConfigError: If the value is not of that type.
    """
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(value, typing.get_args(hint), key)
    if origin is Literal:
        return _choice(value, typing.get_args(hint), key)
    if origin is tuple:
        return _sequence(value, typing.get_args(hint)[0], key)
    if origin is not None and issubclass(origin, Callable):  # type: ignore[arg-type]
        if callable(value):
            return value
        raise _wrong_type(value, "a callable", key)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, key)
    return _scalar(value, hint, key)


def build(cls: type, value: Any, key: str = "") -> Any:
    """An instance of the dataclass ``cls`` from a mapping, or ``value`` itself if it is one.

    Raises:
        ConfigError: If a key is unknown, or a value is not of its field's type.
    """
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        wanted = f"a mapping with keys of {cls.__name__}"
        raise _wrong_type(value, wanted, key, as_field(cls, value))
    known = [field.name for field in dataclasses.fields(cls)]
    for name in value:
        if name not in known:
            path = f"{key}.{name}" if key else str(name)
            raise ConfigError(
                f"{cls.__name__} has no option {shown(name)}; {nearest(str(name), known)}", key=path
            )
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING and field.name not in value:
            raise ConfigError(
                f"{cls.__name__} has no {field.name}; give it one",
                key=f"{key}.{field.name}" if key else field.name,
            )
    try:
        return cls(**value)
    except ConfigError as error:
        raise (error.within(key) if key else error) from None


def coerce_fields(instance: Any) -> None:
    """Bring every field of a frozen dataclass to its declared type (for ``__post_init__``).

    Raises:
        ConfigError: If a value is not of its field's type.
    """
    hints = typing.get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        value = coerce(getattr(instance, field.name), hints[field.name], field.name)
        object.__setattr__(instance, field.name, value)


def _one_of(value: Any, hints: tuple[Any, ...], key: str) -> Any:
    if value is None and type(None) in hints:
        return None
    hints = tuple(hint for hint in hints if hint is not type(None))
    meant = hints if len(hints) == 1 else [hint for hint in hints if _is_meant(value, hint)]
    if meant:
        return coerce(value, meant[0], key)
    raise _wrong_type(value, " or ".join(_name(hint) for hint in hints), key)


def _is_meant(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the sort that ``hint`` is about, so that its message fits."""
    origin = typing.get_origin(hint)
    if hint is str or origin is Literal:
        return isinstance(value, str)
    return isinstance(value, list | tuple) if origin is tuple else callable(value)


def _choice(value: Any, choices: tuple[Any, ...], key: str) -> Any:
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return value
    if not isinstance(value, str):
        raise _wrong_type(value, _name(Literal[choices]), key)
    option = key.rpartition(".")[2].partition("[")[0]
    raise ConfigError(
        f"{shown(value)} is not a name that {option} takes; {nearest(value, choices)}", key=key
    )


def _sequence(value: Any, hint: Any, key: str) -> tuple[Any, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise _wrong_type(value, _list_of(hint), key, _alone(value, hint, key))
    return tuple(coerce(item, hint, f"{key}[{index}]") for index, item in enumerate(value))


def _alone(value: Any, hint: Any, key: str) -> str:
    """A clause that writes ``value`` as a list of it alone, if that would be accepted."""
    is_section = dataclasses.is_dataclass(hint) and not isinstance(value, Mapping)
    try:
        coerce(value, hint, key)
    except ConfigError:
        return as_item(value, hint) if is_section else ""
    return as_item(value, hint)


def _scalar(value: Any, hint: Any, key: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        with suppress(OverflowError):  # a whole number too large for one
            return float(value)
    if isinstance(value, hint) and not (hint is not bool and isinstance(value, bool)):
        return value
    raise _wrong_type(value, _name(hint), key, as_number(value, hint))


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return _list_of(typing.get_args(hint)[0])
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is not None:
        return "a callable"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(hint, f"a {hint.__name__}")


def _list_of(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "a list of names such as " + ", ".join(map(str, typing.get_args(hint)[:3]))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return f"a list of mappings with keys of {hint.__name__}"
    return f"a list of {'whole numbers' if hint is int else _name(hint)}"


def _wrong_type(value: Any, wanted: str, key: str, mend: str = "") -> ConfigError:
    kind = type(value).__name__
    return ConfigError(f"got {shown(value)} ({kind}), must be {wanted}{mend}", key=key)


def shown(value: object) -> str:
    """``repr(value)``, cut short, whatever ``value`` is."""
    try:
        return _BRIEF.repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a value that cannot be shown"
