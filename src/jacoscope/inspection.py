"""A dry run: what would be watched, by which rule, and what it would cost."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

import torch
from torch.nn.parameter import is_lazy

from jacoscope.config import MonitorConfig, Schedule
from jacoscope.plan import lanes_of, wanted_of
from jacoscope.quantities import block_buffer_bytes, is_probed
from jacoscope.selection import Selection, Target

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["inspect_selection", "report"]


def inspect_selection(selection: Selection) -> pd.DataFrame:
    """One row per parameter of the model.

    Args:
        selection: What is watched, and what is not.

    Returns:
        Columns: parameter, layer (its class), kind, shape, size, rule, quantities, memory (bytes
        of the copies that a captured step takes), reason (why it is left out).
    """
    import pandas as pd

    copies = {item.name: item.copied_bytes for item in wanted_of(lanes_of(selection))}
    watched = [
        (target.info, target.rule, ", ".join(target.quantities), copies.get(target.name, 0), "")
        for target in selection.targets
    ]
    others = [(left.info, left.rule, "", 0, left.reason) for left in selection.left_out]
    rows = [
        {
            "parameter": info.name,
            "layer": info.layer_type,
            "kind": info.kind,
            "shape": _shape(info.parameter),
            "size": info.numel,
            "rule": _rule(rule),
            "quantities": quantities,
            "memory": memory,
            "reason": reason,
        }
        for info, rule, quantities, memory, reason in sorted(
            [*watched, *others], key=lambda row: row[0].index
        )
    ]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def report(selection: Selection, config: MonitorConfig) -> str:
    """The dry run as a text: a table of all parameters, then the sums.

    Args:
        selection: What is watched, and what is not.
        config: The configuration that decided it.
    """
    table = inspect_selection(selection)
    if table.empty:
        return "The model has no parameters; there is nothing to watch."
    copies = int(table["memory"].sum())
    captured = [t for t in selection.targets if not all(map(is_probed, t.quantities))]
    buffers = _buffers(tuple(captured))
    scalars = sum(target.numel for target in selection.targets)
    coverage = selection.coverage
    share = "none to train" if isnan(coverage) else f"{coverage:.1%} of what can be trained"
    return "\n".join(
        [
            *_table(table),
            "",
            f"watched    {len(selection.targets)} of {len(table)} parameter tensors, {scalars:,} "
            f"scalars, {share}",
            *_rules(selection, config),
            f"memory     {_bytes(copies + buffers)} more while a captured step runs: "
            f"{_bytes(copies)} copies, {_bytes(buffers)} buffers",
            f"tags       under {config.output.group}/ in TensorBoard",
        ]
    )


_COLUMNS = (
    "parameter", "layer", "kind", "shape", "size", "rule", "quantities", "memory", "reason",
)  # fmt: skip


def _table(table: pd.DataFrame) -> list[str]:
    shown = table.assign(
        size=table["size"].map("{:,}".format),
        memory=table["memory"].map(_bytes),
        quantities=table["quantities"].map(_shortened),
    )
    if not table["reason"].any():
        shown = shown.drop(columns="reason")
    numeric = ("size", "memory")
    columns = []
    for name in shown.columns:
        cells = [str(name), *shown[name].astype(str)]
        width = max(map(len, cells))
        columns.append(
            [f"{cell:>{width}}" if name in numeric else f"{cell:<{width}}" for cell in cells]
        )
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _rules(selection: Selection, config: MonitorConfig) -> list[str]:
    """What each rule watches, and when."""
    lines = []
    rules = {target.rule for target in selection.targets}
    for rule in sorted(rules, key=lambda index: -1 if index is None else index):
        mine = [target for target in selection.targets if target.rule == rule]
        title = "all" if rule is None else _rule(rule)
        asked = mine[0].quantities
        captured = [name for name in asked if not is_probed(name)]
        probed = [name for name in asked if is_probed(name)]
        if captured:
            lines.append(f"{title:<11}{len(mine)} tensors, {_schedule(mine[0].schedule)}:")
            lines.append(f"{'':<11}{', '.join(captured)}")
        if probed:
            title = "" if captured else title
            when = _schedule(config.probes.schedule)
            lines.append(f"{title:<11}{len(mine)} tensors, probed {when}:")
            lines.append(f"{'':<11}{', '.join(probed)}")
    return lines


def _buffers(targets: tuple[Target, ...]) -> int:
    if not targets:
        return 0
    device = targets[0].info.parameter.device
    return block_buffer_bytes([target.numel for target in targets], device)


def _shortened(quantities: str) -> str:
    names = quantities.split(", ")
    return quantities if len(names) < 4 else f"{names[0]}, {names[1]} + {len(names) - 2}"


def _rule(index: int | None) -> str:
    return "-" if index is None else f"layers[{index}]"


def _shape(parameter: torch.Tensor) -> str:
    if is_lazy(parameter):
        return "not yet known"
    return "×".join(str(size) for size in parameter.shape) or "scalar"


def _schedule(schedule: Schedule) -> str:
    parts = [
        f"every {_steps(schedule.every)}" if schedule.every else "",
        f"the first {_steps(schedule.first)}" if schedule.first else "",
        f"steps {', '.join(map(str, schedule.steps))}" if schedule.steps else "",
        f"the first {_steps(schedule.per_epoch)} of each epoch" if schedule.per_epoch else "",
        f"whenever {schedule.hook} says so" if schedule.hook else "",
    ]
    return ", ".join(part for part in parts if part)


def _steps(count: int) -> str:
    return "step" if count == 1 else f"{count} steps"


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
