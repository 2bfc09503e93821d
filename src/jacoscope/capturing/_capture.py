"""One capture: attached to the graph of a loss, measured during its backward, checked after it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from jacoscope.capturing._backward import Arrival, BackwardCapture
from jacoscope.capturing._calibration import Calibration, Calibrations
from jacoscope.capturing._closure import Check, Direction, closure_errors, tolerance
from jacoscope.capturing._coding import Grads
from jacoscope.capturing._layout import Layout, LayoutError
from jacoscope.capturing._streamed import TooLargeError
from jacoscope.capturing._walk import Graph, walk
from jacoscope.jacobian import Jacobian

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
        self._parameters = dict(parameters)
        self._calibrations = calibrations
        self._measure = measure
        self._seed = seed
        self._rows: dict[str, CapturedRows[Value]] = {}
        self._handles: list[RemovableHandle] = []
        self._arrived: set[str] = set()
        self._before: dict[str, Tensor] | None = None
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
        self.missing = dict(self.calibration.plan.missing)
        self.fault = self.calibration.fault
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
            self._before = {name: self._along_grad(name) for name in self.calibration.plan.leaves}
        nodes = self._graph.nodes
        for place, hook in self._capture.hooks().items():
            self._handles.append(nodes[place].register_prehook(hook))
        for name, place in self.calibration.plan.leaves.items():
            self._handles.append(nodes[place].register_prehook(self._at_leaf(name)))

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
    def sizes(self) -> dict[str, int]:
        """Number of scalars of each parameter."""
        return {name: parameter.numel() for name, parameter in self._parameters.items()}

    @property
    def rows(self) -> Mapping[str, CapturedRows[Value]]:
        """What was measured, by parameter, not yet judged."""
        return self._rows

    def results(self) -> tuple[dict[str, Value], dict[str, float]]:
        """What was measured of the parameters that stood the checks, and all closure errors.

        It waits for the device.
        """
        checks = {name: rows.check for name, rows in self._rows.items()}
        if self._before is not None:
            for name, check in checks.items():
                if self._parameters[name].grad is not None:
                    added = self._along_grad(name) - self._before[name]
                    checks[name] = check.also(added, self._before[name])
        errors = closure_errors(checks)
        self.judge(errors)
        return {n: rows.value for n, rows in self._rows.items() if n not in self.missing}, errors

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

    def _at_leaf(self, name: str) -> Callable[[Grads], None]:
        def hook(grads: Grads) -> None:
            if self._capture is not None and grads[0] is not None:
                if not self._capture.has_begun:
                    return
                if name in self._arrived:
                    self.missing.setdefault(name, _TWICE)
                else:
                    self._arrived.add(name)
                    self._capture.finish(name, grads[0])

        return hook

    def _consume(self, name: str, arrival: Arrival) -> None:
        check = Check.of(arrival, self._direction(name))
        self._rows[name] = CapturedRows(self._measure(name, arrival.jacobian, arrival.grad), check)

    def _confirm(self, name: str, grad: Tensor) -> None:
        rows = self._rows[name]
        self._rows[name] = replace(rows, check=rows.check.against(grad, self._direction(name)))

    def _along_grad(self, name: str) -> Tensor:
        direction, grad = self._direction(name), self._parameters[name].grad
        return direction.left.new_zeros(()) if grad is None else direction.along(grad)

    def _direction(self, name: str) -> Direction:
        seed = zlib.crc32(f"{self._seed} {name}".encode())
        return Direction.drawn(self._parameters[name], self._precise(name), seed)

    def _precise(self, name: str) -> torch.dtype:
        double = self._parameters[name].dtype is torch.float64
        return torch.float64 if double else torch.float32

    def _fail(self, name: str, error: Exception) -> None:
        expected = isinstance(error, TooLargeError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        self.missing.setdefault(name, reason)
        if not isinstance(error, LayoutError | TooLargeError):
            self.fault = self.fault or error.with_traceback(None)


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
