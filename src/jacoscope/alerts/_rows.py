"""Whether rules have rows to tell of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from jacoscope.alerts._lookout import is_on
from jacoscope.config import AlertRule, MonitorConfig, QuantityName
from jacoscope.errors import ConfigError, nearest
from jacoscope.groups import groups_of
from jacoscope.quantities import is_per_sample, is_probed
from jacoscope.selection import Selection

__all__ = ["check_alerts"]


def check_alerts(selection: Selection, config: MonitorConfig) -> None:
    """Refuse rules that somebody wrote and that are on nothing; the default ones may be idle.

    What probes measure is left to them, whose rows the model decides.

    Args:
        selection: What is watched.
        config: The rules.

    Raises:
        ConfigError: If the quantity of a rule is measured on no row that the rule is on.
    """
    if not selection.is_final:
        return  # what is to come may have the rows
    for index, rule in enumerate(config.alerts or ()):
        if rule.quantity is None or is_probed(rule.quantity):
            continue
        rows = _rows(rule.quantity, selection, config)
        if rows and not any(is_on(rule, name, kind) for name, kind in rows):
            raise _explain(rule, rows, f"alerts[{index}]")


def _rows(
    quantity: QuantityName, selection: Selection, config: MonitorConfig
) -> list[tuple[str, str]]:
    """Names and kinds of what a quantity is measured on."""
    targets = [target for target in selection.targets if quantity in target.quantities]
    rows: list[tuple[str, str]] = [(target.name, target.info.kind) for target in targets]
    if targets and is_per_sample(quantity):
        sampled = [t for t in selection.targets if any(map(is_per_sample, t.quantities))]
        named = [None if t.rule is None else config.layers[t.rule].group for t in sampled]
        rows += [(group.name, group.kind) for group in groups_of(sampled, named)]
    return rows


def _explain(rule: AlertRule, rows: Sequence[tuple[str, str]], key: str) -> ConfigError:
    is_named = rule.match is not None
    if is_named and not any(is_on(replace(rule, kind=None), name, kind) for name, kind in rows):
        patterns = (rule.match,) if isinstance(rule.match, str) else rule.match or ()
        bare = re.sub(r"[*?\[\]]", "", patterns[0]).strip(".")
        said = ", ".join(map(repr, patterns))
        return ConfigError(
            f"{said} matches nothing that {rule.quantity} is measured on; "
            f"{nearest(bare, _names(rows))}",
            key=f"{key}.match",
        )
    kinds = (rule.kind,) if isinstance(rule.kind, str) else rule.kind or ()
    there = [kind for name, kind in rows if is_on(replace(rule, kind=None), name, kind)]
    return ConfigError(
        f"{', '.join(map(repr, kinds))} is the kind of nothing that "
        f"{'match takes' if is_named else f'{rule.quantity} is measured on'}, whose kinds are "
        f"{', '.join(dict.fromkeys(there))}",
        key=f"{key}.kind",
    )


def _names(rows: Sequence[tuple[str, str]]) -> list[str]:
    """What a rule may name: modules from the innermost, then rows."""
    names = [name for name, _ in rows]
    within = [name.rpartition(".")[0] for name in names]
    return [*filter(None, within), *names]
