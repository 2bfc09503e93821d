"""Parameters that are split over processes: the part that is here, and what makes up the whole.

A shard is a process's part of a parameter: the local tensor of a ``DTensor`` (``fully_shard``,
tensor parallelism), or the stretch that ``FullyShardedDataParallel`` leaves of an original
parameter. Nothing here talks to another process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["Sharding", "Shards", "are_processes", "gradient_mismatch", "local"]

_FLAT = (
    "FSDP has made one flat parameter of its module's; pass use_orig_params=True, or use "
    "fully_shard"
)
_UNKNOWN = "FSDP has flattened it, and how it is split is not known to PyTorch's own classes"


@dataclass(frozen=True)
class Shards:
    """How a parameter is split.

    Args:
        shape: The shape of the whole.
        holders: Ranks whose shards make up the whole, each scalar once; others have copies.
    """

    shape: tuple[int, ...]
    holders: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of scalars in the whole."""
        return math.prod(self.shape)

    @property
    def are_several(self) -> bool:
        """Whether no process has the whole."""
        return len(self.holders) > 1


class Sharding:
    """How the parameters of a model are split, as they are now.

    Args:
        model: The model, with what FSDP has wrapped around it.

    Attributes:
        is_any: Whether anything of the model is split, so that its forward and backward wait for
            other processes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kept: dict[int, nn.Parameter] = {}
        self._stretches: dict[int, Shards] = {}
        self.is_any = False
        if not are_processes():
            return
        from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

        for module in model.modules():
            if isinstance(module, FSDPModule):
                self.is_any = True
                self._kept.update(_kept_by(module))
            elif isinstance(module, FullyShardedDataParallel):
                self.is_any = True
                self._stretches.update(_stretches_of(module))
        self.is_any = self.is_any or any(map(_is_split, model.parameters()))

    def kept(self, parameter: nn.Parameter) -> nn.Parameter:
        """The parameter that the optimiser has.

        After a forward that no backward follows, ``fully_shard`` leaves whole copies in the
        outermost module.
        """
        return self._kept.get(id(parameter), parameter)

    def of(self, parameter: nn.Parameter) -> Shards | str | None:
        """How a parameter is split, or why that is not known; ``None`` if it is whole."""
        if not self.is_any:
            return None
        from torch.distributed.fsdp import FlatParameter
        from torch.distributed.tensor import DTensor

        if isinstance(parameter, FlatParameter):
            return _FLAT
        if isinstance(parameter, DTensor):
            return _shards_of(parameter)
        if id(parameter) in self._stretches:
            return self._stretches[id(parameter)]
        return _UNKNOWN if _is_split(parameter) else None

    def numel(self, parameter: nn.Parameter) -> int:
        """Number of scalars in the whole parameter."""
        stretch = self._stretches.get(id(parameter))
        return parameter.numel() if stretch is None else stretch.numel


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor; the tensor itself if it is not a ``DTensor``."""
    if type(tensor) in (Tensor, nn.Parameter) or not torch.distributed.is_available():
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gradient_mismatch(parameter: Tensor, gradient: Tensor) -> str | None:
    """Why a parameter's gradient is not split as the parameter is, or ``None`` if it is."""
    here, there = _placement(parameter), _placement(gradient)
    if here == there:
        return None
    return (
        f"its gradient is placed over processes as {_said(there)}, but it itself as {_said(here)}"
    )


def _placement(tensor: Tensor) -> Any:
    if type(tensor) in (Tensor, nn.Parameter) or not torch.distributed.is_available():
        return None
    from torch.distributed.tensor import DTensor

    return (tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else None


def _said(placement: Any) -> str:
    return "a plain tensor" if placement is None else ", ".join(map(repr, placement[1]))


def are_processes() -> bool:
    """Whether processes of one training have been introduced to one another."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _is_split(parameter: Tensor) -> bool:
    from torch.distributed.fsdp import FlatParameter
    from torch.distributed.tensor import DTensor

    # FullyShardedDataParallel marks the original parameters that it has flattened.
    is_flattened = getattr(parameter, "_fsdp_flattened", False)
    return isinstance(parameter, DTensor | FlatParameter) or is_flattened


def _shards_of(parameter: Any) -> Shards | str:
    ranks = parameter.device_mesh.mesh
    for place, placement in enumerate(parameter.placements):
        if placement.is_partial():
            return f"it is placed over processes as {placement!r}, so no process has a part of it"
        if placement.is_replicate():
            ranks = ranks.narrow(place, 0, 1)
    return Shards(tuple(parameter.shape), tuple(ranks.flatten().tolist()))


def _kept_by(module: Any) -> Iterator[tuple[int, nn.Parameter]]:
    """What the module has as parameters now, and what ``fully_shard`` has made of them."""
    state = module._get_fsdp_state()
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:
        groups = [group for group in [getattr(state, "_fsdp_param_group", None)] if group]
    for group in groups:
        for each in group.fsdp_params:
            now = getattr(each._module_info.module, each._module_info.param_name)
            yield id(now), cast("nn.Parameter", each.sharded_param)


def _stretches_of(module: Any) -> Iterator[tuple[int, Shards]]:
    """The original parameters that a ``FullyShardedDataParallel`` has flattened."""
    handle = module._handle
    if handle is None:
        return
    holders = torch.distributed.get_process_group_ranks(handle.process_group)
    if not handle.uses_sharded_strategy:
        holders = holders[:1]
    flat = handle.flat_param
    for parameter, shape in zip(flat._params or (), flat._shapes, strict=False):
        yield id(parameter), Shards(tuple(shape), tuple(holders))
