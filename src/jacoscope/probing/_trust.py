"""Whether vmap may be trusted with a model: its rows are compared with plain autograd's."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.func import vmap

from jacoscope.probing._errors import NoPartError
from jacoscope.probing._function import ModelFunction
from jacoscope.probing._rows import TOLERANCE, Looped, Rows, Vectorized, is_same, quietly

__all__ = ["rows_of", "trusted_at"]

_CHECKED = 3
"""How many rows are compared: some derivatives are right under vmap for one, and wrong for more."""

_PART = 2**20
"""Scalars that are compared at a time."""


def rows_of(function: ModelFunction, memory_budget: int) -> Rows:
    """Rows of a function's Jacobian, all at once if the model allows it.

    It must be one that vmap can run, and one whose outputs for a sample by itself are those that
    it has in the batch; batch normalisation in training mode is not, nor is dropout. Some rows are
    compared with plain autograd's.

    Args:
        function: The function.
        memory_budget: Bytes that these rows may take.
    """
    vectorized, looped = Vectorized(function), Looped(function)
    reason = _refusal(function) or _differs_in_parameters(vectorized, looped, memory_budget)
    looped.fallback = reason
    vectorized.sample_bytes = looped.sample_bytes
    return vectorized if reason is None else looped


def trusted_at(
    rows: Rows, place: str, index: int | None, *, by_columns: bool = False
) -> tuple[Rows, bool]:
    """How to differentiate by the input or a layer's output, compared with plain autograd.

    Args:
        rows: Rows of a function's Jacobian.
        place: What is differentiated by.
        index: Which part of the input it is.
        by_columns: Whether columns by forward mode would be fewer.

    Returns:
        Rows to be trusted, those given or a loop; and whether to take columns of them.
    """
    if not isinstance(rows, Vectorized):
        return rows, False
    function, looped = rows.function, Looped(rows.function)
    looped.sample_bytes = rows.sample_bytes
    last, cotangents = _last(function), _cotangents(function, _CHECKED)
    try:
        expected = looped.of_place(place, index, last, cotangents)
    except NoPartError:  # it has no part in the outputs
        return rows, by_columns
    numel = expected[0, 0].numel()
    if by_columns:
        try:
            columns = rows.columns_of_place(place, index, last)
            found = torch.einsum("kc,nc...->nk...", cotangents, columns)
            if _is_close(found, expected, numel):
                return rows, True
        except RuntimeError:  # some operations have no forward derivative
            pass
    try:
        found = rows.of_place(place, index, last, cotangents)
    except Exception as error:  # vmap's refusals are of many types
        looped.fallback = f"vmap cannot differentiate it ({_first_line(error)})"
        return looped, False
    if _is_close(found, expected, numel):
        return rows, False
    looped.fallback = "its rows by vmap differ from plain autograd's"
    return looped, False


def _refusal(function: ModelFunction) -> str | None:
    """Why the model cannot be run one sample at a time, or ``None`` if it can."""
    if function.draws:
        return "its forward draws random numbers, which are held fixed for the batch as a whole"
    one = functools.partial(function.single, {})
    try:
        with torch.no_grad(), function.rewound():
            alone: Tensor = quietly(vmap(one), function.sample_inputs)
    except Exception as error:  # vmap's refusals are of many types
        return f"vmap cannot run it ({_first_line(error)})"
    if alone.shape != function.values.shape:
        return "a sample by itself has outputs of another shape than in the batch"
    if not is_same(alone, function.values):
        return "a sample by itself has other outputs than in the batch"
    return None


def _differs_in_parameters(
    vectorized: Vectorized, looped: Looped, memory_budget: int
) -> str | None:
    """Why rows by parameters are not to be trusted, or ``None`` if they are."""
    function = vectorized.function
    parameters = {n: p for n, p in function.parameters.items() if p.is_floating_point()}
    most = memory_budget // (2 * function.values.element_size())  # rows, and what makes them
    last = _last(function)
    for names in _groups(parameters, most // (_CHECKED * (last.stop - last.start))):
        scalars = sum(parameters[name].numel() for name in names)
        samples = last if 2 * scalars * (last.stop - last.start) <= most else _one(last)
        count = min(_CHECKED, max(2, most // (scalars * (samples.stop - samples.start) or 1)))
        cotangents = _cotangents(function, count)
        try:
            found = vectorized.of_parameters(names, samples, cotangents)
        except Exception as error:  # vmap's refusals are of many types
            return f"vmap cannot differentiate it ({_first_line(error)})"
        for place, sample in enumerate(range(samples.start, samples.stop)):
            for row in range(count):
                along, here = cotangents[row : row + 1], slice(sample, sample + 1)
                try:
                    expected = looped.of_parameters(names, here, along)
                except NoPartError:  # no parameter has a part in the outputs
                    return None
                for name in names:
                    mine, theirs = found[name][place, row], expected[name][0, 0]
                    if not _is_close(mine, theirs, parameters[name].numel()):
                        return f"its rows by vmap differ from plain autograd's in {name}"
    return None


def _groups(parameters: dict[str, Tensor], most: int) -> list[list[str]]:
    """Names of parameters, in groups of so many scalars at most."""
    groups: list[list[str]] = []
    size = 0
    for name, parameter in parameters.items():
        if not groups or size + parameter.numel() > most:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += parameter.numel()
    return groups


def _cotangents(function: ModelFunction, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(count, function.outputs, generator=generator, dtype=torch.float64)
    return drawn.to(function.values)


def _last(function: ModelFunction) -> slice:
    """Two samples: of one alone vmap lets pass what it refuses of several."""
    return slice(max(0, function.samples - 2), function.samples)


def _one(samples: slice) -> slice:
    return slice(samples.stop - 1, samples.stop)


def _is_close(found: Tensor, expected: Tensor, numel: int) -> bool:
    scale = torch.linalg.vector_norm(expected)
    pairs = zip(_parts(found), _parts(expected), strict=True)
    parts = [torch.linalg.vector_norm(mine - theirs) for mine, theirs in pairs]
    difference = torch.linalg.vector_norm(torch.stack(parts)) if parts else scale
    # A gradient that cancels to rounding has no digits to compare.
    floor = torch.finfo(expected.dtype).eps * numel**0.5
    tolerance = TOLERANCE.get(expected.dtype, 1e-2)
    return bool(difference <= tolerance * scale + floor) or not bool(torch.isfinite(scale))


def _first_line(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text[:160]}"


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = torch.split(tensor.flatten(), _PART)
    return parts
