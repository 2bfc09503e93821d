"""The loss of each sample, where the graph tells it: read from what loss functions have saved."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import functional

from jacoscope.capturing._layout import Layout, Regular
from jacoscope.capturing._walk import operation_of, past_sinks

__all__ = ["sample_losses"]

# Between the loss and the function that reduced it over samples.
_PASSED = frozenset(("Mul", "Div", "View", "Squeeze", "Unsqueeze", "Mean", "Sum", "ToCopy"))
_STEPS = 8


def sample_losses(
    loss: Tensor, samples: int, frontier: Layout | None, index: Tensor | None
) -> Tensor | None:
    """The mean loss of each sample's terms, shape (N,), or ``None`` where it cannot be read.

    It is read for cross entropy, mean squared and absolute errors, Huber's and smooth absolute
    errors, and binary cross entropy, if the loss is one such term, up to a factor.

    Args:
        loss: The loss.
        samples: Number of samples.
        frontier: How samples were told apart at the frontier.
        index: Sample of each row of the batch, where the user gave one.
    """
    node, _ = past_sinks(loss.grad_fn, loss.output_nr)
    for _ in range(_STEPS):
        if node is None:
            return None
        terms = _terms(node)
        if terms is not None:
            return _by_sample(*terms, samples, frontier, index)
        following = [past_sinks(*edge)[0] for edge in node.next_functions if edge[0] is not None]
        if operation_of(node.name()) not in _PASSED or len(following) != 1 or _weighs(node):
            return None
        node = following[0]
    return None


def _weighs(node: Node) -> bool:
    """Whether a product is by more than a number, as by weights of samples."""
    saved = [getattr(node, name, None) for name in ("_saved_self", "_saved_other")]
    return any(isinstance(each, Tensor) and each.numel() > 1 for each in saved)


def _terms(node: Node) -> tuple[Tensor, Tensor] | None:
    """Loss of each term, samples and positions first, and which terms count."""
    operation = operation_of(node.name())
    with torch.no_grad():
        if operation in ("NllLoss", "NllLoss2D"):
            return None if _saved(node, "weight") is not None else _cross_entropy(node)
        if any(_saved(node, name) is not None for name in ("weight", "pos_weight")):
            return None
        error: Callable[[Node, Tensor, Tensor], Tensor] | None = _ELEMENTWISE.get(operation)
        if error is None:
            return None
        given, target = _saved(node, "self"), _saved(node, "target")
        if given is None or target is None or not given.dim():
            return None
        values = error(node, given, target)
        values = values.flatten(1).mean(1) if values.dim() > 1 else values
        return values, torch.ones_like(values, dtype=torch.bool)


def _cross_entropy(node: Node) -> tuple[Tensor, Tensor] | None:
    given, target = _saved(node, "self"), _saved(node, "target")
    if given is None or target is None or given.dim() < 2:
        return None
    ignored = int(getattr(node, "_saved_ignore_index", -100))
    ignored = ignored - (1 << 64) if ignored >= 1 << 63 else ignored
    counts = target != ignored
    safe = torch.where(counts, target, 0)
    values = -given.gather(1, safe.unsqueeze(1)).squeeze(1)
    values = torch.where(counts, values, 0)
    if values.dim() > 1:
        known = counts.flatten(1).sum(1)
        return values.flatten(1).sum(1) / known.clamp(min=1), known > 0
    return values, counts


_ELEMENTWISE = {
    "MseLoss": lambda node, a, b: (a - b).square(),
    "L1Loss": lambda node, a, b: (a - b).abs(),
    "SmoothL1Loss": lambda node, a, b: functional.smooth_l1_loss(
        a, b, reduction="none", beta=node._saved_beta
    ),
    "HuberLoss": lambda node, a, b: functional.huber_loss(
        a, b, reduction="none", delta=node._saved_delta
    ),
    "BinaryCrossEntropy": lambda node, a, b: functional.binary_cross_entropy(
        a, b, reduction="none"
    ),
    "BinaryCrossEntropyWithLogits": lambda node, a, b: functional.binary_cross_entropy_with_logits(
        a, b, reduction="none"
    ),
}


def _by_sample(
    values: Tensor, counts: Tensor, samples: int, frontier: Layout | None, index: Tensor | None
) -> Tensor | None:
    rows = len(values)
    if index is not None and len(index) == rows:
        owners = index.to(values.device)
    elif rows == samples:
        return torch.where(counts, values, torch.nan)
    elif rows % samples or not isinstance(frontier, Regular) or frontier.index is not None:
        return None
    else:
        inner = rows // samples if frontier.dim == 0 else 1
        owners = torch.arange(rows, device=values.device) // inner % samples
    total = values.new_zeros(samples).index_add_(0, owners, torch.where(counts, values, 0))
    number = values.new_zeros(samples).index_add_(0, owners, counts.to(values.dtype))
    return total / number


def _saved(node: Node, name: str) -> Tensor | None:
    tensor = getattr(node, f"_saved_{name}", None)
    return tensor.detach() if isinstance(tensor, Tensor) else None
