"""What look-ups into a table tell without making the table.

Everything has a fixed shape, so nothing waits for a device. Negative indices contribute nothing;
their values are never multiplied by zero, since they need not be finite.

Shape suffixes: K samples of a chunk, J samples of another, T and S look-ups, V rows of the table,
D scalars of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jacoscope.jacobian._arithmetic import lengths

__all__ = [
    "add_to_table",
    "cross_products",
    "fill_tables",
    "merge_runs",
    "row_sq_norms_by_pairs",
    "row_sq_norms_by_runs",
    "run_starts",
]


def add_to_table(table_VD: Tensor, indices_KT: Tensor, values_KTD: Tensor) -> None:
    """Add values to a table whose last row takes what counts for nothing."""
    last = table_VD.shape[0] - 1
    targets = indices_KT.masked_fill(indices_KT < 0, last).view(-1)
    table_VD.index_add_(0, targets, values_KTD.flatten(0, 1))


def fill_tables(indices_KT: Tensor, values_KTD: Tensor, rows: int) -> Tensor:
    """Each sample's table, shape (K, V, D)."""
    samples, _, width = values_KTD.shape
    table = values_KTD.new_zeros(samples * rows + 1, width)
    owners_K1 = torch.arange(samples, device=indices_KT.device).unsqueeze(1)
    targets = (owners_K1 * rows + indices_KT).masked_fill_(indices_KT < 0, -1)
    add_to_table(table, targets, values_KTD)
    return table[:-1].view(samples, rows, width)


def run_starts(sorted_: Tensor) -> Tensor:
    """Where along the last dimension another value begins."""
    starts = torch.ones_like(sorted_, dtype=torch.bool)
    torch.ne(sorted_[..., 1:], sorted_[..., :-1], out=starts[..., 1:])
    return starts


def merge_runs(indices_KT: Tensor, values_KTD: Tensor) -> tuple[Tensor, Tensor]:
    """Each sample's look-ups of the same row added up, at most T of them.

    Returns:
        Indices (K, T), -1 where there are fewer, and values (K, T, D).
    """
    samples, terms, width = values_KTD.shape
    ordered = indices_KT.sort(1)
    slots_KT = run_starts(ordered.values).cumsum(1) - 1
    owners_K1 = torch.arange(samples, device=indices_KT.device).unsqueeze(1)
    merged_KT = torch.full_like(indices_KT, -1).scatter_(1, slots_KT, ordered.values)
    slots_KT = torch.empty_like(slots_KT).scatter_(1, ordered.indices, slots_KT)
    targets = (owners_K1 * terms + slots_KT).view(-1)
    merged = values_KTD.new_zeros(samples * terms, width)
    merged.index_add_(0, targets, values_KTD.flatten(0, 1))
    return merged_KT, merged.view(samples, terms, width)


def row_sq_norms_by_runs(indices_KT: Tensor, values_KTD: Tensor) -> Tensor:
    """Squared norms of each sample's table, shape (K,), look-ups of the same row merged first."""
    indices_KT, values_KTD = merge_runs(indices_KT, values_KTD)
    return _masked_sq_norms(indices_KT, values_KTD)


def row_sq_norms_by_pairs(indices_KT: Tensor, values_KTD: Tensor) -> Tensor:
    """Squared norms of each sample's table, shape (K,), from all pairs of look-ups."""
    if indices_KT.shape[1] <= 1:
        return _masked_sq_norms(indices_KT, values_KTD)
    differ_KTT = indices_KT.unsqueeze(2) != indices_KT.unsqueeze(1)
    pairs_KTT = values_KTD @ values_KTD.mT
    pairs_KTT.masked_fill_(differ_KTT | (indices_KT < 0).unsqueeze(2), 0)
    return pairs_KTT.sum((1, 2)).clamp_min_(0)


def cross_products(
    indices_KT: Tensor, values_KTD: Tensor, indices_JS: Tensor, values_JSD: Tensor
) -> Tensor:
    """Inner products of tables with other tables, shape (K, J), from all pairs of look-ups."""
    (samples, terms), (others, looks) = indices_KT.shape, indices_JS.shape
    pairs = values_KTD.flatten(0, 1) @ values_JSD.flatten(0, 1).T
    one, other = indices_KT.view(-1, 1), indices_JS.view(1, -1)
    pairs.masked_fill_((one != other) | (one < 0), 0)
    return pairs.view(samples, terms, others, looks).sum((1, 3))


def _masked_sq_norms(indices_KT: Tensor, values_KTD: Tensor) -> Tensor:
    norms_KT = lengths(values_KTD, 2)
    return norms_KT.masked_fill_(indices_KT < 0, 0).square_().sum(1)
