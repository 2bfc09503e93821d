"""∂f/∂θ of a model's outputs, sample by sample.

Shape suffixes: N samples, C outputs per sample, K cotangents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jacoscope.capturing import first_names
from jacoscope.errors import nearest
from jacoscope.probing._cotangents import Cotangents
from jacoscope.probing._isolation import isolated
from jacoscope.probing._outputs import OfOutputs
from jacoscope.probing._products import Products
from jacoscope.probing._rows import Rows

__all__ = ["OutputJacobian", "spectral_norms"]


@dataclass(frozen=True, eq=False)
class OutputJacobian(OfOutputs):
    """∂f_i/∂θ of N samples, by parameter: its norms, and its rows when they are asked for.

    A tied parameter stands under its first name and is found under each.

    Where the outputs were too many to enumerate, norms are unbiased estimates from random
    cotangents (of the squared norm), with their standard errors.

    Args:
        rows: Makes rows.
        cotangents: What rows are taken along.
        products: What was made of them.
        memory_budget: Bytes that a dense Jacobian may take.
    """

    rows: Rows = field(repr=False)
    cotangents: Cotangents = field(repr=False)
    products: Products = field(repr=False)
    memory_budget: int = field(repr=False)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape that a sample's outputs have in the model."""
        return self.rows.function.output_shape

    @property
    def is_exact(self) -> bool:
        """Whether every output has a row; if not, norms are estimates."""
        return self.cotangents.is_exact

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters."""
        return tuple(self.products.squares)

    @property
    def missing(self) -> Mapping[str, str]:
        """By parameter, why there is nothing."""
        return self.products.missing

    def sq_norms(self, name: str) -> Tensor:
        """‖∂f_i/∂θ‖²_F of each sample, shape (N,), in double precision."""
        return self.cotangents.total(self._squares(name).T)

    def sq_norm_errors(self, name: str) -> Tensor:
        """Standard errors of :meth:`sq_norms`, shape (N,); zero where outputs were enumerated."""
        return self.cotangents.error(self._squares(name).T)

    def norms(self, name: str) -> Tensor:
        """‖∂f_i/∂θ‖_F of each sample, shape (N,); outputs per unit of parameter."""
        return self.sq_norms(name).sqrt()

    def output_norms(self, name: str) -> Tensor:
        """√(mean_i ‖∂f_ic/∂θ‖²): how sensitive each output is to the parameter, shape (C,).

        Raises:
            ValueError: If outputs were sketched.
        """
        self._need_exact("output_norms")
        return self._squares(name).mean(0).sqrt()

    def spectral_norms(self, name: str) -> Tensor:
        """Largest singular value of each sample's ∂f_i/∂θ, shape (N,).

        Raises:
            ValueError: If outputs were sketched, or inner products were not asked for.
        """
        self._need_exact("spectral_norms")
        self._squares(name)
        first = self._first(name)
        if first not in self.products.grams:
            raise ValueError("spectral norms take inner products of rows; set spectral=True")
        return spectral_norms(self.products.grams[first], self.samples)

    def dense(self, name: str) -> Tensor:
        """All of ∂f/∂θ, shape (N, C, *parameter).

        Raises:
            ValueError: If it would take more than the memory budget.
        """
        self._squares(name)
        first = self._first(name)
        parameter = self.rows.function.parameters[first]
        size = self.samples * self.outputs * parameter.numel() * parameter.element_size()
        if size > self.memory_budget:
            raise ValueError(
                f"the dense Jacobian of {name} would take {size / 2**20:,.0f} MiB, more than the "
                f"memory budget of {self.memory_budget / 2**20:,.0f} MiB; raise memory_budget"
            )
        values = self.rows.function.values
        basis = torch.eye(self.outputs, dtype=values.dtype, device=values.device)
        with isolated(self.rows.function.devices):
            return self.rows.of_parameters([first], slice(0, self.samples), basis)[first]

    def _squares(self, name: str) -> Tensor:
        squares, first = self.products.squares, self._first(name)
        if first not in squares:
            reason = self.missing.get(first)
            raise KeyError(reason or f"no Jacobian of {name!r}; {nearest(name, squares)}")
        return squares[first]

    def _first(self, name: str) -> str:
        return first_names(self.rows.function.module).get(name, name)

    def _need_exact(self, what: str) -> None:
        if not self.is_exact:
            raise ValueError(
                f"{what} needs a row per output, and {self.outputs} were too many to enumerate; "
                "raise max_outputs, or take an output with fewer"
            )

    def __repr__(self) -> str:
        kind = "exact" if self.is_exact else f"sketched by {len(self.cotangents)} cotangents"
        return (
            f"OutputJacobian({self.samples} samples × {self.outputs} outputs, {kind}, "
            f"{len(self.names)} parameters, by {self.method})"
        )


def spectral_norms(gram: Tensor, samples: int) -> Tensor:
    """Largest singular value of each sample's rows, from inner products of all rows, shape (N,)."""
    shaped = gram.reshape(samples, -1, samples, len(gram) // samples)
    blocks = torch.stack([shaped[i, :, i] for i in range(samples)])
    finite = torch.isfinite(blocks).all(-1).all(-1)
    largest = torch.full((samples,), torch.nan, dtype=gram.dtype)
    if bool(finite.any()):
        largest[finite] = torch.linalg.eigvalsh(blocks[finite])[:, -1].clamp(min=0).sqrt()
    return largest
