"""A text card in TensorBoard that explains every tag and shows the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

import yaml

from jacoscope.config import MonitorConfig
from jacoscope.quantities import (
    HEADLINES,
    OVERHEAD_FORMULA,
    OVERHEAD_READING,
    PROBE_HEADLINES,
    PROBES,
    QUANTITIES,
    SAMPLE_HEADLINES,
    is_per_sample,
    is_probed,
)
from jacoscope.record import GradientInfo
from jacoscope.selection import Selection
from jacoscope.sinks._sink import RunInfo

__all__ = ["card_text"]

_REASONS_SHOWN = 20
_SAMPLE_CHECKS = [
    (
        "sample_closure",
        "largest |Σᵢ cᵢ − g| / Σᵢ |cᵢ| along a random direction",
        "1",
        "How exactly the per-sample gradients add up to the gradient: rounding, about 1e-6.",
    ),
    (
        "sample_coverage",
        "scalars with per-sample gradients / trainable scalars",
        "1",
        "Share of the model that the per-sample numbers are on.",
    ),
]


def card_text(run: RunInfo, gradient: GradientInfo, extent: str = "") -> str:
    """The card, in Markdown.

    Args:
        run: The run.
        gradient: Which gradient its numbers are of.
        extent: How much of a step per-sample quantities are measured on now, if it is not all.
    """
    return "\n\n".join(
        [
            "# Jacoscope: what this run records",
            _watched(run.selection),
            _gradient(gradient),
            _headline(run),
            _pictures(run),
            _single(run),
            _samples(run),
            _extent(extent),
            _probes(run),
            _quantities(run.selection),
            _left_out(run.selection),
            _config(run.config),
            "Versions: " + ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        ]
    )


def _watched(selection: Selection) -> str:
    scalars = sum(target.numel for target in selection.targets)
    coverage = selection.coverage
    share = "none to train" if isnan(coverage) else f"{coverage:.1%} of all that can be trained"
    return (
        f"{len(selection.targets)} parameter tensors are watched, {scalars:,} scalars, "
        f"{share}. Steps count optimiser steps from 0, "
        "as the Trainer's own charts do. "
        "`jacoscope.read_run(folder)` returns every number as pandas frames."
    )


def _gradient(gradient: GradientInfo) -> str:
    counts = ((gradient.full_window, "batches"), (gradient.ranks, "processes"))
    several = ", ".join(f"{count} {what}" for count, what in counts if count > 1)
    parts = [gradient.reduction, gradient.scaling, gradient.clipping]
    parts += [f"over {several}"] if several else []
    return f"**Which gradient:** {'; '.join(parts)}; precision {gradient.precision}."


def _headline(run: RunInfo) -> str:
    if not run.config.output.headline:
        return ""
    group = run.config.output.group
    rows = [(item.name, item.formula, item.unit, item.reading) for item in HEADLINES]
    share = "Share of the model that these numbers are on."
    rows.append(("coverage", "measured / trainable scalars", "1", share))
    rows.append(("monitor_overhead", OVERHEAD_FORMULA, "1", OVERHEAD_READING))
    asked = _asked(run.selection)
    found = [QUANTITIES[name] for name in SAMPLE_HEADLINES if name in asked]
    rows += [(str(item.name), item.formula, item.unit, item.reading) for item in found]
    if any(map(is_per_sample, asked)):
        rows += _SAMPLE_CHECKS
    found = [QUANTITIES[name] for name in PROBE_HEADLINES if name in asked]
    rows += [(str(item.name), item.formula, item.unit, item.reading) for item in found]
    if any(map(is_probed, asked)):
        cost = "What a probe cost; probes.schedule says how often there is one."
        rows.append(("probe_seconds", "wall time of a step's probes", "s", cost))
    return (
        f"## Headline scalars\n\nScalars `{group}/…`; sums run over all watched parameters that "
        f"measure them.\n\n{_table('scalar', rows)}"
    )


def _samples(run: RunInfo) -> str:
    if not any(map(is_per_sample, _asked(run.selection))) or not run.config.samples.leaderboard:
        return ""
    group = run.config.output.group
    return (
        f"## Samples\n\nTexts `{group}_samples/…` and images `{group}_samples_pictures/…`, once an "
        "epoch: the captured samples with the largest gradients and those that pull against the "
        "others. Only captured steps show samples; `schedule: {every: 1}` shows all of them."
    )


def _extent(extent: str) -> str:
    if not extent:
        return ""
    return (
        f"## Less than all of a step\n\nFrom this step on per-sample quantities are {extent}. "
        "Means and variances are unbiased all the same; extremes are those of the samples that "
        "were measured. Where layers take turns, what is over several of them is absent."
    )


def _probes(run: RunInfo) -> str:
    asked, group = _asked(run.selection), run.config.output.group
    parts = []
    if any(name in asked for name in PROBES["All else equal"]):
        parts.append(
            f"`{group}_all_else_equal/…`: for a probed step, the change of the loss that each "
            "layer's derivative promised and the change that came with only that layer moved, on "
            f"the first {run.config.probes.loss_samples} samples of its batch; and the change of "
            "the loss allocated to each layer over the run."
        )
    if any(is_probed(name) and name not in PROBES["All else equal"] for name in asked):
        which = "the first probed batch" if run.config.probes.batch == "first" else "its batch"
        parts.append(
            f"`{group}_outputs/…`: how the outputs move with weights, inputs and layers, on "
            f"{run.config.probes.samples} samples of {which}, in {run.config.probes.mode} mode."
        )
    if not parts:
        return ""
    return "## Probes\n\nTexts and images of steps that are probed. " + "\n\n".join(parts)


def _pictures(run: RunInfo) -> str:
    drawn = [name for name in run.config.output.pictures if name in _asked(run.selection)]
    if not drawn:
        return ""
    tags = ", ".join(f"`{run.config.output.group}_layers_by_step/{name}`" for name in drawn)
    return (
        f"## Pictures\n\n{tags}: parameters down in the model's order, captured steps across, "
        "one colour per value."
    )


def _single(run: RunInfo) -> str:
    output, asked = run.config.output, _asked(run.selection)
    charts = [
        f"- scalars `{output.group}_parameters_{name}/PARAMETER`: {QUANTITIES[name].title}"
        for name in output.layer_scalars
        if name in asked
    ]
    if output.histograms and "grad_histogram" in asked:
        title = QUANTITIES["grad_histogram"].title
        charts.append(f"- histograms `{output.group}_gradients/PARAMETER`: {title}")
    return "## Charts of single parameters\n\n" + "\n".join(charts) if charts else ""


def _asked(selection: Selection) -> set[str]:
    return {name for target in selection.targets for name in target.quantities}


def _quantities(selection: Selection) -> str:
    asked = _asked(selection)
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
