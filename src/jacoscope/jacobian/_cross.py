"""Inner products between the rows of two Jacobians of one parameter.

Shape suffixes: N samples, K samples of a chunk, J samples of another, T and S terms, V rows of a
table, D scalars of each.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

from jacoscope.jacobian._arithmetic import compute_dtype
from jacoscope.jacobian._blocks import by_blocks
from jacoscope.jacobian._jacobian import Jacobian
from jacoscope.jacobian._outer import OuterJacobian
from jacoscope.jacobian._placed import PlacedJacobian
from jacoscope.jacobian._rowwise import join
from jacoscope.jacobian._scatter import ScatterJacobian
from jacoscope.jacobian._work import PASS

__all__ = ["cross_gram", "cross_row_products", "cross_work", "disjoint"]

_Pair: TypeAlias = tuple[OuterJacobian, ScatterJacobian]


def cross_work(first: Jacobian, second: Jacobian, want: str) -> float:
    """The work of what two Jacobians' sum has beyond the two, infinite without a closed way."""
    if want == "sum":
        return 0.0
    pair = _outer_and_scatter(first, second)
    if pair is None or want == "column_sq_norms":
        return math.inf
    outer, scatter = pair
    pairs = outer.samples * (outer.samples if want == "gram" else 1)
    return pairs * outer.terms * scatter.terms * (scatter.width + 4 * PASS)


def cross_gram(first: Jacobian, second: Jacobian) -> Tensor:
    """Inner products of the first's rows with the second's, shape (N, N)."""
    pair = _outer_and_scatter(first, second)
    assert pair is not None
    outer, scatter = pair
    dtype = compute_dtype(outer.dtype, scatter.dtype)

    def block_KJ(chunk: slice, other: slice) -> Tensor:
        left, right = (factor.to(dtype) for factor in outer.factors(chunk))
        indices_JS, values_JSD = scatter.entries(other)
        (count, _, terms, _), (others, looks) = left.shape, indices_JS.shape
        pairs = right.flatten(0, 2) @ values_JSD.to(dtype).flatten(0, 1).T
        pairs.mul_(left.flatten(0, 2)[:, indices_JS.clamp_min(0).view(-1)])
        pairs.masked_fill_((indices_JS < 0).view(-1), 0)
        return pairs.view(count, terms, others, looks).sum((1, 3))

    pair_bytes = 2 * outer.terms * scatter.terms * outer.dtype.itemsize
    gram_NN = by_blocks(outer, pair_bytes, block_KJ, dtype=dtype, symmetric=False)
    return gram_NN if first is outer else gram_NN.T


def cross_row_products(first: Jacobian, second: Jacobian) -> Tensor:
    """Inner products of each sample's rows in the two, shape (N,)."""
    pair = _outer_and_scatter(first, second)
    assert pair is not None
    outer, scatter = pair
    dtype = compute_dtype(outer.dtype, scatter.dtype)
    parts: list[Tensor] = []
    for chunk in outer._chunks(2 * outer.terms * scatter.terms * outer.dtype.itemsize):
        left, right = (factor.squeeze(1).to(dtype) for factor in outer.factors(chunk))
        indices_KS, values_KSD = scatter.entries(chunk)
        pairs_KTS = right @ values_KSD.to(dtype).mT
        chosen = indices_KS.clamp_min(0).unsqueeze(1).expand(-1, outer.terms, -1)
        pairs_KTS.mul_(left.gather(2, chosen))
        pairs_KTS.masked_fill_((indices_KS < 0).unsqueeze(1), 0)
        parts.append(pairs_KTS.sum((1, 2)))
    return join(parts)


def _outer_and_scatter(first: Jacobian, second: Jacobian) -> _Pair | None:
    """The two in this order, if the outer products are of the table's rows and columns."""
    if isinstance(first, ScatterJacobian):
        first, second = second, first
    if isinstance(first, OuterJacobian) and isinstance(second, ScatterJacobian):
        table = (1, second.parameter_shape[0], second.width)
        return (first, second) if first.form == table else None
    return None


def disjoint(first: Jacobian, second: Jacobian) -> bool:
    """Whether the two are placed in parts of the parameter that have no scalar in common."""
    if not isinstance(first, PlacedJacobian) or not isinstance(second, PlacedJacobian):
        return False
    (start, stop), (low, high) = first.extent, second.extent
    if stop <= low or high <= start:
        return True
    taken = torch.zeros(1, *first.parameter_shape, dtype=torch.bool)
    first.place(taken).fill_(True)
    return not bool(second.place(taken).any())
