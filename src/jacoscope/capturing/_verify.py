"""``jacoscope.verify``: which rule and layout each parameter goes by, and how far it is off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from jacoscope.capturing._arguments import checked, whole_number
from jacoscope.capturing._backward import Arrival, BackwardCapture
from jacoscope.capturing._calibration import Calibration, Calibrations
from jacoscope.capturing._closure import Check, Direction, closure_errors, tolerance
from jacoscope.capturing._complex import as_real
from jacoscope.capturing._parameters import watched_parameters
from jacoscope.capturing._passes import extra_pass
from jacoscope.capturing._walk import Graph, walk
from jacoscope.jacobian import DEFAULT_MEMORY_BUDGET

__all__ = ["Verdict", "Verification", "verify"]


@dataclass(frozen=True)
class Verdict:
    """What verification says of one parameter.

    Args:
        parameter: Its name.
        rule: The rules that its uses go by.
        layout: How samples are told apart there.
        closure: Relative difference of the rows' sum and the gradient; ``nan`` if not computed.
        verification: Largest relative difference from masked back-propagation; ``nan`` if not
            computed.
        reason: Why its Jacobian cannot be had; empty if it can.
    """

    parameter: str
    rule: str
    layout: str
    closure: float
    verification: float
    reason: str

    @property
    def verdict(self) -> str:
        """``exact``, or ``withheld: …`` with the reason."""
        return f"withheld: {self.reason}" if self.reason else "exact"


@dataclass(frozen=True)
class Verification:
    """What verification says of all watched parameters; printing it gives the table.

    Args:
        rows: One verdict per parameter.
        samples: Number of samples in the batch.
        checked: Samples that were compared with masked back-propagation.
        coupled: Layers that couple the samples.
        coverage: Fraction of the watched scalars whose Jacobian can be had.
    """

    rows: tuple[Verdict, ...]
    samples: int
    checked: tuple[int, ...]
    coupled: tuple[str, ...]
    coverage: float

    @property
    def ok(self) -> bool:
        """Whether every watched parameter's Jacobian can be had."""
        return all(not row.reason for row in self.rows)

    def __str__(self) -> str:
        heads = ("parameter", "rule", "layout", "closure", "verification", "verdict")
        cells = [
            (r.parameter, r.rule, r.layout, _number(r.closure), _number(r.verification), r.verdict)
            for r in self.rows
        ]
        widths = [
            min(max(len(row[column]) for row in [heads, *cells]), _WIDEST)
            for column in range(len(heads) - 1)
        ]
        lines = [_line(row, widths) for row in [heads, *cells]]
        lines.insert(1, "  ".join("─" * width for width in [*widths, len(heads[-1])]))
        exact = sum(not row.reason for row in self.rows)
        shown = ", ".join(map(str, self.checked)) or "none"
        lines.append("")
        lines.append(
            f"{exact} of {len(self.rows)} parameters exact, {self.coverage:.1%} of scalars; "
            f"{self.samples} samples, of which {shown} compared with masked back-propagation"
        )
        if self.coupled:
            lines.append(
                f"samples are coupled by {', '.join(self.coupled)}: below, a row is the part of "
                "the gradient that flows through the sample's own activations"
            )
        return "\n".join(lines)


_WIDEST = 48


def verify(
    loss: Tensor,
    model: nn.Module,
    batch_size: int | None = None,
    *,
    samples: Tensor | Sequence[int] | None = None,
    parameters: str | Iterable[str] | None = None,
    batch_dim: int | None = None,
    custom_functions: Literal["withhold", "run"] = "withhold",
    count: int = 3,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> Verification:
    """Check per-sample Jacobians of ``loss`` against plain autograd, without training.

    Every parameter's rows are compared with masked back-propagation for ``count`` samples, and
    their sum with the gradient. The graph is kept, no ``.grad`` is written.

    Args:
        loss: The loss of a batch, of one element.
        model: The model.
        batch_size: Number of samples.
        samples: Sample of each row of the batch, as in :func:`jacoscope.capture`.
        parameters: A name or names of the parameters to watch, as in :func:`jacoscope.capture`.
        batch_dim: As in :func:`jacoscope.capture`.
        custom_functions: As in :func:`jacoscope.capture`.
        count: How many samples to check, each by one backward.
        memory_budget: Bytes that temporary tensors may take.

    Returns:
        By parameter the rule, the layout, both errors (relative, without a unit) and the verdict;
        printing it gives the table.

    Raises:
        ValueError: If an argument cannot be used.

    Example:
        >>> import torch, jacoscope
        >>> model = torch.nn.Linear(3, 1)
        >>> loss = model(torch.randn(4, 3)).square().mean()
        >>> jacoscope.verify(loss, model, batch_size=4).ok
        True
    """
    if loss.numel() != 1 or loss.grad_fn is None:
        raise ValueError(
            f"loss must be one element that requires a gradient, got shape {tuple(loss.shape)}"
        )
    whole_number("count", count, 1)
    number, index = checked(
        batch_size,
        samples,
        batch_dim=batch_dim,
        custom_functions=custom_functions,
        memory_budget=memory_budget,
    )
    watched = watched_parameters(model, parameters)
    graph = walk(loss, watched)
    calibrations = Calibrations(memory_budget, count, custom_functions == "run")
    calibration = calibrations.of(graph, watched, number, index, batch_dim)
    checks, failures = _captured(graph, loss, watched, calibration, memory_budget)
    return _judged(watched, number, calibration, checks, failures)


def _captured(
    graph: Graph,
    loss: Tensor,
    parameters: Mapping[str, Tensor],
    calibration: Calibration,
    memory_budget: int,
) -> tuple[dict[str, Check], dict[str, str]]:
    """One capture during a backward of the loss that writes no gradient."""
    checks: dict[str, Check] = {}
    failures: dict[str, str] = {}
    directions: dict[str, Direction] = {}

    def consume(name: str, arrival: Arrival) -> None:
        double = parameters[name].dtype in (torch.float64, torch.complex128)
        dtype = torch.float64 if double else torch.float32
        directions[name] = Direction.drawn(parameters[name], dtype, len(checks))
        checks[name] = Check.of(arrival, directions[name])

    def fail(name: str, error: Exception) -> None:
        failures[name] = f"{type(error).__name__}: {error}"

    def confirm(name: str, grad: Tensor) -> None:
        checks[name] = checks[name].against(grad, directions[name])

    plan = calibration.plan
    if not plan.leaves:
        return checks, failures
    capture = BackwardCapture(
        graph, plan, memory_budget, consume, fail, confirm=confirm, rehearsal=True
    )
    with extra_pass(graph.nodes), ExitStack() as stack:
        for place, hook in capture.hooks().items():
            stack.callback(graph.nodes[place].register_prehook(hook).remove)
        grads = torch.autograd.grad(
            loss,
            [parameters[name] for name in plan.leaves],
            torch.ones_like(loss),
            retain_graph=True,
            allow_unused=True,
        )
    for name, grad in zip(plan.leaves, grads, strict=True):
        if grad is not None:
            capture.finish(name, grad)
    return checks, failures


def _judged(
    watched: Mapping[str, Tensor],
    samples: int,
    calibration: Calibration,
    checks: Mapping[str, Check],
    failures: Mapping[str, str],
) -> Verification:
    plan, closure = calibration.plan, closure_errors(checks)
    missing = {**failures, **plan.missing}
    for name, error in closure.items():
        if not error <= tolerance(checks[name].epsilon):
            missing.setdefault(name, f"its rows do not add up to its gradient ({error:.1e})")
    for name in watched:
        if name not in closure:
            missing.setdefault(name, "no gradient reached it")
    rows = tuple(
        Verdict(
            name,
            plan.rules.get(name, ""),
            plan.described.get(name, ""),
            closure.get(name, float("nan")),
            calibration.errors.get(name, float("nan")),
            missing.get(name, ""),
        )
        for name in watched
    )
    sizes = {name: as_real(parameter).numel() for name, parameter in watched.items()}
    total = sum(sizes.values())
    had = sum(size for name, size in sizes.items() if name not in missing)
    coverage = had / total if total else float("nan")
    return Verification(rows, samples, calibration.checked, plan.coupled, coverage)


def _number(value: float) -> str:
    return "–" if value != value else "0" if value == 0 else f"{value:.1e}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    fitted = [
        (cell if len(cell) <= width else cell[: width - 1] + "…").ljust(width)
        for cell, width in zip(cells, widths, strict=False)
    ]
    return "  ".join([*fitted, cells[-1]]).rstrip()
