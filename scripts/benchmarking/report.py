"""Figures as Markdown, and where it goes."""

from __future__ import annotations

import math
import platform
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarking.checking import TOLERANCE
from benchmarking.contenders import OURS, WANTS
from benchmarking.figures import with_machine

__all__ = ["BOUNDS", "machine", "render", "write"]

# The largest ratio of a captured forward and backward to a plain one that is accepted.
BOUNDS: dict[str, dict[str, float]] = {
    "MLP": {"norms": 1.18, "norms + Gram": 1.45, "norms + columns": 1.45, "all three": 1.75},
    "CNN": {"norms": 1.45, "norms + Gram": 1.75, "norms + columns": 1.90, "all three": 2.10},
    "GPT": {"norms": 1.28, "norms + Gram": 1.45, "norms + columns": 1.55, "all three": 1.75},
}
_PER_SAMPLE = [want for want, parts in WANTS.items() if parts]


def machine(device: str) -> str:
    """The machine in general words."""
    if device != "cpu":
        where = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        capability = torch.backends.cpu.get_cpu_capability()
        where = f"{threads} {platform.machine()} core{'s' * (threads > 1)} ({capability})"
    return f"{where}, float32, torch {torch.__version__.partition('+')[0]}"


def render(figures: Mapping[str, Any]) -> dict[str, str]:
    """Markdown of each part that there are figures of."""
    makers = {
        "peers": _peers,
        "bounds": _bounds,
        "monitor": _monitor,
        "fit": _fit,
        "scaling": _scaling,
        "profile": _profile,
    }
    source = {"bounds": "peers"}
    return {
        part: make(figures[source.get(part, part)]).strip() + "\n"
        for part, make in makers.items()
        if source.get(part, part) in figures
    }


def write(parts: Mapping[str, str], path: Path) -> None:
    """Write the parts into a page, each between its markers, or as a page of their own.

    Markers are ``<!-- benchmark: PART -->`` and ``<!-- end of benchmark: PART -->``; all else in
    the page stays.

    Args:
        parts: Markdown by part.
        path: The page.
    """
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    if "<!-- benchmark:" not in page:
        path.write_text("\n".join(_marked(part, text) for part, text in parts.items()), "utf-8")
        return
    for part, text in parts.items():
        marked = re.compile(
            rf"<!-- benchmark: {part} -->.*?<!-- end of benchmark: {part} -->\n?", re.DOTALL
        )
        page = marked.sub(lambda _, part=part, text=text: _marked(part, text), page)  # type: ignore[misc]
    path.write_text(page, encoding="utf-8")


def _marked(part: str, text: str) -> str:
    return f"<!-- benchmark: {part} -->\n{text}<!-- end of benchmark: {part} -->\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _peers(figures: Mapping[str, Any]) -> str:
    """A table per workload, what failed, and the tools that tell of the batch's gradient alone."""
    blocks = []
    for name, each in figures.items():
        entries = {(e["tool"], e["want"]): e for e in each["entries"]}
        tools = list(dict.fromkeys(tool for tool, want in entries if WANTS[want]))
        title = f"**{name}**: {each['about']}; {each['scalars']:,} weights, plain forward and "
        title += f"backward {_ms(each['plain_ms'])}, {each['rounds']} rounds; {each['machine']}\n"
        rows = [_row(tool, entries) for tool in tools]
        columns = ["", *_PER_SAMPLE, "largest error"]
        notes = "".join(f"- {note}\n" for note in (*_failures(each["entries"]), *_others(each)))
        blocks.append(f"{title}\n{_table(columns, rows)}\n{notes}".strip())
    return "\n\n".join([*blocks, _batch_tools(figures)])


def _row(tool: str, entries: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    mine = [entries.get((tool, want)) for want in _PER_SAMPLE]
    errors = [each["error"] for each in mine if each is not None and each["failure"] is None]
    largest = max(errors, key=lambda error: math.inf if math.isnan(error) else error, default=0.0)
    error = f"{largest:.0e}" if errors else ""
    if not largest <= TOLERANCE:
        error = f"**wrong: {error}**"
    name = f"**{tool}**" if tool == OURS else tool
    return [name, *(_cell(each) for each in mine), error]


def _cell(entry: Mapping[str, Any] | None) -> str:
    """A ratio and the memory beyond the plain run's."""
    if entry is None:
        return "–"
    if entry["failure"] is not None:
        return "fails"
    if "memory" not in entry:
        return f"{entry['ratio']:.2f}"
    return f"{entry['ratio']:.2f} · {max(entry['memory'], 0) / 2**20:.0f} MiB"


def _failures(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Why tools could not run, once for each tool and reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        if entry["failure"] is not None:
            reasons.setdefault((entry["tool"], entry["failure"]), []).append(entry["want"])
    for (tool, reason), wants in reasons.items():
        all_of_it = len(wants) == sum(entry["tool"] == tool for entry in entries)
        yield f"{tool}: {reason}" if all_of_it else f"{tool}: {reason} ({', '.join(wants)})"


def _others(each: Mapping[str, Any]) -> Iterator[str]:
    """Results of other rounds, or of another machine, than the title says; the tools' versions."""
    able = [entry for entry in each["entries"] if entry["failure"] is None]
    for key, text in (("rounds", "{} rounds"), ("machine", "on {}")):
        groups: dict[Any, list[Mapping[str, Any]]] = {}
        for entry in able:
            groups.setdefault(entry.get(key, each[key]), []).append(entry)
        groups.pop(each[key], None)
        for value, mine in groups.items():
            yield f"{text.format(value)}: {_whose(mine, able)}"
    versions = dict.fromkeys(e["version"] for e in able if e.get("version") is not None)
    told = [name for name in versions if not name.startswith("torch ")]  # the machine has PyTorch's
    if told:
        yield f"versions: {', '.join(told)}"


def _whose(mine: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]) -> str:
    """Tools, with what was asked of them where that is not all they give."""
    names = []
    for tool in dict.fromkeys(entry["tool"] for entry in mine):
        wants = [entry["want"] for entry in mine if entry["tool"] == tool]
        all_of_it = len(wants) == sum(entry["tool"] == tool for entry in entries)
        names.append(tool if all_of_it else f"{tool} ({', '.join(wants)})")
    return ", ".join(names)


def _machines(each: Iterable[Mapping[str, Any]]) -> str:
    """The machines that figures are of, in the order of the figures."""
    return "; ".join(dict.fromkeys(one["machine"] for one in each))


def _batch_tools(figures: Mapping[str, Any]) -> str:
    """Tools of another result, and the plain run against itself, which shows the noise."""
    found = {
        (entry["tool"], name): entry
        for name, each in figures.items()
        for entry in each["entries"]
        if not WANTS[entry["want"]]
    }
    tools = list(dict.fromkeys(tool for tool, _ in found))
    rows = [[tool, *(_cell(found.get((tool, name))) for name in figures)] for tool in tools]
    if not rows:
        return ""
    return "Of the batch's gradient alone, no samples:\n\n" + _table(["", *figures], rows)


def _bounds(figures: Mapping[str, Any]) -> str:
    """What is aimed at, what is measured, what the arithmetic alone would be, the best peer."""
    columns = ["", "result", "aim", "measured (quartiles)", "arithmetic", "best peer", "reached"]
    rows = [row for name, each in figures.items() for row in _bound_rows(name, each)]
    return _table(columns, rows)


def _bound_rows(name: str, each: Mapping[str, Any]) -> Iterator[list[str]]:
    """Rows of a workload; tools that were measured on another machine are no peers."""
    entries = [with_machine(entry, each) for entry in each["entries"]]
    for want in _PER_SAMPLE:
        able = [e for e in entries if e["want"] == want and e["failure"] is None]
        ours = next((entry for entry in able if entry["tool"] == OURS), None)
        if ours is None:
            continue
        right = [e for e in able if e["tool"] != OURS and e["error"] <= TOLERANCE]
        peers = [e for e in right if e["machine"] == ours["machine"]]
        best = min(peers, key=lambda entry: float(entry["ratio"]), default=None)
        aim = BOUNDS.get(name, {}).get(want)
        faults = {
            "the result is wrong": not ours["error"] <= TOLERANCE,
            "above the aim": aim is not None and ours["ratio"] > aim,
            "a peer is cheaper": best is not None and ours["ratio"] >= best["ratio"],
        }
        yield [
            name,
            want,
            "" if aim is None else f"{aim:.2f}",
            f"{ours['ratio']:.2f} ({ours['low']:.2f} to {ours['high']:.2f})",
            _number(ours["products"]),
            "none" if best is None else f"{best['ratio']:.2f} ({best['tool']})",
            _verdict(faults),
        ]


def _ms(milliseconds: float) -> str:
    """Milliseconds to two or three figures."""
    if milliseconds >= 10:
        return f"{milliseconds:,.0f} ms"
    return f"{milliseconds:.1f} ms" if milliseconds >= 1 else f"{milliseconds:.2f} ms"


def _verdict(faults: Mapping[str, bool]) -> str:
    told = [text for text, holds in faults.items() if holds]
    return f"no: {' and '.join(told)}" if told else "yes"


def _number(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.2f}"


def _monitor(figures: Mapping[str, Any]) -> str:
    steps = figures["steps"]
    labels = list(dict.fromkeys(label for each in steps.values() for label in each["ratios"]))
    rows = [
        [
            f"{each['about']}",
            f"{each['scalars']:,}",
            f"{_ms(each['plain_ms'])}",
            *(f"{each['ratios'].get(label, math.nan):.2f}" for label in labels),
        ]
        for each in steps.values()
    ]
    machines = _machines(with_machine(each, figures) for each in steps.values())
    return (
        f"*{machines}*\n\n{_table(['', 'weights', 'plain step', *labels], rows)}\n"
        f"A step that is not captured: {figures['other_us']:.2f} µs of the callback's own. "
        f"Writing 200 layers × 2000 steps × 6 quantities: {figures['write_s']:.2f} s, "
        f"{figures['write_mb']:.1f} MB.\n"
    )


def _fit(figures: Mapping[str, Any]) -> str:
    rows = []
    for each in figures["rows"]:
        epochs = "" if each["epochs"] is None else f", epochs: {each['epochs']}"
        spread = " to ".join(f"{pick(each['ratios']):.3f}" for pick in (min, max))
        rows.append(
            [
                each["experiment"],
                each["watched"],
                f"{each['plain_s']:.1f} s{epochs}",
                f"{statistics.median(each['ratios']):.3f} ({spread})",
                f"{statistics.median(each['cpu_ratios']):.3f}",
            ]
        )
    columns = ["", "watched", "without", "ratio (rounds)", "of processor time"]
    machines = _machines(with_machine(each, figures) for each in figures["rows"])
    return f"*{machines}*\n\n{_table(columns, rows)}"


def _scaling(figures: Mapping[str, Any]) -> str:
    """A table of all points: ratios, the arithmetic's, and the share of a product's rate."""
    points = figures["points"]
    wants = list(dict.fromkeys(point["want"] for point in points))
    groups: dict[tuple[str, int], dict[str, Any]] = {}
    for point in points:
        groups.setdefault((point["sweep"], point["value"]), {})[point["want"]] = point
    rate = figures["product_rate"]
    rows = []
    for (sweep, value), mine in groups.items():
        first = next(iter(mine.values()))
        shares = [first["plain_rate"] / rate, mine["all three"].get("rate", math.nan) / rate]
        cells = [_ratio_and_work(mine[want]) for want in wants]
        rows.append([sweep, str(value), f"{_ms(first['plain_ms'])}", *cells])
        rows[-1].append(" / ".join(f"{share:.0%}" for share in shares))
    columns = ["grows", "to", "plain", *wants, "arithmetic rate, plain / all three"]
    base = ", ".join(f"{key} {value}" for key, value in figures["base"].items())
    table = _table(columns, rows)
    return f"*{figures['machine']}; {base}; {figures['rounds']} rounds*\n\n{table}"


def _ratio_and_work(point: Mapping[str, Any]) -> str:
    if "failure" in point:
        return "fails"
    return f"{point['ratio']:.2f} ({_number(point['products'])})"


def _parts(found: Mapping[str, Any]) -> list[str]:
    """What a capture adds to a plain run, and its parts."""
    parts = found.get("parts")
    if parts is None:
        return ["–"] * 4
    rest = parts["all"] - parts["measuring"] - parts["comparing"]
    return [
        f"{share:.0%}" for share in (parts["all"], parts["measuring"], parts["comparing"], rest)
    ]


def _profile(figures: Mapping[str, Any]) -> str:
    """What each part of a capture takes, and the operators whose time grows most."""
    columns = [
        "",
        "result",
        "added by a capture",
        "measuring",
        "comparing",
        "the rest",
        "operators, plain → captured",
        "those that grow most",
    ]
    rows = []
    for name, each in figures.items():
        for want, found in each["wants"].items():
            total = f"{_ms(found['plain_ms'])} → {_ms(found['captured_ms'])}"
            grown = (
                f"`{operator}` +{_ms(captured - plain)} (×{calls:g})"
                for operator, (plain, captured, calls) in found["operators"].items()
                if captured - plain > 0.01 * found["plain_ms"]
            )
            rows.append([name, want, *_parts(found), total, ", ".join(grown)])
    hands = [
        f"Hooks on the graph that are written out for the {name} alone, with the same norms and "
        f"the same comparison, and find nothing out by themselves, add {each['by_hand']:.0%}."
        for name, each in figures.items()
        if "by_hand" in each
    ]
    return "\n\n".join([f"*{_machines(figures.values())}*", _table(columns, rows), *hands])
