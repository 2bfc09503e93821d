"""A few samples of a batch, and what of them goes into a model."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from torch import Tensor, nn

from jacoscope.batches import batch_size_of, labels_of, pick, tensors_of
from jacoscope.errors import ConfigError
from jacoscope.probing._errors import ProbeError

__all__ = ["arguments_of", "call_of", "first_samples", "targets_of"]

_UNCHANGING = (str, bytes, int, float, complex, type)
_TARGETS = ("labels", "label", "targets", "target")


def first_samples(batch: Any, samples: int, wanted: int) -> Any:
    """The first samples of a batch, in tensors of their own.

    Tensors, lists and tuples with as many entries as the batch has samples are cut; everything
    else stays whole.

    Args:
        batch: The batch.
        samples: Number of samples in it.
        wanted: Number of samples to keep; all, if it has no more.
    """
    if isinstance(batch, Tensor):
        tensor = batch.detach()
        cut = tensor[:wanted] if tensor.dim() and len(tensor) == samples else tensor
        return cut.clone()
    if isinstance(batch, Mapping):
        entries = {key: first_samples(value, samples, wanted) for key, value in batch.items()}
        if type(batch) is dict or not isinstance(batch, MutableMapping):
            return entries
        kept = copy.copy(batch)
        for key, value in entries.items():
            kept[key] = value
        return kept
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(first_samples(value, samples, wanted) for value in batch))
    if isinstance(batch, list | tuple):
        sizes = [size for size in map(batch_size_of, batch) if size is not None]
        are_fields = bool(sizes) and all(size == samples for size in sizes)
        if len(batch) == samples and not are_fields:
            return type(batch)(first_samples(value, 0, 0) for value in batch[:wanted])
        return type(batch)(first_samples(value, samples, wanted) for value in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        result: Any = copy.copy(batch)
        for field in dataclasses.fields(batch):
            value = first_samples(getattr(batch, field.name), samples, wanted)
            object.__setattr__(result, field.name, value)
        return result
    if batch is None or isinstance(batch, _UNCHANGING):
        return batch
    try:
        return copy.deepcopy(batch)
    except Exception:  # what cannot be copied is shared
        return batch


def arguments_of(
    batch: Any, call: Callable[..., Any], path: str | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What of a batch a model's forward takes.

    With a path, what stands there: a mapping gives keyword arguments, a tuple or list positional
    ones, anything else is the one argument. Without one, a mapping gives those of its entries that
    the forward's signature names, but no labels; a tuple or list gives its first entry; anything
    else is the one argument.

    Args:
        batch: The batch.
        call: The forward.
        path: Path into the batch.

    Returns:
        Positional and keyword arguments.

    Raises:
        ProbeError: If nothing stands at the path, or no entry is named in the signature.
    """
    if path is not None:
        try:
            found = pick(batch, path, "probes.input")
        except ConfigError as error:
            raise ProbeError(str(error)) from None
        if isinstance(found, Mapping):
            return (), {str(key): value for key, value in found.items()}
        if isinstance(found, list | tuple):
            return tuple(found), {}
        return (found,), {}
    if isinstance(batch, Mapping):
        return (), _named(batch, call)
    if isinstance(batch, list | tuple):
        if not batch:
            raise ProbeError("the batch is empty")
        first = batch[0]
        return ((), _named(first, call)) if isinstance(first, Mapping) else ((first,), {})
    return (batch,), {}


def _named(batch: Mapping[Any, Any], call: Callable[..., Any]) -> dict[str, Any]:
    names = inspect.signature(call).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in names.values())
    takes = {
        str(k): v
        for k, v in batch.items()
        if (takes_any or str(k) in names) and str(k) not in _TARGETS
    }
    if not takes:
        keys = ", ".join(map(str, batch))
        raise ProbeError(
            f"none of the batch's keys ({keys}) is an argument of the model's forward "
            f"({', '.join(names)}); set probes.input to the path of its input in the batch"
        )
    return takes


def targets_of(batch: Any, samples: int, path: str | None = None) -> Tensor | None:
    """What the outputs are meant to be: class labels, shape (N,), or numbers, shape (N, …).

    Args:
        batch: The batch.
        samples: Number of samples N.
        path: Path of class labels, as ``samples.label`` has it.
    """
    if path is not None:
        found = pick(batch, path, "samples.label")
        return (
            found.detach() if isinstance(found, Tensor) and found.shape[:1] == (samples,) else None
        )
    labels = labels_of(batch, samples)
    if labels is not None:
        return labels
    named = [
        (name.rpartition(".")[2], tensor)
        for name, tensor in tensors_of(batch)
        if tensor.dim() and len(tensor) == samples and tensor.is_floating_point()
    ]
    for name, tensor in named:
        if name in (*_TARGETS, "y"):
            return tensor.detach()
    is_pair = isinstance(batch, list | tuple) and len(batch) == 2
    return named[1][1].detach() if is_pair and len(named) == 2 else None


def call_of(module: nn.Module, path: str, method: str) -> Callable[..., Any]:
    """The function that a configuration names: a method of a model or of one of its modules."""
    found: Callable[..., Any] = getattr(module.get_submodule(path), method)
    return found
