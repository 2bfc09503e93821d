"""What probes should find, by plain autograd in double precision, by each quantity's definition.

Shape suffixes: N samples, C outputs per sample, R = N·C rows, P scalars of some parameters.
"""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probing.reference import by_input, by_module, by_parameters, matrix
from probing.step_reference import Expected, expected

Values = dict[str, dict[str, float]]
"""By quantity, then by row."""


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, in double precision."""
    return {name: as_double(tensor).clone() for name, tensor in module.state_dict().items()}


def as_double(leaf: Any) -> Any:
    is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return leaf.detach().double() if is_float else leaf


def twin(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a module in double precision, with the weights of another moment."""
    copied = copy.deepcopy(module)
    if hasattr(copied, "_trainer"):
        copied._trainer = None  # type: ignore[assignment]
    copied.double().load_state_dict(state)
    return copied


def members_of(names: Sequence[str], groups: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Parameters of every row: of each parameter, of all, of groups and of layers."""
    rows: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
    rows["(all)"] = tuple(names)
    for name, group in (groups or {}).items():
        rows[f"group {group}"] = (*rows.get(f"group {group}", ()), name)
    for name in names:
        layer = f"layer {name.rpartition('.')[0]}"
        rows[layer] = (*rows.get(layer, ()), name)
    return rows


def expected_outputs(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor | None,
    members: Mapping[str, Sequence[str]],
    first: Mapping[str, Tensor],
    chain: Sequence[str] = (),
) -> Values:
    """Every quantity of outputs by its definition.

    Args:
        model: The model, in double precision, in the mode that it is probed in.
        inputs: x, shape (N, …).
        targets: Class labels (N,), or target values (N, …).
        members: By row, its parameters.
        first: By row, Θ of the first probe.
        chain: Modules, each after the one before.
    """
    found: dict[str, dict[str, float]] = defaultdict(dict)
    jacobian = by_parameters(model, inputs)
    samples = len(inputs)
    for row, names in members.items():
        J_RP = torch.cat([matrix(jacobian[name]) for name in names], 1)
        J_NCP = J_RP.reshape(samples, -1, J_RP.shape[1])
        singular = torch.linalg.svdvals(J_RP)
        gram = J_RP @ J_RP.T
        share = singular.square() / singular.square().sum()
        is_full = torch.linalg.matrix_rank(J_RP) == len(J_RP)
        found["output_jacobian_norm"][row] = float((J_RP.square().sum() / samples).sqrt())
        largest = torch.linalg.svdvals(J_NCP)[:, 0]
        found["output_jacobian_spectral_norm"][row] = float(largest.mean())
        found["ntk_trace"][row] = float(gram.trace())
        found["ntk_top_eigenvalue"][row] = float(singular[0] ** 2)
        ratio = float((singular[0] / singular[-1]) ** 2)
        found["ntk_condition"][row] = ratio if is_full else float("inf")
        entropy = -torch.special.xlogy(share, share).sum()
        found["ntk_effective_rank"][row] = float(entropy.exp())
        if targets is not None:
            kernel = torch.einsum("icp,jcp->ij", J_NCP, J_NCP)
            found["ntk_alignment"][row] = alignment(kernel, targets)
        then = first.get(row, gram)
        found["ntk_drift"][row] = float(1 - (gram * then).sum() / (gram.norm() * then.norm()))
    values_NK = torch.linalg.svdvals(by_input(model, (inputs,)).flatten(2))
    found["input_jacobian_norm"]["(input)"] = root_mean_square(values_NK)
    found["input_jacobian_spectral_norm"]["(input)"] = float(values_NK[:, 0].mean())
    conditions = values_NK[:, 0] / values_NK[:, -1]
    found["input_jacobian_condition"]["(input)"] = float(np.median(conditions.numpy()))
    for source, target in itertools.pairwise(chain):
        row, rows = f"{source} → {target}", by_module(model, inputs, source, target).flatten(2)
        values_NK = torch.linalg.svdvals(rows)
        mean = values_NK.square().sum(1).mean() / rows.shape[1]
        found["layer_jacobian_mean_sq"][row] = float(mean)
        found["layer_jacobian_spectral_norm"][row] = float(values_NK[:, 0].mean())
        conditions = values_NK[:, 0] / values_NK[:, -1]
        found["layer_jacobian_condition"][row] = float(np.median(conditions.numpy()))
    return dict(found)


def kernels(
    model: nn.Module, inputs: Tensor, members: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """Θ = J Jᵀ by row."""
    jacobian = by_parameters(model, inputs)
    rows = {
        row: torch.cat([matrix(jacobian[n]) for n in names], 1) for row, names in members.items()
    }
    return {row: J_RP @ J_RP.T for row, J_RP in rows.items()}


def root_mean_square(singular_NK: Tensor) -> float:
    return float(singular_NK.square().sum(1).mean().sqrt())


def alignment(kernel: Tensor, targets: Tensor) -> float:
    if targets.is_floating_point():
        features = targets.double().reshape(len(targets), -1)
        similar = features @ features.T
    else:
        similar = (targets[:, None] == targets[None]).double()
    centre = torch.eye(len(kernel), dtype=torch.float64) - 1 / len(kernel)
    mine, theirs = centre @ kernel @ centre, centre @ similar @ centre
    return float((mine * theirs).sum() / (mine.norm() * theirs.norm()))


def expected_step(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    layers: Mapping[str, Sequence[str]],
) -> Values:
    """Every quantity of a step by its definition; rows are those of layers, and all together."""
    names = [name for name, _ in model.named_parameters()]
    start, end = {n: before[n] for n in names}, {n: after[n] for n in names}
    true: Expected = expected(model, loss, start, end, layers)
    found: Values = {
        "predicted_change": {row or "(all)": v for row, v in true.predicted.items()},
        "second_order_change": {row or "(all)": v for row, v in true.second_order.items()},
        "actual_change": {row or "(all)": v for row, v in true.actual.items()},
    }
    alone = sum(value for row, value in true.actual.items() if row is not None)
    found["interaction_change"] = {"(all)": true.actual[None] - alone}
    return found


def simpson(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    layers: Mapping[str, Sequence[str]],
) -> Values:
    """What a straight move allocates to each layer, by Simpson's rule, and the true change."""
    named = [name for name, _ in model.named_parameters()]
    steps = {name: after[name] - before[name] for name in named}
    shares = dict.fromkeys(layers, 0.0)
    values = []
    for place, weight in ((0.0, 1 / 6), (0.5, 4 / 6), (1.0, 1 / 6)):
        state = {**before, **{name: before[name] + place * steps[name] for name in named}}
        moved = twin(model, state).requires_grad_()
        value = loss(moved)
        slopes = torch.autograd.grad(value, list(moved.parameters()), allow_unused=True)
        products = {
            name: 0.0 if slope is None else float((slope * steps[name]).sum())
            for name, slope in zip(named, slopes, strict=True)
        }
        values.append(float(value.detach()))
        for layer, names in layers.items():
            shares[layer] += weight * sum(products[name] for name in names)
    change = values[-1] - values[0]
    gap = change - sum(shares.values())
    return {"allocated_change": {**shares, "(all)": change}, "allocation_gap": {"(all)": gap}}


def compare(got: Values, wanted: Values, rtol: float, atol: float = 0.0) -> None:
    """Every value that is wanted is there, and as wanted."""
    for quantity, rows in wanted.items():
        for row, value in rows.items():
            np.testing.assert_allclose(
                got[quantity][row], value, rtol=rtol, atol=atol, err_msg=f"{quantity} of {row}"
            )
