"""Linear layers with a sample's rows side by side: the most frequent case, by a short way.

A matrix of one use, and the bias that goes with it, of which neither is used elsewhere: the
gradient of the layer's output holds one row per sample, or T of them one after the other, and so
does its input. Their Jacobians need no terms to be collected, and share what is worked out of the
gradient.

Shape suffixes: R = N·T rows, p outputs, q inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jacoscope.capturing._layout import Layout, Regular
from jacoscope.capturing._terms import Scale
from jacoscope.capturing._walk import Edge, Graph, Shape, operation_of
from jacoscope.jacobian import DenseJacobian, Factor, Jacobian, OuterJacobian, RankOneJacobian

if TYPE_CHECKING:
    from jacoscope.capturing._plan import CapturePlan, PlannedUse

__all__ = ["Straight", "Taken", "straight_layers"]

_MATRIX = {"Addmm": (2, "_saved_mat1"), "Mm": (1, "_saved_self"), "Linear": (1, "_saved_input")}
"""By operation, which input the matrix is, and under which name the other factor is saved."""
_BIAS = {"Addmm": 0, "Linear": 2}
_REAL = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Straight:
    """A linear layer with a sample's rows side by side.

    Args:
        node: Index of its node.
        samples: N.
        terms: T, rows of one sample.
        saved: Under which name the node saved the layer's input.
        weight: Name of the matrix, if it is watched.
        shape: The matrix's shape.
        is_turned: Whether the matrix is (outputs, inputs), rather than (inputs, outputs).
        bias: Name of the bias, if it is watched.
    """

    node: int
    samples: int
    terms: int
    saved: str
    weight: str | None
    shape: Shape
    is_turned: bool
    bias: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters."""
        return tuple(name for name in (self.bias, self.weight) if name is not None)

    def taken(self, node: Any, grad: Tensor) -> Taken | None:
        """What the Jacobians are made of, while the node is about to run.

        Args:
            node: The node; its saved tensors are there.
            grad: Gradient of its output, shape (R, p).

        Returns:
            ``None`` where numbers are scaled, or are not computed in as they are.
        """
        if getattr(node, "_saved_alpha", 1) != 1 or getattr(node, "_saved_beta", 1) != 1:
            return None
        saved = grad if self.weight is None else getattr(node, self.saved)
        if grad.dtype not in _REAL or saved.dtype is not grad.dtype:
            return None
        if grad.layout is not torch.strided or saved.layout is not torch.strided:
            return None
        is_shared = self.bias is not None and self.weight is not None
        return Taken(self, Factor(grad.detach(), is_shared=is_shared), Factor(saved.detach()))


@dataclass(frozen=True, eq=False)
class Taken:
    """What the Jacobians of a linear layer are made of.

    Args:
        layer: The layer.
        grads: Gradient of its output, rows of shape (R, p).
        inputs: Its input, rows of shape (R, q).
    """

    layer: Straight
    grads: Factor
    inputs: Factor

    def jacobian(self, name: str, memory_budget: int) -> Jacobian:
        """The Jacobian of the bias or of the matrix.

        Args:
            name: Which of the two.
            memory_budget: Bytes that temporary tensors may take.
        """
        layer = self.layer
        samples = layer.samples
        if name == layer.bias:
            if layer.terms == 1:
                return DenseJacobian.of_rows(self.grads, memory_budget=memory_budget)
            rows = self.grads.rows_NP.view(samples, layer.terms, -1).sum(1)
            return DenseJacobian(rows, memory_budget=memory_budget)
        sides = (self.grads, self.inputs) if layer.is_turned else (self.inputs, self.grads)
        if layer.terms == 1:
            return RankOneJacobian(*sides, layer.shape, memory_budget=memory_budget)
        return OuterJacobian.of_rows(*sides, samples, layer.shape, memory_budget=memory_budget)

    def scales(self, name: str) -> tuple[Scale, ...]:
        """What rounding errors of sums that the rows were made by are relative to."""
        summed = name == self.layer.bias and self.layer.terms > 1
        return (lambda: self.grads.lengths_N.sum(),) if summed else ()


def straight_layers(plan: CapturePlan, graph: Graph) -> Mapping[int, Straight]:
    """Layers of a plan that can be captured by the short way, by node.

    Args:
        plan: The plan.
        graph: A graph that it is for.
    """
    uses = Counter(use.base for each in plan.uses.values() for use in each)
    bases = Counter(name for base in plan.bases.values() for name in base.parameters)
    sole = {
        edge: base.parameters[0]
        for edge, base in plan.bases.items()
        if not base.sweep and uses[edge] == bases[base.parameters[0]] == 1
    }
    found = {}
    for node, each in plan.uses.items():
        layer = _straight(node, each, plan, sole, graph)
        if layer is not None:
            found[node] = layer
    return found


def _straight(
    node: int,
    uses: Sequence[PlannedUse],
    plan: CapturePlan,
    sole: Mapping[Edge, str],
    graph: Graph,
) -> Straight | None:
    operation, shape = operation_of(graph.names[node]), graph.shapes[node][0]
    samples = plan.samples
    if operation not in _MATRIX or shape is None or len(shape) != 2 or shape[0] % samples:
        return None
    terms = shape[0] // samples
    slot, saved = _MATRIX[operation]
    weight = bias = None
    sizes: Shape = ()
    is_turned = False
    for use in uses:
        is_row = use.layouts is not None and _is_by_rows(use.layouts[0], samples, terms)
        if not is_row or use.base not in sole or graph.uses_complex(node, use.base):
            return None
        base = plan.bases[use.base]
        views = [(view.operation, view.arguments) for view in use.views]
        turns = views == [("permute", (1, 0))]
        if use.slot == slot and (turns or not views) and len(base.shape) == 2:
            # torch's own linear node takes the matrix as it is, (outputs, inputs).
            weight, sizes, is_turned = sole[use.base], base.shape, turns != (operation == "Linear")
        elif use.slot == _BIAS.get(operation) and not views and base.shape == shape[1:]:
            bias = sole[use.base]
        else:
            return None
    return Straight(node, samples, terms, saved, weight, sizes, is_turned, bias)


def _is_by_rows(layout: Layout | None, samples: int, terms: int) -> bool:
    """Whether a matrix has ``terms`` rows of the first sample, then of the second, and so on."""
    return isinstance(layout, Regular) and (
        layout.index is None and (layout.dim, layout.inner, layout.count) == (0, terms, samples)
    )
