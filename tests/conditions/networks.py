"""Small networks in double precision, for rows that differ in the network alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from capture.case import Net
from conditions.condition import Condition, Loss, Subject
from sample_training import cross_entropies, loader_of

__all__ = ["made", "of_network", "of_run", "of_tokens", "token_losses"]


def made(make: Callable[[], nn.Module]) -> nn.Module:
    """A network with the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return make().double()


def of_network(
    group: str,
    name: str,
    make: Callable[[], nn.Module],
    losses: Loss = cross_entropies,
    **options: Any,
) -> Condition:
    """The row of a network on six features and three classes."""
    return Condition(group, name, module=lambda: Subject(made(make), losses), **options)


def of_run(
    group: str, name: str, run: Callable[..., Any], options: Any = None, **parts: Callable[[], Any]
) -> Condition:
    """The row of a network that is a function of its parts and its input."""

    def make() -> nn.Module:
        return Net(run, **{part: make_part() for part, make_part in parts.items()})

    return of_network(group, name, make, **(options or {}))


def of_tokens(group: str, name: str, make: Callable[[], nn.Module], **options: Any) -> Condition:
    """The row of a network on five tokens out of seven."""
    return of_network(group, name, make, loader=lambda: loader_of(_rows_of_tokens()), **options)


def token_losses(network: nn.Module, batch: Any) -> Tensor:
    """The mean cross entropy of each sample's next tokens."""
    ids = batch[0]
    logits = network(ids[:, :-1]).transpose(1, 2)
    return functional.cross_entropy(logits, ids[:, 1:], reduction="none").mean(1)


def _rows_of_tokens() -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(7, (20, 5), generator=generator)
    return list(zip(ids, ids.sum(1) % 3, strict=True))
