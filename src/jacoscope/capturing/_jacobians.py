"""What a capture gives: the Jacobians that could be had, and why others could not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from torch import Tensor

from jacoscope.capturing._complex import as_real
from jacoscope.errors import nearest
from jacoscope.jacobian import Jacobian

__all__ = ["Jacobians", "ParameterJacobian"]


class ParameterJacobian:
    """The N × P Jacobian of one parameter, as far as it was wanted.

    Row i is sample i's contribution c_i to the batch gradient: Σ_i c_i = ∂L/∂θ. For a loss that is
    a mean over samples, the gradient of sample i's own loss is N · c_i.

    Args:
        name: The parameter's name.
        shape: (N, P).
        values: What was wanted, by name.
        operator: The structured operator, where that was wanted.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, int],
        values: Mapping[str, Tensor],
        operator: Jacobian | None = None,
    ) -> None:
        self.name = name
        self.shape = shape
        self._values = dict(values)
        self._operator = operator

    def __repr__(self) -> str:
        has = "the operator" if self._operator is not None else ", ".join(self._values)
        return f"ParameterJacobian({self.name!r}, {self.shape[0]} × {self.shape[1]}, has {has})"

    def row_sq_norms(self) -> Tensor:
        """‖c_i‖² of each sample, shape (N,)."""
        return self._value("row_sq_norms")

    def column_sq_norms(self) -> Tensor:
        """Σ_i c_ij² of each scalar j, in the parameter's shape."""
        return self._value("column_sq_norms")

    def gram(self) -> Tensor:
        """Inner products c_i · c_k, shape (N, N)."""
        return self._value("gram")

    def sum(self) -> Tensor:
        """Σ_i c_i in the parameter's shape: the batch gradient, from the captured parts."""
        return self._value("sum")

    def matvec(self, v: Tensor) -> Tensor:
        """c_i · v of each sample, shape (N,), for ``v`` of the parameter's shape."""
        return self._kept("matvec").matvec(v)

    def rmatvec(self, u: Tensor) -> Tensor:
        """Σ_i u_i c_i in the parameter's shape, for ``u`` of shape (N,)."""
        return self._kept("rmatvec").rmatvec(u)

    def scaled(self, factor: float) -> ParameterJacobian:
        """All contributions multiplied by a number, where squares would leave their type's range.

        Args:
            factor: The number, not zero; a power of two rounds nothing.
        """
        operator = self._kept("scaled").scaled(factor)
        return ParameterJacobian(self.name, self.shape, {}, operator)

    def rows(self, indices: Sequence[int] | slice | Tensor) -> Tensor:
        """The rows of these samples, shape (K, *parameter's shape)."""
        return self._kept("rows").rows(indices)

    def dense(self) -> Tensor:
        """All rows, shape (N, *parameter's shape).

        Raises:
            ValueError: If they exceed the memory budget.
        """
        return self._kept("dense").dense()

    def _value(self, want: str) -> Tensor:
        if want in self._values:
            return self._values[want]
        if self._operator is not None:
            value: Tensor = getattr(self._operator, want)()
            self._values[want] = value
            return value
        self._refuse(want, f'want=("{want}", …)')

    def _kept(self, method: str) -> Jacobian:
        if self._operator is not None:
            return self._operator
        self._refuse(method, 'want="operator"')

    def _refuse(self, asked: str, mend: str) -> NoReturn:
        had = ", ".join(self._values) or "nothing"
        raise LookupError(
            f"{asked} of {self.name!r} was not wanted, only {had}; capture with {mend}"
        )


class Jacobians(Mapping[str, ParameterJacobian]):
    """The Jacobians of one backward, by parameter name.

    It is filled when the ``with`` block that made it ends.

    Attributes:
        missing: By parameter name, why its Jacobian could not be had.
        closure: By parameter name, the relative difference of the rows' sum and the gradient,
            along a random direction.
        verification: By parameter name, the largest relative difference from masked
            back-propagation over the samples that were checked when the layouts were found.
        rules: By parameter name, the rules that its uses went by.
        layouts: By parameter name, how samples were told apart.
        coupled: Layers that couple the samples (batch normalisation in training mode). Below them
            a row is the part of the gradient that flows through the sample's own rows; rows still
            add up to the gradient.
        coverage: The fraction of the watched parameters' scalars whose Jacobian could be had;
            ``nan`` if nothing was watched.
        first_names: By each name of each of the model's parameters, the first name, under which a
            tied one stands.
    """

    def __init__(self) -> None:
        self._found: dict[str, ParameterJacobian] = {}
        self._is_filled = False
        self.missing: dict[str, str] = {}
        self.closure: dict[str, float] = {}
        self.verification: dict[str, float] = {}
        self.rules: dict[str, str] = {}
        self.layouts: dict[str, str] = {}
        self.coupled: tuple[str, ...] = ()
        self.coverage = float("nan")
        self.first_names: Mapping[str, str] = {}

    def __getitem__(self, name: str) -> ParameterJacobian:
        first = self.first_names.get(name, name)
        if first in self._found:
            return self._found[first]
        if not self._is_filled:
            raise KeyError(f"{name!r}: the capture has not ended; ask after the with block")
        if first in self.missing:
            raise KeyError(f"{name!r} is missing: {self.missing[first]}")
        known = [*self._found, *self.missing]
        raise KeyError(f"there is no watched parameter {name!r}; {nearest(str(name), known)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.first_names.get(name, name) in self._found

    def __repr__(self) -> str:
        if not self._is_filled:
            covered = "not filled yet"
        elif not self._found and not self.missing:
            covered = "nothing was watched"
        else:
            covered = f"{self.coverage:.1%} of scalars"
        return f"Jacobians({len(self)} parameters, {len(self.missing)} missing, {covered})"

    def fill(
        self, found: Mapping[str, ParameterJacobian], parameters: Mapping[str, Tensor]
    ) -> None:
        """Take up what was captured; the capture calls it.

        Args:
            found: What was captured.
            parameters: All that was watched.
        """
        self._found = {name: found[name] for name in parameters if name in found}
        sizes = {name: as_real(each).numel() for name, each in parameters.items()}
        total = sum(sizes.values())
        covered = sum(sizes[name] for name in self._found)
        self.coverage = covered / total if total else float("nan")
        self._is_filled = True
