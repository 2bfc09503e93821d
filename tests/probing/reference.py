"""The reference: dense Jacobians by plain autograd, one output after another, in float64.

It knows nothing of jacoscope: the model itself is run once, on the whole batch, and every scalar
of its output is differentiated. Shape suffixes: N samples, C outputs per sample, P parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from capture.case import Case


def called(model: nn.Module, inputs: Any) -> Any:
    """What a model returns for what `jacoscope.output_jacobian` would be given."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def first_of(returned: Any) -> Tensor:
    """The output: the logits of a model of transformers, or the first of several."""
    if isinstance(returned, Mapping):
        returned = returned["logits"]
    return returned[0] if isinstance(returned, tuple) else returned


def flat(output: Tensor) -> Tensor:
    """Outputs as one row per sample, (N, C)."""
    return output.reshape(len(output), -1)


def rows_NC(output: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Gradients of every scalar of the output by each leaf, (N, C, *leaf) by leaf."""
    output_NC = flat(output)
    rows: list[list[Tensor]] = [[] for _ in leaves]
    for scalar in output_NC.reshape(-1):
        gradients = torch.autograd.grad(scalar, leaves, retain_graph=True, allow_unused=True)
        for row, leaf, gradient in zip(rows, leaves, gradients, strict=True):
            row.append(torch.zeros_like(leaf) if gradient is None else gradient.to_dense())
    return [
        torch.stack(row).reshape(*output_NC.shape, *leaf.shape).detach()
        for row, leaf in zip(rows, leaves, strict=True)
    ]


def by_parameters(
    model: nn.Module, inputs: Any, output: Callable[[Any], Tensor] = first_of, seed: int = 0
) -> dict[str, Tensor]:
    """∂f/∂θ of every parameter that floats, (N, C, *parameter), under torch's seed."""
    parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    frozen = [p for p in parameters.values() if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rows = rows_NC(output(called(model, inputs)), list(parameters.values()))
    for parameter in frozen:
        parameter.requires_grad_(False)
    return dict(zip(parameters, rows, strict=True))


def own_rows(rows_NCN: Tensor) -> Tensor:
    """∂f_i/∂x_i out of ∂f_i/∂x of the whole batch."""
    return torch.stack([rows[:, i] for i, rows in enumerate(rows_NCN)])


def by_input(model: nn.Module, inputs: tuple[Any, ...], index: int = 0, seed: int = 0) -> Tensor:
    """∂f_i/∂x_i for one of the inputs, (N, C, *x)."""
    leaf = inputs[index].detach().clone().requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = first_of(model(*inputs[:index], leaf, *inputs[index + 1 :]))
    return own_rows(rows_NC(output, [leaf])[0])


def by_module(model: nn.Module, inputs: Any, source: str, target: str = "") -> Tensor:
    """∂h_b/∂h_a, (N, C, *h_a): h_a is a leaf that takes the place of the module's output."""
    found: dict[str, Tensor] = {}

    def replace(module: nn.Module, args: Any, output: Any) -> Any:
        whole = output if isinstance(output, tuple) else (output,)
        found["leaf"] = whole[0].detach().clone().requires_grad_()
        # a copy, so that what follows may write over it
        replaced = (found["leaf"].clone(), *whole[1:])
        return replaced if isinstance(output, tuple) else replaced[0]

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        found["output"] = first_of(output).clone()

    handles = [
        model.get_submodule(source).register_forward_hook(replace),
        model.get_submodule(target).register_forward_hook(keep),
    ]
    called(model, inputs)
    for handle in handles:
        handle.remove()
    return own_rows(rows_NC(found["output"], [found["leaf"]])[0])


@functools.cache
def of_case(case: Case) -> dict[str, Tensor]:
    """∂f/∂θ of a case's model on its batch, in the mode that the case has."""
    return by_parameters(case.build(), case.batch())


def matrix(rows: Tensor) -> Tensor:
    """A Jacobian (N, C, *shape) as the matrix N·C × P."""
    return rows.reshape(rows.shape[0] * rows.shape[1], -1)


def gram(rows: Mapping[str, Tensor]) -> Tensor:
    """J Jᵀ over all these parameters, (N·C, N·C)."""
    J = torch.cat([matrix(each) for each in rows.values()], 1)
    return J @ J.T


def size_of(rows: Mapping[str, Tensor]) -> float:
    """Norm of the largest of the Jacobians: the scale of what rounding leaves of a zero one."""
    return max((float(each.norm()) for each in rows.values()), default=0.0)


def distance(given: Tensor, wanted: Tensor, floor: float = 0.0) -> float:
    """Norm of the difference relative to the norm of what is wanted, or to the floor."""
    assert given.shape == wanted.shape, f"shape {tuple(given.shape)}, not {tuple(wanted.shape)}"
    assert given.dtype == wanted.dtype
    scale = max(float(wanted.norm()), floor)
    return float((given - wanted).norm()) / scale if scale else float(given.norm())
