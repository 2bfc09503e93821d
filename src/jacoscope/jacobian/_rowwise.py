"""What rows tell once they are made.

Shape suffixes: N samples, K samples of a chunk, P scalars of the parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jacoscope.jacobian._arithmetic import lengths

if TYPE_CHECKING:
    from jacoscope.jacobian._jacobian import Jacobian

__all__ = ["OF_ROWS", "add", "join", "measure_rows"]


def join(parts: list[Tensor]) -> Tensor:
    """What chunks of samples give, one after the other."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def add(parts: list[Tensor]) -> Tensor:
    """What chunks of samples give, added up in the first of them."""
    for part in parts[1:]:
        parts[0] += part
    return parts[0]


def _row_sq_norms(rows_KP: Tensor) -> Tensor:
    return lengths(rows_KP, 1).square_()


def _column_sq_norms(rows_KP: Tensor) -> Tensor:
    # A norm along the first dimension is slow on processors, and squares of all would take as much
    # memory again as the rows do.
    most = 2**18 if rows_KP.device.type == "cpu" else 2**24
    step = max(1, most // max(rows_KP.shape[1], 1))
    squares_P = rows_KP[:step].square().sum(0)
    for start in range(step, rows_KP.shape[0], step):
        if step == 1:
            squares_P.addcmul_(rows_KP[start], rows_KP[start])
        else:
            squares_P += rows_KP[start : start + step].square().sum(0)
    return squares_P


OF_ROWS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "row_sq_norms": _row_sq_norms,
    "column_sq_norms": _column_sq_norms,
    "gram": lambda rows_KP: rows_KP @ rows_KP.T,
    "sum": lambda rows_KP: rows_KP.sum(0),
}


def measure_rows(jacobian: Jacobian, wants: Sequence[str]) -> dict[str, Tensor]:
    """What is wanted, from rows made in chunks of samples under the memory budget.

    Each chunk is made once for all wants; a Gram matrix of several chunks makes each chunk once
    more for every chunk before it.

    Args:
        jacobian: Whose rows.
        wants: Names out of :data:`OF_ROWS`.

    Returns:
        A tensor per want, in the shape that the Jacobian's method of that name has.
    """
    samples, scalars = jacobian.shape
    pairs = "gram" in wants
    fits = samples * jacobian._row_bytes <= jacobian.memory_budget
    chunks = list(jacobian._chunks(jacobian._row_bytes * (1 if fits or not pairs else 2)))
    results: dict[str, Tensor] = {}
    norms: list[Tensor] = []
    gram_NN = torch.empty(samples, samples, dtype=jacobian.dtype, device=jacobian.device)
    for position, chunk in enumerate(chunks):
        rows_KP = jacobian._rows(chunk).reshape(chunk.stop - chunk.start, scalars)
        for want in wants:
            if want == "gram":
                gram_NN[chunk, chunk] = OF_ROWS[want](rows_KP)
            elif want == "row_sq_norms":
                norms.append(OF_ROWS[want](rows_KP))
            else:
                part_P = OF_ROWS[want](rows_KP)
                results[want] = results[want].add_(part_P) if position else part_P
        for other in chunks[position + 1 :] if pairs else ():
            other_KP = jacobian._rows(other).reshape(other.stop - other.start, scalars)
            cross_KK = rows_KP @ other_KP.T
            gram_NN[chunk, other] = cross_KK
            gram_NN[other, chunk] = cross_KK.T
    for want in wants:
        if want == "gram":
            results[want] = gram_NN
        elif want == "row_sq_norms":
            results[want] = join(norms)
        else:
            results[want] = results[want].view(jacobian.parameter_shape)
    return results
