"""How far a structured operator is from the rows of the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def scale_of(rows: Mapping[str, Tensor]) -> float:
    """Largest norm of one parameter's Jacobian.

    Some gradients are zero in exact arithmetic (a key's bias below a softmax): what is left of
    them is rounding, whose size follows the rest of the network.
    """
    return max(float(row.norm()) for row in rows.values())


def distance(given: Tensor, wanted: Tensor, floor: float) -> float:
    """Norm of the difference relative to the norm of what is wanted, or to the floor."""
    assert given.shape == wanted.shape, f"shape {tuple(given.shape)}, not {tuple(wanted.shape)}"
    given = given.to(torch.float64)
    assert bool(torch.isfinite(given).all())
    return float((given - wanted).norm() / max(float(wanted.norm()), floor))


def vectors(rows: Tensor, seed: int = 3) -> tuple[Tensor, Tensor]:
    """A direction of the parameter's shape and a weight per sample, both of norm about one."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(rows.shape[1:], generator=generator, dtype=torch.float64)
    u = torch.randn(len(rows), generator=generator, dtype=torch.float64)
    return v / max(float(v.norm()), 1e-300), u / u.norm()


def errors(
    jacobian: Any, rows: Tensor, asked: tuple[str, ...], *, floor: float
) -> dict[str, float]:
    """Relative error of each quantity that is asked.

    Args:
        jacobian: What capture gave.
        rows: Contributions by the reference, (N, *shape).
        asked: Names of methods.
        floor: Linear quantities are compared with this size at least, quadratic ones with its
            square.
    """
    n = len(rows)
    rows_NP = rows.reshape(n, -1)
    v, u = vectors(rows)
    few = torch.tensor([n - 1, 0, n - 1])
    dtype = jacobian.sum().dtype if "sum" in asked else torch.float64
    wanted: dict[str, tuple[Callable[[], Tensor], Tensor, float]] = {
        "row_sq_norms": (lambda: jacobian.row_sq_norms(), rows_NP.square().sum(1), floor**2),
        "column_sq_norms": (lambda: jacobian.column_sq_norms(), rows.square().sum(0), floor**2),
        "gram": (lambda: jacobian.gram(), rows_NP @ rows_NP.T, floor**2),
        "sum": (lambda: jacobian.sum(), rows.sum(0), floor),
        # the size of a product with one direction is an accident of the direction
        "matvec": (
            lambda: jacobian.matvec(v.to(dtype)),
            rows_NP @ v.reshape(-1),
            max(floor, float(rows.norm()) / max(1, v.numel()) ** 0.5),
        ),
        "rmatvec": (
            lambda: jacobian.rmatvec(u.to(dtype)),
            torch.tensordot(u, rows, 1),
            max(floor, float(rows.norm()) / n**0.5),
        ),
        "rows": (lambda: jacobian.rows(few), rows[few], floor),
        "dense": (lambda: jacobian.dense(), rows, floor),
    }
    return {name: distance(wanted[name][0](), *wanted[name][1:]) for name in asked}
