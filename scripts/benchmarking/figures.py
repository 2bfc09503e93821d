"""The file of figures: read, and added to without losing what was measured before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarking.contenders import TOOLS, WANTS

__all__ = ["add", "check_writable", "read", "with_machine"]


def read(path: Path) -> dict[str, Any]:
    """Figures by part.

    Raises:
        ValueError: The file cannot be read, or is none of figures.
    """
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as JSON ({error}); mend or delete it, or name another file"
        ) from None
    parts = figures.values() if isinstance(figures, dict) else [None]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"{path} is not a file of figures, to be added to; name another file")
    return figures


def check_writable(path: Path) -> None:
    """Refuse a path that cannot be written, before anything is measured.

    Raises:
        ValueError: It is a folder, or its folder is missing, or either must not be written.
    """
    there = path.exists()
    try:
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}); name another") from None
    if not there:
        path.unlink()


def add(figures: dict[str, Any], part: str, found: Mapping[str, Any]) -> None:
    """Add what a part found; what was measured again takes the place of what was.

    Args:
        figures: By part; changed in place.
        part: The part.
        found: By workload for ``peers`` and ``profile``; else all figures of the part. Each has
            its machine, of which what stays keeps its own.
    """
    old = figures.get(part, {})
    if part == "peers":
        figures[part] = old | {name: _workload(old.get(name), new) for name, new in found.items()}
    elif part == "profile":
        figures[part] = old | found
    elif part == "monitor" and old:
        steps = {name: with_machine(step, old) for name, step in old["steps"].items()}
        figures[part] = {**found, "steps": steps | found["steps"]}
    elif part == "fit" and old:
        measured = {row["experiment"] for row in found["rows"]}
        kept = [row for row in old["rows"] if row["experiment"] not in measured]
        figures[part] = {**found, "rows": [*(with_machine(r, old) for r in kept), *found["rows"]]}
    else:
        figures[part] = found


def with_machine(one: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    """One of a part's figures with the machine that it was measured on."""
    return {"machine": whole["machine"], **one}


def _workload(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Mapping[str, Any]:
    """A workload's figures, with earlier entries of the same workload."""
    if old is None or any(old[key] != new[key] for key in ("about", "samples", "scalars")):
        return new
    entries = [{"rounds": old["rounds"], **with_machine(e, old)} for e in old["entries"]]
    by_label = {(e["tool"], e["want"]): e for e in (*entries, *new["entries"])}
    return {**new, "entries": [by_label[label] for label in _ordered(by_label)]}


def _ordered(labels: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Tools and results in the order of the tables; those that are no more, at the end."""
    tools, wants = list(TOOLS), list(WANTS)
    places = {tool: index for index, tool in enumerate(tools)}
    return sorted(labels, key=lambda each: (places.get(each[0], len(tools)), wants.index(each[1])))
