"""Running a probe so that nothing of the run is disturbed."""

from __future__ import annotations

import copy
import functools
import random
import sys
import types
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.hooks import RemovableHandle

from jacoscope.probing._errors import ProbeError

__all__ = ["Attributes", "Randomness", "devices_of", "isolated", "replica", "without_fused_kernels"]

_SHARED = ("Dataset", "DataLoader", "LightningDataModule", "Logger", "SummaryWriter", "Trainer")
"""Base classes of what a module may hold on to, which no forward changes and no copy is made of."""
_DEPTH = 4


def devices_of(model: nn.Module) -> set[torch.device]:
    """The devices that a model's parameters are on."""
    return {parameter.device for parameter in model.parameters()}


@contextmanager
def isolated(devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Run what is within in plain eager mode, and put every random state back.

    Autocast is off, so that numbers have the parameters' own precision; gradients can be taken
    whatever mode the caller is in; attention goes by its plain formula, which alone has forward
    and second derivatives.

    Args:
        devices: Devices whose random states are put back, besides the CPU's.
    """
    cuda = sorted({d.index or 0 for d in devices if d.type == "cuda"})
    states = random.getstate(), np.random.get_state()
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.callback(random.setstate, states[0])
        stack.callback(np.random.set_state, states[1])
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {"cpu", *(device.type for device in devices)}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and the import takes seconds
            stance: Any = torch.compiler.set_stance("force_eager")
            stack.enter_context(stance)
        yield


@contextmanager
def without_fused_kernels() -> Iterator[None]:
    """Let recurrent layers go by plain formulas, which have forward and second derivatives."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration")
        flags: Any = torch.backends.mkldnn.flags(enabled=False)
        with flags, torch.backends.cudnn.flags(enabled=False):
            yield


class Randomness:
    """The random states of a moment, to be gone back to before each of several evaluations.

    Args:
        devices: Devices whose states count, besides the CPU.
    """

    def __init__(self, devices: Iterable[torch.device] = ()) -> None:
        self._cuda = {d.index or 0 for d in devices if d.type == "cuda"}
        self._torch = torch.get_rng_state()
        self._devices = {index: torch.cuda.get_rng_state(index) for index in self._cuda}
        self._python = random.getstate()
        self._numpy = np.random.get_state()

    def restore(self) -> None:
        """Go back to that moment."""
        torch.set_rng_state(self._torch)
        for index, state in self._devices.items():
            torch.cuda.set_rng_state(state, index)
        random.setstate(self._python)
        np.random.set_state(self._numpy)

    def has_been_used(self) -> bool:
        """Whether a random number was drawn since."""
        if not torch.equal(torch.get_rng_state(), self._torch):
            return True
        if random.getstate() != self._python:
            return True
        now: Any = np.random.get_state()
        then: Any = self._numpy
        if now[2] != then[2] or not np.array_equal(now[1], then[1]):
            return True
        return any(
            not torch.equal(torch.cuda.get_rng_state(index), state)
            for index, state in self._devices.items()
        )


class Attributes:
    """What a module's parts keep besides parameters and buffers: counters, metrics' sums, lists.

    Evaluations are to start from the same; and what one leaves behind within a transform of
    torch.func is of no use to the next.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        # Parts of the model stay what they are in lists and mappings of them, data is shared.
        parts = (*module.modules(), *module.parameters(), *module.buffers())
        self._memo: dict[int, Any] = {id(part): part for part in parts}
        self._owns = [vars(each) for each in module.modules()]
        for own in self._owns:
            for value in own.values():
                _prepare(value, self._memo, keeps_handles=True)
        self._fixed = [
            {n: v for n, v in own.items() if not _is_mutable(n, v)} for own in self._owns
        ]
        changing = [
            {n: v for n, v in own.items() if n not in fixed}
            for own, fixed in zip(self._owns, self._fixed, strict=True)
        ]
        self._copies = copy.deepcopy(changing, dict(self._memo))

    def restore(self) -> None:
        """Go back to what they kept."""
        copies = copy.deepcopy(self._copies, dict(self._memo))
        for own, fixed, copied in zip(self._owns, self._fixed, copies, strict=True):
            for name in [name for name in own if name not in fixed and name not in copied]:
                del own[name]
            own.update(fixed)
            own.update(copied)


_MODULE_S_OWN = frozenset(vars(nn.Module()))
"""What torch itself keeps in a module: parameters, buffers, children, hooks, the mode."""


_CHANGING = (Tensor, list, dict, set, deque, torch.Generator, np.random.Generator, random.Random)
"""What may be changed in place."""


def _is_mutable(name: str, value: Any) -> bool:
    """Whether an evaluation may change an attribute in place."""
    return name not in _MODULE_S_OWN and isinstance(value, _CHANGING)


def replica(module: nn.Module) -> nn.Module:
    """A copy of a module with all that a forward may change: weights, buffers, counters, lists.

    Tensors that hang in a graph are copied without it. Datasets, loaders and loggers that the
    module holds on to are shared.

    Raises:
        ProbeError: If it holds something that cannot be copied.
    """
    for name, each in module.named_modules():
        if isinstance(each, torch.jit.ScriptModule) and next(each.parameters(), None) is not None:
            raise ProbeError(
                f"{name or 'the model'} is compiled by torch.jit, so that a copy's parameters "
                "cannot be exchanged"
            )
    memo: dict[int, Any] = {}
    try:
        with torch.inference_mode(False):  # what is copied within it cannot be differentiated
            for each in module.modules():
                for value in vars(each).values():
                    _prepare(value, memo)
            copied = copy.deepcopy(module, memo)
            _enclose(copied, memo)
            return copied
    except Exception as error:
        raise ProbeError(
            f"the model cannot be copied, which keeps probes from changing it "
            f"({type(error).__name__}: {error})"
        ) from error


def _enclose(copied: nn.Module, memo: dict[int, Any]) -> None:
    """Let hooks and functions that a copy holds enclose the copy, not what it is a copy of.

    Copying shares functions. What they enclose is replaced by its copy where there is one, as of
    the module itself, and copied where it may change in place.

    Args:
        copied: The copy.
        memo: What the copier has copied, by identity.
    """
    made: dict[int, Any] = {}
    for each in copied.modules():
        for holder in (vars(each), *(v for v in vars(each).values() if isinstance(v, dict))):
            for key, value in list(holder.items()):
                holder[key] = _enclosing(value, memo, made)


def _enclosing(value: Any, memo: dict[int, Any], made: dict[int, Any]) -> Any:
    if isinstance(value, functools.partial):
        return functools.partial(
            _enclosing(value.func, memo, made),
            *(memo.get(id(each), each) for each in value.args),
            **{name: memo.get(id(each), each) for name, each in value.keywords.items()},
        )
    if not isinstance(value, types.FunctionType) or value.__closure__ is None:
        return value
    if id(value) in made:
        return made[id(value)]
    cells = tuple(types.CellType() for _ in value.__closure__)
    function = types.FunctionType(
        value.__code__, value.__globals__, value.__name__, value.__defaults__, cells
    )
    function.__kwdefaults__ = value.__kwdefaults__
    function.__dict__.update(vars(value))
    made[id(value)] = function
    for cell, old in zip(cells, value.__closure__, strict=True):
        try:
            content = old.cell_contents
        except ValueError:  # nothing is in it yet
            continue
        content = _enclosing(content, memo, made)
        is_of_copy = isinstance(content, types.MethodType) and id(content.__self__) in memo
        if is_of_copy or id(content) in memo or isinstance(content, _CHANGING):
            content = copy.deepcopy(content, memo)
        cell.cell_contents = content
    return function


def _prepare(
    value: Any, memo: dict[int, Any], depth: int = 0, *, keeps_handles: bool = False
) -> None:
    """Note in a copier's memo what it could not copy or should not.

    Args:
        value: What is to be copied.
        memo: The memo.
        depth: How deep it is nested.
        keeps_handles: Whether handles of hooks stay what they are, as those of the same module;
            torch cannot copy them twice.
    """
    if isinstance(value, Tensor):
        if not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    elif isinstance(value, nn.Module) or depth > _DEPTH:
        return
    elif isinstance(value, Mapping):
        for each in value.values():
            _prepare(each, memo, depth + 1, keeps_handles=keeps_handles)
    elif isinstance(value, list | tuple | set):
        for each in value:
            _prepare(each, memo, depth + 1, keeps_handles=keeps_handles)
    elif isinstance(value, RemovableHandle):
        if keeps_handles:
            memo[id(value)] = value
    elif any(cls.__name__ in _SHARED for cls in type(value).__mro__):
        memo[id(value)] = value
