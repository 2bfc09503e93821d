"""A model's outputs as a function: of its parameters, of its input, of one of its layers' outputs.

Shape suffixes: N samples, C outputs per sample.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_unflatten

from jacoscope.batches import pick, tensors_of
from jacoscope.errors import ConfigError, nearest
from jacoscope.probing._errors import ProbeError
from jacoscope.probing._isolation import Attributes, Randomness

__all__ = ["INPUT", "ModelFunction", "Tensors"]

Tensors: TypeAlias = Mapping[str, Tensor]

INPUT = "(input)"
"""The place of the model's input, where the name of a module would stand."""

_ROOT = "root"
_MODEL = "the model"


class _Call(nn.Module):
    """Calls a method of a module within a model, all of which functional_call then reaches."""

    def __init__(self, root: nn.Module, path: str, method: str) -> None:
        super().__init__()
        self.root = root
        self._path = path
        self._method = method

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        module = self.root.get_submodule(self._path)
        if self._method == "forward":
            return module(*args, **kwargs)
        return getattr(module, self._method)(*args, **kwargs)


class ModelFunction:
    """f: what a model makes of N samples.

    Evaluations start from the same buffers and random states, so that they differ by what they are
    given alone. The module is called as it is, in the mode that it is in; give a copy if it must
    not be changed.

    Args:
        module: The model.
        args: Positional arguments of its forward; tensors whose first dimension is N are samples.
        kwargs: Keyword arguments.
        path: Path of the module within the model that is called; by default the model itself.
        method: The method that is called.
        output: Path of the output in what is returned; by default ``logits`` if there is such an
            entry, else the first floating-point tensor whose first dimension is N.
        target: Name of a module whose output takes the place of the model's.

    Attributes:
        samples: N.
        outputs: C, the number of outputs per sample, all dimensions of a sample's output together.
        output_shape: Shape of a sample's output.
        values: Outputs, shape (N, C).
        draws: Whether an evaluation draws random numbers.
        parameters: The model's parameters by name, without history.

    Raises:
        ProbeError: If the model cannot be called so, or gives no output per sample.
    """

    def __init__(
        self,
        module: nn.Module,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        path: str = "",
        method: str = "forward",
        output: str | None = None,
        target: str | None = None,
    ) -> None:
        self._module = module
        self._call = _Call(module, path, method)
        self._check_method(path, method)
        leaves, self._spec = tree_flatten((args, dict(kwargs or {})))
        # Copies: the caller's may be of inference mode, and a forward may write over its input.
        self._leaves = [_copied(leaf) for leaf in leaves]
        self.parameters = {name: p.detach() for name, p in module.named_parameters()}
        self._buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
        self.devices = {t.device for t in (*self.parameters.values(), *self._tensors())}
        self._output, self._target = output, target
        self.samples = self._count()
        self.is_sample = [_has_samples(leaf, self.samples) for leaf in self._leaves]
        self._randomness = Randomness(self.devices)
        self._attributes = Attributes(module)
        with self.rewound(), torch.no_grad():
            try:
                raw = self._run({}, self._leaves)
            except (NotImplementedError, TypeError) as error:
                if method == "forward" and not path and _is_of_no_forward(error):
                    raise ProbeError(
                        "the model's forward is not implemented; set probes.method or "
                        "probes.module to what maps inputs to outputs"
                    ) from error
                raise
            self.draws = self._randomness.has_been_used()
        self.output_shape = tuple(raw.shape[1:])
        self.values = raw.detach().reshape(self.samples, -1)
        self.outputs = self.values.shape[1]
        if not self.outputs:
            raise ProbeError("the model's output is empty")
        self._check_samples_of(None)

    def _check_samples_of(self, place: str | None) -> None:
        """Refuse what has as many rows as there are samples by chance, such as places in time.

        Args:
            place: The module whose output it is; by default the model.

        Raises:
            ProbeError: If the rows do not become fewer with the samples.
        """
        fewer = self.samples - 1
        if not fewer:
            return
        pairs = zip(self._leaves, self.is_sample, strict=True)
        leaves = [leaf[:fewer] if there else leaf for leaf, there in pairs]
        try:
            with self.rewound(), torch.no_grad():
                if place is None:
                    self._run({}, leaves, fewer)
                else:
                    with caught(self._module, place, fewer):
                        self._run({}, leaves, fewer)
        except ProbeError as error:
            who = "the model's output" if place is None else f"the output of {place!r}"
            raise ProbeError(
                f"the first dimension of {who} is not that of the samples: of one sample fewer, "
                f"{error}"
            ) from None
        except Exception:  # a model for batches of this size alone
            return

    def _tensors(self) -> list[Tensor]:
        return [leaf for leaf in self._leaves if isinstance(leaf, Tensor)]

    def _count(self) -> int:
        sized = [leaf for leaf in self._tensors() if leaf.dim()]
        if not sized:
            raise ProbeError("the model's input has no tensor with samples in its first dimension")
        if not len(sized[0]):
            raise ProbeError("the batch has no samples")
        return len(sized[0])

    def _check_method(self, path: str, method: str) -> None:
        called = self._module.get_submodule(path)
        if not callable(getattr(called, method, None)):
            methods = [name for name in dir(type(called)) if not name.startswith("_")]
            raise ProbeError(
                f"{type(called).__name__} has no method {method!r}; {nearest(method, methods)}"
            )

    @property
    def sample_inputs(self) -> list[Tensor]:
        """Those parts of the input that have samples in their first dimension."""
        pairs = zip(self._leaves, self.is_sample, strict=True)
        return [leaf for leaf, there in pairs if there]

    @contextmanager
    def rewound(self) -> Iterator[None]:
        """Start an evaluation from the same random states and attributes as every other.

        It goes around transforms of torch.func, not into them, where copies would be of a level of
        theirs.
        """
        self._randomness.restore()
        try:
            yield
        finally:
            self._attributes.restore()

    def batch(self, parameters: Tensors, inputs: Sequence[Tensor] | None = None) -> Tensor:
        """Outputs of all samples at once, shape (N, C).

        Args:
            parameters: Parameters that take the place of the model's own, by name.
            inputs: What takes the place of :attr:`sample_inputs`.
        """
        raw = self._run(parameters, self._with(inputs))
        return raw.reshape(len(raw), -1)

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self._module

    def plain(
        self, repeats: int = 1, inputs: Sequence[Tensor] | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The model's parameters as leaves, and the outputs of all samples, shape (N·repeats, C).

        By a plain call of the model, as training calls it, with the parameters that it holds.

        Args:
            repeats: How many times each sample stands in the batch, one after the other.
            inputs: What takes the place of :attr:`sample_inputs`, and may have a graph.
        """
        named = dict(self._module.named_parameters())
        leaves: dict[str, Tensor] = {n: p for n, p in named.items() if p.is_floating_point()}
        for leaf in leaves.values():
            leaf.requires_grad_()
        pairs = zip(self._leaves, self.is_sample, strict=True)
        given = [_repeated(leaf, repeats) if there else _copied(leaf) for leaf, there in pairs]
        if inputs is not None:
            given = [_cloned(leaf) for leaf in self._with(inputs)]
        args, kwargs = tree_unflatten(given, self._spec)
        count = self.samples * repeats
        with self.rewound(), _buffers_apart(self._module):
            if self._target is None:
                raw = _chosen(self._call(*args, **kwargs), self._output, count)
            else:
                with caught(self._module, self._target, count) as found:
                    self._call(*args, **kwargs)
                raw = _only(found, self._target)
        return leaves, raw.reshape(count, -1)

    def single(self, parameters: Tensors, inputs: Sequence[Tensor]) -> Tensor:
        """Outputs of one sample as a batch of its own, shape (C,).

        Args:
            parameters: Parameters that take the place of the model's own, by name.
            inputs: The sample's part of each of :attr:`sample_inputs`, without the dimension N.
        """
        raw = self._run(parameters, self._with([each.unsqueeze(0) for each in inputs]), 1)
        return raw.reshape(-1)

    def _with(self, inputs: Sequence[Tensor] | None) -> list[Any]:
        if inputs is None:
            return self._leaves
        given = iter(inputs)
        pairs = zip(self._leaves, self.is_sample, strict=True)
        return [next(given) if there else leaf for leaf, there in pairs]

    def _run(self, parameters: Tensors, leaves: list[Any], samples: int | None = None) -> Tensor:
        given = [_cloned(leaf) for leaf in leaves]
        args, kwargs = tree_unflatten(given, self._spec)
        buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}
        state = {**self.parameters, **parameters, **buffers}
        named = {f"{_ROOT}.{name}": value for name, value in state.items()}
        count = self.samples if samples is None else samples
        if self._target is None:
            returned = functional_call(self._call, named, args, kwargs)
            return _chosen(returned, self._output, count)
        with caught(self._module, self._target, count) as found:
            functional_call(self._call, named, args, kwargs)
        return _only(found, self._target)

    # What follows finds the places that outputs can be differentiated by besides parameters.

    def input_place(self) -> tuple[str, int | None]:
        """The place that the outputs are differentiated by as their input.

        Returns:
            :data:`INPUT` and the place among :attr:`sample_inputs` of the first one of floating
            point; or the name of the embedding that takes the first one of integers, and ``None``.

        Raises:
            ProbeError: If there is neither.
        """
        for index, tensor in enumerate(self.sample_inputs):
            if tensor.is_floating_point():
                return INPUT, index
            found: list[str] = []
            watching = _watching_embeddings(self._module, {id(tensor): tensor}, found)
            with self.rewound(), watching, torch.no_grad():
                self.batch({})
            if found:
                return found[0], None
        raise ProbeError(
            "the model's input is of integers and goes into no nn.Embedding, so that there is "
            "nothing to differentiate by; set probes.method to what takes numbers"
        )

    def place_value(self, place: str) -> Tensor:
        """What a module puts out for the samples, shape (N, …), of floating point.

        Raises:
            ProbeError: If it does not run exactly once, or its output has no samples.
        """
        with self.rewound(), caught(self._module, place, self.samples) as found, torch.no_grad():
            self.batch({})
        self._check_samples_of(place)
        return _only(found, place)

    @contextmanager
    def shifted(self, place: str, by: Tensor) -> Iterator[None]:
        """Add a tensor to what a module puts out, for as long as the context lasts."""

        def add(module: nn.Module, args: Any, output: Any) -> Any:
            chosen = _chosen(output, None, len(by), f"the module {place!r}")
            return _replaced(output, chosen, chosen + by)

        handle = self._module.get_submodule(place).register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()


def _is_of_no_forward(error: Exception) -> bool:
    """Whether it is PyTorch's answer to calling a module that has no forward of its own.

    The function that stands in for one takes no keyword arguments, and refuses those first.
    """
    return isinstance(error, NotImplementedError) or "_forward_unimplemented()" in str(error)


@contextmanager
def _buffers_apart(module: nn.Module) -> Iterator[None]:
    """Let a module work on copies of its buffers, for as long as the context lasts."""
    own = [(each._buffers, name) for each in module.modules() for name in each._buffers]
    kept = [registered[name] for registered, name in own]
    copies = {id(buffer): buffer.clone() for buffer in kept if buffer is not None}
    try:
        for (registered, name), buffer in zip(own, kept, strict=True):
            registered[name] = None if buffer is None else copies[id(buffer)]
        yield
    finally:
        for (registered, name), buffer in zip(own, kept, strict=True):
            registered[name] = buffer


@contextmanager
def caught(module: nn.Module, name: str, samples: int) -> Iterator[list[Tensor]]:
    """Collect what a module within a model puts out for the samples, each time that it runs.

    As it is then: what follows may write over it, as rectified units do in place.
    """
    found: list[Tensor] = []

    def catch(module: nn.Module, args: Any, output: Any) -> None:
        found.append(_chosen(output, None, samples, f"the module {name!r}").clone())

    handle = module.get_submodule(name).register_forward_hook(catch)
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def _watching_embeddings(
    module: nn.Module, tokens: Mapping[int, Tensor], found: list[str]
) -> Iterator[None]:
    def watch(name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...]) -> None:
            given = args[0] if args else None
            if isinstance(given, Tensor) and any(
                given.shape == token.shape and torch.equal(given, token)
                for token in tokens.values()
            ):
                found.append(name)

        return hook

    handles = [
        layer.register_forward_pre_hook(watch(name))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Embedding)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    """What a module puts out, with another tensor in the place of one of its own."""
    if output is old:
        return new
    if isinstance(output, Mapping):
        result = copy.copy(output)
        for key, value in output.items():
            if value is not (other := _replaced(value, old, new)):
                result[key] = other  # type: ignore[index]
        return result
    if isinstance(output, list | tuple):
        parts = [_replaced(value, old, new) for value in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        remade: Any = copy.copy(output)
        for field in dataclasses.fields(output):
            value = getattr(output, field.name)
            object.__setattr__(remade, field.name, _replaced(value, old, new))
        return remade
    return output


def _only(found: list[Tensor], name: str) -> Tensor:
    if len(found) != 1:
        times = "not at all" if not found else f"{len(found)} times"
        raise ProbeError(f"the module {name!r} runs {times} in a forward, not once")
    return found[0]


def _cloned(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _repeated(leaf: Tensor, repeats: int) -> Tensor:
    return leaf.detach().clone() if repeats == 1 else leaf.detach().repeat_interleave(repeats, 0)


def _has_samples(leaf: Any, samples: int) -> bool:
    return isinstance(leaf, Tensor) and bool(leaf.dim()) and len(leaf) == samples


def _chosen(returned: Any, path: str | None, samples: int, who: str = _MODEL) -> Tensor:
    """The output per sample in what a forward returned."""
    if path is not None:
        try:
            found = pick(returned, path, "probes.output")
        except ConfigError as error:
            raise ProbeError(
                str(error).replace("in the batch, which", "in the output, which")
            ) from None
        if not isinstance(found, Tensor):
            raise ProbeError(
                f"the output at {path!r} is {type(found).__name__}, not a tensor; set "
                "probes.output to the path of one"
            )
        _check_output(found, samples)
        return found
    candidates = dict(tensors_of(returned))
    if "logits" in candidates:
        found = candidates["logits"]
        _check_output(found, samples)
        return found
    for tensor in candidates.values():
        if tensor.is_floating_point() and tensor.dim() and len(tensor) == samples:
            return tensor
    shapes = ", ".join(str(tuple(t.shape)) for t in candidates.values()) or "no tensor"
    raise ProbeError(
        f"{who} returns {shapes}, none of it floating-point numbers for each of {samples} samples"
        + ("; set probes.output, or probes.method, to what gives them" if who == _MODEL else "")
    )


def _check_output(tensor: Tensor, samples: int) -> None:
    if not tensor.is_floating_point():
        raise ProbeError(f"the model's output is of {tensor.dtype}, which cannot be differentiated")
    if not tensor.dim() or len(tensor) != samples:
        raise ProbeError(
            f"the model's output has shape {tuple(tensor.shape)}, whose first dimension is not the "
            f"number of samples, {samples}"
        )
