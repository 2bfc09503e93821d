"""One capture: attached to the graph of a loss, measured during its backward, checked after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, UntypedStorage
from torch.utils.hooks import RemovableHandle

from jacoscope.capturing._backward import Arrival, BackwardCapture, StarvedError
from jacoscope.capturing._calibration import Calibration, Calibrations, bare
from jacoscope.capturing._closure import (
    Check,
    Closure,
    Directions,
    closure_errors,
    closures,
    tolerance,
)
from jacoscope.capturing._coding import Grads
from jacoscope.capturing._complex import as_real
from jacoscope.capturing._layout import Layout, LayoutError
from jacoscope.capturing._streamed import TooLargeError
from jacoscope.capturing._walk import Graph, walk
from jacoscope.jacobian import Jacobian
from jacoscope.memory import is_out_of_memory

__all__ = ["CapturedRows", "JacobianCapture"]

Value = TypeVar("Value")

_NO_GRAPH = "the loss does not require a gradient"
_NOT_RUN = "no backward of this loss reached it"
_TWICE = "the backward ran more than once, so that contributions cannot be told apart"


@dataclass(frozen=True, eq=False)
class CapturedRows(Generic[Value]):
    """What was measured of one parameter.

    Args:
        value: What ``measure`` made of its Jacobian.
        check: For its closure.
    """

    value: Value
    check: Check


class JacobianCapture(Generic[Value]):
    """Captures the Jacobians of one loss; attach it, run the backward, detach it, ask for results.

    Args:
        loss: A loss of one element.
        parameters: The parameters wanted, by name; these require a gradient.
        samples: Number of samples.
        index: Sample of each row of the batch, where the user gave one, shape (R,).
        calibrations: Plans of earlier captures.
        measure: Called inside the backward with a parameter's name, Jacobian and gradient; what it
            returns is kept.
        memory_budget: Bytes that temporary tensors may take.
        seed: Tells apart the random directions of captures.
        keeps_jacobians: Whether ``measure`` keeps Jacobians beyond the call, so that they cannot
            be ones that live on the graph.
        dim: Which dimension of the model's outputs is the batch, where the user said so.

    Attributes:
        missing: By parameter, why it could not be had.
        fault: What failed unexpectedly, if anything did.
        starved: Parameters that are missing since memory ran out.
        culprits: Those of them at which it did.
        seconds: Time on the host that its hooks took within the backward.
    """

    def __init__(
        self,
        loss: Tensor,
        parameters: Mapping[str, Tensor],
        samples: int,
        index: Tensor | None,
        calibrations: Calibrations,
        measure: Callable[[str, Jacobian, Tensor], Value],
        memory_budget: int,
        seed: int = 0,
        *,
        keeps_jacobians: bool = False,
        dim: int | None = None,
    ) -> None:
        self.missing: dict[str, str] = {}
        self.fault: Exception | None = None
        self.starved: set[str] = set()
        self.culprits: set[str] = set()
        self.seconds = 0.0
        self._parameters = dict(parameters)
        self._calibrations = calibrations
        self._measure = measure
        self._directions = Directions(self._parameters, seed)
        self._rows: dict[str, CapturedRows[Value]] = {}
        self._handles: list[RemovableHandle] = []
        self._arrived: set[str] = set()
        # Of parameters whose .grad is compared: its component before, None where there was none,
        # and the gradient that arrived there, which then becomes .grad.
        self._before: dict[str, Tensor | None] | None = None
        self._taken: dict[str, tuple[UntypedStorage, int, int]] = {}
        self._graph: Graph | None = None
        self._signature: int | None = None
        self._capture: BackwardCapture | None = None
        self.calibration: Calibration | None = None
        if loss.grad_fn is None:
            self.missing = dict.fromkeys(parameters, _NO_GRAPH)
            return
        self._graph = walk(loss, parameters)
        self._signature = self._graph.signature
        self.calibration = calibrations.of(self._graph, parameters, samples, index, dim)
        self.missing = {
            name: _with_hooks(parameters[name], reason)
            for name, reason in self.calibration.plan.missing.items()
        }
        self.fault = self.calibration.fault
        self.culprits |= self.calibration.starved
        self.starved |= self.calibration.starved
        self._capture = BackwardCapture(
            self._graph,
            self.calibration.plan,
            memory_budget,
            self._consume,
            self._fail,
            confirm=None if keeps_jacobians else self._confirm,
        )

    def attach(self, *, compare_grad: bool = False) -> None:
        """Put hooks on the graph; they stay until :meth:`detach`.

        Args:
            compare_grad: Whether to compare rows with what is added to ``.grad`` as well, rather
                than with the gradient that arrives there alone. Not where gradients are reduced
                over processes on their way.
        """
        if self._graph is None or self._capture is None or self.calibration is None:
            return
        try:
            self._attach(compare_grad)
        except BaseException:
            self.detach()
            raise

    def _attach(self, compare_grad: bool) -> None:
        assert self._graph is not None
        assert self._capture is not None
        assert self.calibration is not None
        if compare_grad:
            self._before = {name: self._along_other(name) for name in self.calibration.plan.leaves}
        nodes = self._graph.nodes
        for place, hook in self._capture.hooks().items():
            self._handles.append(nodes[place].register_prehook(self._timed(hook)))
        for name, place in self.calibration.plan.leaves.items():
            self._handles.append(nodes[place].register_prehook(self._timed(self._at_leaf(name))))

    def detach(self) -> None:
        """Remove all hooks and let go of the graph; safe at any time."""
        while self._handles:
            self._handles.pop().remove()
        self._capture = None
        self._graph = None

    @property
    def frontier_layout(self) -> Layout | None:
        """How samples are told apart where the batch begins below the loss."""
        frontier = self.calibration.plan.frontier if self.calibration is not None else {}
        found = (layout for layouts in frontier.values() for layout in layouts if layout)
        return next(found, None)

    @property
    def untold(self) -> frozenset[str]:
        """Parameters that are missing since nothing has as many rows as there are samples."""
        return self.calibration.plan.untold if self.calibration is not None else frozenset()

    @property
    def sizes(self) -> dict[str, int]:
        """Number of scalars of each parameter; a complex one has two."""
        return {name: as_real(each).numel() for name, each in self._parameters.items()}

    @property
    def rows(self) -> Mapping[str, CapturedRows[Value]]:
        """What was measured, by parameter, not yet judged."""
        return self._rows

    def results(self) -> tuple[dict[str, Value], dict[str, float]]:
        """What was measured of the parameters that stood the checks, and all closure errors.

        It waits for the device.
        """
        checks = {name: rows.check for name, rows in self._rows.items()}
        for name, before in (self._before or {}).items():
            after = self._along_other(name) if name in checks else None
            if after is not None:
                before = torch.zeros_like(after) if before is None else before
                checks[name] = checks[name].also(after - before, before)
        self._taken.clear()
        errors = closure_errors(checks)
        self.judge(errors)
        return {n: rows.value for n, rows in self._rows.items() if n not in self.missing}, errors

    def closures(self) -> list[Closure]:
        """How rows add up, without waiting for the device."""
        return closures({name: rows.check for name, rows in self._rows.items()})

    def judge(self, errors: Mapping[str, float]) -> None:
        """Move parameters whose rows do not add up to the missing.

        Args:
            errors: Closure errors by parameter, as the checks tell them.
        """
        failed = {
            name: error
            for name, error in errors.items()
            if not error <= tolerance(self._rows[name].check.epsilon)
        }
        for name, error in failed.items():
            self.missing.setdefault(name, _unclosed(error, self._is_used(name)))
        for name in self._parameters:
            if name not in self._rows:
                self.missing.setdefault(name, _NOT_RUN)
        if failed and self._signature is not None:
            # Rows that no gradient had reached when the layouts were found may have come to life.
            self._calibrations.forget(self._signature)

    def _is_used(self, name: str) -> bool:
        return self.calibration is None or name in self.calibration.plan.rules

    def _timed(self, hook: Callable[[Grads], Grads | None]) -> Callable[[Grads], Grads | None]:
        def timed(grads: Grads) -> Grads | None:
            begun = time.perf_counter()
            try:
                return hook(grads)
            finally:
                self.seconds += time.perf_counter() - begun

        return timed

    def _at_leaf(self, name: str) -> Callable[[Grads], None]:
        def hook(grads: Grads) -> None:
            if self._capture is not None and grads[0] is not None:
                if not self._capture.has_begun:
                    return
                if name in self._arrived:
                    self.missing.setdefault(name, _TWICE)
                else:
                    self._arrived.add(name)
                    self._take_note(name, grads[0])
                    self._capture.finish(name, grads[0])

        return hook

    def _consume(self, name: str, arrival: Arrival) -> None:
        direction = self._directions[name]
        arrival.jacobian.expect(direction.left, direction.right)
        value = self._measure(name, arrival.jacobian, arrival.grad)
        check = Check.of(arrival, direction, lazily=not arrival.is_early)
        self._rows[name] = CapturedRows(value, check)

    def _confirm(self, name: str, grad: Tensor) -> None:
        rows = self._rows[name]
        self._rows[name] = replace(rows, check=rows.check.against(grad, self._directions[name]))

    def along_grad(self, name: str) -> Tensor:
        """A parameter's ``.grad`` along the direction that its rows are checked by."""
        direction, grad = self._directions[name], self._parameters[name].grad
        return direction.left.new_zeros(()) if grad is None else direction.along(grad)

    def _along_other(self, name: str) -> Tensor | None:
        """The same; ``None`` if there is no ``.grad``, or it is the very gradient that arrived."""
        grad = self._parameters[name].grad
        if grad is None:
            return None
        if not grad.is_sparse and name in self._taken:
            _, place, version = self._taken[name]
            if (grad.data_ptr(), grad._version) == (place, version):
                return None
        return self.along_grad(name)

    def _take_note(self, name: str, grad: Tensor) -> None:
        if self._before is not None and self._before[name] is None and not grad.is_sparse:
            # Held, so that no other gradient can come to lie in its place.
            self._taken[name] = grad.untyped_storage(), grad.data_ptr(), grad._version

    def _fail(self, name: str, error: Exception) -> None:
        expected = isinstance(error, TooLargeError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        self.missing.setdefault(name, reason)
        if not isinstance(error, LayoutError | TooLargeError):
            self.fault = self.fault or bare(error)
        if is_out_of_memory(error):
            self.starved.add(name)
            if not isinstance(error, StarvedError):
                self.culprits.add(name)


def _with_hooks(parameter: Tensor, reason: str) -> str:
    """Why a parameter is withheld; a hook of it is the likelier cause."""
    is_hooked = bool(parameter._backward_hooks)
    return f"a hook of it may change its gradient: {reason}" if is_hooked else reason


def _unclosed(error: float, is_used: bool) -> str:
    if error != error:
        return "its gradient is not finite"
    if not is_used:
        return (
            "its gradient was zero when the layouts were found and no longer is; they are found "
            "anew at the next capture"
        )
    return (
        f"its rows add up to something else than its gradient (relative error {error:.1e}): it is "
        "used behind the graph's back, or a hook changes its gradient"
    )
