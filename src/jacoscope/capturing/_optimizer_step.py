"""Gradients, weights and updates around the optimiser's steps of one training step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from jacoscope.capturing._complex import as_real
from jacoscope.capturing._tensors import ParameterTensors
from jacoscope.capturing._versions import Versions
from jacoscope.sharding import gradient_mismatch, local

__all__ = ["OptimizerStepCapture", "Wanted"]

_CHANGED = (
    "its weights were changed between a backward of this training step and the optimiser's step, "
    "as by a step within the backward or a perturbation"
)


Kept = Literal["gradient", "weight"]


@dataclass(frozen=True, eq=False)
class Wanted:
    """A parameter and what is to be taken of it.

    Args:
        name: The parameter's name.
        parameter: The tensor.
        update: Whether Δθ is wanted, which takes a copy of θ until the optimiser has stepped.
        update_with_gradient: Whether Δθ is wanted together with g, which takes a copy of g too.
    """

    name: str
    parameter: Tensor
    update: bool
    update_with_gradient: bool

    @property
    def copied_bytes(self) -> int:
        """Memory that the copies take while the optimiser steps."""
        copies = int(self.update) + int(self.update_with_gradient)
        here = local(self.parameter.detach())
        return copies * here.numel() * here.element_size()


@dataclass(frozen=True, eq=False)
class _Copies:
    """What an optimiser step left to be compared once it is done."""

    wanted: tuple[Wanted, ...]
    gradients: list[Tensor] | None
    weights: list[Tensor]
    gradient_scale: Tensor | None


class OptimizerStepCapture:
    """Watches the optimisers of one training step.

    :meth:`before_step` hands on gradients and weights, in place, before the optimiser changes
    them. Where updates are wanted it copies what they are compared with, hooks the optimiser's
    end, and hands on the update from there. With several optimisers each has its turn; one that
    steps again in the same training step, or evaluates its closure again (LBFGS), is captured the
    first time. Of a parameter that is split over processes it hands on the part that is here.

    Args:
        wanted: The parameters to capture.
        emit: Receives the tensors, which are valid only during the call.
        keep: Asked first to copy what an update is compared with, ``gradient`` or ``weight`` and
            the tensors, into room of its own; ``None`` where it has none.
    """

    def __init__(
        self,
        wanted: Sequence[Wanted],
        emit: Callable[[ParameterTensors], None],
        keep: Callable[[Kept, list[Tensor]], list[Tensor] | None] | None = None,
    ) -> None:
        self._waiting = {id(item.parameter): item for item in wanted}
        self._emit = emit
        self._keep = keep
        self._seen: set[int] = set()
        self._pending: dict[int, list[_Copies]] = {}
        self._hooks: dict[int, RemovableHandle] = {}
        self._failure: Exception | None = None
        self._versions = Versions(item.parameter for item in wanted)
        self.missing: dict[str, str] = {}

    @property
    def has_seen_a_step(self) -> bool:
        """Whether any optimiser has stepped yet."""
        return bool(self._seen)

    @torch.no_grad()
    def before_step(
        self,
        optimizer: Optimizer,
        gradient_scale: Tensor | None = None,
        changed: Collection[int] = (),
    ) -> None:
        """Take the gradients and weights of this optimiser's parameters.

        Args:
            optimizer: The optimiser that is about to step.
            gradient_scale: Factor that its gradients still carry, or ``None`` for 1.
            changed: The ids of parameters that are no longer what the backward saw.
        """
        if id(optimizer) in self._seen:
            return
        self._seen.add(id(optimizer))
        mine = []
        for item in self._take(optimizer):
            if id(item.parameter) in changed:
                self.missing[item.name] = _CHANGED
            else:
                mine.append(item)
        for item in mine:
            reason = _no_gradient(item)
            if reason is not None:
                self.missing[item.name] = reason
        for group in _by_device(item for item in mine if item.parameter.grad is None):
            self._emit(_weights(group))
        given = [item for item in mine if item.parameter.grad is not None]
        for group in _by_device(item for item in given if item.name not in self.missing):
            self._capture_group(optimizer, group, gradient_scale)
        for group in _by_device(item for item in given if item.name in self.missing):
            self._emit(_weights(group))
            self._copy(optimizer, tuple(item for item in group if item.update))

    @torch.no_grad()
    def finish(self) -> None:
        """Hand on what no optimiser step delivered, and let go of everything.

        An optimiser that was about to step but did not (a gradient scaler skips steps with
        non-finite gradients) has an update of zero. Parameters of no optimiser have weights only.
        """
        try:
            failure, self._failure = self._failure, None
            try:
                if failure is not None:
                    raise failure
            finally:
                del failure  # it holds this frame, and all that the failed one had
            for key in list(self._pending):
                self._after_step(key)
            changed = self._versions.changed()
            rest = list(self._waiting.values())
            for item in rest:
                self.missing[item.name] = (
                    "no optimiser that stepped in this training step holds it"
                    if item.parameter.requires_grad
                    else "it is frozen (requires_grad is False)"
                )
            for group in _by_device(i for i in rest if id(i.parameter) not in changed):
                self._emit(_weights(group))
        finally:
            self.detach()

    def detach(self) -> None:
        """Remove every hook and drop every copy; safe to call at any time, more than once."""
        for handle in self._hooks.values():
            handle.remove()
        self._hooks.clear()
        self._pending.clear()
        self._waiting.clear()

    def _take(self, optimizer: Optimizer) -> list[Wanted]:
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        keys = dict.fromkeys(id(p) for p in parameters)
        return [self._waiting.pop(key) for key in keys if key in self._waiting]

    def _capture_group(
        self, optimizer: Optimizer, group: tuple[Wanted, ...], gradient_scale: Tensor | None
    ) -> None:
        # Where gradient, weight and update are all wanted, they are handed on together once the
        # optimiser has stepped; otherwise gradient and weight now, and the update by itself then.
        together = tuple(item for item in group if item.update_with_gradient)
        apart = tuple(item for item in group if not item.update_with_gradient)
        if apart:
            self._emit(
                ParameterTensors(
                    names=tuple(item.name for item in apart),
                    device=apart[0].parameter.device,
                    gradients=[_gradient(item) for item in apart],
                    weights=[_here(item.parameter) for item in apart],
                    gradient_scale=gradient_scale,
                )
            )
        gradients = self._kept("gradient", [_gradient(item) for item in together])
        self._copy(optimizer, together, gradients, gradient_scale)
        self._copy(optimizer, tuple(item for item in apart if item.update))

    def _copy(
        self,
        optimizer: Optimizer,
        wanted: tuple[Wanted, ...],
        gradients: list[Tensor] | None = None,
        gradient_scale: Tensor | None = None,
    ) -> None:
        """Keep what these parameters are to be compared with."""
        if not wanted:
            return
        weights = self._kept("weight", [_here(item.parameter) for item in wanted])
        scale = gradient_scale.clone() if gradient_scale is not None else None
        copies = _Copies(wanted, gradients, weights, scale)
        self._pending.setdefault(id(optimizer), []).append(copies)
        self._hook_end_of(optimizer)

    def _kept(self, what: Kept, tensors: list[Tensor]) -> list[Tensor]:
        kept = self._keep(what, tensors) if self._keep is not None and tensors else None
        return [tensor.clone() for tensor in tensors] if kept is None else kept

    def _hook_end_of(self, optimizer: Optimizer) -> None:
        key = id(optimizer)
        # An optimiser that is none of torch's own, or has not called its constructor (some that
        # wrap another), has no such hook; its update is then taken at the end of the training step.
        is_torch = isinstance(optimizer, Optimizer) and "_optimizer_step_post_hooks" in vars(
            optimizer
        )
        if key not in self._hooks and is_torch:
            self._hooks[key] = optimizer.register_step_post_hook(lambda *_: self._on_step_done(key))

    def _on_step_done(self, key: int) -> None:
        # The optimiser iterates over its hooks: none may be removed now, and nothing raised.
        try:
            self._after_step(key)
        except Exception as error:
            self._failure = self._failure or error

    @torch.no_grad()
    def _after_step(self, key: int) -> None:
        for parts in self._pending.pop(key, []):
            moved = [_here(item.parameter) for item in parts.wanted]
            self._emit(
                ParameterTensors(
                    names=tuple(item.name for item in parts.wanted),
                    device=moved[0].device,
                    gradients=parts.gradients,
                    weights=parts.weights,
                    moved=moved,
                    gradient_scale=parts.gradient_scale,
                )
            )


def _weights(group: tuple[Wanted, ...]) -> ParameterTensors:
    names = tuple(item.name for item in group)
    parameters = [_here(item.parameter) for item in group]
    return ParameterTensors(names, parameters[0].device, weights=parameters)


def _by_device(items: Iterable[Wanted]) -> list[tuple[Wanted, ...]]:
    groups: dict[torch.device, list[Wanted]] = {}
    for item in items:
        groups.setdefault(item.parameter.device, []).append(item)
    return [tuple(group) for group in groups.values()]


def _gradient(item: Wanted) -> Tensor:
    gradient = item.parameter.grad
    assert gradient is not None
    return _here(gradient)


def _here(tensor: Tensor) -> Tensor:
    """What of a tensor is on this process, as real numbers."""
    return as_real(local(tensor))


def _no_gradient(item: Wanted) -> str | None:
    """Why there is no gradient to measure, or ``None`` if there is one."""
    if item.parameter.grad is not None:
        return gradient_mismatch(item.parameter, item.parameter.grad)
    if not item.parameter.requires_grad:
        return "it is frozen (requires_grad is False)"
    return "it has no gradient in this training step (the loss does not depend on it, or is None)"
