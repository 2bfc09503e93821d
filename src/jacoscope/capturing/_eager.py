"""Letting a compiled model run as it is written."""

from __future__ import annotations

import sys
from typing import Any

import torch

__all__ = ["EagerForward"]


class EagerForward:
    """Lets compiled modules run uncompiled for a while, so that their graph can be read.

    ``torch.compile`` makes one node of all that it compiles. Under the stance ``force_eager`` the
    same modules run as they are written, and compiled again afterwards; nothing is compiled anew.
    """

    def __init__(self) -> None:
        self._stance: Any = None

    def begin(self) -> None:
        """From now on nothing runs compiled; where nothing is compiled, nothing is done."""
        # What is compiled has loaded it; to load it otherwise takes seconds.
        if self._stance is None and "torch._dynamo" in sys.modules:
            self._stance = torch.compiler.set_stance("force_eager")

    def end(self) -> None:
        """As before; safe at any time."""
        stance, self._stance = self._stance, None
        if stance is not None:
            stance.__exit__(None, None, None)
