"""What the monitor should have found, by plain autograd on a plain network, in one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conditions.condition import Condition, Step
from probe_expected import by_input, by_parameters, matrix
from probing.step_reference import expected
from quantities.sample_reference import defined

__all__ = [
    "LOSS_PROBES",
    "PARAMETERS",
    "PROBES",
    "SAMPLES",
    "expected_parameters",
    "expected_probes",
]
__all__ += ["expected_samples", "names_of"]

Values = dict[str, dict[str, float]]
"""By quantity, then by row."""

PARAMETERS = ("grad_norm", "grad_max", "weight_norm", "update_norm")
SAMPLES = (
    *("sample_grad_norm", "sample_grad_norm_max", "sample_alignment", "grad_variance"),
    *("coherence", "grad_diversity", "fisher_trace", "fisher_max", "effective_rank"),
)
LOSS_PROBES = ("predicted_change", "actual_change", "second_order_change")
PROBES = (
    *LOSS_PROBES,
    *("output_jacobian_norm", "input_jacobian_norm"),
)


def names_of(condition: Condition) -> list[str]:
    """Parameters of the plain network, as they are named in the module."""
    network = condition.plain() if condition.plain is not None else condition.module().network
    return [f"network.{name}" for name, p in network.named_parameters() if p.requires_grad]


def contributions(condition: Condition, step: Step) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Of each batch of a step, what each sample adds to the gradient; by parameter, (N, P)."""
    found = []
    for state, batch, random in step.batches:
        network = condition.network(state)
        if condition.contributions is not None:
            given = condition.contributions(network, batch)
            found.append({f"network.{n}": g.flatten(1).numpy() for n, g in given.items()})
            continue
        with torch.random.fork_rng():
            torch.set_rng_state(random)
            losses = _losses(condition, network, batch)
        wanted = {f"network.{n}": p for n, p in network.named_parameters() if p.requires_grad}
        rows: dict[str, list[Any]] = {name: [] for name in wanted}
        for loss in losses / len(losses) / step.size:
            grads = torch.autograd.grad(
                loss, list(wanted.values()), retain_graph=True, allow_unused=True
            )
            for (name, parameter), grad in zip(wanted.items(), grads, strict=True):
                row = torch.zeros_like(parameter) if grad is None else grad
                rows[name].append(_flat(row).numpy())
        found.append({name: np.stack(each) for name, each in rows.items()})
    return found


def gradients(condition: Condition, step: Step) -> Mapping[str, Tensor]:
    """The gradient that a step's optimiser should have got."""
    if condition.gradients is not None:
        return condition.gradients(condition.network(step.batches[0][0]), step)
    sums: dict[str, Any] = {}
    for batch in contributions(condition, step):
        for name, rows in batch.items():
            sums[name] = sums.get(name, 0) + rows.sum(0)
    return {name: torch.from_numpy(value) for name, value in sums.items()}


def expected_parameters(condition: Condition, step: Step, first: Step) -> Values:
    """Quantities of parameters, by their definitions."""
    found: Values = {quantity: {} for quantity in PARAMETERS}
    for name, gradient in gradients(condition, step).items():
        if not gradient.numel():
            continue
        start, end = (_flat(state[name[len("network.") :]]) for state in (step.before, step.after))
        found["grad_norm"][name] = float(gradient.double().norm())
        found["grad_max"][name] = float(gradient.double().abs().max())
        found["weight_norm"][name] = float(start.norm())
        found["update_norm"][name] = float((end - start).norm())
    return found


def expected_samples(condition: Condition, step: Step, first: Step) -> Values:
    """Quantities of samples, by their definitions, of each parameter and of all together."""
    parts = contributions(condition, step)
    members = {name: [name] for name in parts[0]} | {"(all)": list(parts[0])}
    found: Values = {quantity: {} for quantity in SAMPLES}
    for row, names in members.items():
        laid = [np.concatenate([part[name] for name in names], axis=1) for part in parts]
        if not any((abs(part) > 1e-14).any() for part in laid):
            continue  # there most quantities are 0/0
        values = defined(laid, None)
        for quantity in SAMPLES:
            found[quantity][row] = values[quantity]
    return found


def expected_probes(condition: Condition, step: Step, first: Step) -> Values:
    """What the step did to its last batch's loss, and how the first probe's outputs now move."""
    network = condition.network(step.before)
    is_complex = any(parameter.is_complex() for parameter in network.parameters())
    found = {} if is_complex else _expected_of_step(condition, network, step)
    inputs = first.batches[-1][1][0]
    if torch.is_floating_point(inputs):
        inputs = inputs.to(condition.precision)
    now = condition.network(step.end).eval()
    rows = by_parameters(now, inputs)
    joined = torch.cat([matrix(each) for each in rows.values()], 1)
    found["output_jacobian_norm"] = {"(all)": _root_mean_square(joined, len(inputs))}
    if not torch.is_floating_point(inputs):
        return found
    found["input_jacobian_norm"] = {
        "(input)": _root_mean_square(by_input(now, (inputs,)).flatten(1), len(inputs))
    }
    return found


def _expected_of_step(condition: Condition, network: nn.Module, step: Step) -> Values:
    """What the step did to its last batch's loss."""
    batch = step.batches[-1][1]
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    both = step.before, step.after
    start, end = ({n: s[n].to(condition.precision) for n in trained} for s in both)
    layers: dict[str, list[str]] = {}
    for name in (name for name in trained if start[name].numel()):
        layers.setdefault(f"layer {f'network.{name}'.rpartition('.')[0]}", []).append(name)

    def loss(model: nn.Module) -> Tensor:
        if condition.loss is not None:
            return condition.loss(model, batch)
        return _losses(condition, model, batch).mean()

    random = torch.Generator().manual_seed(0).get_state()  # probes.seed
    true = expected(network, loss, start, end, layers, random)
    return {
        "predicted_change": {row or "(all)": value for row, value in true.predicted.items()},
        "actual_change": {row or "(all)": value for row, value in true.actual.items()},
        "second_order_change": {row or "(all)": v for row, v in true.second_order.items()},
    }


def _root_mean_square(rows: Tensor, samples: int) -> float:
    return float((rows.abs().square().sum() / samples).sqrt())


def _losses(condition: Condition, network: nn.Module, batch: Any) -> Tensor:
    inputs = batch[0]
    if torch.is_floating_point(inputs):
        inputs = inputs.to(condition.precision)
    with torch.random.fork_rng():  # to make a module draws random numbers
        module = condition.module()
    losses: Tensor = module.losses(network, (inputs, *batch[1:]))
    return losses


def _flat(tensor: Tensor) -> Tensor:
    """As one row of real numbers in double precision."""
    dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    real = torch.view_as_real(dense) if dense.is_complex() else dense
    return real.double().flatten()
