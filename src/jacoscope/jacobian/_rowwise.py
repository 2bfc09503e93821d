"""What rows tell once they are made.

Shape suffixes: N samples, K samples of a chunk, P scalars of the parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jacoscope.jacobian._arithmetic import lengths
from jacoscope.jacobian._products import row_products

if TYPE_CHECKING:
    from jacoscope.jacobian._jacobian import Jacobian

__all__ = ["ALONG", "OF_ROWS", "add", "join", "measure_each", "measure_rows", "measure_slabs"]

ALONG = "along"
"""What rows are along a direction that is looked at with them, among what they tell."""

_LONG = 2**15
"""Scalars of a row from which on a pass for each row is faster than one for many."""


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
    samples, scalars = rows_KP.shape
    is_cpu = rows_KP.device.type == "cpu"
    step = max(1, (2**18 if is_cpu else 2**24) // max(scalars, 1))
    if samples and (step == 1 or (is_cpu and scalars >= _LONG)):
        squares_P = rows_KP[0].square()
        for row_P in rows_KP[1:]:
            squares_P.addcmul_(row_P, row_P)
        return squares_P
    if samples <= step:
        return rows_KP.square().sum(0)
    squares_P = rows_KP.new_zeros(scalars)
    squares_SP = rows_KP.new_empty(step, scalars)
    for part_SP in torch.split(rows_KP, step):
        squares_P += torch.mul(part_SP, part_SP, out=squares_SP[: len(part_SP)]).sum(0)
    return squares_P


OF_ROWS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "row_sq_norms": _row_sq_norms,
    "column_sq_norms": _column_sq_norms,
    "gram": row_products,
    "sum": lambda rows_KP: rows_KP.sum(0),
}


def measure_slabs(
    slabs: Iterable[tuple[Any, Tensor]],
    wants: Sequence[str],
    samples: int,
    form: Sequence[int],
    direction: Tensor | None = None,
) -> dict[str, Tensor]:
    """What is wanted, from rows made in slabs of the parameter: each scalar of a row once.

    Args:
        slabs: Each slab's place in a tensor of shape ``form``, and the slab, shape (N, …).
        wants: Names out of :data:`OF_ROWS`.
        samples: N.
        form: A shape that the parameter can be seen in.
        direction: What rows are looked at along, shape ``form``, for :data:`ALONG`.

    Returns:
        A tensor per want; those with a number for each scalar have the shape ``form``.
    """
    shapes = {"row_sq_norms": (samples,), "gram": (samples, samples)}
    results: dict[str, Tensor] = {}
    summed = [want for want in wants if want != "row_sq_norms" or "gram" not in wants]
    for place, slab in slabs:
        rows_NS = slab.flatten(1)
        if direction is not None:
            along_N = rows_NS @ direction[place].reshape(-1)
            results[ALONG] = results[ALONG].add_(along_N) if ALONG in results else along_N
        for want in summed:
            found = OF_ROWS[want](rows_NS)
            if want not in results:
                results[want] = found.new_zeros(shapes.get(want, tuple(form)))
            if want in shapes:
                results[want].add_(found)
            else:
                results[want][place] = found.view(results[want][place].shape)
    if len(summed) < len(wants):
        results["row_sq_norms"] = results["gram"].diagonal().clone()
    return results


def measure_each(
    rows: Iterable[Tensor], wants: Sequence[str], samples: int, parameter_shape: Sequence[int]
) -> dict[str, Tensor]:
    """What is wanted of rows that are made one after the other, each looked at while it is there.

    Args:
        rows: Row by row, as matrices of one shape.
        wants: Some of ``row_sq_norms``, ``column_sq_norms`` and ``sum``.
        samples: N, how many they are; at least one.
        parameter_shape: The shape of what has a number for each scalar.
    """
    norms: list[Tensor] = []
    found: dict[str, Tensor] = {}
    for row_pq in rows:
        for want in wants:
            if want == "row_sq_norms":
                norms.append(lengths(row_pq.reshape(-1), 0))
            elif want == "column_sq_norms":
                if want in found:
                    found[want].addcmul_(row_pq, row_pq)
                else:
                    found[want] = row_pq.square()
            else:
                found[want] = found[want].add_(row_pq) if want in found else row_pq.clone()
    results = {want: total.reshape(tuple(parameter_shape)) for want, total in found.items()}
    if norms:
        results["row_sq_norms"] = torch.stack(norms).square_()
    return results


def measure_rows(
    jacobian: Jacobian, wants: Sequence[str], direction_P: Tensor | None = None
) -> dict[str, Tensor]:
    """What is wanted, from rows made in chunks of samples under the memory budget.

    Each chunk is made once for all wants; a Gram matrix of several chunks makes each chunk once
    more for every chunk before it. Norms beside a Gram matrix are its diagonal.

    Args:
        jacobian: Whose rows.
        wants: Names out of :data:`OF_ROWS`.
        direction_P: What rows are looked at along, for :data:`ALONG`.

    Returns:
        A tensor per want, in the shape that the Jacobian's method of that name has.
    """
    samples, scalars = jacobian.shape
    pairs = "gram" in wants
    fits = samples * jacobian._row_bytes <= jacobian.memory_budget
    room = jacobian._row_bytes * (1 if fits or not pairs else 2)
    chunks = list(jacobian._chunks(room, samples if pairs else jacobian._rows_at_once))
    results: dict[str, Tensor] = {}
    norms: list[Tensor] = []
    along: list[Tensor] = []
    gram_NN = torch.empty(
        (samples, samples) if pairs and len(chunks) > 1 else (0, 0),
        dtype=jacobian.dtype,
        device=jacobian.device,
    )
    for position, chunk in enumerate(chunks):
        rows_KP = jacobian._rows(chunk).reshape(chunk.stop - chunk.start, scalars)
        if direction_P is not None:
            along.append(rows_KP @ direction_P)
        for want in wants:
            if want == "gram" and len(chunks) == 1:
                gram_NN = OF_ROWS[want](rows_KP)
            elif want == "gram":
                gram_NN[chunk, chunk] = OF_ROWS[want](rows_KP)
            elif want == "row_sq_norms":
                if not pairs:
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
            results[want] = gram_NN.diagonal().clone() if pairs else join(norms)
        else:
            results[want] = results[want].view(jacobian.parameter_shape)
    if along:
        results[ALONG] = join(along)
    return results
