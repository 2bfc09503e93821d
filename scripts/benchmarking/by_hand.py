"""What hooks in Python take at least: norms and comparison written out for one kind of network.

Not a tool: it knows that the model is a row of linear layers, each used once, with one row of each
sample. What it leaves out of a capture is finding that out, and all that makes sure of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarking.contenders import Contender

__all__ = ["ByHand"]


class ByHand(Contender):
    """Per-sample norms, and the comparison with the gradient, by hooks on the graph."""

    gives = ("norms",)

    @staticmethod
    def suits(model: nn.Module) -> bool:
        """Whether the model is what it is written for."""
        known = (nn.Linear, nn.ReLU, nn.Flatten)
        return isinstance(model, nn.Sequential) and all(isinstance(m, known) for m in model)

    def run(self) -> None:
        """Forward, backward with hooks, norms and the largest relative error of the sums."""
        loss = self.workload.loss(self.model)
        lengths = {length for p in self.model.parameters() for length in p.shape}
        directions = {length: torch.randn(length) for length in lengths}
        self._squares: list[Tensor] = []
        self._sums: list[tuple[Tensor, Tensor]] = []
        handles = [h for node in _layers(loss.grad_fn) for h in self._hooks(node, directions)]
        torch.autograd.backward(loss)
        for handle in handles:
            handle.remove()
        self._norms = torch.stack(self._squares).sum(0)
        samples_LN = torch.stack([samples for samples, _ in self._sums])
        totals_L = torch.stack([total for _, total in self._sums])
        sizes_L = samples_LN.abs().sum(1)
        self.error = max(((samples_LN.sum(1) - totals_L).abs() / sizes_L).tolist())

    def _hooks(self, node: Any, directions: dict[int, Tensor]) -> list[Any]:
        kept: dict[str, Tensor] = {}

        def at_node(grads: Any) -> None:
            kept["grads"], kept["inputs"] = grads[0].detach(), node._saved_mat1.detach()

        @torch.no_grad()
        def at_bias(grads: Any) -> None:
            given, left = kept["grads"], directions[kept["grads"].shape[1]]
            kept["lengths"] = torch.linalg.vector_norm(given, dim=1)
            kept["along"] = given @ left
            self._squares.append(kept["lengths"].square())
            self._sums.append((kept["along"], grads[0] @ left))

        @torch.no_grad()
        def at_weight(grads: Any) -> None:
            inputs, (left, right) = kept["inputs"], (directions[n] for n in grads[0].shape)
            lengths = kept["lengths"] * torch.linalg.vector_norm(inputs, dim=1)
            self._squares.append(lengths.square())
            self._sums.append((kept["along"] * (inputs @ right), left @ (grads[0] @ right)))

        bias = node.next_functions[0][0]
        weight = node.next_functions[2][0].next_functions[0][0]
        hooks = ((node, at_node), (bias, at_bias), (weight, at_weight))
        return [each.register_prehook(hook) for each, hook in hooks]

    def found(self) -> dict[str, Tensor]:
        """As they are: contributions."""
        return {"norms": self._norms.double()}


def _layers(root: Any) -> list[Any]:
    """The nodes of the linear layers below a loss."""
    found, known, waiting = [], set(), [root]
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        known.add(node)
        if node.name() == "AddmmBackward0":
            found.append(node)
        waiting += [child for child, _ in node.next_functions]
    return found
