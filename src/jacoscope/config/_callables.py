"""Functions that a configuration names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from jacoscope.errors import ConfigError

__all__ = ["resolve_callable"]


def resolve_callable(named: Callable[..., Any] | str | None, key: str) -> Callable[..., Any] | None:
    """The function that an import path names; what is no text is handed back.

    Args:
        named: ``package.module.function``, ``package.module:function``, or the function itself.
        key: Where it stands in the configuration, for the message.

    Raises:
        ConfigError: If it cannot be imported, or is not callable.
    """
    if not isinstance(named, str):
        return named
    module_name, _, name = named.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # whatever the module itself raises
        raise ConfigError(
            f"{named!r} cannot be imported ({error}); write package.module.function", key=key
        ) from None
    if not callable(found):
        raise ConfigError(f"{named!r} is not callable; name a function", key=key)
    resolved: Callable[..., Any] = found
    return resolved
