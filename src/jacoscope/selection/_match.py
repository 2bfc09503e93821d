"""Whether a rule matches a parameter."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

from torch import nn

from jacoscope.config import LayerRule
from jacoscope.errors import ConfigError, nearest
from jacoscope.selection._parameters import ParameterInfo

__all__ = ["explain_no_match", "matches"]


def matches(rule: LayerRule, info: ParameterInfo) -> bool:
    """Whether every criterion of ``rule`` holds for the parameter ``info``."""
    return all(holds(rule, info) for holds in _CRITERIA.values())


def explain_no_match(rule: LayerRule, infos: Sequence[ParameterInfo], key: str) -> ConfigError:
    """The error for a rule that matches none of the model's parameters.

    Args:
        rule: The rule.
        infos: The model's parameters.
        key: Where the rule stands, such as ``layers[2]``.
    """
    for name, holds in _CRITERIA.items():
        if not any(holds(rule, info) for info in infos):
            return ConfigError(_hint(name, rule, infos), key=f"{key}.{name}")
    given = ", ".join(name for name in _CRITERIA if getattr(rule, name) is not None)
    return ConfigError(
        f"no parameter of the model meets all of its criteria ({given}) at once; drop or widen one",
        key=key,
    )


def _match(rule: LayerRule, info: ParameterInfo) -> bool:
    if rule.match is None:
        return True
    names = {path for name in (info.name, *info.aliases) for path in _paths(name)}
    return any(
        fnmatch.fnmatchcase(name, pattern) for pattern in _many(rule.match) for name in names
    )


def _regex(rule: LayerRule, info: ParameterInfo) -> bool:
    if rule.regex is None:
        return True
    return any(re.search(rule.regex, name) for name in (info.name, *info.aliases))


def _type(rule: LayerRule, info: ParameterInfo) -> bool:
    if rule.type is None:
        return True
    wanted = set(_many(rule.type))
    return any(wanted & set(_type_names(module)) for module in info.ancestors)


def _kind(rule: LayerRule, info: ParameterInfo) -> bool:
    return rule.kind is None or info.kind in _many(rule.kind)


def _min_depth(rule: LayerRule, info: ParameterInfo) -> bool:
    return rule.min_depth is None or info.depth >= rule.min_depth


def _max_depth(rule: LayerRule, info: ParameterInfo) -> bool:
    return rule.max_depth is None or info.depth <= rule.max_depth


_CRITERIA = {
    "match": _match,
    "regex": _regex,
    "type": _type,
    "kind": _kind,
    "min_depth": _min_depth,
    "max_depth": _max_depth,
}


def _paths(name: str) -> list[str]:
    """The name of a parameter, of its layer, and of every module around it."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _many(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _type_names(module: nn.Module) -> Iterable[str]:
    """Names that a module's type answers to: its class and bases, short, dotted and as exported."""
    for cls in type(module).__mro__:
        if cls in (nn.Module, object):
            return
        yield cls.__name__
        yield f"{cls.__module__}.{cls.__qualname__}"
        if cls.__module__.startswith("torch.nn.modules"):
            yield f"torch.nn.{cls.__name__}"
            yield f"nn.{cls.__name__}"


def _hint(name: str, rule: LayerRule, infos: Sequence[ParameterInfo]) -> str:
    value = getattr(rule, name)
    if name in ("min_depth", "max_depth"):
        depths = [info.depth for info in infos]
        range_ = f"{min(depths)} to {max(depths)}"
        return f"{value} matches no parameter of the model, whose depths are {range_}"
    if name == "kind":
        valid = ", ".join(dict.fromkeys(info.kind for info in infos))
        return f"{_said(value)} matches no parameter of the model, whose kinds are {valid}"
    if name == "type":
        valid_types = (type(module).__name__ for info in infos for module in info.ancestors)
        hint = nearest(_many(value)[0], valid_types)
        return f"{_said(value)} matches no module of the model; {hint}"
    paths = [_paths(name) for info in infos for name in (info.name, *info.aliases)]
    names = [*(inner for path in paths for inner in path[1:2]), *(path[0] for path in paths)]
    names += [outer for path in paths for outer in path[2:]]
    bare = re.sub(r"[*?\[\]^$\\()|+]", "", _many(value)[0]).strip(".")
    return f"{_said(value)} matches no parameter or layer of the model; {nearest(bare, names)}"


def _said(value: str | Iterable[str]) -> str:
    return ", ".join(repr(item) for item in _many(value))
