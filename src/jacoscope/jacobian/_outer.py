"""Sums of outer products: what a linear map makes of its inputs and of its output's gradients.

Shape suffixes: N samples, K samples of a chunk, G groups, T terms, p and q the factors' lengths.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from jacoscope.jacobian._arithmetic import compute_dtype, lengths
from jacoscope.jacobian._factor import Factor
from jacoscope.jacobian._indices import Index
from jacoscope.jacobian._jacobian import DEFAULT_MEMORY_BUDGET, Jacobian
from jacoscope.jacobian._outer_products import (
    by_group,
    closed_work,
    column_sq_norms,
    cross_gram,
    making_work,
    row_sq_norms,
    rows_of,
    slabs,
    weighted_sum,
)
from jacoscope.jacobian._rowwise import add, join, measure_each, measure_slabs
from jacoscope.jacobian._scaled import scaled_factors

__all__ = ["OuterJacobian"]


@final
class OuterJacobian(Jacobian):
    """Row i, seen as (G, p, q), is Σ_t left[i, g, t] ⊗ right[i, g, t].

    With one term, norms are products of norms and the Gram matrix is the product, element by
    element, of the factors' Gram matrices. With T terms, the same holds of all pairs of terms, T²
    (p + q) work, against T p q for making the row.

    Args:
        left: Shape (N, G, T, p).
        right: Shape (N, G, T, q).
        parameter_shape: A shape of G·p·q scalars, of which (G, p, q) is a contiguous reshape.
        memory_budget: Bytes that temporaries may take.

    Attributes:
        left: Shape (N, G, T, p).
        right: Shape (N, G, T, q).
    """

    def __init__(
        self,
        left: Tensor,
        right: Tensor,
        parameter_shape: Sequence[int],
        *,
        memory_budget: int = DEFAULT_MEMORY_BUDGET,
    ) -> None:
        if left.dim() != 4 or right.dim() != 4 or left.shape[:3] != right.shape[:3]:
            raise ValueError(
                "left and right must have shapes (N, G, T, p) and (N, G, T, q), "
                f"got {tuple(left.shape)} and {tuple(right.shape)}"
            )
        super().__init__(
            left.shape[0],
            parameter_shape,
            dtype=compute_dtype(left.dtype, right.dtype),
            device=left.device,
            memory_budget=memory_budget,
        )
        self.left = left.detach()
        self.right = right.detach()
        self._flat: tuple[Factor, Factor] | None = None
        if left.shape[1] * left.shape[3] * right.shape[3] != self.shape[1]:
            raise ValueError(
                f"a parameter of shape {tuple(self.parameter_shape)} does not have G·p·q = "
                f"{left.shape[1]}·{left.shape[3]}·{right.shape[3]} scalars"
            )

    @classmethod
    def of_rows(
        cls,
        left: Factor,
        right: Factor,
        samples: int,
        parameter_shape: Sequence[int],
        *,
        memory_budget: int = DEFAULT_MEMORY_BUDGET,
    ) -> OuterJacobian:
        """One group, from rows that others may have too.

        Args:
            left: Shape (N·T, p), in a type that is computed in.
            right: Shape (N·T, q), in the same type.
            samples: N.
            parameter_shape: A shape of p·q scalars, of which (p, q) is a contiguous reshape.
            memory_budget: Bytes that temporaries may take.
        """
        sides = [rows.rows_NP.view(samples, 1, -1, rows.rows_NP.shape[1]) for rows in (left, right)]
        made = cls(sides[0], sides[1], parameter_shape, memory_budget=memory_budget)
        made._flat = left, right
        return made

    @classmethod
    def concatenate(cls, parts: Sequence[OuterJacobian]) -> OuterJacobian:
        """The sum of several, with the terms of all of them.

        Args:
            parts: At least one; with equal N, G, p, q and parameter's shape.
        """
        first = parts[0]
        if len(parts) == 1:
            return first
        return cls(
            _concatenate([part.left for part in parts]),
            _concatenate([part.right for part in parts]),
            first.parameter_shape,
            memory_budget=first.memory_budget,
        )

    @property
    def form(self) -> tuple[int, int, int]:
        """(G, p, q)."""
        return self.left.shape[1], self.left.shape[3], self.right.shape[3]

    @property
    def terms(self) -> int:
        """T."""
        return self.left.shape[2]

    def select(self, index: Tensor) -> OuterJacobian:
        """The Jacobian of some samples alone."""
        left, right = self.left[index], self.right[index]
        return OuterJacobian(left, right, self.parameter_shape, memory_budget=self.memory_budget)

    def _scaled(self, factor: float) -> OuterJacobian:
        sides = scaled_factors(self.left, self.right, factor, self.dtype)
        return OuterJacobian(*sides, self.parameter_shape, memory_budget=self.memory_budget)

    def factors(self, index: Index) -> tuple[Tensor, Tensor]:
        """Left and right of some samples, in the type that is computed in."""
        return self.left[index].to(self.dtype), self.right[index].to(self.dtype)

    def _rows(self, index: Index) -> Tensor:
        left, right = self.factors(index)
        each = self._each(left, right)
        if each is not None:
            rows = left.new_empty(len(left), left.shape[3], right.shape[3])
            for place, row_pq in zip(rows.unbind(), each, strict=True):
                place.copy_(row_pq)
        else:
            rows = left.mT * right if self.terms == 1 else left.mT @ right
        return rows.reshape(left.shape[0], *self.parameter_shape)

    def _each(self, left_KGTp: Tensor, right_KGTq: Tensor) -> Iterator[Tensor] | None:
        """Row by row, shape (p, q), where that is faster than many at once."""
        if self.terms == 1 or left_KGTp.shape[1] != 1:
            return None
        return rows_of(left_KGTp.squeeze(1), right_KGTq.squeeze(1))

    @property
    def _sizes(self) -> Hashable:
        return self.terms, self.form, self.dtype

    def _closed_work(self, want: str) -> float:
        return closed_work(want, self.samples, self.terms, self.form)

    def _closed_way(self, want: str) -> Tensor:
        if want == "gram":
            return cross_gram(self, self)
        if want == "sum":
            return self._weighted_sum(None)
        if want == "row_sq_norms" and self.terms == 1:
            squares_NG1 = self._term_norms_NGT.square()
            return squares_NG1.view(-1) if self.form[0] == 1 else squares_NG1.sum((1, 2))
        pairs = 2 * self.form[0] * self.terms**2 * self.dtype.itemsize if self.terms > 1 else 0
        chunks = map(self.factors, self._chunks(self._cast_bytes + pairs))
        if want == "row_sq_norms":
            return join([row_sq_norms(*factors) for factors in chunks])
        assert want == "column_sq_norms"
        squares = [column_sq_norms(*factors) for factors in chunks]
        return add(squares).reshape(self.parameter_shape)

    def _making_work(self) -> float:
        return making_work(self.samples, self.terms, self.form)

    def _remaking_work(self) -> float:
        return 0.0

    def _from_rows(self, wants: Sequence[str]) -> dict[str, Tensor]:
        samples, scalars = self.shape
        each = self._each(self.left, self.right) if "gram" not in wants and samples else None
        if each is not None:
            return measure_each(each, wants, samples, self.parameter_shape)
        fits = samples * scalars * self.dtype.itemsize <= self.memory_budget
        if fits or samples * self.form[2] * self.dtype.itemsize > self.memory_budget:
            return super()._from_rows(wants)
        found = measure_slabs(slabs(self), wants, samples, self.form)
        return {
            want: result if want in ("row_sq_norms", "gram") else result.view(self.parameter_shape)
            for want, result in found.items()
        }

    def _weighted_sum(self, u_N: Tensor | None) -> Tensor:
        groups, p, q = self.form
        weighted = 0 if u_N is None else groups * self.terms * min(p, q) * self.dtype.itemsize
        total: Tensor | None = None
        for chunk in self._chunks(self._cast_bytes + weighted):
            part = weighted_sum(*self.factors(chunk), None if u_N is None else u_N[chunk])
            total = part if total is None else total.add_(part)
        assert total is not None
        return total.reshape(self.parameter_shape)

    def _matvec(self, v: Tensor) -> Tensor:
        groups, p, q = self.form
        v_Gpq = v.reshape(groups, p, q)
        results: list[Tensor] = []
        temporary = groups * self.terms * min(p, q) * self.dtype.itemsize
        for chunk in self._chunks(self._cast_bytes + temporary):
            left, right = self.factors(chunk)
            mapped, other, map_G = (right, left, v_Gpq.mT) if p <= q else (left, right, v_Gpq)
            mapped_GKTw = by_group(mapped) @ map_G
            other_GKTw = other.transpose(0, 1)
            products = mapped_GKTw.view(other_GKTw.shape).mul_(other_GKTw)
            results.append(products.sum((0, 2, 3)))
        return join(results)

    def _rmatvec(self, u: Tensor) -> Tensor:
        return self._weighted_sum(u)

    def _probe(self, left: Tensor, right: Tensor) -> Tensor:
        groups, p, _ = self.form
        if left.shape[0] != groups * p:
            return super()._probe(left, right)
        if self._flat is not None:
            products = self._flat[0].along(left) * self._flat[1].along(right)
            return products.view(self.samples, -1).sum(1)
        results: list[Tensor] = []
        for chunk in self._chunks(self._cast_bytes):
            left_KGTp, right_KGTq = self.factors(chunk)
            # Products of more than two dimensions are slow where one of them has a single element.
            answers = right_KGTq.reshape(-1, len(right)) @ right
            if groups == 1:
                scales = left_KGTp.reshape(-1, p) @ left
            else:
                scales = torch.einsum("ngtp,gp->ngt", left_KGTp, left.view(groups, p)).reshape(-1)
            results.append((scales * answers).view(len(left_KGTp), -1).sum(1))
        return join(results)

    def _magnitude(self) -> Tensor:
        return self._term_norms_NGT.sum()

    @cached_property
    def _term_norms_NGT(self) -> Tensor:
        """The norm of each outer product."""
        if self._flat is not None:
            products = self._flat[0].lengths_N * self._flat[1].lengths_N
            return products.view(self.samples, 1, -1)
        norms = lengths(self.left, -1, self.dtype)
        return norms.mul_(lengths(self.right, -1, self.dtype))

    @property
    def _cast_bytes(self) -> int:
        """Bytes per sample that casting the factors takes."""
        cast = [factor for factor in (self.left, self.right) if factor.dtype != self.dtype]
        return sum(factor[:1].numel() for factor in cast) * self.dtype.itemsize


def _concatenate(factors: Sequence[Tensor]) -> Tensor:
    dtypes = {factor.dtype for factor in factors}
    dtype = dtypes.pop() if len(dtypes) == 1 else compute_dtype(*dtypes, factors[0].dtype)
    return torch.cat([factor.to(dtype) for factor in factors], 2)
