"""∂f/∂x of a model's outputs, and of one layer's outputs by another's, sample by sample.

Shape suffixes: N samples, C outputs per sample, D numbers in a sample's x.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from jacoscope.probing._cotangents import Cotangents, cotangents
from jacoscope.probing._errors import ProbeError
from jacoscope.probing._isolation import isolated
from jacoscope.probing._outputs import OfOutputs
from jacoscope.probing._rows import Looped, Rows, Vectorized
from jacoscope.probing._trust import trusted_at

__all__ = ["PlaceJacobian", "place_jacobian"]


@dataclass(frozen=True, eq=False)
class PlaceJacobian(OfOutputs):
    """∂f_i/∂x_i of N samples, x being the input, an embedding's output or a layer's.

    Args:
        rows: Makes rows.
        place: Where x is: ``(input)``, or the name of the module that puts it out.
        index: Which part of the input it is.
        shape: Shape of a sample's x.
        cotangents: What rows are taken along, where the Jacobian is not whole.
        squares: Squared norms of rows, shape (N, K), or of the whole Jacobians, shape (N, 1).
        singular_values: Singular values of each sample's ∂f_i/∂x_i, largest first, shape
            (N, min(C, D)); ``None`` where outputs were sketched.
        memory_budget: Bytes that a dense Jacobian may take.
    """

    rows: Rows = field(repr=False)
    place: str
    index: int | None = field(repr=False)
    shape: tuple[int, ...]
    cotangents: Cotangents = field(repr=False)
    squares: Tensor = field(repr=False)
    singular_values: Tensor | None = field(repr=False)
    memory_budget: int = field(repr=False)

    @property
    def size(self) -> int:
        """D, the number of scalars in a sample's x."""
        return int(torch.Size(self.shape).numel())

    @property
    def is_exact(self) -> bool:
        """Whether the norms are exact; if not, they are estimates from random cotangents."""
        return self.singular_values is not None

    @property
    def sq_norms(self) -> Tensor:
        """‖∂f_i/∂x_i‖²_F, shape (N,), in double precision; unbiased where sketched."""
        return self.squares.sum(1) if self.is_exact else self.squares.mean(1)

    @property
    def sq_norm_errors(self) -> Tensor:
        """Standard errors of :attr:`sq_norms`, shape (N,); zero where exact."""
        if self.is_exact:
            return torch.zeros(self.samples, dtype=torch.float64)
        error: Tensor = self.squares.std(1) / self.squares.shape[1] ** 0.5
        return error

    @property
    def norms(self) -> Tensor:
        """‖∂f_i/∂x_i‖_F of each sample, shape (N,); outputs per unit of x."""
        return self.sq_norms.sqrt()

    @property
    def spectral_norms(self) -> Tensor:
        """Largest singular value of each sample's Jacobian, shape (N,).

        Raises:
            ValueError: If outputs were sketched.
        """
        return self._singular()[:, 0]

    @property
    def conditions(self) -> Tensor:
        """σ_max / σ_min of each sample, shape (N,); ``inf`` where σ_min is within rounding of 0.

        Raises:
            ValueError: If outputs were sketched.
        """
        values = self._singular()
        largest, smallest = values[:, 0], values[:, -1]
        rounding = torch.finfo(self.values.dtype).eps * max(self.outputs, self.size)
        ratio = largest / smallest
        ratio[smallest <= rounding * largest] = torch.inf
        ratio[(largest == 0) | ~torch.isfinite(largest)] = torch.nan
        return ratio

    @property
    def mean_sq_singular_values(self) -> Tensor:
        """‖∂f_i/∂x_i‖²_F / C, shape (N,): tr(J Jᵀ) / C (Pennington et al., arXiv:1711.04735)."""
        mean: Tensor = self.sq_norms / self.outputs
        return mean

    def dense(self) -> Tensor:
        """All of ∂f/∂x, shape (N, C, *x).

        Raises:
            ValueError: If it would take more than the memory budget.
        """
        size = self.samples * self.outputs * self.size * self.values.element_size()
        if size > self.memory_budget:
            raise ValueError(
                f"the dense Jacobian would take {size / 2**20:,.0f} MiB, more than the memory "
                f"budget of {self.memory_budget / 2**20:,.0f} MiB; raise memory_budget"
            )
        return self._rows(slice(0, self.samples), range(self.outputs))

    def rows_of(self, samples: int, outputs: list[int]) -> Tensor:
        """∂f_ic/∂x_i of the first samples and some outputs, shape (samples, len(outputs), *x)."""
        return self._rows(slice(0, samples), outputs)

    def _rows(self, samples: slice, outputs: list[int] | range) -> Tensor:
        like = self.values
        basis = torch.zeros(len(outputs), self.outputs, dtype=like.dtype, device=like.device)
        basis[range(len(outputs)), list(outputs)] = 1
        with isolated(self.rows.function.devices):
            return self.rows.of_place(self.place, self.index, samples, basis)

    def _singular(self) -> Tensor:
        if self.singular_values is None:
            raise ValueError(
                f"singular values need the whole Jacobian, and its {self.outputs} outputs × "
                f"{self.size} inputs are too many to enumerate; raise max_outputs, or take an "
                "output with fewer"
            )
        return self.singular_values.clone()

    def __repr__(self) -> str:
        kind = "exact" if self.is_exact else f"sketched by {len(self.cotangents)} cotangents"
        return (
            f"PlaceJacobian({self.samples} samples × {self.outputs} outputs × {self.size} of "
            f"{self.place}, {kind}, by {self.method})"
        )


def place_jacobian(
    rows: Rows,
    place: str,
    index: int | None,
    *,
    max_outputs: int,
    sketches: int,
    seed: int,
    memory_budget: int,
) -> PlaceJacobian:
    """Norms and singular values of ∂f_i/∂x_i.

    Whole, by rows or by columns, whichever are fewer, if these are no more than ``max_outputs``;
    else the norms alone, from random cotangents.

    Args:
        rows: Makes rows.
        place: Where x is.
        index: Which part of the input it is.
        max_outputs: How many rows or columns are enumerated.
        sketches: How many random cotangents there are otherwise.
        seed: Their seed.
        memory_budget: Bytes that the Jacobians of a chunk of samples may take.

    Raises:
        ProbeError: If x is empty or not of floating point.
    """
    function = rows.function
    x = function.place_value(place) if index is None else function.sample_inputs[index]
    shape = tuple(x.shape[1:])
    size = x[0].numel()
    if not size:
        raise ProbeError(f"{place} has no numbers to differentiate by")
    outputs = function.outputs
    fewer = min(outputs, size)
    along = cotangents(outputs, max_outputs, sketches, function.values, seed)
    rows, by_columns = trusted_at(
        rows, place, index, by_columns=size < outputs and size <= max_outputs
    )
    is_whole = fewer <= max_outputs
    made = outputs if is_whole else len(along)
    # Rows in both precisions, and what a pass keeps.
    step = max(1, memory_budget // (made * (size * 12 + rows.sample_bytes)))
    vectors = _every(function.values) if is_whole else along.vectors

    def block(samples: slice) -> Tensor:
        if by_columns:
            return rows.columns_of_place(place, index, samples)
        return rows.of_place(place, index, samples, vectors)

    slices = [slice(i, min(i + step, function.samples)) for i in range(0, function.samples, step)]
    try:
        found = [_measured(block(samples), is_whole) for samples in slices]
    except RuntimeError as error:
        if not isinstance(rows, Vectorized):
            raise
        # Some refusals of vmap depend on how many samples there are.
        by_columns, rows = False, Looped(function, f"vmap cannot differentiate it ({error})")
        found = [_measured(block(samples), is_whole) for samples in slices]
    squares, singular = zip(*found, strict=True)
    return PlaceJacobian(
        rows,
        place,
        index,
        shape,
        along,
        torch.cat(squares),
        torch.cat(singular) if is_whole else None,
        memory_budget,
    )


def _measured(block: Tensor, is_whole: bool) -> tuple[Tensor, Tensor]:
    """Squared norms of rows, shape (n, K), and singular values of whole Jacobians."""
    matrices = block.flatten(2).double()
    squares = matrices.square().sum(-1).cpu()
    return squares, _singular_values(matrices).cpu() if is_whole else squares


def _every(values: Tensor) -> Tensor:
    return torch.eye(values.shape[1], dtype=values.dtype, device=values.device)


def _singular_values(matrices: Tensor) -> Tensor:
    """Singular values, largest first, shape (n, min(C, D)); ``nan`` where not finite."""
    finite = torch.isfinite(matrices).all(-1).all(-1)
    values = torch.full(
        (len(matrices), min(matrices.shape[1:])), torch.nan, dtype=matrices.dtype,
        device=matrices.device,
    )  # fmt: skip
    if bool(finite.any()):
        values[finite] = torch.linalg.svdvals(matrices[finite])
    return values
