"""One outer product for each sample: what a linear layer without positions has.

Shape suffixes: N samples, K samples of a chunk, J samples of another, p and q the factors' lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor

from jacoscope.jacobian._blocks import by_blocks
from jacoscope.jacobian._factor import Factor
from jacoscope.jacobian._indices import Index
from jacoscope.jacobian._inner_products import inner_products, is_fast
from jacoscope.jacobian._jacobian import DEFAULT_MEMORY_BUDGET, Jacobian
from jacoscope.jacobian._products import row_products
from jacoscope.jacobian._rowwise import add, join
from jacoscope.jacobian._scaled import scaled_factors
from jacoscope.jacobian._work import PASS

__all__ = ["RankOneJacobian"]

_WIDE = 64
"""Columns from which on it is worth to turn a matrix round for a faster product."""


@final
class RankOneJacobian(Jacobian):
    """Row i, seen as (p, q), is left[i] ⊗ right[i].

    Norms are products of norms, and the Gram matrix is the product, element by element, of the
    factors' Gram matrices (Goodfellow, Efficient per-example gradient computations,
    arXiv:1510.01799). As :class:`~jacoscope.jacobian.OuterJacobian` of one term, in fewer calls,
    which is what counts for small layers.

    Args:
        left: Rows of shape (N, p), in a type that is computed in.
        right: Rows of shape (N, q), in the same type.
        parameter_shape: A shape of p·q scalars, of which (p, q) is a contiguous reshape.
        memory_budget: Bytes that temporaries may take.

    Attributes:
        left: The rows on the left.
        right: The rows on the right.
    """

    def __init__(
        self,
        left: Factor,
        right: Factor,
        parameter_shape: Sequence[int],
        *,
        memory_budget: int = DEFAULT_MEMORY_BUDGET,
    ) -> None:
        rows = left.rows_NP
        super().__init__(
            len(rows),
            parameter_shape,
            dtype=rows.dtype,
            device=rows.device,
            memory_budget=memory_budget,
        )
        self.left = left
        self.right = right
        self._norms_N: Tensor | None = None

    def select(self, index: Tensor) -> RankOneJacobian:
        """The Jacobian of some samples alone."""
        return RankOneJacobian(
            Factor(self.left.rows_NP[index]),
            Factor(self.right.rows_NP[index]),
            self.parameter_shape,
            memory_budget=self.memory_budget,
        )

    def _scaled(self, factor: float) -> RankOneJacobian:
        left, right = scaled_factors(self.left.rows_NP, self.right.rows_NP, factor, self.dtype)
        return RankOneJacobian(
            Factor(left), Factor(right), self.parameter_shape, memory_budget=self.memory_budget
        )

    def _evaluate(self, wants: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "gram" in wants:
            found["gram"] = self._gram()
            if self._norms_N is None:
                self._norms_N = found["gram"].diagonal().sqrt()
        if "row_sq_norms" in wants:
            found["row_sq_norms"] = self._norms().square()
        if "column_sq_norms" in wants:
            found["column_sq_norms"] = self._column_sq_norms()
        if "sum" in wants:
            total_pq = self.left.rows_NP.T @ self.right.rows_NP
            found["sum"] = total_pq.view(self.parameter_shape)
        return found

    def _plan(self, wants: Sequence[str]) -> tuple[float, tuple[str, ...]]:
        samples, scalars = self.shape
        width = self.left.rows_NP.shape[1] + self.right.rows_NP.shape[1]
        work = {
            "row_sq_norms": PASS * samples * width,
            "gram": samples**2 * (width + PASS),
            "column_sq_norms": samples * (scalars + PASS * width),
            "sum": samples * scalars,
        }
        return sum(work[want] for want in wants), ()

    def _rows(self, index: Index) -> Tensor:
        left_Kp1, right_K1q = self.left.rows_NP[index, :, None], self.right.rows_NP[index, None]
        return (left_Kp1 * right_K1q).view(-1, *self.parameter_shape)

    def _norms(self) -> Tensor:
        """The rows' norms, shape (N,), which nobody may change."""
        if self._norms_N is None:
            self._norms_N = self.left.lengths_N * self.right.lengths_N
        return self._norms_N

    def _gram(self) -> Tensor:
        own, others = self.left, self.right
        if own.is_shared:  # the other's products are nobody else's, and can be written to
            own, others = others, own
        if 2 * self.samples**2 * self.dtype.itemsize <= self.memory_budget:
            return row_products(own.rows_NP).mul_(others.products_NN)

        def block_KJ(chunk: slice, other: slice) -> Tensor:
            sides = [factor.rows_NP for factor in (own, others)]
            first, second = (rows[chunk] @ rows[other].T for rows in sides)
            return first.mul_(second)

        pair_bytes = 2 * self.dtype.itemsize
        return by_blocks(self, pair_bytes, block_KJ, dtype=self.dtype, symmetric=True)

    def _column_sq_norms(self) -> Tensor:
        left_Np, right_Nq = self.left.rows_NP, self.right.rows_NP
        row_bytes = (left_Np.shape[1] + right_Nq.shape[1]) * self.dtype.itemsize
        sides = ((left_Np[chunk], right_Nq[chunk]) for chunk in self._chunks(2 * row_bytes))
        squares_pq = add([_square_products(*each) for each in sides])
        return squares_pq.view(self.parameter_shape)

    def _matvec(self, v: Tensor) -> Tensor:
        left_Np, right_Nq = self.left.rows_NP, self.right.rows_NP
        v_pq = v.reshape(left_Np.shape[1], right_Nq.shape[1])
        if left_Np.shape[1] > right_Nq.shape[1]:
            left_Np, right_Nq, v_pq = right_Nq, left_Np, v_pq.T
        chunks = self._chunks(left_Np.shape[1] * self.dtype.itemsize)
        return join([(right_Nq[c] @ v_pq.T).mul_(left_Np[c]).sum(1) for c in chunks])

    def _rmatvec(self, u: Tensor) -> Tensor:
        left_Np, right_Nq = self.left.rows_NP, self.right.rows_NP
        if left_Np.shape[1] <= right_Nq.shape[1]:
            total_pq = (left_Np * u.unsqueeze(1)).T @ right_Nq
        else:
            total_pq = left_Np.T @ (right_Nq * u.unsqueeze(1))
        return total_pq.view(self.parameter_shape)

    def _probe(self, left: Tensor, right: Tensor) -> Tensor:
        if len(left) != self.left.rows_NP.shape[1]:
            return super()._probe(left, right)
        return self.left.along(left) * self.right.along(right)

    def _magnitude(self) -> Tensor:
        return self._norms()

    @property
    def knows_magnitude(self) -> bool:
        """Whether :meth:`magnitude` has been worked out for something else."""
        return self._norms_N is not None


def _square_products(left_Kp: Tensor, right_Kq: Tensor) -> Tensor:
    """Sums over the samples of products of squares, shape (p, q)."""
    widths = left_Kp.shape[1], right_Kq.shape[1]
    if min(widths) < _WIDE or not (is_fast(left_Kp) and is_fast(right_Kq)):
        return left_Kp.square().T @ right_Kq.square()
    left_pK, right_qK = left_Kp.T.contiguous().square_(), right_Kq.T.contiguous().square_()
    return inner_products(left_pK, right_qK)
