"""Backwards that are not the training's own: those that find layouts, and verify.

Hooks of a capture must let them pass. Hooks may run on threads of the autograd engine, so this is
known to all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["extra_pass", "is_extra_pass"]

_lock = threading.Lock()
_running = 0


@contextmanager
def extra_pass() -> Iterator[None]:
    """While it lasts, backwards are not the training's own."""
    global _running
    with _lock:
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1


def is_extra_pass() -> bool:
    """Whether a backward may be another than the training's own."""
    return _running > 0
