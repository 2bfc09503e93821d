"""Sums of squares and inner products of a Jacobian's rows, in a given amount of memory.

Shape suffixes: N samples, K cotangents, R = N·K rows, P scalars of a parameter, b rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jacoscope.capturing import Calibrations
from jacoscope.probing._cotangents import Cotangents
from jacoscope.probing._rows import Rows
from jacoscope.probing._structured import structured_products

__all__ = ["Products", "products"]

_COLUMNS = 2**18
"""Columns that are brought to double precision at a time."""


@dataclass(eq=False)
class Products:
    """What is made of a Jacobian's rows, by parameter.

    Args:
        squares: Squared norms of rows, shape (N, K), in double precision.
        grams: Inner products of rows, shape (R, R), sample after sample, where they were asked for.
        missing: By parameter, why there is nothing.
        structured: The parameters whose numbers come from structured operators, without rows.
    """

    squares: dict[str, Tensor] = field(default_factory=dict)
    grams: dict[str, Tensor] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    structured: frozenset[str] = frozenset()


def products(
    rows: Rows,
    names: Sequence[str],
    cotangents: Cotangents,
    *,
    with_gram: bool,
    memory_budget: int,
    calibrations: Calibrations | None = None,
) -> Products:
    """Squared norms and, where asked for, inner products of the rows of ∂f/∂θ.

    From structured operators, which need no rows, where they can be had; else from rows. Parameters
    whose rows fit into memory together are done together, in one pass. For one whose
    rows do not, blocks of rows J_b are made one after another, and their inner products with all
    rows are J (J_bᵀ): the derivative of f along them, by forward mode (Novak et al., Fast finite
    width neural tangent kernel, arXiv:2206.08720, section 3.2, NTK-vector products); where a model
    has no forward mode, block by block. N·K × P is never in memory.

    Args:
        rows: Makes the rows.
        names: The parameters.
        cotangents: What rows are taken along.
        with_gram: Whether inner products are wanted.
        memory_budget: Bytes that rows may take.
        calibrations: What is known of graphs from earlier copies of the model.
    """
    made = Products()
    function = rows.function
    structured = structured_products(
        rows,
        list(names),
        cotangents,
        with_gram=with_gram,
        memory_budget=memory_budget,
        calibrations=calibrations,
    )
    for name, (squares, gram) in structured.items():
        made.squares[name] = squares
        if gram is not None:
            made.grams[name] = gram
    made.structured = frozenset(structured)
    wanted, names = names, [name for name in names if name not in structured]
    count = function.samples * len(cotangents)
    wholes: list[str] = []
    for name in names:
        size = count * function.parameters[name].numel() * _ITEM
        if with_gram and size > memory_budget:
            _by_blocks(rows, name, cotangents, memory_budget, made)
        else:
            wholes.append(name)
    for group in _groups(rows, wholes, count if with_gram else len(cotangents), memory_budget):
        _at_once(rows, group, cotangents, with_gram, memory_budget, made)
    made.squares = {name: made.squares[name] for name in wanted if name in made.squares}
    made.grams = {name: made.grams[name] for name in wanted if name in made.grams}
    return made


_ITEM = 8
"""Bytes of a scalar, in the precision that its products are made in."""


def _groups(
    rows: Rows, names: Sequence[str], count: int, memory_budget: int
) -> Iterator[list[str]]:
    """Parameters whose rows fit into memory together."""
    group: list[str] = []
    size = 0
    for name in names:
        more = count * rows.function.parameters[name].numel() * _ITEM
        if group and size + more > memory_budget:
            yield group
            group, size = [], 0
        group.append(name)
        size += more
    if group:
        yield group


def _at_once(
    rows: Rows,
    names: list[str],
    cotangents: Cotangents,
    with_gram: bool,
    memory_budget: int,
    made: Products,
) -> None:
    function = rows.function
    scalars = sum(function.parameters[name].numel() for name in names)
    vectors = cotangents.vectors
    most = max(1, memory_budget // (scalars * _ITEM + rows.sample_bytes))
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    squares: dict[str, list[Tensor]] = {name: [] for name in names}
    for samples, along in _blocks(function.samples, len(vectors), most):
        block = rows.of_parameters(names, samples, vectors[along])
        for name, found in block.items():
            flat = found.reshape(*found.shape[:2], -1)
            squares[name].append(_squares(flat))
            if with_gram:
                kept[name].append(flat.flatten(0, 1))
    for name in names:
        made.squares[name] = _joined(squares[name], function.samples, len(vectors))
        if with_gram:
            matrix = torch.cat(kept.pop(name))
            made.grams[name] = _product(matrix, matrix)


def _by_blocks(
    rows: Rows, name: str, cotangents: Cotangents, memory_budget: int, made: Products
) -> None:
    function, vectors = rows.function, cotangents.vectors
    size = function.parameters[name].numel() * _ITEM
    # a block of rows, its derivative's tangents, and a pass's own temporaries
    most = max(1, memory_budget // (4 * size))
    shape = function.samples, len(vectors)
    gram = torch.zeros(*shape, *shape, dtype=torch.float64)
    for samples, along in _blocks(*shape, most):
        block = rows.of_parameters([name], samples, vectors[along])[name]
        flat = block.flatten(0, 1)
        pushed = _along(rows, name, flat)
        if pushed is not None:
            products = torch.einsum("bnc,kc->bnk", pushed.double(), vectors.double()).cpu()
            shaped = products.reshape(*block.shape[:2], *shape)
            own = shaped[:, :, samples, along].reshape(len(flat), -1)
            if _agree(own, _product(flat.flatten(1), flat.flatten(1)).cpu()):
                gram[samples, along] = shaped
                continue
        for others, along_others in _blocks(*shape, most):
            other = rows.of_parameters([name], others, vectors[along_others])[name]
            found = _product(flat.flatten(1), other.flatten(0, 1).flatten(1)).cpu()
            gram[samples, along, others, along_others] = found.reshape(
                *block.shape[:2], *other.shape[:2]
            )
    matrix = gram.reshape(shape[0] * shape[1], -1)
    made.grams[name] = (matrix + matrix.T) / 2
    made.squares[name] = made.grams[name].diagonal().reshape(shape).clone()


def _agree(pushed: Tensor, made: Tensor) -> bool:
    """Whether forward mode gives a block's own inner products.

    It looks through what stops gradients, and does not reach parameters held in lists.
    """
    return torch.allclose(pushed, made, rtol=0, atol=1e-3 * float(made.abs().max()), equal_nan=True)


def _along(rows: Rows, name: str, tangents: Tensor) -> Tensor | None:
    try:
        return rows.along(name, tangents)
    except RuntimeError:  # what has no forward derivative says so variously
        return None


def _blocks(samples: int, cotangents: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of at most so many rows: of several samples, or of some of one sample's rows."""
    if most >= cotangents:
        step = most // cotangents
        for first in range(0, samples, step):
            yield slice(first, min(first + step, samples)), slice(0, cotangents)
        return
    for sample in range(samples):
        for first in range(0, cotangents, most):
            yield slice(sample, sample + 1), slice(first, min(first + most, cotangents))


def _joined(parts: list[Tensor], samples: int, cotangents: int) -> Tensor:
    """Blocks of rows' numbers as one table, shape (N, K)."""
    return torch.cat([part.reshape(-1) for part in parts]).reshape(samples, cotangents)


def _squares(flat: Tensor) -> Tensor:
    """Squared norms over the last dimension, in double precision."""
    total = torch.zeros(flat.shape[:-1], dtype=torch.float64, device=flat.device)
    for columns in _columns(flat):
        total += columns.double().square().sum(-1)
    return total.cpu()


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Inner products of rows, left rightᵀ, in double precision, a few columns at a time."""
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    for a, b in zip(_columns(left), _columns(right), strict=True):
        total += a.double() @ b.double().T
    return total.cpu()


def _columns(flat: Tensor) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = torch.split(flat, _COLUMNS, dim=-1)
    return parts
