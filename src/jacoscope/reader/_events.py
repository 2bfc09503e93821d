"""The monitor's values in event files, whatever else there is and however far they can be read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from jacoscope.schema import PLUGIN_NAME, SCHEMA_VERSION

__all__ = ["TAG_PREFIX", "natural_order", "recorded_values"]

TAG_PREFIX = "jacoscope/"


def natural_order(path: Path) -> list[int | str]:
    """A key that sorts names with numbers by the numbers: 9 before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def recorded_values(file: Path) -> Iterator[tuple[int, float, Any, dict[str, Any]]]:
    """The monitor's values in an event file, each with its schema, up to where it can be read."""
    schemas: dict[str, dict[str, Any] | None] = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            data = value.metadata.plugin_data
            if value.tag not in schemas:
                ours = data.plugin_name == PLUGIN_NAME and value.tag.startswith(TAG_PREFIX)
                schemas[value.tag] = _schema(data.content) if ours else None
            schema = schemas[value.tag]
            if schema is not None:
                yield event.step, event.wall_time, value, schema


def _schema(content: bytes) -> dict[str, Any] | None:
    """What a tag's metadata say, or ``None`` if they are not of a kind that this version reads."""
    try:
        schema = json.loads(content)
    except ValueError:  # of UTF-8 and of JSON alike
        return None
    if not isinstance(schema, dict) or schema.get("version") != SCHEMA_VERSION:
        return None
    return schema
