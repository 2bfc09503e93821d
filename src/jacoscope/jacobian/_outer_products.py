"""What sums of outer products tell without making them, or making a slab of them at a time.

Shape suffixes: K samples of a chunk, J samples of another, G groups, T and S terms, p and q the
factors' lengths, w either of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jacoscope.jacobian._blocks import by_blocks
from jacoscope.jacobian._inner_products import inner_products, is_fast
from jacoscope.jacobian._products import row_products
from jacoscope.jacobian._work import PASS

if TYPE_CHECKING:
    from jacoscope.jacobian._outer import OuterJacobian

__all__ = [
    "by_group",
    "closed_work",
    "column_sq_norms",
    "cross_gram",
    "making_work",
    "row_sq_norms",
    "rows_of",
    "slabs",
    "weighted_sum",
]


_CALL = 4 * 2**20
"""Multiplications per thread that are worth a call for each sample."""
_CALL_OF_ROWS = 6 * 2**20
"""The same where rows are made, for which matrices have to be turned round."""
_STRIPS = 4
_STRIP = 16
"""A symmetric matrix of pairs is made in so many strips, of so many rows at least."""


def by_group(factor_KGTw: Tensor) -> Tensor:
    """Shape (G, K·T, w)."""
    return factor_KGTw.transpose(0, 1).flatten(1, 2)


def closed_work(want: str, samples: int, terms: int, form: tuple[int, int, int]) -> float:
    """The work of what is wanted without making rows, infinite where that cannot be.

    Args:
        want: A name out of :data:`~jacoscope.jacobian._rowwise.OF_ROWS`.
        samples: N.
        terms: T.
        form: (G, p, q).
    """
    groups, p, q = form
    width, scalars = groups * (p + q), groups * p * q
    if want == "sum":
        gathering = PASS * width if groups > 1 else 0
        return samples * terms * (scalars + gathering)
    if terms <= 1:
        return {
            "row_sq_norms": PASS * samples * width,
            "gram": samples**2 * (width + PASS * groups),
            "column_sq_norms": samples * (scalars + PASS * width),
        }[want]
    if want == "column_sq_norms":
        return math.inf
    pairs = samples * (samples if want == "gram" else 1) * terms**2
    return pairs * (width + 3 * PASS * groups)


def making_work(samples: int, terms: int, form: tuple[int, int, int]) -> float:
    """The work of making all rows; arguments as above."""
    return samples * math.prod(form) * (terms + PASS)


def row_sq_norms(left_KGTp: Tensor, right_KGTq: Tensor) -> Tensor:
    """Squared norms of each sample's sum of outer products by all pairs of terms, shape (K,)."""
    samples, groups, terms, _ = left_KGTp.shape
    if groups == 1:
        left_KGTp, right_KGTq = left_KGTp.squeeze(1), right_KGTq.squeeze(1)
        if _by_sample(left_KGTp, right_KGTq):
            each = zip(left_KGTp.unbind(), right_KGTq.unbind(), strict=True)
            return torch.stack([_pair_products(*factors) for factors in each]).clamp_min_(0)
    step = max(_STRIP, -(-terms // _STRIPS))
    total_K = left_KGTp.new_zeros(samples)
    for start in range(0, terms, step):
        # Pairs of a strip with itself count once, those with what comes after it twice.
        strip = slice(start, start + step)
        pairs = left_KGTp[..., strip, :] @ left_KGTp[..., start:, :].mT
        pairs.mul_(right_KGTq[..., strip, :] @ right_KGTq[..., start:, :].mT)
        own = pairs[..., :step]
        total_K.add_(pairs.view(samples, -1).sum(1), alpha=2)
        total_K.sub_(own.reshape(samples, -1).sum(1))
    return total_K.clamp_min_(0)


def _by_sample(left_KTp: Tensor, right_KTq: Tensor) -> bool:
    """Whether products for each sample are faster than batches of them."""
    samples, terms, p = left_KTp.shape
    work = terms**2 * max(p, right_KTq.shape[2]) // torch.get_num_threads()
    return samples > 0 and work >= _CALL and is_fast(left_KTp) and is_fast(right_KTq)


def _pair_products(left_Tp: Tensor, right_Tq: Tensor) -> Tensor:
    """The inner product of two matrices of inner products, a scalar."""
    return inner_products(left_Tp, left_Tp).view(-1) @ inner_products(right_Tq, right_Tq).view(-1)


def rows_of(left_KTp: Tensor, right_KTq: Tensor) -> Iterator[Tensor] | None:
    """Sample by sample, its sum of outer products, shape (p, q).

    Returns:
        ``None`` where a batch of products is faster.
    """
    (_, terms, p), q = left_KTp.shape, right_KTq.shape[2]
    is_large = terms * p * q // torch.get_num_threads() >= _CALL_OF_ROWS
    if not is_large or not (is_fast(left_KTp) and is_fast(right_KTq)):
        return None
    # One by one, since PyTorch turns matrices round fast, and stacks of them slowly.
    pairs = zip(left_KTp.unbind(), right_KTq.unbind(), strict=True)
    return (inner_products(left.T.contiguous(), right.T.contiguous()) for left, right in pairs)


def column_sq_norms(left_KGTp: Tensor, right_KGTq: Tensor) -> Tensor:
    """Each scalar's sum of squares over the samples of at most one term, shape (G, p, q)."""
    assert left_KGTp.shape[2] <= 1
    return weighted_sum(left_KGTp.square(), right_KGTq.square(), None)


def weighted_sum(left_KGTp: Tensor, right_KGTq: Tensor, u_K: Tensor | None) -> Tensor:
    """The sum of all outer products, each sample's weighted, shape (G, p, q)."""
    if u_K is not None:
        u_K111 = u_K.view(-1, 1, 1, 1)
        if left_KGTp.shape[-1] <= right_KGTq.shape[-1]:
            left_KGTp = left_KGTp * u_K111
        else:
            right_KGTq = right_KGTq * u_K111
    if left_KGTp.shape[1] == 1:
        return (left_KGTp.flatten(0, 2).T @ right_KGTq.flatten(0, 2)).unsqueeze(0)
    return by_group(left_KGTp).mT @ by_group(right_KGTq)


def cross_gram(first: OuterJacobian, second: OuterJacobian) -> Tensor:
    """Inner products of two Jacobians' rows by all pairs of terms, shape (N, N).

    Args:
        first: Its rows are the result's rows.
        second: Of the same (G, p, q); if it is ``first``, half of the blocks are mirrored.
    """

    def block_KJ(chunk: slice, other: slice) -> Tensor:
        factors = first.factors(chunk)
        if first is second and first.terms == first.form[0] == 1 and chunk == other:
            left_Kp, right_Kq = (factor.flatten(1) for factor in factors)
            return row_products(right_Kq).mul_(row_products(left_Kp))
        own = first is second and chunk == other
        return _cross_block(*factors, *(factors if own else second.factors(other)))

    pair_bytes = 2 * first.form[0] * first.terms * second.terms * first.dtype.itemsize
    return by_blocks(first, pair_bytes, block_KJ, dtype=first.dtype, symmetric=first is second)


def _cross_block(
    left_KGTp: Tensor, right_KGTq: Tensor, left_JGSp: Tensor, right_JGSq: Tensor
) -> Tensor:
    (samples, groups, terms, _), (others, _, more, _) = left_KGTp.shape, left_JGSp.shape
    pairs, factors = (
        first.flatten(0, 2) @ second.flatten(0, 2).T
        if groups == 1
        else by_group(first) @ by_group(second).mT
        for first, second in ((left_KGTp, left_JGSp), (right_KGTq, right_JGSq))
    )
    pairs.mul_(factors)
    if groups == terms == more == 1:
        return pairs
    return pairs.view(groups, samples, terms, others, more).sum((0, 2, 4))


def slabs(jacobian: OuterJacobian) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
    """All samples' rows in slabs of (G, p, q) that take the memory budget, shape (N, g, p', q)."""
    for groups, part in _slabs(jacobian):
        left = jacobian.left[:, groups, :, part].to(jacobian.dtype)
        right = jacobian.right[:, groups].to(jacobian.dtype)
        yield (groups, part), left.mT @ right


def _slabs(jacobian: OuterJacobian) -> Iterator[tuple[slice, slice]]:
    """Slices of groups and of p that take the memory budget for all samples."""
    groups, p, q = jacobian.form
    lines = max(1, jacobian.memory_budget // (jacobian.samples * q * jacobian.dtype.itemsize))
    if lines >= p:
        step = lines // p
        for start in range(0, groups, step):
            yield slice(start, start + step), slice(0, p)
        return
    for group in range(groups):
        for start in range(0, p, lines):
            yield slice(group, group + 1), slice(start, start + lines)
