"""From a model and a configuration to what is watched, and why the rest is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import is_lazy

from jacoscope.config import LayerRule, MonitorConfig, QuantityName, Schedule
from jacoscope.errors import ConfigError
from jacoscope.selection._match import explain_no_match, matches
from jacoscope.selection._parameters import ParameterInfo, walk_parameters
from jacoscope.sharding import Sharding, Shards

__all__ = ["LeftOut", "Selection", "Target", "select"]


@dataclass(frozen=True, eq=False)
class Target:
    """A watched parameter.

    Args:
        info: The parameter.
        rule: Index of the rule that took it, or ``None`` where the configuration has no rules.
        quantities: What is measured on it.
        schedule: When.
        schedule_key: Where in the configuration the schedule stands.
    """

    info: ParameterInfo
    rule: int | None
    quantities: tuple[QuantityName, ...]
    schedule: Schedule
    schedule_key: str

    @property
    def name(self) -> str:
        """The parameter's full name."""
        return self.info.name

    @property
    def numel(self) -> int:
        """Number of scalars in the parameter."""
        return self.info.numel


@dataclass(frozen=True, eq=False)
class LeftOut:
    """A parameter that is not watched.

    Args:
        info: The parameter.
        rule: Index of the rule that matched it, or ``None`` if none did.
        reason: Why it is not watched.
    """

    info: ParameterInfo
    rule: int | None
    reason: str


@dataclass(frozen=True, eq=False)
class Selection:
    """What is watched in a model.

    Args:
        targets: The watched parameters, in the model's order.
        left_out: The others, each with its reason.
        shadowed: Indices of rules that match only parameters which earlier rules decide.
        is_final: Whether every parameter had its shape; if not (lazy modules), select again later.
    """

    targets: tuple[Target, ...]
    left_out: tuple[LeftOut, ...]
    shadowed: tuple[int, ...]
    is_final: bool

    @property
    def coverage(self) -> float:
        """Fraction of the model's trainable scalars that are watched; ``nan`` if it has none."""
        watched = sum(t.numel for t in self.targets if t.info.parameter.requires_grad)
        missed = sum(left.info.numel for left in self.left_out if left.info.parameter.requires_grad)
        return watched / (watched + missed) if watched + missed else float("nan")


def select(
    model: nn.Module,
    config: MonitorConfig,
    *,
    withheld: str | None = None,
    sharding: Sharding | None = None,
    shards_withheld: str | None = None,
) -> Selection:
    """Decide for each parameter of ``model`` whether and how it is watched.

    Args:
        model: The model.
        config: The rules.
        withheld: Why no parameter can be measured in this run, if that is so.
        sharding: How parameters are split over processes, by default as the model itself tells.
        shards_withheld: Why those that are split cannot be measured, if that is so.

    Raises:
        ConfigError: If a rule matches none of the model's parameters.
    """
    infos = walk_parameters(model, sharding)
    _check_rules(config.layers, infos)
    targets: list[Target] = []
    left_out: list[LeftOut] = []
    for info in infos:
        index = _first_match(config.layers, info)
        rule = config.layers[index] if index is not None else LayerRule()
        reason = withheld or _unfit(info, shards_withheld)
        if config.layers and index is None:
            reason = "no rule matches it"
        elif rule.exclude:
            reason = f"excluded by rule layers[{index}]"
        if reason is not None:
            left_out.append(LeftOut(info, index, reason))
            continue
        quantities = rule.quantities or config.quantities
        key = f"layers[{index}].schedule" if rule.schedule is not None else "schedule"
        schedule = rule.schedule or config.schedule
        targets.append(Target(info, index, quantities, schedule, key))
    taken = {target.rule for target in targets} | {left.rule for left in left_out}
    shadowed = tuple(index for index in range(len(config.layers)) if index not in taken)
    # A lazy parameter changes in place once it has a shape, so it must be noted now.
    is_final = not any(is_lazy(info.parameter) for info in infos)
    return Selection(tuple(targets), tuple(left_out), shadowed, is_final)


def _check_rules(rules: Sequence[LayerRule], infos: Sequence[ParameterInfo]) -> None:
    if not infos:
        if rules:
            raise ConfigError("the model has no parameters, so no rule can match", key="layers[0]")
        return
    for index, rule in enumerate(rules):
        if not any(matches(rule, info) for info in infos):
            raise explain_no_match(rule, infos, f"layers[{index}]")


def _first_match(rules: Sequence[LayerRule], info: ParameterInfo) -> int | None:
    return next((index for index, rule in enumerate(rules) if matches(rule, info)), None)


def _unfit(info: ParameterInfo, shards_withheld: str | None) -> str | None:
    """Why a parameter cannot be measured at all, or ``None`` if it can."""
    parameter = info.parameter
    if is_lazy(parameter):
        return "a lazy parameter that has no shape yet; it joins once the first batch has shaped it"
    if not parameter.is_floating_point() and not parameter.is_complex():
        kind = str(parameter.dtype).removeprefix("torch.")
        return f"its type {kind} is not floating point, which is not supported"
    if info.numel == 0:
        return "it has no elements"
    if parameter.is_meta:
        return "it is on the meta device and has no values"
    if info.shards is not None and parameter.is_complex():
        return "it is complex and split over processes, which is not supported"
    if isinstance(info.shards, Shards):
        return shards_withheld if info.shards.are_several else None
    return info.shards
