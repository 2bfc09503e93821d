"""Ids, labels and numbers as they can be shown, whatever a user's data holds."""

from __future__ import annotations

from math import isnan

__all__ = ["cut", "cut_name", "escaped", "number", "one_line"]


def one_line(value: object) -> str:
    """A value as a text of one line that can be encoded."""
    text = str(value).encode("utf-8", "replace").decode()
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def cut(text: str, length: int) -> str:
    """The text, its end left out if it is longer than ``length``."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def cut_name(text: str, length: int) -> str:
    """The text, its middle left out if it is longer than ``length``; names differ at their ends."""
    if len(text) <= length:
        return text
    tail = length * 2 // 3
    return f"{text[: length - tail - 1]}…{text[-tail:]}"


def escaped(text: str) -> str:
    """The text for a table in Markdown, where it must not be taken for Markdown or HTML."""
    harmless = " .,:;/'()?%…‖–−"
    return "".join(
        char if char.isalnum() or char in harmless else f"&#{ord(char)};" for char in text
    )


def number(value: float) -> str:
    """A number to three digits; a dash if it is not known."""
    return "–" if isnan(value) else f"{value:.3g}"
