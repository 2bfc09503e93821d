"""What a model's parameters are: names, owners, kinds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import is_lazy

from jacoscope.config import ParameterKind
from jacoscope.sharding import Sharding, Shards

__all__ = ["ParameterInfo", "clean_name", "walk_parameters"]

_WRAPPERS = (
    *("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
    "_forward_module",  # Lightning Fabric's
)


@dataclass(frozen=True, eq=False)
class ParameterInfo:
    """One parameter of a model.

    Args:
        index: Its place in the model's own order.
        name: Full name, as ``named_parameters`` gives it, without the parts that wrappers such as
            ``torch.compile`` add.
        parameter: The tensor itself.
        layer: Name of the module that owns it; empty for the model's own parameters.
        owner: That module.
        ancestors: The modules around the owner, outermost first, the owner last. The model itself
            is left out unless it is the owner.
        aliases: Other names of the same tensor (tied weights).
        kind: What the parameter is for.
        shards: How it is split over processes, or why that is not known; ``None`` if it is whole.
    """

    index: int
    name: str
    parameter: nn.Parameter
    layer: str
    owner: nn.Module
    ancestors: tuple[nn.Module, ...]
    aliases: tuple[str, ...]
    kind: ParameterKind
    shards: Shards | str | None = None

    @property
    def numel(self) -> int:
        """Number of scalars in the whole parameter; 0 as long as it has no shape.

        A complex number counts as two.
        """
        pair = 2 if self.parameter.is_complex() else 1
        if isinstance(self.shards, Shards):
            return pair * self.shards.numel
        return 0 if is_lazy(self.parameter) else pair * self.parameter.numel()

    @property
    def depth(self) -> int:
        """Nesting depth of the owning layer: 0 for the model itself, 1 for ``head``."""
        return len(self.layer.split(".")) if self.layer else 0

    @property
    def layer_type(self) -> str:
        """Class name of the owning layer."""
        return type(self.owner).__name__


def clean_name(name: str) -> str:
    """``name`` without the parts that module wrappers insert."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def walk_parameters(
    model: nn.Module, sharding: Sharding | None = None
) -> tuple[ParameterInfo, ...]:
    """Every parameter of ``model``, each once, in the model's own order.

    A parameter reached under several names (tied weights) is listed under the first.

    Args:
        model: The model.
        sharding: How its parameters are split over processes; needed where FSDP is wrapped around
            the model itself.
    """
    sharding = sharding or Sharding(model)
    names: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, registered in model.named_parameters(remove_duplicate=False):
        parameter = sharding.kept(registered)
        names.setdefault(id(parameter), []).append(name)
        parameters[id(parameter)] = parameter
    return tuple(
        _describe(model, index, parameters[key], names[key], sharding.of(parameters[key]))
        for index, key in enumerate(names)
    )


def _describe(
    model: nn.Module,
    index: int,
    parameter: nn.Parameter,
    names: list[str],
    shards: Shards | str | None,
) -> ParameterInfo:
    path, _, own_name = names[0].rpartition(".")
    parts = path.split(".") if path else []
    paths = [".".join(parts[: end + 1]) for end in range(len(parts))]
    around = [model.get_submodule(inner) for inner in paths if clean_name(inner)]
    owner = model.get_submodule(path)
    return ParameterInfo(
        index=index,
        name=clean_name(names[0]),
        parameter=parameter,
        layer=clean_name(path),
        owner=owner,
        ancestors=tuple(around) or (owner,),
        aliases=tuple(dict.fromkeys(clean_name(name) for name in names[1:])),
        kind=_kind(owner, own_name, _dimensions(parameter, shards)),
        shards=shards,
    )


def _dimensions(parameter: nn.Parameter, shards: Shards | str | None) -> int | None:
    if is_lazy(parameter):
        return None
    return len(shards.shape) if isinstance(shards, Shards) else parameter.dim()


def _kind(owner: nn.Module, own_name: str, dimensions: int | None) -> ParameterKind:
    type_name = type(owner).__name__
    if isinstance(owner, nn.LayerNorm | nn.RMSNorm):
        return "norm"
    if "norm" in type_name.lower() and not (dimensions is not None and dimensions > 1):
        return "norm"
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag) or type_name.endswith("Embedding"):
        return "embedding"
    if own_name == "bias" or own_name.startswith("bias_") or own_name.endswith("_bias"):
        return "bias"
    if dimensions is None:
        return "weight" if own_name.startswith("weight") else "other"
    return "weight" if dimensions >= 2 else "other"
