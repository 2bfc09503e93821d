"""What a model's parameters are: names, owners, kinds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import is_lazy

from jacoscope.config import ParameterKind

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
    """

    index: int
    name: str
    parameter: nn.Parameter
    layer: str
    owner: nn.Module
    ancestors: tuple[nn.Module, ...]
    aliases: tuple[str, ...]
    kind: ParameterKind

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


def walk_parameters(model: nn.Module) -> tuple[ParameterInfo, ...]:
    """Every parameter of ``model``, each once, in the model's own order.

    A parameter reached under several names (tied weights) is listed under the first.
    """
    names: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        parameters[id(parameter)] = parameter
    return tuple(
        _describe(model, index, parameters[key], names[key]) for index, key in enumerate(names)
    )


def _describe(
    model: nn.Module, index: int, parameter: nn.Parameter, names: list[str]
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
        kind=_kind(owner, own_name, parameter),
    )


def _kind(owner: nn.Module, own_name: str, parameter: nn.Parameter) -> ParameterKind:
    type_name = type(owner).__name__
    if isinstance(owner, nn.LayerNorm | nn.RMSNorm):
        return "norm"
    if "norm" in type_name.lower() and not (not is_lazy(parameter) and parameter.dim() > 1):
        return "norm"
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag) or type_name.endswith("Embedding"):
        return "embedding"
    if own_name == "bias" or own_name.startswith("bias_") or own_name.endswith("_bias"):
        return "bias"
    if is_lazy(parameter):
        return "weight" if own_name.startswith("weight") else "other"
    return "weight" if parameter.dim() >= 2 else "other"
