"""The N × P Jacobian of one parameter, one row per sample.

Shape suffixes: N samples, K chosen samples, P scalars of the parameter.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from torch import Tensor

from jacoscope.jacobian._arithmetic import computed
from jacoscope.jacobian._indices import Index, as_index
from jacoscope.jacobian._rowwise import measure_rows
from jacoscope.jacobian._work import PASS

__all__ = ["DEFAULT_MEMORY_BUDGET", "Jacobian"]

DEFAULT_MEMORY_BUDGET = 256 * 2**20

_WAYS: dict[Hashable, tuple[float, tuple[str, ...]]] = {}
_MOST_WAYS = 4096


class Jacobian(ABC):
    """The contributions of N samples to the gradient of a parameter with P scalars.

    Row i is sample i's contribution, in the shape of the parameter. A subclass knows how its rows
    are made, and gives what it can give without making them: for each want that it has a closed way
    for, the work of that way. Whatever costs less is done.

    Args:
        samples: N.
        parameter_shape: The parameter's shape.
        dtype: What is computed in and returned.
        device: Where the numbers are.
        memory_budget: Bytes that temporaries may take; one row is made however large.

    Attributes:
        samples: N.
        parameter_shape: The parameter's shape.
        dtype: What is computed in and returned.
        device: Where the numbers are.
        memory_budget: Bytes that temporaries may take.
    """

    def __init__(
        self,
        samples: int,
        parameter_shape: Sequence[int],
        *,
        dtype: torch.dtype,
        device: torch.device,
        memory_budget: int,
    ) -> None:
        self.samples = samples
        self.parameter_shape = torch.Size(parameter_shape)
        self.dtype = dtype
        self.device = device
        self.memory_budget = memory_budget
        self._sq_norms_N: Tensor | None = None
        self._direction: tuple[Tensor, Tensor] | None = None
        self._along_N: Tensor | None = None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(samples={self.samples}, "
            f"parameter_shape={tuple(self.parameter_shape)}, dtype={self.dtype}, "
            f"device={self.device})"
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(N, P)."""
        return self.samples, self.parameter_shape.numel()

    @computed
    def rows(self, indices: Sequence[int] | slice | Tensor) -> Tensor:
        """The contributions of some samples.

        Args:
            indices: Which samples, as integers, a slice or a tensor of integers, shape (K,). A
                tensor on an accelerator is waited for, to see that there are such samples.

        Returns:
            Shape (K, *parameter_shape).

        Raises:
            IndexError: If there is no such sample.
        """
        return self._rows(as_index(indices, self.samples, self.device))

    def select(self, index: Tensor) -> Jacobian:
        """The Jacobian of some samples alone, with copies of what their rows are made of.

        Args:
            index: Which samples, all of which there are, shape (K,), on the Jacobian's device.
        """
        from jacoscope.jacobian._selected import SelectedJacobian

        return SelectedJacobian(self, index)

    @computed
    def scaled(self, factor: float) -> Jacobian:
        """The Jacobian with all contributions multiplied by a number.

        Squares of contributions have twice their exponent: in single precision a norm below 1e-19
        has a square that is not there any more, one above 1e19 one that is infinite. Multiplied by
        a power of two, what is computed of them is as exact as that of any other.

        Args:
            factor: The number, not zero; a power of two rounds nothing.
        """
        return self._scaled(factor)

    def _scaled(self, factor: float) -> Jacobian:
        from jacoscope.jacobian._scaled import ScaledJacobian

        return ScaledJacobian(self, factor)

    @computed
    def row_sq_norms(self) -> Tensor:
        """Each sample's squared norm, shape (N,)."""
        return self._evaluate(("row_sq_norms",))["row_sq_norms"]

    @computed
    def column_sq_norms(self) -> Tensor:
        """Each scalar's sum of squares over the samples, in the parameter's shape."""
        return self._evaluate(("column_sq_norms",))["column_sq_norms"]

    @computed
    def gram(self) -> Tensor:
        """The samples' inner products, shape (N, N)."""
        return self._evaluate(("gram",))["gram"]

    @computed
    def sum(self) -> Tensor:
        """The sum of all contributions, in the parameter's shape."""
        return self._evaluate(("sum",))["sum"]

    @computed
    def matvec(self, v: Tensor) -> Tensor:
        """Each contribution's inner product with a direction.

        Args:
            v: The direction, in the parameter's shape.

        Returns:
            Shape (N,).

        Raises:
            ValueError: If ``v`` has another shape.
        """
        if v.shape != self.parameter_shape:
            raise ValueError(
                f"matvec() takes a tensor of the parameter's shape {tuple(self.parameter_shape)}, "
                f"got {tuple(v.shape)}"
            )
        return self._matvec(v.detach().to(self.device, self.dtype))

    @computed
    def rmatvec(self, u: Tensor) -> Tensor:
        """The contributions' sum, each weighted.

        Args:
            u: A weight for each sample, shape (N,).

        Returns:
            The parameter's shape.

        Raises:
            ValueError: If ``u`` has another shape.
        """
        if u.shape != (self.samples,):
            raise ValueError(
                f"rmatvec() takes one weight per sample, shape ({self.samples},), "
                f"got {tuple(u.shape)}"
            )
        return self._rmatvec(u.detach().to(self.device, self.dtype))

    @computed
    def dense(self) -> Tensor:
        """All rows, shape (N, *parameter_shape).

        Raises:
            ValueError: If they take more than the memory budget.
        """
        needed = self.samples * self.shape[1] * self.dtype.itemsize
        if needed > self.memory_budget:
            raise ValueError(
                f"dense() would take {needed:,} bytes for {self.samples} rows of "
                f"{self.shape[1]:,} scalars, more than the memory budget of "
                f"{self.memory_budget:,} bytes; use rows() for some of them, or a larger budget"
            )
        return self._rows(slice(0, self.samples))

    @computed
    def probe(
        self,
        left: Tensor,
        right: Tensor | None = None,
        factors: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Each contribution's inner product with a direction of rank one (Freivalds' check).

        The parameter is seen as a matrix of ``parameter_shape[0]`` rows; a scalar as 1 × 1.

        Args:
            left: Shape (p,), the length of the parameter's first dimension.
            right: Shape (q,), the product of the lengths of the others; ``None`` for ones.
            factors: Two vectors of which ``right`` is the Kronecker product, the first as long as
                the parameter's second dimension: for convolutions that is a lot less work.

        Returns:
            Shape (N,).

        Raises:
            ValueError: If one of them has another shape.
        """
        p = self.parameter_shape[0] if self.parameter_shape else 1
        q = math.prod(self.parameter_shape[1:])
        if right is None and q > 1:
            right = left.new_ones(q)
        if left.shape != (p,) or (right is not None and right.shape != (q,)):
            raise ValueError(
                f"probe() takes vectors of shapes ({p},) and ({q},), got {tuple(left.shape)} and "
                f"{None if right is None else tuple(right.shape)}"
            )
        return self._along(left.detach(), None if right is None else right.detach(), factors)

    @computed
    def magnitude(self) -> Tensor:
        """An upper bound of the norms of all terms that the sum consists of, added up; a scalar.

        Rounding errors of the sum, and of the rows, are relative to it.
        """
        return self._magnitude().sum()

    @computed
    def checked(
        self,
        left: Tensor,
        right: Tensor | None,
        factors: tuple[Tensor, Tensor] | None,
        settled: Callable[[Tensor], bool] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """:meth:`probe` along vectors that are known to fit, and what :meth:`magnitude` adds up.

        The latter is a scalar, or by sample, shape (N,), as it is there; nobody may change it.

        Args:
            left: As for :meth:`probe`.
            right: Likewise.
            factors: Likewise.
            settled: Whether what was found along the direction tells enough; then the magnitude is
                left out.
        """
        along_N = self._along(left, right, factors)
        if settled is not None and settled(along_N):
            return along_N, None
        return along_N, self._magnitude()

    def expect(self, left: Tensor, right: Tensor | None) -> None:
        """Say along which vectors it will be :meth:`checked`, before it is measured.

        Where rows are made for what is wanted, and are less to read than what they are made of,
        they are looked at along the direction while they are there.
        """
        self._along_N = None
        self._direction = None if right is None else (left, right)

    def _along(
        self, left: Tensor, right: Tensor | None, factors: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        known_N, self._along_N = self._along_N, None
        if known_N is not None and self._direction is not None and self._direction[0] is left:
            return known_N
        if right is None:
            return self._probe_vector(self._in_type(left))
        if factors is not None:
            pair = self._in_type(factors[0]), self._in_type(factors[1])
            return self._probe_by_factors(self._in_type(left), right, pair)
        return self._probe(self._in_type(left), self._in_type(right))

    def _in_type(self, vector: Tensor) -> Tensor:
        if vector.dtype is self.dtype and vector.device == self.device:
            return vector
        return vector.to(self.device, self.dtype)

    def _evaluate(self, wants: Sequence[str]) -> dict[str, Tensor]:
        """What is wanted, by closed ways or from rows that are made once, as is less work."""
        known: dict[str, Tensor] = {}
        if self._sq_norms_N is not None and "row_sq_norms" in wants:
            known["row_sq_norms"] = self._sq_norms_N.clone()
            wants = tuple(want for want in wants if want != "row_sq_norms")
            if not wants:
                return known
        _, from_rows = self._ways(wants)
        closed = tuple(want for want in wants if want not in from_rows)
        found = self._closed(closed) if closed else {}
        if from_rows:
            found = {**found, **self._from_rows(from_rows)}
        if "row_sq_norms" in found:
            self._sq_norms_N = found["row_sq_norms"].clone()
        return found | known if known else found

    def _ways(self, wants: Sequence[str]) -> tuple[float, tuple[str, ...]]:
        """:meth:`_plan`, remembered where sizes alone decide it."""
        if self._sizes is None:
            return self._plan(wants)
        key = (type(self), self.samples, self.memory_budget, self._sizes, *wants)
        if key not in _WAYS:
            if len(_WAYS) >= _MOST_WAYS:
                _WAYS.clear()
            _WAYS[key] = self._plan(wants)
        return _WAYS[key]

    @property
    def _sizes(self) -> Hashable:
        """All that the work depends on besides N and the memory budget, or ``None``."""
        return None

    def _plan(self, wants: Sequence[str]) -> tuple[float, tuple[str, ...]]:
        """The least work for what is wanted, and which of it is to come from rows."""
        closed = {want: self._closed_work(want) for want in wants}
        all_closed = sum(closed.values())
        making = self._making_work()
        if all_closed <= making:
            return all_closed, ()
        scan = {want: self._scan_work(want) for want in wants}
        from_rows = tuple(want for want in wants if scan[want] < closed[want])
        shared = making + sum(min(scan[want], closed[want]) for want in wants)
        return (all_closed, ()) if shared >= all_closed else (shared, from_rows)

    @abstractmethod
    def _rows(self, index: Index) -> Tensor:
        """The contributions of some samples, shape (K, *parameter_shape)."""

    def _closed_work(self, want: str) -> float:
        """The work of the closed way, infinite where there is none."""
        return math.inf

    def _closed(self, wants: Sequence[str]) -> dict[str, Tensor]:
        """What is wanted, by closed ways."""
        return {want: self._closed_way(want) for want in wants}

    def _closed_way(self, want: str) -> Tensor:
        """One thing that is wanted, by its closed way."""
        raise AssertionError(f"{type(self).__name__} has no closed way for {want}")

    def _making_work(self) -> float:
        """The work of making all rows once."""
        return PASS * self.samples * self.shape[1]

    def _scan_work(self, want: str) -> float:
        """The work that a want takes once the rows are there."""
        samples, scalars = self.shape
        if want == "gram":
            return samples**2 * scalars + self._remaking_work()
        return PASS * samples * scalars

    def _remaking_work(self) -> float:
        """The work of making rows again for a Gram matrix whose rows do not fit the budget."""
        needed = self.samples * self._row_bytes
        if needed <= self.memory_budget:
            return 0.0
        chunks = min(self.samples, math.ceil(2 * needed / max(self.memory_budget, 1)))
        return self._making_work() * (chunks - 1) / 2

    def _from_rows(self, wants: Sequence[str]) -> dict[str, Tensor]:
        """What is wanted, from rows that are made once for all."""
        return measure_rows(self, wants)

    def _matvec(self, v: Tensor) -> Tensor:
        v_P = v.reshape(-1)
        return torch.cat([rows_KP @ v_P for _, rows_KP in self._blocks()])

    def _rmatvec(self, u_N: Tensor) -> Tensor:
        sum_P = u_N.new_zeros(self.shape[1])
        for chunk, rows_KP in self._blocks():
            sum_P.addmv_(rows_KP.T, u_N[chunk])
        return sum_P.view(self.parameter_shape)

    def _probe_vector(self, left: Tensor) -> Tensor:
        return self._matvec(left.view(self.parameter_shape))

    def _probe(self, left: Tensor, right: Tensor) -> Tensor:
        return self._matvec(torch.outer(left, right).view(self.parameter_shape))

    def _probe_by_factors(
        self, left: Tensor, right: Tensor, factors: tuple[Tensor, Tensor]
    ) -> Tensor:
        return self._probe(left, right.detach().to(self.device, self.dtype))

    def _magnitude(self) -> Tensor:
        return self.row_sq_norms().sqrt_()

    @property
    def knows_magnitude(self) -> bool:
        """Whether :meth:`magnitude` has been worked out for something else."""
        return False

    @property
    def _row_bytes(self) -> int:
        """Bytes that making one row takes."""
        return self.shape[1] * self.dtype.itemsize

    @property
    def _rows_at_once(self) -> int:
        """Of how many samples rows are made fastest; where it is all the same, of all of them."""
        return self.samples

    def _chunks(self, sample_bytes: float, at_once: int | None = None) -> Iterator[slice]:
        """Chunks of samples that take ``sample_bytes`` each, under the budget."""
        most = max(1, int(self.memory_budget // max(sample_bytes, 1)))
        most = min(most, at_once or most)
        for start in range(0, max(self.samples, 1), most):
            yield slice(start, min(start + most, self.samples))

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows as matrices (K, P), chunk by chunk under the budget."""
        for chunk in self._chunks(self._row_bytes):
            yield chunk, self._rows(chunk).reshape(chunk.stop - chunk.start, self.shape[1])
