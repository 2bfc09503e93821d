"""One probe of the loss: all else equal, and the run's allocation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from jacoscope.config import Probes
from jacoscope.groups import ALL
from jacoscope.output_probe import Findings
from jacoscope.probe_plan import ProbePlan
from jacoscope.probe_record import AllocationRecord
from jacoscope.probing import (
    REST,
    AllElseEqual,
    Loss,
    ProbeError,
    allocate,
    compare,
    devices_of,
    first_samples,
)

__all__ = ["LossFunction", "RunningAllocation", "probe_step"]

LossFunction: TypeAlias = Callable[[nn.Module, Any], Tensor]
"""From a model and a batch to the batch's loss, a tensor of one element."""


def probe_step(
    model: nn.Module,
    loss: LossFunction,
    batch: Any,
    starts: Mapping[str, Tensor],
    ends: Mapping[str, Tensor],
    plan: ProbePlan,
    config: Probes,
    findings: Findings,
) -> AllElseEqual:
    """Compare what a step's partial derivatives promised with what each layer's move did.

    Args:
        model: A copy of the model, in the modes that it trains in.
        loss: The loss.
        batch: The batch that it is taken on.
        starts: Every parameter before the step, by name.
        ends: Every parameter after it.
        plan: What is asked for.
        config: How to probe.
        findings: Receives the values.

    Raises:
        ProbeError: If the loss cannot be compared.
    """
    shown = _shown(plan, starts)
    asks_second = config.second_order and "second_order_change" in plan.asked
    result = compare(
        _loss(model, loss, batch, config.seed), starts, ends, shown,
        second_order=asks_second, weights=config.weights,
    )  # fmt: skip
    rows = {_display(row): row for row in plan.layers}
    for share in result.layers:
        row = rows.get(share.layer, share.layer)
        findings.add("predicted_change", row, share.predicted)
        findings.add("actual_change", row, share.actual)
        if asks_second and result.missing is None:
            findings.add("second_order_change", row, share.second_order)
    findings.add("predicted_change", ALL, result.predicted)
    findings.add("actual_change", ALL, result.actual)
    findings.add("interaction_change", ALL, result.interaction)
    if asks_second and result.missing is None:
        findings.add("second_order_change", ALL, result.second_order)
        if result.method is not None:
            findings.notes["second derivatives"] = result.method
    elif "second_order_change" in plan.asked:
        why = result.missing or "probes.second_order is false"
        findings.withhold(("second_order_change",), why)
    return result


@dataclass
class RunningAllocation:
    """The loss change allocated to each layer since the first probe.

    Args:
        batch: The samples that it is on, those of the first probe.
        point: Every parameter at the last probe, by name.
        since: The step that it counts from.
        by_layer: What was allocated so far, by layer.
        change: The true change so far.
    """

    batch: Any
    point: dict[str, Tensor]
    since: int
    by_layer: dict[str, float] = field(default_factory=dict)
    change: float = 0.0

    def advance(
        self,
        model: nn.Module,
        loss: LossFunction,
        ends: Mapping[str, Tensor],
        plan: ProbePlan,
        config: Probes,
        findings: Findings,
    ) -> AllocationRecord:
        """Allocate the change up to where the parameters are now.

        Args:
            model: A copy of the model, in the modes that it trains in.
            loss: The loss.
            ends: Every parameter now, by name.
            plan: What is asked for.
            config: How to probe.
            findings: Receives the values.

        Raises:
            ProbeError: If the loss is not the same twice.
        """
        shown = _shown(plan, self.point)
        evaluated = _loss(model, loss, self.batch, config.seed)
        _check_repeatable(evaluated, self.point)
        found = allocate(evaluated, self.point, ends, shown)
        self.point = {name: tensor.clone() for name, tensor in ends.items()}
        self.change += found.change
        for layer, value in found.by_layer.items():
            self.by_layer[layer] = self.by_layer.get(layer, 0.0) + value
        record = AllocationRecord(self.since, dict(self.by_layer), self.change, found.after)
        for row in plan.layers:
            findings.add("allocated_change", row, self.by_layer[_display(row)])
        findings.add("allocated_change", ALL, self.change)
        findings.add("allocation_gap", ALL, record.gap)
        return record


def _check_repeatable(loss: Loss, point: Mapping[str, Tensor]) -> None:
    first, second = loss.value(point), loss.value(point)
    if not (first == second or (math.isnan(first) and math.isnan(second))):
        raise ProbeError(
            f"the loss of one batch at the same parameters is {first!r} once and {second!r} the "
            "next time, so that its changes cannot be allocated"
        )


def _shown(plan: ProbePlan, parameters: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Parameters of each layer, those that took shape since the plan was made among the rest."""
    shown = {_display(row): names for row, names in plan.layers.items()}
    taken = {name for names in shown.values() for name in names}
    rest = tuple(name for name in parameters if name not in taken)
    return {**shown, REST: (*shown.get(REST, ()), *rest)} if rest else shown


def _display(row: str) -> str:
    """A layer's name as tables show it."""
    return row.removeprefix("layer ") if row != "layer" else "(model)"


def _loss(model: nn.Module, loss: LossFunction, batch: Any, seed: int) -> Loss:
    """The loss as a function of the parameters, its random numbers fixed by the seed."""
    _seed(seed, devices_of(model))
    # A training step may change its batch in place.
    return Loss(model, lambda copied: loss(copied, first_samples(batch, 0, 0)))


def _seed(seed: int, devices: Iterable[torch.device]) -> None:
    # torch.manual_seed would also reach devices whose state is not put back.
    torch.default_generator.manual_seed(seed)
    for device in devices:
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
