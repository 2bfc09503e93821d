"""Replies as bytes: strict JSON, and arrays behind a JSON header."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from math import isfinite, isnan
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ALIGNMENT", "arrays_body", "entity_tag", "json_body", "plain"]

ALIGNMENT = 8
"""Every array starts at a multiple of this, so that a page can view it where it lies."""

_TYPES = {"float32": "<f4", "float64": "<f8", "uint8": "|u1", "int32": "<i4"}


def json_body(data: Any) -> bytes:
    """Strict JSON in ASCII, which holds even text that has no encoding.

    A number that is not one is ``null``, and infinities are the texts ``inf`` and ``-inf``.
    """
    try:
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(plain(data), allow_nan=False, separators=(",", ":"))
    return text.encode("ascii")


def plain(data: Any) -> Any:
    """The same without numbers that JSON does not have."""
    if isinstance(data, float):
        return data if isfinite(data) else None if isnan(data) else str(data)
    if isinstance(data, Mapping):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    return data


def arrays_body(meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """A header's length (uint32, little-endian), the header as JSON, then the arrays.

    Args:
        meta: What the header says besides ``arrays``, the list of name, type, shape and offset.
        arrays: By name, arrays of float32, float64, uint8 or int32.
    """
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    offset = 0
    for name, array in arrays.items():
        kind = array.dtype.name
        data = np.ascontiguousarray(array, dtype=_TYPES[kind]).tobytes()
        shape = list(array.shape)
        described.append({"name": name, "dtype": kind, "shape": shape, "offset": offset})
        padded = data + b"\0" * (-len(data) % ALIGNMENT)
        parts.append(padded)
        offset += len(padded)
    header = json_body({**meta, "arrays": described})
    header += b" " * (-(len(header) + 4) % ALIGNMENT)
    return b"".join([struct.pack("<I", len(header)), header, *parts])


def entity_tag(parts: Iterable[Any]) -> str:
    """A short text that differs when any part does."""
    digest = hashlib.sha256()
    for part in parts:
        text = repr(part).encode("utf-8", "backslashreplace")
        digest.update(b"%d:" % len(text) + text)
    return digest.hexdigest()[:24]
