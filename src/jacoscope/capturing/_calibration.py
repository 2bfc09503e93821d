"""Plans for graphs, made once per structure and checked against masked back-propagation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jacoscope.capturing._backward import Arrival, BackwardCapture
from jacoscope.capturing._closure import Check, Direction, tolerance
from jacoscope.capturing._coding import Flow
from jacoscope.capturing._layout import Layout, LayoutError
from jacoscope.capturing._plan import CapturePlan
from jacoscope.capturing._planning import make_plan
from jacoscope.capturing._streamed import TooLargeError
from jacoscope.capturing._walk import Graph
from jacoscope.jacobian import DEFAULT_MEMORY_BUDGET
from jacoscope.memory import is_out_of_memory

__all__ = ["Calibration", "Calibrations", "bare"]

_MOST_KEPT = 64


@dataclass(frozen=True, eq=False)
class Calibration:
    """A plan, and how it fared against masked back-propagation.

    Args:
        plan: The plan; what failed is among its missing.
        errors: By parameter, the largest relative error over the samples that were checked.
        checked: The samples that were checked.
        fault: What failed unexpectedly, if anything did.
        starved: Parameters at which memory ran out.
    """

    plan: CapturePlan
    errors: Mapping[str, float] = field(default_factory=dict)
    checked: tuple[int, ...] = ()
    fault: Exception | None = None
    starved: frozenset[str] = frozenset()


class Calibrations:
    """Plans by structure of the graph.

    Args:
        memory_budget: Bytes that temporary tensors may take.
        verify: How many samples to check by masked back-propagation when a plan is made.
        trust: Whether the backward of a user's own autograd function may be run several times.
    """

    def __init__(
        self, memory_budget: int = DEFAULT_MEMORY_BUDGET, verify: int = 2, trust: bool = False
    ) -> None:
        self.memory_budget = memory_budget
        self.verify = verify
        self.trust = trust
        self._known: dict[tuple[object, ...], Calibration] = {}
        self.made = 0

    def of(
        self,
        graph: Graph,
        parameters: Mapping[str, Tensor],
        samples: int,
        index: Tensor | None = None,
        dim: int | None = None,
    ) -> Calibration:
        """The calibration for a graph, made now if its structure is new.

        Args:
            graph: The graph of the loss.
            parameters: The parameters wanted, by name.
            samples: Number of samples.
            index: Sample of each row of the batch, where the user gave one, shape (R,).
            dim: Which dimension of the model's outputs is the batch, where the user said so.
        """
        rows = None if index is None else len(index)
        key = (graph.signature, tuple(parameters), samples, rows, dim, self.trust)
        known = self._known.get(key)
        if known is not None and known.plan.is_stable and known.plan.pins.hold(graph):
            if index is None:
                return known
            # Layouts refer to the user's index, which is another one in every batch.
            return replace(known, plan=_with_index(known.plan, index))
        # An unstable layout is found anew each time; its rules have been checked before.
        count = self.verify if known is None else 0
        try:
            with _quiet(), _own_random_numbers(parameters):
                plan = make_plan(graph, parameters, samples, index, dim=dim, trust=self.trust)
                made = _Verification(graph, parameters, plan, self.memory_budget).run(count)
        except Exception as error:
            expected = "CheckpointError" in type(error).__name__
            made = Calibration(
                _impossible(graph, parameters, samples, index, error),
                fault=None if expected else bare(error),
                starved=frozenset(parameters if is_out_of_memory(error) else ()),
            )
        self.made += 1
        if made.starved:
            return made  # there may be room the next time
        if any(not math.isfinite(error) for error in made.errors.values()):
            return made  # what a broken batch says does not hold for the next
        if len(self._known) >= _MOST_KEPT:
            self._known.pop(next(iter(self._known)))
        self._known[key] = made
        return made

    def forget(self, signature: int) -> None:
        """Make the plan for graphs of this signature anew next time."""
        for key in [key for key in self._known if key[0] == signature]:
            del self._known[key]


class _Verification:
    """Rehearses a capture and compares single samples with masked back-propagation.

    Both run on random gradients that start at the frontier, where a sample's rows are known: what
    is left of them when only these rows are let through is that sample's exact contribution,
    whatever happens inside.
    """

    def __init__(
        self,
        graph: Graph,
        parameters: Mapping[str, Tensor],
        plan: CapturePlan,
        memory_budget: int,
    ) -> None:
        self._graph = graph
        self._parameters = {name: parameters[name] for name in plan.leaves}
        self._plan = plan
        self._memory_budget = memory_budget
        self._checks: dict[str, Check] = {}
        self._failures: dict[str, str] = {}
        self._fault: Exception | None = None
        self._starved: set[str] = set()
        self._flow = Flow(graph, list(self._parameters.values()), plan.frontier, plan.cuts)
        self._directions = {
            name: Direction.drawn(parameter, _precise(parameter.dtype), seed)
            for seed, (name, parameter) in enumerate(self._parameters.items())
        }

    def run(self, count: int) -> Calibration:
        """Check ``count`` samples; parameters that fail are moved to the missing."""
        plan = self._plan
        if not plan.leaves or plan.samples == 1:
            return Calibration(plan)
        self._rehearse()
        samples = _spread(plan.samples, count)
        worst = {name: check.error() for name, check in self._checks.items()}
        for sample in samples:
            expected = self._masked(sample)
            for name, check in self._checks.items():
                error = float(check.error_of(sample, expected[name]))
                worst[name] = max(worst[name], error) if error == error else error
        for name, error in worst.items():
            if not math.isfinite(error):
                self._failures.setdefault(name, "a value in the batch is not finite")
            elif not error <= tolerance(self._checks[name].epsilon):
                self._failures.setdefault(
                    name,
                    f"its rows differ from masked back-propagation by {error:.1%} of the largest "
                    f"({plan.rules.get(name) or 'no use of it that tells samples apart'})",
                )
        kept = {name: leaf for name, leaf in plan.leaves.items() if name not in self._failures}
        plan = replace(plan, leaves=kept, missing={**plan.missing, **self._failures})
        return Calibration(plan, worst, samples, self._fault, frozenset(self._starved))

    def _rehearse(self) -> None:
        """The capture itself."""

        def consume(name: str, arrival: Arrival) -> None:
            self._checks[name] = Check.of(arrival, self._directions[name])

        def fail(name: str, error: Exception) -> None:
            self._failures[name] = f"{type(error).__name__}: {error}"
            if is_out_of_memory(error):
                self._starved.add(name)
            if not isinstance(error, LayoutError | TooLargeError):
                self._fault = self._fault or bare(error)

        def confirm(name: str, grad: Tensor) -> None:
            self._checks[name] = self._checks[name].against(grad, self._directions[name])

        capture = BackwardCapture(
            self._graph,
            self._plan,
            self._memory_budget,
            consume,
            fail,
            confirm=confirm,
            rehearsal=True,
        )
        with ExitStack() as stack:
            for name, parameter in self._parameters.items():
                handle = parameter.register_hook(_finishing(capture, name))  # type: ignore[no-untyped-call]
                stack.callback(handle.remove)
            self._flow.run(None, capture.hooks())

    def _masked(self, sample: int) -> dict[str, Tensor]:
        """The component of each parameter's gradient when only one sample's rows are let in."""
        grads = self._flow.run(lambda owners: (owners == sample).double())
        return {
            name: direction.along(grad) if grad is not None else direction.left.new_zeros(())
            for (name, direction), grad in zip(self._directions.items(), grads, strict=True)
        }


def bare(error: Exception) -> Exception:
    """The exception without the frames that it passed, which hold the graph."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _impossible(
    graph: Graph,
    parameters: Mapping[str, Tensor],
    samples: int,
    index: Tensor | None,
    error: Exception,
) -> CapturePlan:
    """The plan for a graph that cannot be gone through an extra time."""
    if "CheckpointError" in type(error).__name__:
        reason = "activation checkpointing hands out what it saved only once"
    else:
        lines = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {lines[0] if lines else ''}"
        reason = f"its graph could not be gone through to find the samples ({said})"
    return CapturePlan(samples, index, missing=dict.fromkeys(parameters, reason))


def _finishing(capture: BackwardCapture, name: str) -> Callable[[Tensor], None]:
    return lambda grad: capture.finish(name, grad)


def _spread(samples: int, count: int) -> tuple[int, ...]:
    """``count`` samples, the first and the last among them."""
    count = min(count, samples)
    places = (round(place * (samples - 1) / max(count - 1, 1)) for place in range(count))
    return tuple(sorted(set(places)))


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def _with_index(plan: CapturePlan, index: Tensor) -> CapturePlan:
    def renewed(layouts: tuple[Layout | None, ...]) -> tuple[Layout | None, ...]:
        return tuple(None if each is None else each.with_index(index) for each in layouts)

    uses = {
        node: tuple(
            replace(use, layouts=None if use.layouts is None else renewed(use.layouts))
            for use in each
        )
        for node, each in plan.uses.items()
    }
    return replace(plan, index=index, uses=uses)


@contextmanager
def _own_random_numbers(parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Whatever a backward draws, the training's random numbers stay as they are."""
    devices = {p.device.index for p in parameters.values() if p.device.type == "cuda"}
    with torch.random.fork_rng(sorted(index or 0 for index in devices)):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of operations that are batched slowly are ours, not the user's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*performance drop.*batching rule.*")
        # Said of a user's hook; the training's own backward says it as well.
        warnings.filterwarnings("ignore", message="Full backward hook is firing.*")
        yield
