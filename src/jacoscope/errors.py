"""Errors that a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["ConfigError", "nearest"]


class ConfigError(ValueError):
    """Something a user wrote in a configuration cannot be used.

    The message is one sentence: where it stands, what was given, which rule it broke, and what to
    write instead.

    Args:
        problem: What was given, the rule that it broke and the mend.
        key: Dotted path of the offending entry, such as ``layers[0].match``; empty for the whole.
        source: The file that the entry was read from, or ``None`` for one given in Python.
    """

    def __init__(self, problem: str, key: str = "", source: str | None = None) -> None:
        self.problem = problem
        self.key = key
        self.source = source
        super().__init__(problem, key, source)

    def __str__(self) -> str:
        said = ": ".join(part for part in (self.source, self.key, self.problem) if part)
        return " ".join(said.splitlines())

    def within(self, prefix: str) -> ConfigError:
        """The same error, seen from the entry ``prefix`` that holds the offending one."""
        joint = "" if not self.key or self.key.startswith("[") else "."
        return ConfigError(self.problem, key=f"{prefix}{joint}{self.key}", source=self.source)

    def read_from(self, source: str) -> ConfigError:
        """The same error, naming the file that the entry was read from."""
        return ConfigError(self.problem, key=self.key, source=source)


def nearest(name: str, valid: Iterable[str]) -> str:
    """A clause naming the valid name that is most like ``name``, or all of them when none is.

    Args:
        name: What was written.
        valid: The names that would have been accepted.

    Returns:
        ``did you mean 'x'?``, or ``valid names are a, b, c``.
    """
    names = list(dict.fromkeys(valid))
    lowered = {candidate.lower(): candidate for candidate in reversed(names)}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    if close:
        return f"did you mean {lowered[close[0]]!r}?"
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"valid names are {shown}" if names else "there are no valid names here"
