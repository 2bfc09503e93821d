"""``jacoscope.capture``: Jacobians of a loss, for plain PyTorch and notebooks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from jacoscope.capturing._arguments import checked, whole_number
from jacoscope.capturing._calibration import Calibrations
from jacoscope.capturing._capture import JacobianCapture
from jacoscope.capturing._jacobians import Jacobians, ParameterJacobian
from jacoscope.capturing._parameters import first_names, watched_parameters
from jacoscope.errors import nearest
from jacoscope.jacobian import DEFAULT_MEMORY_BUDGET, WANTS, Jacobian, measure
from jacoscope.sharding import are_processes

__all__ = ["capture", "capture_with"]

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
    parameters: str | Iterable[str] | None = None,
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
        batch_size: Number of samples N, an integer of Python or of NumPy.
        want: What to compute: any of ``row_sq_norms``, ``column_sq_norms``, ``gram``, ``sum``; or
            ``"operator"`` for the structured operator itself, which can be asked for all of these
            and for ``matvec``, ``rmatvec``, ``rows`` and ``dense`` later, at the price of the
            activations that it holds.
        samples: For a batch of R rows that are not one per sample (graphs of variable size, two
            views per sample): which sample each row belongs to, shape (R,), integers from 0.
        parameters: A name or names of the parameters to watch, a tied one's any; by default all
            that require a gradient and have elements.
        batch_dim: Which dimension of the model's outputs is the batch; by default the first that
            has the batch's size and explains the graph without mixing samples.
        custom_functions: Whether the backward of your own autograd functions may be run several
            times: ``withhold`` leaves out the parameters below them, ``run`` says that their
            backward uses nothing up, changes nothing in place, and draws no random numbers.
        verify: How many samples to check by masked back-propagation when a structure is new; 0
            for none.
        memory_budget: Bytes that temporary tensors may take.

    Yields:
        A mapping from parameter names to what was wanted; it is filled when the block ends. A tied
        parameter stands under its first name and is found under each.

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
    whole_number("verify", verify, 0)
    count, index = checked(
        batch_size,
        samples,
        batch_dim=batch_dim,
        custom_functions=custom_functions,
        memory_budget=memory_budget,
    )
    watched = watched_parameters(model, parameters)
    known = _CALIBRATIONS.setdefault(model, Calibrations(memory_budget, verify))
    known.memory_budget, known.verify = memory_budget, verify
    known.trust = custom_functions == "run"

    with capture_with(
        known, loss, watched, count, wants, index=index, batch_dim=batch_dim
    ) as jacobians:
        jacobians.first_names = first_names(model)
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
        capturing.attach(compare_grad=not are_processes())
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


def _checked_wants(want: str | Sequence[str]) -> tuple[str, ...]:
    wants = (want,) if isinstance(want, str) else tuple(want)
    valid = (*WANTS, _OPERATOR)
    if not wants:
        raise ValueError(f"want names nothing; it may have any of {', '.join(valid)}")
    for name in wants:
        if name not in valid:
            raise ValueError(f"want has {name!r}, which cannot be had; {nearest(str(name), valid)}")
    return tuple(dict.fromkeys(wants))
