"""A text card in TensorBoard that explains every tag and shows the configuration."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from jacoscope.config import MonitorConfig
from jacoscope.quantities import HEADLINES, QUANTITIES
from jacoscope.record import GradientInfo
from jacoscope.selection import Selection
from jacoscope.sinks._sink import RunInfo

__all__ = ["card_text"]

_REASONS_SHOWN = 20


def card_text(run: RunInfo, gradient: GradientInfo) -> str:
    """The card, in Markdown.

    Args:
        run: The run.
        gradient: Which gradient its numbers are of.
    """
    return "\n\n".join(
        [
            "# Jacoscope: what this run records",
            _watched(run.selection),
            _gradient(gradient),
            _headline(run.config),
            _pictures(run.config),
            _quantities(run.selection),
            _left_out(run.selection),
            _config(run.config),
            "Versions: " + ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        ]
    )


def _watched(selection: Selection) -> str:
    scalars = sum(target.numel for target in selection.targets)
    return (
        f"{len(selection.targets)} parameter tensors are watched, {scalars:,} scalars, "
        f"{selection.coverage:.1%} of all that can be trained. Steps count optimiser steps from 0, "
        "as the Trainer's own charts do. "
        "`jacoscope.read_run(folder)` returns every number as pandas frames."
    )


def _gradient(gradient: GradientInfo) -> str:
    ranks = f", {gradient.ranks} processes" if gradient.ranks > 1 else ""
    window = gradient.full_window
    batches = f"{window} batches" if window > 1 else "one batch"
    return (
        f"**Which gradient:** {gradient.reduction}; {gradient.scaling}; {gradient.clipping}; over "
        f"{batches}{ranks}; precision {gradient.precision}."
    )


def _headline(config: MonitorConfig) -> str:
    if not config.output.headline:
        return ""
    group = config.output.group
    rows = [(item.name, item.formula, item.unit, item.reading) for item in HEADLINES]
    share = "Share of the model that these numbers are on."
    rows.append(("coverage", "measured / trainable scalars", "1", share))
    return (
        f"## Headline scalars\n\nScalars `{group}/…`; sums run over all watched parameters that "
        f"measure them.\n\n{_table('scalar', rows)}"
    )


def _pictures(config: MonitorConfig) -> str:
    if not config.output.pictures:
        return ""
    tags = ", ".join(
        f"`{config.output.group}_layers_by_step/{name}`" for name in config.output.pictures
    )
    return (
        f"## Pictures\n\n{tags}: parameters down in the model's order, captured steps across, "
        "one colour per value."
    )


def _quantities(selection: Selection) -> str:
    asked = {name for target in selection.targets for name in target.quantities}
    rows = [
        (str(name), quantity.formula, quantity.unit, quantity.reading)
        for name, quantity in QUANTITIES.items()
        if name in asked
    ]
    return f"## Quantities per parameter\n\n{_table('quantity', rows)}"


def _table(first: str, rows: Sequence[tuple[str, str, str, str]]) -> str:
    lines = [f"| {first} | definition | unit | reading |", "|---|---|---|---|"]
    for name, formula, unit, reading in rows:
        # A bar would end the cell, and TensorBoard's Markdown knows no way to escape it.
        lines.append(f"| `{name}` | {formula.replace('|', '&#124;')} | {unit} | {reading} |")
    return "\n".join(lines)


def _left_out(selection: Selection) -> str:
    if not selection.left_out:
        return ""
    shown = selection.left_out[:_REASONS_SHOWN]
    rows = "\n".join(f"- `{left.info.name}`: {left.reason}" for left in shown)
    more = len(selection.left_out) - len(shown)
    return f"## Left out\n\n{rows}" + (f"\n- and {more} more" if more else "")


def _config(config: MonitorConfig) -> str:
    text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    return f"## Configuration\n\n```yaml\n{text}```"
