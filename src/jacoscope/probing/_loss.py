"""A loss as a function of a model's parameters, everything else held fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, jvp

from jacoscope.probing._errors import ProbeError, refuse_complex
from jacoscope.probing._function import Tensors
from jacoscope.probing._graph import (
    OnceDifferentiableError,
    check_reentrant,
    check_twice_differentiable,
)
from jacoscope.probing._hooks import WatchingHooks
from jacoscope.probing._isolation import (
    Attributes,
    Randomness,
    devices_of,
    without_fused_kernels,
)

__all__ = ["Loss"]

_ROOT = "root"


class _Call(nn.Module):
    """Calls a loss on a model within, so that functional_call reaches the model's parameters."""

    def __init__(self, root: nn.Module, loss: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.root = root
        self._loss = loss

    def forward(self) -> Tensor:
        return self._loss(self.root)


class Loss:
    """L(θ): the loss of one batch at given parameters.

    Every evaluation starts from the same buffers, attributes and random states: dropout drops the
    same units. The module's own parameters take the values given, so that lists of them, too, have
    these; what a loss changes in place (a momentum encoder) is put back.

    Args:
        module: The model, a copy that may be changed.
        loss: From the model to the loss of the batch, a tensor of one element.

    Attributes:
        second_order: How second derivatives come about, once one was taken: ``reverse over
            reverse`` or ``forward over reverse``.
    """

    def __init__(self, module: nn.Module, loss: Callable[[Any], Tensor]) -> None:
        self._module = module
        self._call = _Call(module, loss)
        self.devices = devices_of(module)
        self._leaves = dict(module.named_parameters())
        refuse_complex({n: leaf for n, leaf in self._leaves.items() if leaf.requires_grad})
        self._tensors: list[tuple[dict[str, Any], str, Any]] = [
            (registered, name, tensor)
            for each in module.modules()
            for registered in (each._parameters, each._buffers)
            for name, tensor in registered.items()
        ]
        self._own = {name: p.detach().clone() for name, p in self._leaves.items()}
        self._buffers = [(b, b.detach().clone()) for b in module.buffers()]
        self._randomness = Randomness(self.devices)
        self._attributes = Attributes(module)
        self._trained = {name for name, leaf in self._leaves.items() if leaf.requires_grad}
        self._differentiates = False
        self.second_order: str | None = None

    def __call__(self) -> Tensor:
        """The loss, a tensor without dimensions; call it within :meth:`at`.

        Raises:
            ProbeError: If the loss is not a single floating-point number.
        """
        return _number(self._call())

    @contextmanager
    def at(self, parameters: Tensors, names: Iterable[str] = ()) -> Iterator[dict[str, Tensor]]:
        """Start an evaluation from the same state as every other.

        Args:
            parameters: The point, by name; where the module is in those that it leaves out.
            names: The parameters to differentiate by, which are given by name.
        """
        with torch.no_grad():
            for name, leaf in self._leaves.items():
                leaf.copy_(parameters.get(name, self._own[name]))
            for buffer, value in self._buffers:
                buffer.copy_(value)
        wanted: dict[str, Tensor] = {name: self._leaves[name] for name in names}
        for name, leaf in self._leaves.items():
            if leaf.is_floating_point() or leaf.is_complex():
                inside = self._differentiates and name in self._trained
                leaf.requires_grad_(name in wanted or inside)
        self._randomness.restore()
        try:
            yield wanted
        finally:
            self._attributes.restore()
            for registered, name, tensor in self._tensors:
                registered[name] = tensor

    def value(self, parameters: Tensors) -> float:
        """The loss as a number."""
        try:
            with self.at(parameters):
                return float(self().detach())
        except RuntimeError as error:
            if self._differentiates or "does not require grad" not in str(error):
                raise
        # The loss itself takes derivatives by parameters, as a gradient penalty does.
        self._differentiates = True
        return self.value(parameters)

    def gradient(
        self, parameters: Tensors, names: Sequence[str]
    ) -> tuple[dict[str, Tensor], float]:
        """∂L/∂θ by name, and L.

        Args:
            parameters: The point, by name.
            names: The parameters to differentiate by.

        Raises:
            ProbeError: If the loss depends on none of the model's parameters.
        """
        found, value = self._slopes(parameters, names)
        if all(each is None for each in found.values()):
            every = [name for name, leaf in self._leaves.items() if leaf.is_floating_point()]
            if all(each is None for each in self._slopes(parameters, every)[0].values()):
                raise ProbeError(
                    "the loss does not depend on the model that it is given; let it call its "
                    "argument, lambda model: ..., not a model from outside"
                )
        dense = {
            name: torch.zeros_like(self._own[name]) if each is None else each.detach().to_dense()
            for name, each in found.items()
        }
        return dense, value

    def _slopes(
        self, parameters: Tensors, names: Sequence[str]
    ) -> tuple[dict[str, Tensor | None], float]:
        with self.at(parameters, names) as leaves:
            value = self()
            found: Sequence[Tensor | None] = [None] * len(leaves)
            if value.requires_grad:
                check_reentrant(value)
                found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
            return dict(zip(leaves, found, strict=True)), float(value.detach())

    def curvatures(
        self, parameters: Tensors, steps: Tensors, groups: Sequence[Sequence[str]]
    ) -> list[float]:
        """dᵀ H d for steps d along some of the parameters at a time, H the Hessian of the loss.

        By reverse over reverse, whose first two passes serve all groups: what stops gradients stops
        them here as well, and random numbers are those of the loss itself. Where an operation
        cannot be differentiated twice so, forward over reverse is tried (Pearlmutter, Fast exact
        multiplication by the Hessian, 1994).

        Args:
            parameters: The point, by name.
            steps: d, by name.
            groups: Names of the parameters that d is along, the others' steps being zero.

        Raises:
            ProbeError: If the loss has no second derivative by either way.
        """
        ways: list[tuple[str, Callable[..., list[float]]]] = [
            ("reverse over reverse", self._reverse_over_reverse),
            ("forward over reverse", self._forward_over_reverse),
        ]
        tried: list[str] = []
        for name, way in ways:
            try:
                with without_fused_kernels():
                    found = way(parameters, steps, groups)
            except OnceDifferentiableError:  # forward over reverse would silently give zero
                raise
            except Exception as error:  # what has no such derivative says so in many ways
                tried.append(f"{name}: {_first_line(error)}")
                continue
            self.second_order = name
            return found
        raise ProbeError(f"the loss has no second derivative ({'; '.join(tried)})")

    def _reverse_over_reverse(
        self, parameters: Tensors, steps: Tensors, groups: Sequence[Sequence[str]]
    ) -> list[float]:
        every = list(dict.fromkeys(name for names in groups for name in names))
        with self.at(parameters, every) as leaves:
            with WatchingHooks() as hooks:
                value = self()
            if not value.requires_grad:
                return [0.0] * len(groups)
            inputs = list(leaves.values())
            firsts = torch.autograd.grad(value, inputs, create_graph=True, allow_unused=True)
            if hooks.have_changed:
                raise OnceDifferentiableError(
                    "a hook within the network changes gradients, which a second derivative would "
                    "pass twice"
                )
            slopes = {n: g for n, g in zip(leaves, firsts, strict=True) if g is not None}
            check_twice_differentiable(slopes.values())
            return [_along(slopes, leaves, steps, names) for names in groups]

    def _forward_over_reverse(
        self, parameters: Tensors, steps: Tensors, groups: Sequence[Sequence[str]]
    ) -> list[float]:
        return [self._pushed(parameters, {name: steps[name] for name in names}) for names in groups]

    def _pushed(self, parameters: Tensors, along: Tensors) -> float:
        expected = self.value(parameters)
        with self.at(parameters):
            tensors = {name: p.clone() for name, p in self._leaves.items()}
            tensors |= {name: b.clone() for name, b in self._module.named_buffers()}
            point = {name: tensors[name] for name in along}

            def function(given: dict[str, Tensor]) -> Tensor:
                state = {name: t.clone() for name, t in {**tensors, **given}.items()}
                named = {f"{_ROOT}.{name}": tensor for name, tensor in state.items()}
                return _number(functional_call(self._call, named, ()))

            found: Any = jvp(grad_and_value(function), (point,), (dict(along),))
            (_, value), (moved, _) = found
            if float(value) != expected:
                raise ProbeError(f"the loss is {float(value)!r} within it, not {expected!r}")
            return dot(moved, along, along)


def _along(slopes: Tensors, leaves: Tensors, steps: Tensors, names: Sequence[str]) -> float:
    """dᵀ H d along some parameters, from first derivatives that have a graph."""
    parts = [(slopes[name] * steps[name]).sum() for name in names if name in slopes]
    slope = sum(parts[1:], parts[0]) if parts else None
    if slope is None or slope.grad_fn is None:
        return 0.0
    inputs = [leaves[name] for name in names]
    seconds = torch.autograd.grad(slope, inputs, retain_graph=True, allow_unused=True)
    found = {n: g.to_dense() for n, g in zip(names, seconds, strict=True) if g is not None}
    return dot(found, steps, found)


def _number(found: Any) -> Tensor:
    if not isinstance(found, Tensor) or found.numel() != 1 or not found.is_floating_point():
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ProbeError(f"the loss is {shape}, not a tensor with one floating-point number")
    return found.reshape(())


def moved(points: Tensors, by: Tensors, share: float = 1.0) -> dict[str, Tensor]:
    """Parameters, some of them moved."""
    return {**points, **{name: points[name] + share * step for name, step in by.items()}}


def dot(left: Mapping[str, Tensor], right: Mapping[str, Tensor], names: Iterable[str]) -> float:
    """Inner product over some parameters, in double precision."""
    return float(sum((left[name].double() * right[name].double()).sum() for name in names))


def _first_line(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text[:120]}"


__all__ += ["dot", "moved"]
