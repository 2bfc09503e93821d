"""Telling a mistake on the command line in one sentence that names where it stands.

An argument parser reports a mistake in a nested configuration over many lines and without the
nearest valid name, so the monitor's sections are checked here by the schema itself.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from jacoscope.config import MonitorConfig, check_section, load_config, read_yaml
from jacoscope.errors import ConfigError

__all__ = ["MONITOR_KEYS", "check_files", "mistake_in_options", "with_source"]

MONITOR_KEYS = [field.name for field in dataclasses.fields(MonitorConfig)]
"""Names of the monitor's options."""

_COMMANDS = ("fit", "validate", "test", "predict", "inspect")
_SECTIONS = ("monitor", *_COMMANDS)


def with_source(error: ConfigError, args: Sequence[str]) -> ConfigError:
    """The error, naming the option or the file that the offending entry was last read from."""
    if error.key.startswith("monitor"):
        return error
    entry = re.split(r"[.\[]", error.key)[0]
    for option, value in reversed(list(_options(args))):
        if option.startswith("--monitor."):
            mistake = mistake_in_options([option, value])
            if mistake is not None and mistake.problem == error.problem:
                return mistake
            if option.removeprefix("--monitor.").rstrip("+").split(".")[0] == entry:
                return error.within("monitor")
        elif option == "--monitor":
            inline = _mapping(value)
            if entry in (inline if inline is not None else read_yaml(value) or {}):
                return error.within("monitor") if inline is not None else error.read_from(value)
        elif option in ("--config", "-c"):
            section = (read_yaml(value) or {}).get("monitor")
            if isinstance(section, dict) and entry in section:
                return error.within("monitor").read_from(value)
    return error


def _mapping(value: str) -> dict[str, Any] | None:
    """What is written on the command line in place of a file, or ``None`` if it is a path."""
    if not value.lstrip().startswith("{"):
        return None
    try:
        loaded = yaml.safe_load(value)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "bad syntax"
        raise ConfigError(
            f"is not valid YAML ({problem}); check its brackets and quotes", key="monitor"
        ) from None
    return loaded if isinstance(loaded, dict) else None


def check_files(args: Sequence[str]) -> None:
    """Check the monitor's part of every configuration file named on the command line.

    Raises:
        ConfigError: If one cannot be used.
    """
    for option, value in _options(args):
        path = Path(value)
        if option == "--monitor":
            inline = _mapping(value)
            if inline is not None:
                check_section(inline, key="monitor")
            else:
                _check_monitor_file(path)
        elif option in ("--config", "-c"):
            _check_experiment(path)


def _check_monitor_file(path: Path) -> None:
    load_config(path)
    if "monitor" in (read_yaml(path) or {}):
        raise ConfigError(
            "has its options under a key 'monitor'; drop that key, or give the file with --config",
            source=str(path),
        )


def _check_experiment(path: Path) -> None:
    loaded = read_yaml(path)
    if not isinstance(loaded, dict):
        return
    if loaded and set(loaded) <= set(MONITOR_KEYS):
        raise ConfigError(
            "is a monitor's file, without a trainer or a model; give it with --monitor",
            source=str(path),
        )
    for key in (key for key in loaded if key not in _SECTIONS):
        close = difflib.get_close_matches(str(key), ["monitor"], n=1, cutoff=0.7)
        if close:
            raise ConfigError(
                f"is no section of an experiment; did you mean {close[0]!r}?",
                key=str(key),
                source=str(path),
            )
    sections = {"monitor": loaded.get("monitor")}
    for command in _COMMANDS:
        if isinstance(loaded.get(command), dict):
            sections[f"{command}.monitor"] = loaded[command].get("monitor")
    for key, section in sections.items():
        if isinstance(section, str):
            load_config(path.parent / section)
        elif section is not None:
            given = (
                {k: v for k, v in section.items() if k != "config"}
                if isinstance(section, dict)
                else section
            )
            check_section(given, source=str(path), key=key)


def mistake_in_options(args: Sequence[str]) -> ConfigError | None:
    """What is wrong with the options ``--monitor.…``, in our own words."""
    section: dict[str, Any] = {}
    for option, value in _options(args):
        if not option.startswith("--monitor."):
            continue
        *path, name = option.removeprefix("--monitor.").split(".")
        place = section
        for part in path:
            place = place.setdefault(part, {})
        try:
            loaded = yaml.safe_load(value)
        except yaml.YAMLError:
            return None
        if name.endswith("+"):
            place.setdefault(name[:-1], []).append(loaded)
        else:
            place[name] = loaded
    try:
        check_section(section, key="monitor")
    except ConfigError as error:
        return error
    return None


def _options(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with their values, written as ``--option value`` or ``--option=value``."""
    for index, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if equals:
            yield name, value
        elif arg.startswith("-") and index + 1 < len(args):
            yield arg, args[index + 1]
