"""Requests that cannot be answered, each with one sentence that says why."""

from __future__ import annotations

__all__ = ["BadQueryError", "NotRecordedError", "RequestError", "shown"]

_SHOWN = 80


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        sentence: What is wrong with it, for a person.
    """

    status = 400

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class BadQueryError(RequestError):
    """A query that breaks a rule, whatever is recorded."""


class NotRecordedError(RequestError):
    """A query for something that is not recorded."""

    status = 404


def shown(text: str) -> str:
    """What a request said, quoted, and cut where it is long."""
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")
