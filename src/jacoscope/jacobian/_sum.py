"""Several uses of one parameter: their rows add up before any norm is taken.

Shape suffixes: N samples, P scalars of the parameter.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import combinations
from typing import final

import torch
from torch import Tensor

from jacoscope.jacobian._arithmetic import compute_dtype
from jacoscope.jacobian._cross import cross_gram, cross_row_products, cross_work, disjoint
from jacoscope.jacobian._dense import DenseJacobian
from jacoscope.jacobian._indices import Index
from jacoscope.jacobian._jacobian import Jacobian
from jacoscope.jacobian._outer import OuterJacobian
from jacoscope.jacobian._placed import PlacedJacobian
from jacoscope.jacobian._scatter import ScatterJacobian

__all__ = ["SumJacobian"]


@final
class SumJacobian(Jacobian):
    """The sum of Jacobians of the same samples and parameter.

    Args:
        parts: At least one; sums among them are taken apart.
        memory_budget: Bytes that temporaries may take; by default the first part's.
    """

    def __init__(self, parts: Sequence[Jacobian], *, memory_budget: int | None = None) -> None:
        if not parts:
            raise ValueError("a sum needs at least one Jacobian")
        first = parts[0]
        for part in parts[1:]:
            if part.samples != first.samples or part.parameter_shape != first.parameter_shape:
                raise ValueError(
                    "a sum needs Jacobians of the same samples and parameter, got "
                    + " and ".join(
                        f"{part.samples} × {tuple(part.parameter_shape)}" for part in (first, part)
                    )
                )
        super().__init__(
            first.samples,
            first.parameter_shape,
            dtype=compute_dtype(*(part.dtype for part in parts)),
            device=first.device,
            memory_budget=first.memory_budget if memory_budget is None else memory_budget,
        )
        self.parts = tuple(_merge(_flatten(parts)))

    def select(self, index: Tensor) -> SumJacobian:
        """The Jacobian of some samples alone."""
        parts = [part.select(index) for part in self.parts]
        return SumJacobian(parts, memory_budget=self.memory_budget)

    def _scaled(self, factor: float) -> SumJacobian:
        parts = [part._scaled(factor) for part in self.parts]
        return SumJacobian(parts, memory_budget=self.memory_budget)

    def _rows(self, index: Index) -> Tensor:
        rows = self.parts[0]._rows(index).to(self.dtype)
        for part in self.parts[1:]:
            rows = rows + part._rows(index)
        return rows

    def _plan(self, wants: Sequence[str]) -> tuple[float, tuple[str, ...]]:
        if self._linked:
            return super()._plan(wants)
        return sum(part._plan(wants)[0] for part in self.parts), ()

    def _closed_work(self, want: str) -> float:
        own = sum(part._plan((want,))[0] for part in self.parts)
        return own + sum(cross_work(*pair, want) for pair in self._linked)

    def _closed(self, wants: Sequence[str]) -> dict[str, Tensor]:
        found = [part._evaluate(wants) for part in self.parts]
        results = {want: _total([part[want] for part in found], self.dtype) for want in wants}
        for pair in self._linked:
            if "row_sq_norms" in wants:
                results["row_sq_norms"].add_(cross_row_products(*pair), alpha=2)
            if "gram" in wants:
                cross_NN = cross_gram(*pair)
                results["gram"].add_(cross_NN).add_(cross_NN.T)
        if self._linked and "row_sq_norms" in wants:
            results["row_sq_norms"].clamp_min_(0)
        return results

    def _making_work(self) -> float:
        return sum(part._making_work() for part in self.parts)

    def _matvec(self, v: Tensor) -> Tensor:
        return _total([part._matvec(v.to(part.dtype)) for part in self.parts], self.dtype)

    def _rmatvec(self, u: Tensor) -> Tensor:
        return _total([part._rmatvec(u.to(part.dtype)) for part in self.parts], self.dtype)

    def _probe(self, left: Tensor, right: Tensor) -> Tensor:
        sides = [(left.to(part.dtype), right.to(part.dtype)) for part in self.parts]
        pairs = zip(self.parts, sides, strict=True)
        return _total([part._probe(*vectors) for part, vectors in pairs], self.dtype)

    def _magnitude(self) -> Tensor:
        return _total([part._magnitude().sum() for part in self.parts], self.dtype)

    @property
    def _row_bytes(self) -> int:
        return super()._row_bytes + max(part._row_bytes for part in self.parts)

    @cached_property
    def _linked(self) -> tuple[tuple[Jacobian, Jacobian], ...]:
        """Pairs of parts that have scalars of the parameter in common."""
        return tuple(pair for pair in combinations(self.parts, 2) if not disjoint(*pair))


def _total(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """A new tensor, unless there is but one part."""
    if len(parts) == 1:
        return parts[0]
    total = parts[0].to(dtype) + parts[1]
    for part in parts[2:]:
        total += part
    return total


def _flatten(parts: Iterable[Jacobian]) -> Iterator[Jacobian]:
    for part in parts:
        if isinstance(part, SumJacobian):
            yield from part.parts
        else:
            yield part


def _merge(parts: Iterable[Jacobian]) -> Iterator[Jacobian]:
    """The same sum of fewer: those of one structure become one."""
    outers: dict[tuple[int, int, int], list[OuterJacobian]] = {}
    placed: dict[Hashable, list[PlacedJacobian]] = {}
    scatters: list[ScatterJacobian] = []
    denses: list[DenseJacobian] = []
    for part in map(_without_transpose, parts):
        if isinstance(part, OuterJacobian):
            outers.setdefault(part.form, []).append(part)
        elif isinstance(part, ScatterJacobian):
            scatters.append(part)
        elif isinstance(part, DenseJacobian):
            denses.append(part)
        elif isinstance(part, PlacedJacobian):
            placed.setdefault(part.geometry, []).append(part)
        else:
            yield part
    yield from (OuterJacobian.concatenate(alike) for alike in outers.values())
    yield from map(_share_place, placed.values())
    if scatters:
        yield ScatterJacobian.concatenate(scatters)
    if denses:
        yield DenseJacobian.add(denses)


def _share_place(parts: Sequence[PlacedJacobian]) -> PlacedJacobian:
    first = parts[0]
    if len(parts) == 1:
        return first
    inner = SumJacobian([part.inner for part in parts])
    return PlacedJacobian(
        inner, first.place, first.parameter_shape, memory_budget=first.memory_budget
    )


def _without_transpose(part: Jacobian) -> Jacobian:
    """The transpose of outer products as outer products, which can be joined with others."""
    if not isinstance(part, PlacedJacobian) or not isinstance(part.inner, OuterJacobian):
        return part
    inner, shape = part.inner, part.parameter_shape
    groups, p, q = inner.form
    if groups != 1 or inner.parameter_shape != (p, q) or shape != (q, p):
        return part
    if part.geometry != (0, (p, q), (1, p)):
        return part
    return OuterJacobian(inner.right, inner.left, shape, memory_budget=part.memory_budget)
