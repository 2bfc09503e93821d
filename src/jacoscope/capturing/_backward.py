"""Capturing while a backward runs: hooks on the nodes where parameters are used."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jacoscope.capturing._call import call_node
from jacoscope.capturing._coding import Grads
from jacoscope.capturing._complex import as_real
from jacoscope.capturing._layout import LayoutError
from jacoscope.capturing._passes import is_extra_pass, unrecorded
from jacoscope.capturing._plan import Base, CapturePlan, PlannedUse
from jacoscope.capturing._pull_back import PullBack
from jacoscope.capturing._straight import Straight, Taken
from jacoscope.capturing._streamed import StreamedJacobian, TooLargeError
from jacoscope.capturing._terms import DenseTerm, Scale, Term, combine, known_scale
from jacoscope.capturing._views import View, apply_views
from jacoscope.capturing._walk import Edge, Graph, Shape, operation_of
from jacoscope.capturing.rules import RULES, Use, generic_rule
from jacoscope.jacobian import (
    Jacobian,
    OuterJacobian,
    PlacedJacobian,
    SumJacobian,
)
from jacoscope.memory import is_out_of_memory

__all__ = ["Arrival", "BackwardCapture", "StarvedError"]


class StarvedError(MemoryError):
    """A parameter was given up to make room, since memory had run out at another one."""


@dataclass(frozen=True, eq=False)
class Arrival:
    """A parameter's Jacobian, complete.

    Args:
        jacobian: The Jacobian.
        grad: The gradient that has arrived at the parameter.
        epsilon: Rounding unit of the coarsest layer that uses the parameter.
        scales: Tell what rounding errors of earlier sums are relative to, without dimensions.
        is_early: Whether the gradient is yet to arrive, and this one is the rows' sum.
    """

    jacobian: Jacobian
    grad: Tensor
    epsilon: float
    scales: Sequence[Scale] = ()
    is_early: bool = False


class BackwardCapture:
    """Builds the Jacobian of each parameter during one backward through a graph.

    A parameter's Jacobian is complete when the gradient of its leaf is; then it is handed on and
    let go of. Nothing that fails here reaches the backward. Where memory runs out, all that is not
    complete is given up, to leave room for the backward itself.

    Args:
        graph: The graph.
        plan: How to capture.
        memory_budget: Bytes that temporary tensors may take.
        consume: Called with a parameter's name and Jacobian, inside the backward.
        fail: Called with a parameter's name and the exception, where it cannot be had.
        confirm: Called with a parameter's name and gradient, where its Jacobian had to be measured
            before the gradient arrived; without it such Jacobians cannot be had.
        rehearsal: Whether there is time to find out which nodes can be run in batches.
    """

    def __init__(
        self,
        graph: Graph,
        plan: CapturePlan,
        memory_budget: int,
        consume: Callable[[str, Arrival], None],
        fail: Callable[[str, Exception], None],
        *,
        confirm: Callable[[str, Tensor], None] | None = None,
        rehearsal: bool = False,
    ) -> None:
        self._graph = graph
        self._plan = plan
        self._memory_budget = memory_budget
        self._consume = consume
        self._fail = fail
        self._terms: dict[Edge, list[tuple[Term, tuple[View, ...]]]] = {}
        self._taken: dict[str, Taken] = {}
        # What verification has dropped is not computed again.
        self._failed = set(plan.missing)
        self._done: set[str] = set()
        self._confirm = confirm
        self._early: set[str] = set()
        # A rehearsal starts below the loss.
        self._has_begun = rehearsal
        self._rehearsal = rehearsal
        self._scales: dict[Edge, list[Scale]] = {}
        self._epsilons: dict[str, float] = {}
        self._pulled = PullBack(graph, memory_budget, plan.one_by_one, rehearsal=rehearsal)
        self._roots: dict[int, list[Base]] = {}
        for base in plan.bases.values():
            if base.sweep:
                self._roots.setdefault(base.edge[0], []).append(base)

    @property
    def has_begun(self) -> bool:
        """Whether the loss itself has gone backward."""
        return self._has_begun

    def hooks(self) -> dict[int, Callable[[Grads], None]]:
        """By node, what to call before it runs; leaves are not among them."""
        straight = self._plan.straight
        return {
            node: self._straight_hook(straight[node])
            if node in straight and node not in self._roots and node
            else self._hook(node)
            for node in {0, *self._plan.uses, *self._roots}
        }

    @unrecorded
    def finish(self, name: str, grad: Tensor) -> None:
        """Hand on a parameter whose gradient is complete."""
        if name in self._failed or not self._has_begun:
            return
        try:
            if name in self._early and self._confirm is not None:
                self._confirm(name, as_real(grad.detach()))
            else:
                self._consume(name, self._arrival(name, as_real(grad).detach()))
            self._done.add(name)
        except Exception as error:
            self._lose([name], error)

    def _arrival(self, name: str, grad: Tensor) -> Arrival:
        epsilon = torch.finfo(grad.dtype).eps
        taken = self._taken.pop(name, None)
        if taken is not None:
            jacobian = taken.jacobian(name, self._memory_budget)
            return Arrival(jacobian, grad, epsilon, taken.scales(name))
        leaf = (self._plan.leaves[name], 0)
        jacobian = self._jacobian(self._terms.pop(leaf, []), tuple(grad.shape), grad)
        epsilon = max(self._epsilons.get(name, 0.0), epsilon)
        return Arrival(jacobian, grad, epsilon, self._scales.pop(leaf, ()))

    def _hook(self, node: int) -> Callable[[Grads], None]:
        place = self._graph.nodes[node]

        def hook(grads: Grads) -> None:
            if not self._rehearsal and is_extra_pass(place):
                return
            if not node:
                self._begin()
            if self._has_begun:  # or else it is another loss's, through nodes that they share
                self._take_all(node, grads)

        return hook

    def _straight_hook(self, layer: Straight) -> Callable[[Grads], None]:
        node = self._graph.nodes[layer.node]

        def hook(grads: Grads) -> None:
            grad = grads[0]
            if not self._has_begun or grad is None:
                return
            if not self._rehearsal and is_extra_pass(node):
                return
            try:
                taken = layer.taken(node, grad)
            except Exception as error:
                self._lose(layer.names, error)
                return
            if taken is None:
                self._take_all(layer.node, grads)
                return
            for name in layer.names:
                self._taken[name] = taken

        return hook

    @unrecorded
    def _take_all(self, node: int, grads: Grads) -> None:
        for base in self._roots.get(node, ()):
            self._pull_back(base)
        shared: dict[Any, Any] = {}
        for use in self._plan.uses.get(node, ()):
            self._take(use, grads, shared)

    def _begin(self) -> None:
        """The loss itself goes backward; what other passes may have left does not count."""
        self._has_begun = True
        self._forget()

    def _forget(self) -> None:
        self._taken.clear()
        self._terms.clear()
        self._scales.clear()

    def _take(self, use: PlannedUse, grads: Grads, shared: dict[Any, Any]) -> None:
        """One use's contribution, noted at its base."""
        base = self._plan.bases[use.base]
        if self._failed.issuperset(base.parameters):
            return
        try:
            if all(grad is None for grad in grads):
                return
            self._note_precision(base.parameters, grads)
            term: Term | None
            if use.layouts is None:
                term = self._shared(use, grads)
            else:
                term = self._told(use, grads, shared)
            if isinstance(term, DenseTerm) and term.magnitude is not None:
                self._note_scale(use.base, term.magnitude)
            if term is not None:
                term, views = _seen_from_base(term, use.views, base.shape)
                self._terms.setdefault(use.base, []).append((term, views))
        except Exception as error:
            self._lose(base.parameters, error)

    def _told(self, planned: PlannedUse, grads: Grads, shared: dict[Any, Any]) -> Term | None:
        assert planned.layouts is not None
        node = self._graph.nodes[planned.node]
        use = Use(
            node=node,
            slot=planned.slot,
            shape=planned.shape,
            grads=tuple(None if grad is None else grad.detach() for grad in grads),
            output_shapes=tuple(None if grad is None else tuple(grad.shape) for grad in grads),
            layouts=(*planned.layouts, *[None] * (len(grads) - len(planned.layouts))),
            input_shapes=planned.input_shapes,
            samples=self._plan.samples,
            shared=shared,
        )
        rule = RULES.get((operation_of(node.name()), planned.slot))
        if self._is_complex(planned):  # the closed forms are those of real numbers
            term = self._generic(use, planned)
            return None if term is None else DenseTerm(as_real(term.rows))
        if rule is not None:
            with suppress(LayoutError):
                return rule(use)
        return self._generic(use, planned)

    def _is_complex(self, planned: PlannedUse) -> bool:
        edge = self._graph.inputs[planned.node][planned.slot]
        return edge is not None and self._graph.uses_complex(planned.node, edge)

    def _generic(self, use: Use, planned: PlannedUse) -> DenseTerm | None:
        first = next(grad for grad in use.grads if grad is not None)
        dtype = _computed_in(first.dtype)
        needed = use.samples * _numel(use.shape) * dtype.itemsize
        if needed > self._memory_budget:
            base = self._plan.bases[planned.base]
            alone = not base.sweep and self._is_sole(base.parameters[0])
            if planned.views or self._is_complex(planned) or not alone:
                raise TooLargeError(needed, self._memory_budget)
            self._stream(
                base.parameters[0],
                use.shape,
                lambda index: generic_rule(use, batched=False, only=index).rows,
                dtype,
                first.device,
            )
            return None
        key = (planned.node, -1 - use.slot)  # apart from values, whose output is not negative
        if self._rehearsal and key not in self._plan.one_by_one:
            whole = call_node(use.node, use.grads, use.input_shapes)[use.slot]
            with suppress(UserWarning), warnings.catch_warnings():
                # Batched by a slow fallback that warns each time, or by a derivative that is wrong.
                warnings.filterwarnings("error", message=".*performance drop.*")
                term = generic_rule(use)
                if term.agrees_with(whole):
                    return term
            self._plan.one_by_one.add(key)
        return generic_rule(use, batched=key not in self._plan.one_by_one)

    def _shared(self, use: PlannedUse, grads: Grads) -> Term | None:
        """A term of the loss without samples: each sample has its part of it."""
        node = self._graph.nodes[use.node]
        grad = call_node(node, grads, use.input_shapes)[use.slot]
        if grad is None:
            return None
        samples = self._plan.samples
        row = as_real(grad / samples)
        return DenseTerm(row.unsqueeze(0).expand(samples, *row.shape))

    def _pull_back(self, base: Base) -> None:
        """From rows at a value made of parameters to rows of these parameters."""
        terms = self._terms.pop(base.edge, None)
        if terms is None or self._failed.issuperset(base.parameters):
            return
        try:
            jacobian = self._jacobian(terms, base.shape, None)
            kept = []
            for name in base.parameters:
                if name in self._failed:
                    continue
                shape = self._pulled.shape(name)
                needed = jacobian.samples * _numel(shape) * jacobian.dtype.itemsize
                if needed <= self._memory_budget:
                    kept.append(name)
                elif self._confirm is not None and self._is_sole(name):
                    make = functools.partial(self._pulled_of, base, jacobian, name)
                    self._stream(name, shape, make, jacobian.dtype, jacobian.device)
                else:
                    self._lose([name], TooLargeError(needed, self._memory_budget))
            every = torch.arange(jacobian.samples, device=jacobian.device)
            rows = self._pulled.rows(base, jacobian, kept, every) if kept else []
            for name, term in zip(kept, rows, strict=True):
                edge = (self._plan.leaves[name], 0)
                self._terms.setdefault(edge, []).append((DenseTerm(term), ()))
        except Exception as error:
            self._lose(base.parameters, error)

    def _pulled_of(self, base: Base, jacobian: Jacobian, name: str, index: Tensor) -> Tensor:
        return self._pulled.rows(base, jacobian, [name], index)[0]

    def _is_sole(self, name: str) -> bool:
        """Whether a parameter is used in one place alone."""
        bases = [base for base in self._plan.bases.values() if name in base.parameters]
        if len(bases) != 1:
            return False
        uses = [use for each in self._plan.uses.values() for use in each]
        return bool(bases[0].sweep) or sum(use.base == bases[0].edge for use in uses) == 1

    def _stream(
        self,
        name: str,
        shape: Shape,
        make: Callable[[Tensor], Tensor],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Measure rows that cannot be kept now, while the graph can make them."""
        samples, budget = self._plan.samples, self._memory_budget
        if self._confirm is None:
            raise TooLargeError(samples * _numel(shape) * dtype.itemsize, budget)
        jacobian = StreamedJacobian(
            samples, shape, make, dtype=dtype, device=device, memory_budget=budget
        )
        epsilon = max(self._epsilons.get(name, 0.0), torch.finfo(dtype).eps)
        self._early.add(name)
        self._consume(name, Arrival(jacobian, jacobian.sum(), epsilon, is_early=True))

    def _jacobian(
        self,
        terms: Sequence[tuple[Term, tuple[View, ...]]],
        shape: Shape,
        grad: Tensor | None,
    ) -> Jacobian:
        """The operator of terms at one base."""
        samples, budget = self._plan.samples, self._memory_budget
        if samples == 1 and grad is not None and not self._plan.uses:
            dense = grad.to_dense() if grad.is_sparse else grad
            return combine([DenseTerm(dense.detach().unsqueeze(0))], 1, budget)[0]
        groups: dict[tuple[View, ...], list[Term]] = {}
        for term, views in terms:
            groups.setdefault(views, []).append(term)
        parts: list[Jacobian] = []
        for views, group in groups.items():
            for part in combine(group, samples, budget):
                parts.append(_placed(part, views, shape) if views else part)
        if not parts:
            assert grad is not None
            nothing = grad.new_zeros(samples, 1, 0, _numel(shape))
            return OuterJacobian(nothing, nothing[..., :1], shape, memory_budget=budget)
        return parts[0] if len(parts) == 1 else SumJacobian(parts)

    def _note_precision(self, names: Sequence[str], grads: Grads) -> None:
        coarsest = max(torch.finfo(grad.dtype).eps for grad in grads if grad is not None)
        for name in names:
            self._epsilons[name] = max(self._epsilons.get(name, 0.0), coarsest)

    def _note_scale(self, base: Edge, scale: Scale) -> None:
        scales = self._scales.setdefault(base, [])
        if scales:  # many uses would hold many gradients
            scales[-1] = known_scale(scales[-1]())
        scales.append(scale)

    def _lose(self, names: Sequence[str], error: Exception) -> None:
        for name in names:
            if name not in self._failed:
                self._failed.add(name)
                self._fail(name, error)
        if is_out_of_memory(error) and not isinstance(error, StarvedError):
            self._forget()
            others = [name for name in self._plan.leaves if name not in self._done]
            self._lose(others, StarvedError(f"given up with {names[0]}"))


def _seen_from_base(
    term: Term, views: tuple[View, ...], shape: Shape
) -> tuple[Term, tuple[View, ...]]:
    """A term as one of the base itself, where that is a matter of turning it."""
    if len(views) == 1 and views[0].operation == "permute" and views[0].arguments == (1, 0):
        turned = term.turned(shape)
        if turned is not None:
            return turned, ()
    return term, views


def _placed(part: Jacobian, views: tuple[View, ...], shape: Shape) -> Jacobian:
    return PlacedJacobian(part, lambda tensor: apply_views(views, tensor), shape)


def _numel(shape: Shape | None) -> int:
    return torch.Size(shape or ()).numel()


def _computed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
