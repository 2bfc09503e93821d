"""Noticing hooks on tensors that change gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["WatchingHooks"]


class WatchingHooks(TorchFunctionMode):
    """Within it, hooks that are put on tensors are watched from then on.

    Attributes:
        have_changed: Whether one has put another gradient in the place of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.have_changed = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.register_hook and len(args) == 2:
            args = args[0], self._watched(args[1])
        return func(*args, **(kwargs or {}))

    def _watched(self, hook: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        @functools.wraps(hook)
        def watched(grad: Tensor) -> Any:
            result = hook(grad)
            self.have_changed |= result is not None and result is not grad
            return result

        return watched
