"""Rows of a table that a sample looked up, each with a gradient.

Shape suffixes: N samples, K chosen samples, T look-ups per sample, V rows of the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from jacoscope.jacobian._arithmetic import compute_dtype, lengths
from jacoscope.jacobian._blocks import by_blocks
from jacoscope.jacobian._indices import Index
from jacoscope.jacobian._jacobian import DEFAULT_MEMORY_BUDGET, Jacobian
from jacoscope.jacobian._lookups import (
    add_to_table,
    cross_products,
    fill_tables,
    merge_runs,
    row_sq_norms_by_pairs,
    row_sq_norms_by_runs,
    run_starts,
)
from jacoscope.jacobian._rowwise import join
from jacoscope.jacobian._work import PASS

__all__ = ["ScatterJacobian"]


@final
class ScatterJacobian(Jacobian):
    """Row i is Σ_t e_{indices[i, t]} ⊗ values[i, t]; an embedding's Jacobian.

    Args:
        indices: Rows of the parameter, shape (N, T); negative ones contribute nothing.
        values: What each look-up contributes, shape (N, T, *rest).
        rows: V, the length of the parameter's first dimension.
        ignore: A row of the parameter that receives nothing, as an embedding's ``padding_idx``.
        memory_budget: Bytes that temporaries may take.
    """

    def __init__(
        self,
        indices: Tensor,
        values: Tensor,
        rows: int,
        ignore: int | None = None,
        *,
        memory_budget: int = DEFAULT_MEMORY_BUDGET,
    ) -> None:
        if indices.dim() != 2 or values.shape[:2] != indices.shape:
            raise ValueError(
                "indices and values must have shapes (N, T) and (N, T, *rest), "
                f"got {tuple(indices.shape)} and {tuple(values.shape)}"
            )
        super().__init__(
            indices.shape[0],
            (rows, *values.shape[2:]),
            dtype=compute_dtype(values.dtype),
            device=values.device,
            memory_budget=memory_budget,
        )
        indices = indices.detach().long()
        self.indices = indices if ignore is None else indices.masked_fill(indices == ignore, -1)
        self.values = values.detach()

    @classmethod
    def concatenate(cls, parts: Sequence[ScatterJacobian]) -> ScatterJacobian:
        """The sum of several, with the look-ups of all of them.

        Args:
            parts: At least one; with equal N and parameter's shape.
        """
        first = parts[0]
        if len(parts) == 1:
            return first
        dtypes = {part.values.dtype for part in parts}
        dtype = dtypes.pop() if len(dtypes) == 1 else compute_dtype(*dtypes)
        return cls(
            torch.cat([part.indices for part in parts], 1),
            torch.cat([part.values.to(dtype) for part in parts], 1),
            first.parameter_shape[0],
            memory_budget=first.memory_budget,
        )

    @property
    def terms(self) -> int:
        """T."""
        return self.indices.shape[1]

    @property
    def width(self) -> int:
        """D, the scalars of a row of the table."""
        return math.prod(self.parameter_shape[1:])

    def select(self, index: Tensor) -> ScatterJacobian:
        """The Jacobian of some samples alone."""
        rows, budget = self.parameter_shape[0], self.memory_budget
        return ScatterJacobian(self.indices[index], self.values[index], rows, memory_budget=budget)

    def _scaled(self, factor: float) -> ScatterJacobian:
        values, budget = self.values.to(self.dtype) * factor, self.memory_budget
        return ScatterJacobian(self.indices, values, self.parameter_shape[0], memory_budget=budget)

    def entries(self, index: Index) -> tuple[Tensor, Tensor]:
        """Indices (K, T) and values (K, T, D) of some samples, in the type that is computed in."""
        indices = self.indices[index]
        values = self.values[index].to(self.dtype)
        return indices, values.reshape(*indices.shape, self.width)

    def _rows(self, index: Index) -> Tensor:
        table_KVD = fill_tables(*self.entries(index), self.parameter_shape[0])
        return table_KVD.reshape(table_KVD.shape[0], *self.parameter_shape)

    def _closed_work(self, want: str) -> float:
        samples, terms, width = self.samples, self.terms, self.width
        once = PASS * samples * terms * width
        if want == "sum" or (terms <= 1 and want != "gram"):
            return once
        if want == "row_sq_norms":
            return min(self._pairs_work(False), 4 * once)
        if want == "column_sq_norms":
            return 5 * once
        return min(self._pairs_work(True), self._ranked_work)

    def _closed_way(self, want: str) -> Tensor:
        if want == "gram":
            by_pairs = self._pairs_work(True) <= self._ranked_work
            return self._gram_by_pairs() if by_pairs else self._ranked_gram()
        if want == "sum":
            return self._weighted_sum(None)
        if want == "column_sq_norms":
            return self._column_sq_norms()
        by_pairs = self._pairs_work(False) <= 4 * PASS * self.samples * self.terms * self.width
        sample_bytes = 3 * self.terms * (self.terms if by_pairs else self.width)
        way = row_sq_norms_by_pairs if by_pairs else row_sq_norms_by_runs
        chunks = self._chunks(sample_bytes * self.dtype.itemsize)
        return join([way(*self.entries(chunk)) for chunk in chunks])

    def _pairs_work(self, across: bool) -> float:
        pairs = self.samples * (self.samples if across else 1) * self.terms**2
        return pairs * (self.width + 4 * PASS)

    def _gram_by_pairs(self) -> Tensor:
        def block_KJ(chunk: slice, other: slice) -> Tensor:
            return cross_products(*self.entries(chunk), *self.entries(other))

        pair_bytes = 2 * self.terms**2 * self.dtype.itemsize
        return by_blocks(self, pair_bytes, block_KJ, dtype=self.dtype, symmetric=True)

    @property
    def _used(self) -> int:
        """The most rows of the table that can be in use."""
        return min(self.parameter_shape[0], self.samples * self.terms)

    @property
    def _ranked_work(self) -> float:
        return self.samples * self._used * self.width * (self.samples + PASS)

    def _ranked_gram(self) -> Tensor:
        """By making rows of that part of the table which is in use, in slabs of its columns."""
        indices = self.indices
        if self._used < self.parameter_shape[0]:
            order = indices.reshape(-1).sort()
            ranks = run_starts(order.values).cumsum(0) - 1
            ranks = torch.empty_like(ranks).scatter_(0, order.indices, ranks).view_as(indices)
            indices = ranks.masked_fill(indices < 0, -1)
        values = self.values.reshape(*indices.shape, self.width)
        gram_NN = values.new_zeros(self.samples, self.samples, dtype=self.dtype)
        column = max(1, self.samples * self._used * self.dtype.itemsize)
        step = max(1, self.memory_budget // column)
        for start in range(0, self.width, step):
            slab = values[:, :, start : start + step].to(self.dtype)
            rows = fill_tables(indices, slab, self._used).flatten(1)
            gram_NN.addmm_(rows, rows.T)
        return gram_NN

    def _column_sq_norms(self) -> Tensor:
        squares_VD = self._table()
        for chunk in self._chunks(3 * self.terms * self.width * self.dtype.itemsize):
            indices, values = self.entries(chunk)
            if self.terms > 1:
                indices, values = merge_runs(indices, values)
            add_to_table(squares_VD, indices, values.square())
        return self._parameter(squares_VD)

    def _weighted_sum(self, u_N: Tensor | None) -> Tensor:
        sum_VD = self._table()
        for chunk in self._chunks(self.terms * self.width * self.dtype.itemsize):
            indices, values = self.entries(chunk)
            if u_N is not None:
                values = values * u_N[chunk].view(-1, 1, 1)
            add_to_table(sum_VD, indices, values)
        return self._parameter(sum_VD)

    def _matvec(self, v: Tensor) -> Tensor:
        v_VD = v.reshape(-1, self.width)
        parts: list[Tensor] = []
        for chunk in self._chunks(2 * self.terms * self.width * self.dtype.itemsize):
            indices, values = self.entries(chunk)
            products_KT = v_VD[indices.clamp_min(0)].mul_(values).sum(2)
            parts.append(products_KT.masked_fill_(indices < 0, 0).sum(1))
        return join(parts)

    def _rmatvec(self, u: Tensor) -> Tensor:
        return self._weighted_sum(u)

    def _probe(self, left: Tensor, right: Tensor) -> Tensor:
        parts: list[Tensor] = []
        for chunk in self._chunks(self.terms * self.width * self.dtype.itemsize):
            indices, values = self.entries(chunk)
            products_KT = (values @ right).mul_(left[indices.clamp_min(0)])
            parts.append(products_KT.masked_fill_(indices < 0, 0).sum(1))
        return join(parts)

    def _magnitude(self) -> Tensor:
        values = self.values.reshape(*self.indices.shape, self.width)
        norms_NT = lengths(values, 2, self.dtype)
        return norms_NT.masked_fill_(self.indices < 0, 0).sum()

    def _table(self) -> Tensor:
        """Zeros for the table, and a row more for what counts for nothing."""
        size = (self.parameter_shape[0] + 1, self.width)
        return self.values.new_zeros(size, dtype=self.dtype)

    def _parameter(self, table_VD: Tensor) -> Tensor:
        return table_VD[:-1].view(self.parameter_shape)
