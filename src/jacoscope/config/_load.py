"""Reading a monitor's configuration from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from jacoscope.config._coerce import build
from jacoscope.config._schema import MonitorConfig
from jacoscope.errors import ConfigError

__all__ = ["check_section", "load_config", "read_yaml", "resolve_config"]

_TRAINING_KEYS = {"trainer", "model", "data", "fit", "seed_everything"}


def resolve_config(config: MonitorConfig | Mapping[str, Any] | str | Path | None) -> MonitorConfig:
    """A :class:`MonitorConfig` from whatever form it was given in.

    Args:
        config: The dataclass, a mapping of its fields, the path of a YAML file, or ``None`` for
            the defaults.

    Raises:
        ConfigError: If it cannot be used, saying where and what to write instead.
    """
    if config is None:
        return MonitorConfig()
    if isinstance(config, str | Path):
        return load_config(config)
    return check_section(config)


def read_yaml(path: str | Path) -> Any:
    """What a YAML file says.

    Raises:
        ConfigError: If it cannot be read.
    """
    source = str(path)
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(
            "is not UTF-8 text; give the path of a YAML file", source=source
        ) from None
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: not a path; RuntimeError: ~x
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot be read ({reason}); give the path of a YAML file", source=source
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "bad syntax"
        raise ConfigError(
            f"is not valid YAML{line} ({problem}); check brackets, quotes and indentation there",
            source=source,
        ) from None
    except (ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML lets its constructors' own errors pass: 2001-99-99, 0x_, !!bool maybe
        raise ConfigError(
            f"has a value that cannot be read ({error}); put it in quotes", source=source
        ) from None


def load_config(path: str | Path) -> MonitorConfig:
    """A :class:`MonitorConfig` from a YAML file.

    The file holds the fields of :class:`MonitorConfig`; in a whole experiment's file, those under
    its top-level key ``monitor`` are taken.

    Raises:
        ConfigError: If the file cannot be read, or what it says cannot be used.
    """
    source = str(path)
    loaded = read_yaml(path)
    if loaded is None:
        return MonitorConfig()
    if isinstance(loaded, Mapping) and (_TRAINING_KEYS & set(loaded) or set(loaded) == {"monitor"}):
        if "monitor" not in loaded:
            raise ConfigError(
                "is an experiment's file without a monitor section; add 'monitor:' to it",
                source=source,
            )
        section = loaded["monitor"]
        return check_section({} if section is None else section, source=source, key="monitor")
    return check_section(loaded, source=source)


def check_section(value: Any, *, source: str | None = None, key: str = "") -> MonitorConfig:
    """A :class:`MonitorConfig` from plain values.

    Args:
        value: A mapping of the fields of :class:`MonitorConfig`.
        source: The file it was read from, for messages.
        key: The key it stands under in that file, for messages.

    Raises:
        ConfigError: If it cannot be used, saying where and what to write instead.
    """
    try:
        config = build(MonitorConfig, value, key)
    except ConfigError as error:
        raise (error.read_from(source) if source is not None else error) from None
    assert isinstance(config, MonitorConfig)
    return config
