"""``/data/runs``: what is recorded, from metadata alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from jacoscope.board.catalogue import RunGroup
from jacoscope.board.endpoint import Answer, Asked, Endpoint, Plan
from jacoscope.board.fields import text
from jacoscope.board.known import place_of
from jacoscope.board.table import rows_of
from jacoscope.board.wire import entity_tag

__all__ = ["RUNS"]

_DEFAULT_GROUP = "sensitivity"
_PARTS = {
    "headline": (".headline",),
    "samples": (".samples",),
    "sample_quantiles": (".sample_quantiles",),
    "gram": (".gram", ".gram_spectrum"),
    "ntk_spectrum": (".ntk_spectrum",),
    "input_singular_values": (".input_singular_values",),
    "output_sensitivity": (".output_sensitivity",),
    "saliency": (".saliency_maps",),
    "all_else_equal": ("predicted_change", "actual_change", "allocated_change"),
    "histograms": ("grad_histogram",),
}


def _plan(asked: Asked) -> Plan:
    groups = list(asked.catalogue().groups)
    versions = [_version(group) for group in groups]
    names = [(group.run, group.group, group.problem) for group in groups]
    return Plan([*names, *versions], lambda: _answer(groups, versions))


def _answer(groups: list[RunGroup], versions: list[str]) -> Answer:
    several = Counter(group.run for group in groups)
    runs = [
        _described(group, version, several[group.run] > 1)
        for group, version in zip(groups, versions, strict=True)
    ]
    return Answer({"runs": runs})


def _version(group: RunGroup) -> str:
    return entity_tag(tag.state for tag in group.tags)


def _described(group: RunGroup, version: str, is_one_of_several: bool) -> dict[str, Any]:
    is_told = is_one_of_several or group.group != _DEFAULT_GROUP
    return {
        "run": group.run,
        "group": group.group,
        "label": f"{group.run} · {group.group}" if is_told else group.run,
        "version": version,
        "last_step": max((tag.max_step for tag in group.tags), default=None),
        "wall_time": max((tag.max_wall_time for tag in group.tags), default=None),
        "quantities": [_quantity(group, name) for name in sorted(group.quantities, key=place_of)],
        "has": {part: group.has(*names) for part, names in _PARTS.items()},
        "problem": group.problem,
    }


def _quantity(group: RunGroup, name: str) -> dict[str, Any]:
    tags = group.of(name)
    schema = tags[0].schema
    return {
        "name": name,
        "title": text(schema, "title", name),
        "unit": text(schema, "unit"),
        "log": schema.get("log") is True,
        "family": text(schema, "family"),
        "definition": text(schema, "definition"),
        "reading": text(schema, "reading"),
        "source": text(schema, "source"),
        "probe": tags[0].is_probe,
        "histogram": "edges" in schema,
        "rows": len(rows_of(tags, ())),
    }


RUNS = Endpoint(_plan)
