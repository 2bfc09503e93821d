"""Whether weights were changed in place since a moment, by the counters that autograd keeps."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.parameter import Parameter, is_lazy

__all__ = ["Versions"]


class Versions:
    """The versions of parameters that train, at the moment that it is made.

    Parameters of tensor classes of their own (sharded, quantised) keep no such counter, and count
    as unchanged; so does what is changed through ``.data``.

    Args:
        parameters: The parameters.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        # The tensors are kept, as another may get the id of one that is gone.
        self._of = {id(p): (p, p._version) for p in parameters if _is_counted(p)}

    def changed(self) -> set[int]:
        """The ids of the parameters that have been changed since."""
        return {key for key, (p, version) in self._of.items() if p._version != version}


def _is_counted(parameter: Tensor) -> bool:
    if not parameter.requires_grad or is_lazy(parameter) or parameter.is_inference():
        return False
    # One of a tensor class of its own is no plain parameter, or is found out by what it is made of.
    return type(parameter) is Parameter or type(parameter.detach()) is torch.Tensor
