"""The loss of each sample, where the graph tells it: read from what loss functions have saved."""

from __future__ import annotations

from collections.abc import Callable, Collection

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
# Between a loss function's term and the logarithms of probabilities.
_HARD = frozenset(("NllLoss", "NllLoss2D"))
_RESHAPING = frozenset(("View", "Squeeze", "Unsqueeze", "ReshapeAlias", "UnsafeView"))
_SMOOTHING = frozenset(("Div", "Mean", "Sum", "MaskedFill", "Neg"))
_ROUNDING = 1e-6
_MEAN = 1  # what nodes of loss functions call a mean

_OTHER = (
    "the loss is not cross entropy, binary cross entropy, or a squared, absolute or Huber error, "
    "up to a factor"
)
_SEVERAL = "the loss is a sum of several terms"
_WEIGHTED = "the loss weights its samples, or their terms"
_WHOSE = "which of the loss's terms are which sample's is not known"


def sample_losses(
    loss: Tensor, samples: int, frontier: Layout | None, index: Tensor | None
) -> Tensor | str:
    """The mean loss of each sample's terms, shape (N,), or why it cannot be read.

    It is read for cross entropy, with label smoothing or without, mean squared and absolute errors,
    Huber's and smooth absolute errors, and binary cross entropy, if the loss is one such term, up
    to a factor. Terms are those of ``reduction="none"``, with weights of classes or elements that
    the loss function has been given, and with weights that they are multiplied by before they are
    added up; those of weight zero do not count.

    Args:
        loss: The loss.
        samples: Number of samples.
        frontier: How samples were told apart at the frontier.
        index: Sample of each row of the batch, where the user gave one.
    """
    node, _ = past_sinks(loss.grad_fn, loss.output_nr)
    weights: Tensor | None = None
    for _ in range(_STEPS):
        if node is None:
            break
        terms = _terms(node)
        if terms is not None:
            rows = _rows(*terms, weights)
            if rows is None:
                return _WEIGHTED
            losses = _by_sample(*rows, samples, frontier, index)
            return _WHOSE if losses is None else losses
        operation, following = operation_of(node.name()), _following(node)
        if operation == "Add" and len(following) > 1:
            return _SEVERAL
        if operation in ("Mul", "Div") and _weighs(node):
            if operation == "Div" or weights is not None or len(following) != 1:
                return _WEIGHTED
            weights = _factor(node)
        elif operation in ("Mean", "Sum") and weights is not None and _mixes_rows(node):
            return _WEIGHTED
        if operation not in _PASSED or len(following) != 1:
            break
        node = following[0]
    return _OTHER


def _following(node: Node) -> list[Node | None]:
    """What a node is made of, as far as that has a gradient."""
    return [past_sinks(*edge)[0] for edge in node.next_functions if edge[0] is not None]


def _weighs(node: Node) -> bool:
    """Whether a product is by more than a number, as by weights of samples."""
    saved = [getattr(node, name, None) for name in ("_saved_self", "_saved_other")]
    return any(isinstance(each, Tensor) and each.numel() > 1 for each in saved)


def _factor(node: Node) -> Tensor:
    """What a product is by, in the product's shape."""
    known = [_saved(node, name) for name in ("self", "other")]
    factor = next(each for each in known if each is not None)
    return factor.expand(tuple(node._input_metadata[0].shape))


def _mixes_rows(node: Node) -> bool:
    """Whether a sum or mean is along the first dimension, too."""
    sizes, along = (getattr(node, f"_saved_{name}", None) for name in ("self_sym_sizes", "dim"))
    if not sizes or not along:
        return True
    return 0 in {(each - (1 << 64) if each >= 1 << 63 else each) % len(sizes) for each in along}


def _rows(values: Tensor, counts: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The mean of each row's terms, shape (R,), and which rows have any.

    Args:
        values: The terms, shape (R, ...).
        counts: Which of them count.
        weights: What terms or rows are multiplied by; one that does not fit gives ``None``.
    """
    is_by_row = weights is not None and weights.numel() != values.numel()
    if weights is not None and not is_by_row:
        weights = weights.reshape(values.shape)
        values, counts = values * weights, counts & (weights != 0)
    if values.dim() > 1:
        number = counts.flatten(1).sum(1)
        values = torch.where(counts, values, 0).flatten(1).sum(1) / number.clamp(min=1)
        counts = number > 0
    if weights is not None and is_by_row:
        if weights.numel() != len(values):
            return None
        weights = weights.flatten()
        values, counts = values * weights, counts & (weights != 0)
    return values, counts


def _terms(node: Node) -> tuple[Tensor, Tensor] | None:
    """Loss of each term, samples and positions first, and which terms count.

    ``None`` is for what is no loss function.
    """
    operation = operation_of(node.name())
    with torch.no_grad():
        if operation == "Add":
            return _smoothed(node)
        if operation in _HARD:
            return _cross_entropy(node)
        error: Callable[[Node, Tensor, Tensor], Tensor] | None = _ELEMENTWISE.get(operation)
        if error is None:
            return None
        given, target = _saved(node, "self"), _saved(node, "target")
        if given is None or target is None or not given.dim():
            return None
        values = error(node, given, target)
        return values, torch.ones_like(values, dtype=torch.bool)


def _smoothed(node: Node) -> tuple[Tensor, Tensor] | None:
    """Cross entropy with label smoothing ε, which PyTorch adds up of two terms.

    They are 1 − ε times the loss of the target, and ε / C times the sum of those of all C classes,
    of the same logarithms of probabilities, and with the same weights of classes.
    """
    scaled = [_scaled(each) for each in _following(node)]
    if len(scaled) != 2 or getattr(node, "_saved_alpha", None) != 1:
        return None
    (own, hard), (every, smooth) = scaled
    hard, _ = _past(hard, _RESHAPING)
    if hard is None or operation_of(hard.name()) not in _HARD:
        return None
    given = _saved(hard, "self")
    if given is None or given.dim() < 2 or abs(own + every * given.shape[1] - 1) > _ROUNDING:
        return None
    (source, _), (origin, done) = _past(hard, _HARD | _RESHAPING), _past(smooth, _SMOOTHING)
    weight = _saved(hard, "weight")
    if weight is not None:
        origin = _before_weights(origin, weight)
    is_mean = getattr(hard, "_saved_reduction", None) == _MEAN
    is_alike = done.count("Neg") == 1 and is_mean == ("Div" in done or "Mean" in done)
    if source is None or source is not origin or not is_alike:
        return None
    return _cross_entropy(hard, own, every)


def _scaled(node: Node | None) -> tuple[float, Node | None]:
    """A number that something is multiplied by, and what it is."""
    factor = getattr(node, "_saved_other", None)
    if node is None or operation_of(node.name()) != "Mul" or not isinstance(factor, float):
        return 1.0, node
    return factor, next(iter(_following(node)), None)


def _before_weights(node: Node | None, weight_C: Tensor) -> Node | None:
    """What a product with these weights of classes is made of."""
    if node is None or operation_of(node.name()) != "Mul":
        return None
    factor = _saved(node, "other")
    if factor is None or not torch.equal(factor.flatten(), weight_C):
        return None
    return next(iter(_following(node)), None)


def _past(node: Node | None, passed: Collection[str]) -> tuple[Node | None, list[str]]:
    """What a value is made of by these operations alone, and by which."""
    done: list[str] = []
    for _ in range(_STEPS):
        following = _following(node) if node is not None else []
        if node is None or operation_of(node.name()) not in passed or len(following) != 1:
            return node, done
        done.append(operation_of(node.name()))
        node = following[0]
    return None, done


def _cross_entropy(
    node: Node, own: float = 1.0, every: float = 0.0
) -> tuple[Tensor, Tensor] | None:
    """Cross entropies: ``own`` times that of the target, ``every`` times those of all classes."""
    given, target, weight = (_saved(node, name) for name in ("self", "target", "weight"))
    if given is None or target is None or given.dim() < 2:
        return None
    ignored = int(getattr(node, "_saved_ignore_index", -100))
    ignored = ignored - (1 << 64) if ignored >= 1 << 63 else ignored
    counts = target != ignored
    safe = torch.where(counts, target, 0)
    if weight is not None:
        given = given * weight.view(-1, *[1] * (given.dim() - 2))
    values = -given.gather(1, safe.unsqueeze(1)).squeeze(1)
    if every:
        values = own * values - every * given.sum(1)
    return torch.where(counts, values, 0), counts


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
        a, b, weight=_saved(node, "weight"), reduction="none"
    ),
    "BinaryCrossEntropyWithLogits": lambda node, a, b: functional.binary_cross_entropy_with_logits(
        a,
        b,
        weight=_saved(node, "weight"),
        pos_weight=_saved(node, "pos_weight"),
        reduction="none",
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
