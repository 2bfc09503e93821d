"""Inner products of a Jacobian's rows from structured operators, without the rows.

Shape suffixes: N samples, K cotangents, R = N·K rows, C outputs per sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jacoscope.capturing import Calibrations, capture_with, watched_parameters
from jacoscope.probing._cotangents import Cotangents
from jacoscope.probing._graph import check_reentrant
from jacoscope.probing._rows import Looped, Rows, is_same

__all__ = ["structured_products"]

_SHARE = 4
"""How many times the memory budget the activations of one forward of all rows may take."""

_VERIFIED = 2
"""How many rows are compared with masked back-propagation whenever a graph's structure is new."""

_AGREEMENT = {torch.float64: 1e-8, torch.float32: 1e-3}
"""How far inner products may be from those of plain autograd's rows, relative to their norms."""


def structured_products(
    rows: Rows,
    names: list[str],
    cotangents: Cotangents,
    *,
    with_gram: bool,
    memory_budget: int,
    calibrations: Calibrations | None = None,
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Squared norms and inner products of rows, of those parameters that they can be had for.

    Each sample stands in the batch once per cotangent, and row (i, k) of the Jacobian is what that
    copy contributes to the gradient of Σ v_k·f_i. One forward and backward then give all rows as
    :func:`jacoscope.capture` keeps them, as outer products, and these have inner products in closed
    form: of a linear layer (A Aᵀ) ∘ (Δ Δᵀ) (Novak et al., Fast finite width neural tangent kernel,
    arXiv:2206.08720, section 3.3, structured derivatives). Two rows are compared with plain
    autograd's.

    Args:
        rows: Rows of the same Jacobian.
        names: The parameters.
        cotangents: What rows are taken along.
        with_gram: Whether inner products are wanted.
        memory_budget: Bytes that temporary tensors may take.
        calibrations: What is known of graphs from earlier copies of the model.

    Returns:
        By parameter, squared norms, shape (N, K), and inner products, shape (R, R), in double
        precision; nothing where samples are coupled, random numbers are drawn, or one forward of
        all rows would take too much memory.
    """
    function = rows.function
    repeats = len(cotangents)
    count = function.samples * repeats
    if function.draws or count < 2:
        return {}
    if count * rows.sample_bytes > _SHARE * memory_budget:
        return {}
    try:
        leaves, outputs = function.plain(repeats)
    except Exception:  # an input that holds the number of samples elsewhere, such as a mask (N, N)
        return {}
    if outputs.grad_fn is None:
        return {}
    check_reentrant(outputs)
    if not is_same(outputs.detach(), function.values.repeat_interleave(repeats, dim=0)):
        return {}
    loss = (outputs * cotangents.vectors.repeat(function.samples, 1)).sum()
    wants = ("row_sq_norms", "gram") if with_gram else ("row_sq_norms",)
    known = calibrations or Calibrations(memory_budget, _VERIFIED)
    watched = watched_parameters(function.module, names)
    try:
        with capture_with(known, loss, watched, count, wants) as found:
            torch.autograd.backward(loss, inputs=list(leaves.values()))
    finally:
        for leaf in leaves.values():
            leaf.grad = None
    if found.coupled:
        return {}
    there = [name for name in names if name in found]
    squares = {name: found[name].row_sq_norms().double().cpu() for name in there}
    grams = {name: found[name].gram().double().cpu() for name in there} if with_gram else {}
    wrong = _disagreeing(rows, there, cotangents, squares, grams)
    shape = function.samples, repeats
    return {
        name: (squares[name].reshape(shape), grams.get(name)) for name in there if name not in wrong
    }


def _disagreeing(
    rows: Rows,
    names: list[str],
    cotangents: Cotangents,
    squares: dict[str, Tensor],
    grams: dict[str, Tensor],
) -> set[str]:
    """The parameters whose numbers are not those of the first and last row by plain autograd."""
    looped = rows if isinstance(rows, Looped) else Looped(rows.function)
    vectors, samples = cotangents.vectors, rows.function.samples
    ends = [(0, 0), (samples - 1, len(vectors) - 1)]
    if not names:
        return set()
    plain = [looped.of_parameters(names, slice(i, i + 1), vectors[k : k + 1]) for i, k in ends]
    tolerance = _AGREEMENT.get(vectors.dtype, 1e-2)
    wrong = set()
    for name in names:
        first, last = (each[name].flatten() for each in plain)
        products = [_dot(first, first), _dot(last, last), _dot(first, last)]
        made = [float(squares[name][0]), float(squares[name][-1])]
        made += [float(grams[name][0, -1])] if grams else []
        scale = max(products[0], products[1])
        if any(not abs(m - p) <= tolerance * scale for m, p in zip(made, products, strict=False)):
            wrong.add(name)
    return wrong


def _dot(left: Tensor, right: Tensor) -> float:
    parts = zip(_parts(left), _parts(right), strict=True)
    return float(sum((a.double() @ b.double() for a, b in parts), torch.tensor(0.0)))


def _parts(flat: Tensor) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = torch.split(flat, 2**20)
    return parts
