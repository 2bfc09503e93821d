"""The comparison: every tool on every workload, timed in turn, checked, its memory measured."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarking.checking import Reference
from benchmarking.contenders import TOOLS, WANTS, Contender, Plain
from benchmarking.growth import growth
from benchmarking.rounds import Label, Timing, frozen, in_turn, products, reason, seconds
from benchmarking.workloads import Workload, make

__all__ = ["compare"]


def compare(
    name: str, tools: Sequence[str], device: str, rounds: int, with_memory: bool
) -> dict[str, Any]:
    """One workload's figures.

    Args:
        name: The workload's name.
        tools: Names of the tools.
        device: Where to run.
        rounds: Rounds that count.
        with_memory: Whether to measure memory too, each run in a process of its own.

    Returns:
        What the tables are made of.
    """
    workload = make(name, device)
    plain = Plain(workload, "batch gradient")
    contenders, failures = _built(workload, tools)
    plain_seconds, timings = in_turn(plain, contenders, device, rounds, name)
    failures |= {label: timing.failure for label, timing in timings.items() if timing.failure}
    able = {label: each for label, each in contenders.items() if label not in failures}
    with frozen():
        errors, unchecked = _errors(workload, able, device)
    failures |= unchecked
    plain_work = products(plain.run)
    versions = {tool: _version(TOOLS[tool].package) for tool in tools}
    entries = []
    for tool, want in _labels(tools):
        label = tool, want
        entry: dict[str, Any] = {"tool": tool, "want": want, "failure": failures.get(label)}
        entry["version"] = versions[tool]
        if label in errors:
            entry |= _figures(timings[label], plain_seconds) | {"error": errors[label]}
            entry["products"] = _work(able[label]) / plain_work
        entries.append(entry)
    if with_memory:
        _add_memory(name, device, entries)
    return {
        "about": workload.about,
        "samples": workload.samples,
        "scalars": workload.scalars,
        "rounds": rounds,
        "plain_ms": 1e3 * statistics.median(plain_seconds),
        "plain_seconds": plain_seconds,
        "plain_products": plain_work,
        "entries": entries,
    }


def _labels(tools: Sequence[str]) -> list[Label]:
    return [(tool, want) for tool in tools for want in WANTS if want in TOOLS[tool].gives]


def _built(
    workload: Workload, tools: Sequence[str]
) -> tuple[dict[Label, Contender], dict[Label, str]]:
    """The contenders, and why others cannot be had."""
    contenders: dict[Label, Contender] = {}
    failures: dict[Label, str] = {}
    for tool, want in _labels(tools):
        try:
            contenders[tool, want] = TOOLS[tool](workload, want)
        except ModuleNotFoundError as error:
            failures[tool, want] = f"{error.name} is not installed"
        except Exception as error:  # a peer that cannot take a model is a row of the table
            failures[tool, want] = reason(error)
    return contenders, failures


def _errors(
    workload: Workload, contenders: Mapping[Label, Contender], device: str
) -> tuple[dict[Label, float], dict[Label, str]]:
    """Largest relative errors against plain autograd, and why others cannot be compared with it."""
    print(f"{workload.name}: checking the results", file=sys.stderr, flush=True)
    reference = Reference(workload)
    errors: dict[Label, float] = {}
    failures: dict[Label, str] = {}
    for label, contender in contenders.items():
        try:
            seconds(contender, device)
            needed = (*contender.wants, *contender.tells)
            errors[label] = reference.error(contender.found(), contender.gradient(), needed)
            contender.clear()
        except Exception as error:  # a result that cannot be read is a row of the table
            failures[label] = reason(error)
    return errors, failures


def _figures(timing: Timing, plain_seconds: Sequence[float]) -> dict[str, Any]:
    low, high = timing.quartiles
    first = timing.first / statistics.median(plain_seconds)
    figures = {"ratio": timing.ratio, "low": low, "high": high, "first": first}
    rounds = {"rounds": len(timing.ratios), "ratios": timing.ratios, "seconds": timing.seconds}
    return figures | rounds


def _version(package: str) -> str | None:
    """A distribution with its version, ``None`` where it is not installed."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None


def _work(contender: Contender) -> float:
    """Operations of a run's products, not a number where they cannot be counted."""
    contender.clear()
    try:
        return products(contender.run)
    except Exception:  # a tool that does not bear being watched is timed all the same
        return float("nan")
    finally:
        contender.clear()


def _add_memory(name: str, device: str, entries: Sequence[dict[str, Any]]) -> None:
    """Peak growth of each contender's run beyond the plain run's."""
    plain = growth(name, "plain", "batch gradient", device)
    for entry in entries:
        if entry["failure"] is None:
            tool, want = entry["tool"], entry["want"]
            print(f"{name}: memory of {tool}, {want}", file=sys.stderr, flush=True)
            grown = growth(name, tool, want, device)
            if grown is not None and plain is not None:
                entry["memory"] = grown - plain
