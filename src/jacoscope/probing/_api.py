"""Probes of a model with no trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jacoscope.capturing import chosen_parameters, first_names
from jacoscope.errors import ConfigError, nearest
from jacoscope.probing._cotangents import cotangents
from jacoscope.probing._errors import refuse_complex
from jacoscope.probing._function import ModelFunction
from jacoscope.probing._isolation import devices_of, isolated, replica
from jacoscope.probing._kernel import NeuralTangentKernel
from jacoscope.probing._output_jacobian import OutputJacobian
from jacoscope.probing._place_jacobian import PlaceJacobian, place_jacobian
from jacoscope.probing._products import products
from jacoscope.probing._trust import rows_of

__all__ = [
    "MAX_OUTPUTS",
    "MEMORY_BUDGET",
    "SKETCHES",
    "input_jacobian",
    "layer_jacobian",
    "neural_tangent_kernel",
    "output_jacobian",
]

MAX_OUTPUTS = 32
SKETCHES = 16
MEMORY_BUDGET = 256 * 2**20


def output_jacobian(
    model: nn.Module,
    inputs: Any,
    *,
    parameters: str | Iterable[str] | None = None,
    mode: Literal["eval", "train"] = "eval",
    method: str = "forward",
    output: str | None = None,
    spectral: bool = True,
    max_outputs: int = MAX_OUTPUTS,
    sketches: int = SKETCHES,
    seed: int = 0,
    memory_budget: int = MEMORY_BUDGET,
) -> OutputJacobian:
    """∂f_i/∂θ: how each sample's outputs move with each parameter.

    Computed by ``torch.func`` (vmap over samples of vjp), in chunks; a model that vmap refuses
    (GRU, batch normalisation in training mode, control flow that depends on data) goes by a loop of
    plain autograd over the rows, with the same numbers. The model is copied: its weights, buffers,
    gradients, mode and random states stay as they are. Roberts et al., arXiv:2106.10165; norms as
    sensitivity: Novak et al., arXiv:1802.08760, who take those by the input.

    Args:
        model: The model.
        inputs: What its forward takes: a tensor (N, …), a tuple of positional arguments, or a
            mapping of keyword arguments.
        parameters: A name or names of the parameters θ, a tied one's any; by default all of
            floating point that have elements.
        mode: Mode that the model is put into: ``eval``, or ``train`` to leave each of its modules
            in the mode that it is in.
        method: The method that maps inputs to outputs.
        output: Path of the output in what the model returns, such as ``logits`` or ``0``.
        spectral: Whether spectral norms are wanted, which take inner products of rows.
        max_outputs: Largest number C of outputs per sample that is enumerated.
        sketches: Number of random cotangents K where there are more.
        seed: Seed of these.
        memory_budget: Bytes that rows may take.

    Returns:
        Norms of each sample's ∂f_i/∂θ by parameter, shape (N,), in units of output per unit of
        parameter; all of it, shape (N, C, *θ), on demand. Where outputs were sketched, norms are
        estimates.

    Raises:
        ProbeError: If the model cannot be called so, or gives no output per sample.
        ValueError: If a name is not one of the model's parameters, or the parameter has no
            elements or is not of floating point.

    Example:
        >>> import torch
        >>> import jacoscope
        >>> model = torch.nn.Linear(3, 2)
        >>> jacobian = jacoscope.output_jacobian(model, torch.ones(4, 3))
        >>> jacobian.dense("weight").shape
        torch.Size([4, 2, 2, 3])
        >>> jacobian.norms("bias")
        tensor([1.4142, 1.4142, 1.4142, 1.4142], dtype=torch.float64)
    """
    copied = _copied(
        model, mode, max_outputs=max_outputs, sketches=sketches, memory_budget=memory_budget
    )
    with isolated(devices_of(copied)):
        function = _function(copied, inputs, method, output)
        names = _names(function, parameters)
        rows = rows_of(function, memory_budget)
        along = cotangents(function.outputs, max_outputs, sketches, function.values, seed)
        made = products(
            rows,
            names,
            along,
            with_gram=spectral and along.is_exact,
            memory_budget=memory_budget,
        )
    return OutputJacobian(rows, along, made, memory_budget)


def neural_tangent_kernel(
    model: nn.Module,
    inputs: Any,
    *,
    parameters: str | Iterable[str] | None = None,
    mode: Literal["eval", "train"] = "eval",
    method: str = "forward",
    output: str | None = None,
    max_outputs: int = MAX_OUTPUTS,
    sketches: int = SKETCHES,
    seed: int = 0,
    memory_budget: int = MEMORY_BUDGET,
) -> NeuralTangentKernel:
    """Θ = J Jᵀ of a model's outputs on a batch, per parameter and as a whole.

    Jacot et al., arXiv:1806.07572. The Jacobian J is never whole in memory where it would exceed
    the budget: inner products of its rows then are derivatives along blocks of rows (Novak et al.,
    arXiv:2206.08720).

    Args:
        model: The model.
        inputs: What its forward takes; see :func:`output_jacobian`.
        parameters: A name or names of the parameters θ, a tied one's any; by default all of
            floating point that have elements.
        mode: Mode that the model is put into: ``eval``, or ``train`` to leave it as it is.
        method: The method that maps inputs to outputs.
        output: Path of the output in what the model returns.
        max_outputs: Largest number C of outputs per sample that is enumerated.
        sketches: Number of random cotangents K where there are more; the trace and the kernel over
            samples are then unbiased estimates, and there is no spectrum.
        seed: Seed of these.
        memory_budget: Bytes that rows may take.

    Returns:
        Θ by parameter and as a whole: (N, C, N, C), or (R, R) with R = N·C rows, in squared units
        of output per squared unit of parameter; its eigenvalues, trace and effective rank, and how
        it agrees with labels.

    Raises:
        ProbeError: If the model cannot be called so, or gives no output per sample.
        ValueError: If a name is not one of the model's parameters, or the parameter has no
            elements or is not of floating point.

    Example:
        >>> import torch
        >>> import jacoscope
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> inputs = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        >>> jacoscope.neural_tangent_kernel(model, inputs).eigenvalues()
        tensor([4., 1.], dtype=torch.float64)
    """
    copied = _copied(
        model, mode, max_outputs=max_outputs, sketches=sketches, memory_budget=memory_budget
    )
    with isolated(devices_of(copied)):
        function = _function(copied, inputs, method, output)
        names = _names(function, parameters)
        rows = rows_of(function, memory_budget)
        along = cotangents(function.outputs, max_outputs, sketches, function.values, seed)
        made = products(rows, names, along, with_gram=True, memory_budget=memory_budget)
    return NeuralTangentKernel(
        function.samples,
        function.outputs,
        made.grams,
        along.is_exact,
        torch.finfo(function.values.dtype).eps,
        made.missing,
        rows.method,
        rows.fallback,
        first_names(function.module),
    )


def input_jacobian(
    model: nn.Module,
    inputs: Any,
    *,
    mode: Literal["eval", "train"] = "eval",
    method: str = "forward",
    output: str | None = None,
    max_outputs: int = MAX_OUTPUTS,
    sketches: int = SKETCHES,
    seed: int = 0,
    memory_budget: int = MEMORY_BUDGET,
) -> PlaceJacobian:
    """∂f_i/∂x_i: how each sample's outputs move with its input.

    Novak et al., arXiv:1802.08760 (Frobenius norm); Pennington et al., arXiv:1711.04735 (singular
    values). Tokens are differentiated at the embedding that takes them.

    Args:
        model: The model.
        inputs: What its forward takes; see :func:`output_jacobian`. The first tensor with
            samples is x; one of integers is passed over unless it goes into an embedding, whose
            output then is x.
        mode: Mode that the model is put into: ``eval``, or ``train`` to leave it as it is.
        method: The method that maps inputs to outputs.
        output: Path of the output in what the model returns.
        max_outputs: Largest number of rows or columns that is enumerated.
        sketches: Number of random cotangents K where there are more.
        seed: Seed of these.
        memory_budget: Bytes that rows may take.

    Returns:
        Norms and singular values of each sample's ∂f_i/∂x_i, shapes (N,) and (N, min(C, D)), in
        units of output per unit of input; all of it, shape (N, C, *x), on demand. Where outputs
        were sketched there are no singular values, and norms are unbiased estimates.

    Raises:
        ProbeError: If the model cannot be called so, or there is nothing to differentiate by.

    Example:
        >>> import torch
        >>> import jacoscope
        >>> model = torch.nn.Linear(3, 2)
        >>> jacobian = jacoscope.input_jacobian(model, torch.ones(4, 3))
        >>> torch.equal(jacobian.dense()[0], model.weight)
        True
    """
    copied = _copied(
        model, mode, max_outputs=max_outputs, sketches=sketches, memory_budget=memory_budget
    )
    with isolated(devices_of(copied)):
        function = _function(copied, inputs, method, output)
        place, index = function.input_place()
        return place_jacobian(
            rows_of(function, memory_budget),
            place,
            index,
            max_outputs=max_outputs,
            sketches=sketches,
            seed=seed,
            memory_budget=memory_budget,
        )


def layer_jacobian(
    model: nn.Module,
    inputs: Any,
    source: str,
    target: str,
    *,
    mode: Literal["eval", "train"] = "eval",
    method: str = "forward",
    max_outputs: int = MAX_OUTPUTS,
    sketches: int = SKETCHES,
    seed: int = 0,
    memory_budget: int = MEMORY_BUDGET,
) -> PlaceJacobian:
    """∂h_b/∂h_a: how one layer's output moves with that of an earlier one, sample by sample.

    Pennington et al., Resurrecting the sigmoid, arXiv:1711.04735. What reaches h_b on other ways
    than through h_a is held fixed.

    Args:
        model: The model.
        inputs: What its forward takes; see :func:`output_jacobian`.
        source: Name of the module whose output is h_a.
        target: Name of the module whose output is h_b.
        mode: Mode that the model is put into: ``eval``, or ``train`` to leave it as it is.
        method: The method that runs both.
        max_outputs: Largest number of rows or columns that is enumerated.
        sketches: Number of random cotangents K where there are more.
        seed: Seed of these.
        memory_budget: Bytes that rows may take.

    Returns:
        Norms and singular values of each sample's ∂h_b/∂h_a, shapes (N,) and (N, min(C, D)), for
        C numbers in a sample's h_b and D in its h_a, in units of h_b per unit of h_a; all of it,
        shape (N, C, *h_a), on demand. Where h_b was sketched there are no singular values, and
        norms are unbiased estimates.

    Raises:
        ProbeError: If one of them does not run once, or its output has no samples.
        ConfigError: If the model has no module of that name; it is a ``ValueError`` too.

    Example:
        >>> import torch
        >>> import jacoscope
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> jacobian = jacoscope.layer_jacobian(model, torch.zeros(5, 3), "0", "2")
        >>> jacobian.dense().shape
        torch.Size([5, 2, 4])
    """
    copied = _copied(
        model, mode, max_outputs=max_outputs, sketches=sketches, memory_budget=memory_budget
    )
    modules = dict(copied.named_modules())
    for key, name in (("source", source), ("target", target)):
        if name not in modules:
            raise ConfigError(
                f"the model has no module {name!r}; {nearest(name, modules)}", key=key
            )
    with isolated(devices_of(copied)):
        args, kwargs = _arguments(inputs)
        function = ModelFunction(copied, args, kwargs, method=method, target=target)
        return place_jacobian(
            rows_of(function, memory_budget),
            source,
            None,
            max_outputs=max_outputs,
            sketches=sketches,
            seed=seed,
            memory_budget=memory_budget,
        )


def _copied(model: nn.Module, mode: Literal["eval", "train"], **least_one: int) -> nn.Module:
    if mode not in ("eval", "train"):
        raise ValueError(f"mode is {mode!r}; write 'eval' or 'train'")
    for name, value in least_one.items():
        smallest = 2 if name == "sketches" else 1
        if value < smallest:
            raise ValueError(f"{name} is {value}, must be {smallest} or more")
    copied = replica(model)
    return copied.eval() if mode == "eval" else copied


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), {str(key): value for key, value in inputs.items()}
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def _function(model: nn.Module, inputs: Any, method: str, output: str | None) -> ModelFunction:
    args, kwargs = _arguments(inputs)
    return ModelFunction(model, args, kwargs, method=method, output=output)


def _names(function: ModelFunction, parameters: str | Iterable[str] | None) -> list[str]:
    if parameters is None:
        refuse_complex(dict(function.module.named_parameters()))
    return list(chosen_parameters(function.module, parameters, _flaw))


def _flaw(parameter: Tensor) -> str | None:
    if not parameter.is_floating_point():
        return "is not of floating point"
    return None if parameter.numel() else "has no elements"
