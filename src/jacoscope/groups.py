"""What per-sample quantities are measured on as a whole: all parameters, groups, layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jacoscope.selection import Target

__all__ = ["ALL", "Group", "groups_of"]

ALL = "(all)"
"""The row of all watched parameters together."""


@dataclass(frozen=True)
class Group:
    """Parameters that are measured as a whole.

    Args:
        name: What its row is called.
        kind: What it groups by.
        members: Names of its parameters.
    """

    name: str
    kind: Literal["all", "group", "layer"]
    members: tuple[str, ...]


def groups_of(targets: Sequence[Target], groups: Sequence[str | None]) -> tuple[Group, ...]:
    """All targets together, the groups that rules name, and layers of several parameters.

    Args:
        targets: The targets that have per-sample quantities.
        groups: The name of each one's group, or ``None``.
    """
    found = [Group(ALL, "all", tuple(target.name for target in targets))]
    for name in dict.fromkeys(group for group in groups if group is not None):
        among = [t.name for t, group in zip(targets, groups, strict=True) if group == name]
        found.append(Group(f"group {name}", "group", tuple(among)))
    for layer in dict.fromkeys(target.info.layer for target in targets):
        members = tuple(target.name for target in targets if target.info.layer == layer)
        found.append(Group(f"layer {layer}" if layer else "layer", "layer", members))
    return tuple(found)
