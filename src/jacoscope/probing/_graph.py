"""What an autograd graph is made of, where that decides whether it can be trusted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from jacoscope.probing._errors import ProbeError

__all__ = ["OnceDifferentiableError", "check_reentrant", "check_twice_differentiable"]
__all__ += ["depends_on"]


class OnceDifferentiableError(ProbeError):
    """A function of the loss has a first derivative alone."""


def check_reentrant(output: Tensor) -> None:
    """Refuse re-entrant checkpoints, past which ``torch.autograd.grad`` sees no parameters.

    Args:
        output: What is differentiated.

    Raises:
        ProbeError: If there is one below it.
    """
    if "CheckpointFunctionBackward" in _names([output.grad_fn]):
        raise ProbeError(
            "re-entrant checkpoints hide their parameters from torch.autograd.grad; pass "
            "use_reentrant=False to torch.utils.checkpoint"
        )


def check_twice_differentiable(slopes: Iterable[Tensor]) -> None:
    """Refuse what is differentiable once: its derivative has a node that autograd goes round.

    Args:
        slopes: First derivatives that have a graph.

    Raises:
        OnceDifferentiableError: If there is one below them.
    """
    names = _names(slope.grad_fn for slope in slopes)
    if any("WeightNorm" in name for name in names):
        raise OnceDifferentiableError(
            "torch's own second derivative of weight normalisation is wrong (torch._weight_norm "
            "fails gradgradcheck)"
        )
    if names & {"Error", "torch::autograd::Error"}:
        raise OnceDifferentiableError(
            "the loss has no second derivative (it has a function that is marked with "
            "@once_differentiable)"
        )


def depends_on(output: Tensor, leaf: Tensor) -> bool:
    """Whether autograd has a way from an output to a leaf."""
    return any(getattr(node, "variable", None) is leaf for node in _nodes([output.grad_fn]))


def _names(roots: Iterable[Any]) -> set[str]:
    """Names of all nodes below some nodes."""
    return {node.name() for node in _nodes(roots)}


def _nodes(roots: Iterable[Any]) -> set[Any]:
    """All nodes below some nodes."""
    stack, seen = list(roots), set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack.extend(following for following, _ in node.next_functions)
    return seen
