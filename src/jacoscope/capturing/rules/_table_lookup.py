"""Tables: embeddings, bags of embeddings, indexing. A row receives what its readers receive."""

from __future__ import annotations

import torch
from torch import Tensor

from jacoscope.capturing._layout import LayoutError, Rows
from jacoscope.capturing._terms import ScatterTerm, Term
from jacoscope.capturing.rules._call import Use

__all__ = ["embedding_bag_rule", "embedding_rule", "index_rule", "index_select_rule"]

_SUM, _MEAN = 0, 1


def embedding_rule(use: Use) -> Term:
    """Embedding: the padding row receives nothing, and rows may be divided by their frequency."""
    indices, values = use.saved("indices"), use.grad
    if use.node._saved_scale_grad_by_freq:
        counts = torch.bincount(indices.flatten(), minlength=use.shape[0])
        values = values / counts[indices].unsqueeze(-1)
    indices = _without(indices, _signed(use.node._saved_padding_idx), use.shape[0])
    return _scattered(use, indices, values)


def index_rule(use: Use) -> Term:
    """Indexing along the first dimension by one tensor of indices."""
    given = use.node._saved_indices
    if len(given) != 1 or given[0] is None or given[0].dtype is torch.bool:
        raise LayoutError("only an index along the first dimension has a closed form")
    return _scattered(use, given[0] % use.shape[0], use.grad)


def index_select_rule(use: Use) -> Term:
    """``index_select`` along the first dimension."""
    if use.node._saved_dim != 0:
        raise LayoutError("only an index along the first dimension has a closed form")
    return _scattered(use, use.saved("index"), use.grad)


def embedding_bag_rule(use: Use) -> Term:
    """Sums and means of embeddings; the maximum has no closed form here."""
    node = use.node
    if node._saved_mode not in (_SUM, _MEAN) or node._saved_scale_grad_by_freq:
        raise LayoutError("only sums and means have a closed form")
    indices = use.saved("indices")
    bags = _bag_of_entry(use.saved("offsets"), len(indices))
    indices = _without(indices, _signed(node._saved_padding_idx), use.shape[0])
    values = use.grad[bags]
    if node._saved_per_sample_weights is not None:
        values = values * use.saved("per_sample_weights").unsqueeze(-1)
    if node._saved_mode == _MEAN:
        entries = values.new_zeros(len(use.grad))
        entries.index_add_(0, bags, (indices >= 0).to(values.dtype))
        values = values / entries[bags].unsqueeze(-1)
    owners = use.layout.samples(tuple(use.grad.shape), indices.device)
    if any(size != 1 for size in owners.shape[1:]):
        raise LayoutError("bags belong to several samples")
    owners = owners.flatten().expand(len(use.grad))[bags]
    return ScatterTerm(Rows(indices, owners), Rows(values, owners), use.shape[0])


def _bag_of_entry(offsets: Tensor, entries: int) -> Tensor:
    places = torch.arange(entries, device=offsets.device)
    return torch.searchsorted(offsets, places, right=True) - 1


def _scattered(use: Use, indices: Tensor, values: Tensor) -> Term:
    dims = tuple(range(indices.dim()))
    if not dims:
        indices, values = indices.unsqueeze(0), values.unsqueeze(0)
        raise LayoutError("a single index has no rows")
    return ScatterTerm(use.rows(indices, dims), use.rows(values, dims), use.shape[0])


def _without(indices: Tensor, padding: int, count: int) -> Tensor:
    return indices if padding < 0 else indices.masked_fill(indices == padding, -1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
