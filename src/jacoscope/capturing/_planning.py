"""From a graph to a plan: which values carry the batch, and where parameters meet it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jacoscope.capturing._frontier import LAST, find_frontier, is_parameter_only
from jacoscope.capturing._layout import Layout
from jacoscope.capturing._plan import CapturePlan
from jacoscope.capturing._planner import Planner
from jacoscope.capturing._walk import Graph

__all__ = ["make_plan"]

_REENTRANT = "CheckpointFunctionBackward"
_HIDING = {
    _REENTRANT: "its gradient comes through a reentrant activation checkpoint, which hides its "
    "graph",
    "CompiledFunctionBackward": "torch.compile makes one node of what its gradient comes through; "
    "samples.compiled: eager would run the forward of captured steps uncompiled",
}
_HELD = (
    "its gradient comes through an activation checkpoint, which hands out what it saved only once"
)

_NESTED = (
    "its gradient comes through a nested tensor, which has no dimension that tells samples apart"
)

# Where the batch may be at the frontier, most likely first.
_DIMS = (
    ((0,), False),
    ((1,), False),
    ((0,), True),
    ((0, 1, 2), False),
)
_UNTOLD = (
    "it is used where samples cannot be told apart: no tensor between it and the loss has a "
    "dimension of {count} {what}"
)
_CUSTOM = (
    "its gradient comes through the autograd function {name}, whose backward may not be run more "
    'than once; say custom_functions="run" if it may'
)
_WAITING = (
    "its gradient comes through {name}, whose backward waits for the other processes and so can be "
    "run only once"
)
_HARMLESS = ("BackwardHookFunctionBackward",)
_COMMUNICATING = re.compile(
    "SyncBatchNorm|DDPSink|all_?gather|all_?reduce|all_?to_?all|reduce_?scatter|c10d",
    re.IGNORECASE,
)
_AS_MANY = "there are as many rows as samples, in another order, so that tensors do not tell which"
_ABSENT = "the loss does not depend on it"


def make_plan(
    graph: Graph,
    parameters: Mapping[str, Tensor],
    samples: int,
    index: Tensor | None = None,
    *,
    dim: int | None = None,
    trust: bool = False,
) -> CapturePlan:
    """Find out how to capture these parameters.

    Args:
        graph: The graph of a loss.
        parameters: The parameters wanted, by name.
        samples: Number of samples.
        index: Sample of each row of the batch, where the user gave one, shape (R,).
        dim: Which dimension of the model's outputs is the batch, where the user said so.
        trust: Whether the backward of a user's own autograd function may be run several times.
    """
    leaves = {name: place for place, name in graph.leaves.items() if name in parameters}
    why = _HIDING[_REENTRANT] if _REENTRANT in graph.names else _ABSENT
    absent = {name: why for name in parameters if name not in leaves}
    absent |= _below_opaque(graph, leaves, trust)
    leaves = {name: leaf for name, leaf in leaves.items() if name not in absent}
    if index is not None and _is_ambiguous(index, samples):
        return CapturePlan(samples, index, missing={**dict.fromkeys(leaves, _AS_MANY), **absent})
    if not leaves:
        return CapturePlan(samples, index, missing=absent)
    if samples == 1:
        whole = dict.fromkeys(leaves, "one sample: the gradient itself")
        return CapturePlan(1, index, leaves=leaves, missing=absent, rules=whole, described=whole)
    only = is_parameter_only(graph)
    search = _Search(graph, parameters, leaves, samples, index, only, absent)
    if dim is not None:
        plans = [search.best((dim,), through) for through in (False, True)]
    else:
        plans = [search.best((0,), False)]
        if plans[0] is not None and plans[0].is_clean:
            return plans[0].plan
        plans += [search.best(dims, through) for dims, through in _DIMS[1:]]
        if not any(plans):
            last = search.best((LAST,), False)  # most often features: nothing may speak against it
            plans = [last] if last is not None and last.is_clean else []
    found = [plan for plan in plans if plan is not None]
    if found:
        return min(found, key=lambda each: each.rank).plan
    what = "samples" if index is None else "rows"
    reason = _UNTOLD.format(count=samples if index is None else len(index), what=what)
    missing = {**dict.fromkeys(leaves, reason), **absent}
    return CapturePlan(samples, index, missing=missing, untold=frozenset(leaves))


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A plan with one frontier, and what speaks against it.

    Args:
        plan: The plan.
        layouts: The frontier.
        doubts: Signs that samples are elsewhere.
        mixed: Values that a batch most likely enters, in which samples are mixed.
        lost: How many parameters it cannot capture.
    """

    plan: CapturePlan
    layouts: Mapping[int, tuple[Layout | None, ...]]
    doubts: int
    mixed: int
    lost: int

    @property
    def is_clean(self) -> bool:
        return not (self.doubts or self.mixed or self.lost)

    @property
    def rank(self) -> tuple[bool, bool, int, int]:
        return self.doubts > 0, self.mixed > 0, self.lost, self.doubts + self.mixed


@dataclass(frozen=True, eq=False)
class _Search:
    """Tries one frontier after the other."""

    graph: Graph
    parameters: Mapping[str, Tensor]
    leaves: Mapping[str, int]
    samples: int
    index: Tensor | None
    only: Sequence[bool]
    absent: Mapping[str, str]

    def best(self, dims: Sequence[int], through: bool) -> _Candidate | None:
        """The better of the frontiers nearest to the loss and furthest from it."""
        found: dict[frozenset[int], _Candidate] = {}
        for deep in (True, False):
            frontier = find_frontier(
                self.graph,
                self.only,
                self.samples,
                self.index,
                dims,
                deep=deep,
                through_vectors=through,
            )
            if frontier is None or frozenset(frontier.layouts) in found:
                continue
            planner = Planner(
                self.graph,
                self.parameters,
                self.leaves,
                self.samples,
                self.index,
                self.only,
                frontier,
            )
            plan, doubts, mixed = planner.plan(self.absent)
            lost = len(plan.missing) - len(self.absent)
            found[frozenset(frontier.layouts)] = _Candidate(
                plan, frontier.layouts, doubts, mixed, lost
            )
        return min(found.values(), key=lambda each: each.rank, default=None)


def _below_opaque(graph: Graph, leaves: Mapping[str, int], trust: bool) -> dict[str, str]:
    """Parameters whose gradients come through functions that can be run only once, by the training.

    The backward of a user's own may use up what it saved, change it in place, or draw random
    numbers; one that waits for other processes would wait for ever; a checkpoint's runs a part of
    the forward again.
    """
    hiding = [
        ([node for node, each in enumerate(graph.names) if each == name], reason)
        for name, reason in _HIDING.items()
    ]
    waiting = [node for node, name in enumerate(graph.names) if _COMMUNICATING.search(name)]
    custom = [
        node
        for node, each in enumerate(graph.nodes)
        if isinstance(each, torch.autograd.function.BackwardCFunction)
        and graph.names[node] not in (*_HARMLESS, *_HIDING)
    ]
    found: dict[str, str] = {}
    for first, reason in (
        *hiding,
        (graph.checkpointed, _HELD),
        (_nested(graph), _NESTED),
        (waiting, _WAITING),
        ([] if trust else custom, _CUSTOM),
    ):
        below = _reached_from(graph, first)
        for name, leaf in leaves.items():
            if leaf in below:
                operation = graph.names[first[0]].removesuffix("Backward")
                found.setdefault(name, reason.format(name=operation))
    return found


def _nested(graph: Graph) -> list[int]:
    """Nodes that have made a nested tensor."""
    return [
        place
        for place, shapes in enumerate(graph.shapes)
        if any(
            shape is None and metadata is not None
            for shape, metadata in zip(shapes, graph.nodes[place]._input_metadata, strict=True)
        )
    ]


def _reached_from(graph: Graph, first: Sequence[int]) -> set[int]:
    """These nodes and all below them."""
    seen, stack = set(first), list(first)
    while stack:
        for edge in graph.inputs[stack.pop()]:
            if edge is not None and edge[0] not in seen:
                seen.add(edge[0])
                stack.append(edge[0])
    return seen


def _is_ambiguous(index: Tensor, samples: int) -> bool:
    """Whether rows and samples are as many, but not the same."""
    if len(index) != samples:
        return False
    return not bool((index.cpu() == torch.arange(samples)).all())
