"""Terms: what one use of a parameter contributes, before the uses are added up.

Shape suffixes: N samples, R rows of all samples, T rows of one sample, G groups, p and q features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from jacoscope.capturing._layout import Rows
from jacoscope.capturing._walk import Shape
from jacoscope.jacobian import (
    ConvolutionJacobian,
    DenseJacobian,
    Jacobian,
    OuterJacobian,
    ScatterJacobian,
)

__all__ = [
    "ConvolutionTerm",
    "DenseTerm",
    "OuterTerm",
    "Scale",
    "ScatterTerm",
    "Term",
    "combine",
    "known_scale",
]

Scale: TypeAlias = Callable[[], Tensor]
"""Tells a number, without dimensions, that is worked out only where somebody asks."""


def known_scale(scale: Tensor) -> Scale:
    """One that is there."""
    return lambda: scale


class Term(ABC):
    """What one use contributes; terms with an equal :attr:`key` become one operator."""

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """What terms must agree in to become one operator."""

    @abstractmethod
    def merged(self, terms: Sequence[Term], samples: int, memory_budget: int) -> Jacobian:
        """The Jacobian of these terms' sum; they all have this term's key."""

    def turned(self, shape: Shape) -> Term | None:
        """The term seen from before a transposition, or ``None`` if it cannot do that."""
        return None


@dataclass(frozen=True, eq=False)
class DenseTerm(Term):
    """Rows themselves.

    Args:
        rows: Shape (N, *parameter's shape).
        magnitude: Tells the norms of all that was added up to rows, added up; what their rounding
            errors are relative to. ``None`` if nothing was.
    """

    rows: Tensor
    magnitude: Scale | None = None

    def agrees_with(self, whole: Tensor | None) -> bool:
        """Whether the rows add up to ``whole``; it waits for the device."""
        total = self.rows.sum(0)
        if whole is None:
            return not bool(total.any())
        whole = (whole.to_dense() if whole.is_sparse else whole).to(total.dtype)
        room = 1e-3 if torch.finfo(total.dtype).eps < 1e-4 else 0.1
        scale = self.rows.norm(dim=0).sum()
        return bool((total - whole).norm() <= room * scale)

    @property
    def key(self) -> Hashable:
        """All of one shape add up."""
        return ("dense", self.rows.shape)

    def merged(self, terms: Sequence[Term], samples: int, memory_budget: int) -> Jacobian:
        """Their sum."""
        rows = self.rows
        for term in terms[1:]:
            assert isinstance(term, DenseTerm)
            rows = rows + term.rows
        return DenseJacobian(rows, memory_budget=memory_budget)

    def turned(self, shape: Shape) -> Term:
        """Its rows, transposed."""
        return DenseTerm(self.rows.transpose(1, 2))


@dataclass(frozen=True, eq=False)
class OuterTerm(Term):
    """Sums of outer products: ``Σ_t left[t] ⊗ right[t]`` for each group.

    Args:
        left: Shape (N, T, G, p) or (R, G, p).
        right: Shape (N, T, G, q) or (R, G, q).
        shape: The parameter's shape, of G·p·q elements.
    """

    left: Rows
    right: Rows
    shape: Shape

    @property
    def key(self) -> Hashable:
        """All with the same features add up, along T."""
        return ("outer", self.left.data.shape[-2:], self.right.data.shape[-2:], self.shape)

    def merged(self, terms: Sequence[Term], samples: int, memory_budget: int) -> Jacobian:
        """The outer products of all uses, one after the other along T."""
        pairs = [(term.left, term.right) for term in terms if isinstance(term, OuterTerm)]
        left, right = _arranged(pairs, samples)
        return OuterJacobian(
            left.movedim(2, 1), right.movedim(2, 1), self.shape, memory_budget=memory_budget
        )

    def turned(self, shape: Shape) -> Term | None:
        """With left and right exchanged."""
        grouped = self.left.data.shape[-2] != 1
        plain = self.shape == (self.left.data.shape[-1], self.right.data.shape[-1])
        return None if grouped or not plain else OuterTerm(self.right, self.left, shape)


@dataclass(frozen=True, eq=False)
class ConvolutionTerm(Term):
    """A convolution's input and the gradient of its output.

    Args:
        input: Shape (N, T, C, *spatial) or (R, C, *spatial).
        grad: Shape (N, T, C', *spatial) or (R, C', *spatial).
        shape: The weight's shape.
        stride: Per spatial dimension.
        padding: Per spatial dimension.
        dilation: Per spatial dimension.
        groups: Number of groups.
        transposed: Whether it is a transposed convolution.
    """

    input: Rows
    grad: Rows
    shape: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int
    transposed: bool

    @property
    def key(self) -> Hashable:
        """Uses of one geometry and size add up, along T."""
        geometry = (self.stride, self.padding, self.dilation, self.groups, self.transposed)
        spatial = (len(self.shape) - 2) * -1 or None
        sizes = (self.input.data.shape[spatial:], self.grad.data.shape[spatial:])
        return ("convolution", self.shape, geometry, sizes)

    def merged(self, terms: Sequence[Term], samples: int, memory_budget: int) -> Jacobian:
        """The inputs and gradients of all uses, one after the other along T."""
        pairs = [(term.input, term.grad) for term in terms if isinstance(term, ConvolutionTerm)]
        inputs, grads = _arranged(pairs, samples)
        return ConvolutionJacobian(
            inputs,
            grads,
            self.shape,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            transposed=self.transposed,
            memory_budget=memory_budget,
        )


@dataclass(frozen=True, eq=False)
class ScatterTerm(Term):
    """Values added to rows of a table.

    Args:
        indices: Which row of the table, shape (N, T) or (R,); negative for none.
        values: What is added, shape (N, T, *rest) or (R, *rest).
        count: Number of rows of the table.
    """

    indices: Rows
    values: Rows
    count: int

    @property
    def key(self) -> Hashable:
        """All with one table add up, along T."""
        rest = self.values.data.shape[2 if self.values.samples is None else 1 :]
        return ("scatter", self.count, rest)

    def merged(self, terms: Sequence[Term], samples: int, memory_budget: int) -> Jacobian:
        """The entries of all uses, one after the other along T."""
        # Padding is zero, which is a row of the table too, so count from one until it is done.
        pairs = [
            (Rows(term.indices.data + 1, term.indices.samples), term.values)
            for term in terms
            if isinstance(term, ScatterTerm)
        ]
        indices, values = _arranged(pairs, samples)
        return ScatterJacobian(indices - 1, values, self.count, memory_budget=memory_budget)


def combine(terms: Sequence[Term], samples: int, memory_budget: int) -> list[Jacobian]:
    """As few operators as the terms allow; their sum is the sum of the terms."""
    if len(terms) == 1:
        return [terms[0].merged(terms, samples, memory_budget)]
    groups: dict[Hashable, list[Term]] = {}
    for term in terms:
        groups.setdefault(term.key, []).append(term)
    return [group[0].merged(group, samples, memory_budget) for group in groups.values()]


def _arranged(pairs: Sequence[tuple[Rows, Rows]], samples: int) -> tuple[Tensor, Tensor]:
    """Pairs of shape (N, T, …): regular ones as they are, others sorted and padded with zeros."""
    lefts = [left.data for left, _ in pairs if left.samples is None]
    rights = [right.data for left, right in pairs if left.samples is None]
    ragged = [(left, right) for left, right in pairs if left.samples is not None]
    if ragged:
        owners = torch.cat([left.samples for left, _ in ragged if left.samples is not None])
        place = _places(owners, samples)
        lefts.append(place(torch.cat([left.data for left, _ in ragged])))
        rights.append(place(torch.cat([right.data for _, right in ragged])))
    if len(lefts) == 1:
        return lefts[0], rights[0]
    return torch.cat(lefts, dim=1), torch.cat(rights, dim=1)


class _places:  # noqa: N801  (a function with a memory)
    """Sorts rows by sample: (R, …) to (N, T, …), padded with zeros."""

    def __init__(self, owners: Tensor, samples: int) -> None:
        self._samples = samples
        self._order = torch.argsort(owners, stable=True)[int((owners < 0).sum()) :]
        self._owner = owners[self._order]
        counts = torch.bincount(self._owner, minlength=samples)
        first = torch.cumsum(counts, 0) - counts
        self._place = torch.arange(len(self._order), device=owners.device) - first[self._owner]
        self._length = int(counts.max()) if samples else 0

    def __call__(self, rows: Tensor) -> Tensor:
        padded = rows.new_zeros(self._samples, self._length, *rows.shape[1:])
        padded[self._owner, self._place] = rows[self._order]
        return padded
