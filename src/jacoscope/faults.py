"""What becomes of a fault inside the monitor: the training goes on, and someone is told once."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

__all__ = ["Faults", "MonitorWarning", "warn"]

_PACKAGE = str(Path(__file__).parent) + os.sep
_BETWEEN = {
    *("contextlib", "torch", "lightning", "pytorch_lightning", "lightning_utilities"),
    *("transformers", "accelerate"),
}
"""Packages that call the monitor for whoever trains; a line of theirs would tell nothing."""


class MonitorWarning(UserWarning):
    """Something inside the monitor failed, or a rule has no effect; the training is unharmed."""


class Faults:
    """Catches what fails inside the monitor.

    Args:
        policy: ``warn`` warns once per subject and goes on; ``raise`` lets the exception pass.
        is_quiet: Whether to leave the warning to another process.

    Attributes:
        reasons: By subject, why it last failed.
    """

    def __init__(self, policy: Literal["warn", "raise"], *, is_quiet: bool = False) -> None:
        self.policy = policy
        self._is_quiet = is_quiet
        self.reasons: dict[str, str] = {}

    @contextmanager
    def contain(self, subject: str, clean_up: Callable[[], object] | None = None) -> Iterator[None]:
        """Run a stage whose failure must not reach the training.

        Args:
            subject: What is lost if it fails, in the words of the warning.
            clean_up: Called if it fails, whatever the policy.
        """
        try:
            yield
        except BaseException as error:
            if clean_up is not None:
                with self.contain(f"clearing up after {subject}"):
                    clean_up()
            if not isinstance(error, Exception) or self.policy == "raise":
                raise
            self.note(subject, f"{type(error).__name__}: {_first_line(error)}")

    def note(self, subject: str, reason: str) -> None:
        """Record that ``subject`` is lost, and warn the first time."""
        first = subject not in self.reasons
        self.reasons[subject] = reason
        if first and not self._is_quiet:
            warn(
                f"{subject} failed and is left out; training goes on ({reason}); "
                "set on_error: raise to stop instead"
            )


def warn(sentence: str) -> None:
    """Warn whoever trains, naming the line of theirs from which the monitor was reached.

    Args:
        sentence: What is the matter.
    """
    frame = _callers_frame()
    named = frame.f_globals
    warnings.warn_explicit(
        f"jacoscope: {sentence}",
        MonitorWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=named.get("__name__"),
        registry=named.setdefault("__warningregistry__", {}),
    )


def _callers_frame() -> FrameType:
    """The innermost frame of whoever trains; where there is none, as in a thread, the outermost."""
    frame = inspect.currentframe()
    assert frame is not None
    while frame.f_back is not None and _is_between(frame):
        frame = frame.f_back
    return frame


def _is_between(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    return package in _BETWEEN or frame.f_code.co_filename.startswith(_PACKAGE)


def _first_line(error: BaseException) -> str:
    """What an exception says first; some go on for pages."""
    return next((line for line in str(error).splitlines() if line.strip()), "")
