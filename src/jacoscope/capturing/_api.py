"""``jacoscope.capture``: Jacobians of a loss, for plain PyTorch and notebooks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from jacoscope.capturing._calibration import Calibrations
from jacoscope.capturing._capture import JacobianCapture
from jacoscope.capturing._jacobians import Jacobians, ParameterJacobian
from jacoscope.errors import nearest
from jacoscope.jacobian import DEFAULT_MEMORY_BUDGET, WANTS, Jacobian, measure

__all__ = ["capture", "capture_with", "samples_of", "watched_parameters"]

_OPERATOR = "operator"
_CALIBRATIONS: WeakKeyDictionary[nn.Module, Calibrations] = WeakKeyDictionary()
_COUNT = itertools.count()


@contextmanager
def capture(
    loss: Tensor,
    model: nn.Module,
    batch_size: int | None = None,
    want: str | Sequence[str] = ("row_sq_norms",),
    *,
    samples: Tensor | Sequence[int] | None = None,
    parameters: Iterable[str] | None = None,
    batch_dim: int | None = None,
    custom_functions: Literal["withhold", "run"] = "withhold",
    verify: int = 2,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> Iterator[Jacobians]:
    """Capture the per-sample Jacobian of ``loss`` for every parameter, during its backward.

    Rows are contributions c_i to the batch gradient, Σ_i c_i = ∂L/∂θ. They are read from the
    autograd graph that the forward has built: the model, its modules and the training stay as they
    are. The first capture of a graph's structure finds out which rows belong to which sample and
    checks the result against masked back-propagation, which takes a few more backwards through
    the graph; no gradient is written and no random number drawn. Every capture compares each
    Jacobian's sum with the gradient. What fails a check is missing, with the reason.

    Args:
        loss: The loss of a batch, of one element.
        model: The model.
        batch_size: Number of samples N.
        want: What to compute: any of ``row_sq_norms``, ``column_sq_norms``, ``gram``, ``sum``; or
            ``"operator"`` for the structured operator itself, which can be asked for all of these
            and for ``matvec``, ``rmatvec``, ``rows`` and ``dense`` later, at the price of the
            activations that it holds.
        samples: For a batch of R rows that are not one per sample (graphs of variable size, two
            views per sample): which sample each row belongs to, shape (R,), integers from 0.
        parameters: Names of the parameters to watch; all that require a gradient by default.
        batch_dim: Which dimension of the model's outputs is the batch; by default the first that
            has the batch's size and explains the graph without mixing samples.
        custom_functions: Whether the backward of your own autograd functions may be run several
            times: ``withhold`` leaves out the parameters below them, ``run`` says that their
            backward uses nothing up, changes nothing in place, and draws no random numbers.
        verify: How many samples to check by masked back-propagation when a structure is new.
        memory_budget: Bytes that temporary tensors may take.

    Yields:
        A mapping from parameter names (the first one where a parameter is tied) to what was
        wanted; it is filled when the block ends.

    Raises:
        ValueError: If an argument cannot be used.

    Example:
        >>> import torch, jacoscope
        >>> model = torch.nn.Linear(3, 1)
        >>> loss = model(torch.ones(4, 3)).square().mean()
        >>> with jacoscope.capture(loss, model, batch_size=4, want=("gram",)) as jacobians:
        ...     loss.backward()
        >>> jacobians["weight"].gram().shape
        torch.Size([4, 4])
    """
    wants = _checked_wants(want)
    if loss.numel() != 1:
        raise ValueError(f"loss must have one element, got shape {tuple(loss.shape)}; reduce it")
    count, index = samples_of(batch_size, samples)
    watched = watched_parameters(model, parameters)
    known = _CALIBRATIONS.setdefault(model, Calibrations(memory_budget, verify))
    known.memory_budget, known.verify = memory_budget, verify
    known.trust = custom_functions == "run"

    with capture_with(
        known, loss, watched, count, wants, index=index, batch_dim=batch_dim
    ) as jacobians:
        yield jacobians


@contextmanager
def capture_with(
    known: Calibrations,
    loss: Tensor,
    watched: Mapping[str, Tensor],
    samples: int,
    wants: Sequence[str],
    *,
    index: Tensor | None = None,
    batch_dim: int | None = None,
) -> Iterator[Jacobians]:
    """As :func:`capture`, with what is known of earlier graphs.

    Args:
        known: Calibrations of earlier graphs, which serve every graph of the same structure.
        loss: The loss of a batch, of one element.
        watched: The parameters by name.
        samples: Number of samples.
        wants: What to compute.
        index: The sample of each row, if rows are not one per sample.
        batch_dim: Which dimension of the model's outputs is the batch.
    """

    def measured(name: str, jacobian: Jacobian, grad: Tensor) -> ParameterJacobian:
        if _OPERATOR in wants:
            return ParameterJacobian(name, jacobian.shape, {}, jacobian)
        return ParameterJacobian(name, jacobian.shape, measure(jacobian, wants))

    jacobians = Jacobians()
    seed = next(_COUNT)
    capturing = JacobianCapture(
        loss,
        watched,
        samples,
        index,
        known,
        measured,
        known.memory_budget,
        seed,
        keeps_jacobians=_OPERATOR in wants,
        dim=batch_dim,
    )
    try:
        capturing.attach(compare_grad=not _is_distributed())
        yield jacobians
    finally:
        capturing.detach()
        _fill(jacobians, capturing, watched)


def _fill(
    jacobians: Jacobians,
    capturing: JacobianCapture[ParameterJacobian],
    watched: Mapping[str, Tensor],
) -> None:
    found, jacobians.closure = capturing.results()
    jacobians.missing = dict(capturing.missing)
    if capturing.calibration is not None:
        jacobians.verification = dict(capturing.calibration.errors)
        jacobians.rules = dict(capturing.calibration.plan.rules)
        jacobians.layouts = dict(capturing.calibration.plan.described)
        jacobians.coupled = capturing.calibration.plan.coupled
    jacobians.fill(found, watched)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def watched_parameters(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """The parameters of a model that require a gradient, each once, by name.

    Args:
        model: The model.
        names: Names of those wanted; a tied parameter answers to any of its names.

    Raises:
        ValueError: If a name is unknown, or its parameter requires no gradient.
    """
    every = {name: p for name, p in model.named_parameters() if p.requires_grad and p.numel()}
    if names is None:
        return dict(every)
    if isinstance(names, str):
        raise ValueError(f"parameters must be a list of names, got {names!r}; write [{names!r}]")
    first = {id(parameter): name for name, parameter in every.items()}
    aliases = dict(model.named_parameters(remove_duplicate=False))
    found: dict[str, Tensor] = {}
    for name in names:
        if name not in aliases:
            raise ValueError(f"the model has no parameter {name!r}; {nearest(name, aliases)}")
        if id(aliases[name]) not in first:
            raise ValueError(f"parameter {name!r} requires no gradient, so nothing can be captured")
        found[first[id(aliases[name])]] = aliases[name]
    return {name: parameter for name, parameter in every.items() if name in found}


def samples_of(
    batch_size: int | None, samples: Tensor | Sequence[int] | None
) -> tuple[int, Tensor | None]:
    """Number of samples, and the sample of each row where one was given.

    Raises:
        ValueError: If neither is given, or they cannot be used.
    """
    if samples is None:
        if batch_size is None:
            raise ValueError("give batch_size=, the number of samples in the batch, or samples=")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
        return batch_size, None
    index = torch.as_tensor(samples).detach()
    if index.dim() != 1 or index.dtype.is_floating_point or index.dtype is torch.bool:
        raise ValueError(
            "samples must be one integer per row of the batch, shape (R,), got "
            f"{index.dtype} of shape {tuple(index.shape)}"
        )
    if not index.numel() or int(index.min()) < 0:
        raise ValueError("samples must be integers from 0, one per row, got none or a negative one")
    count = int(index.max()) + 1
    if batch_size is not None and batch_size < count:
        raise ValueError(f"samples names sample {count - 1}, but batch_size is {batch_size}")
    return batch_size or count, index.long()


def _checked_wants(want: str | Sequence[str]) -> tuple[str, ...]:
    wants = (want,) if isinstance(want, str) else tuple(want)
    valid = (*WANTS, _OPERATOR)
    if not wants:
        raise ValueError(f"want names nothing; it may have any of {', '.join(valid)}")
    for name in wants:
        if name not in valid:
            raise ValueError(f"want has {name!r}, which cannot be had; {nearest(str(name), valid)}")
    return tuple(dict.fromkeys(wants))
