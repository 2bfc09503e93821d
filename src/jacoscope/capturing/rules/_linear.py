"""Linear maps: the gradient of a matrix is the input times the gradient of the output.

For Y = A B, ∂L/∂B = Aᵀ ∂L/∂Y and ∂L/∂A = ∂L/∂Y Bᵀ: sums over the rows (columns) of Y of outer
products, of which each sample has its own (Goodfellow, Efficient per-example gradient
computations, arXiv:1510.01799).
"""

from __future__ import annotations

from torch import Tensor

from jacoscope.capturing._layout import Rows
from jacoscope.capturing._terms import OuterTerm, Term
from jacoscope.capturing._walk import operation_of
from jacoscope.capturing.rules._call import Use

_FIRST_OPERAND = {
    "Mm": "self",
    "Bmm": "self",
    "Mv": "self",
    "Addmm": "mat1",
    "Baddbmm": "batch1",
    "Addmv": "mat",
}

__all__ = [
    "bias_rule",
    "left_batched_rule",
    "left_matrix_rule",
    "linear_weight_rule",
    "right_batched_rule",
    "right_matrix_rule",
    "vector_rule",
]


def right_matrix_rule(use: Use) -> Term:
    """The matrix B of ``α A B``: rows of A and of the gradient belong to samples."""
    left = use.rows(_first_operand(use), (0,))
    return OuterTerm(_one_group(left), _one_group(use.rows(_scaled(use), (0,))), use.shape)


def left_matrix_rule(use: Use) -> Term:
    """The matrix A of ``α A B``: columns of B and of the gradient belong to samples."""
    right = use.rows(use.saved("mat2"), (1,))
    return OuterTerm(_one_group(use.rows(_scaled(use), (1,))), _one_group(right), use.shape)


def right_batched_rule(use: Use) -> Term:
    """The matrix B of ``α A B`` for stacks of matrices: of each, rows belong to samples."""
    left = use.rows(_first_operand(use), (1,))
    return OuterTerm(left, use.rows(_scaled(use), (1,)), use.shape)


def left_batched_rule(use: Use) -> Term:
    """The matrix A of ``α A B`` for stacks of matrices: of each, columns belong to samples."""
    name = "mat2" if use.node.name().startswith("Bmm") else "batch2"
    right = use.rows(use.saved(name), (2,))
    return OuterTerm(use.rows(_scaled(use), (2,)), right, use.shape)


def vector_rule(use: Use) -> Term:
    """The vector v of ``α A v``: rows of A belong to samples."""
    return use.added(_first_operand(use) * _scaled(use).unsqueeze(-1), (0,))


def linear_weight_rule(use: Use) -> Term:
    """The weight of a fused linear layer, whose rows run over all dimensions but the last."""
    rows = tuple(range(use.grad.dim() - 1))
    left = use.rows(use.grad, rows)
    return OuterTerm(_one_group(left), _one_group(use.rows(use.saved("input"), rows)), use.shape)


def bias_rule(use: Use) -> Term:
    """The bias C of ``β C + α A B``: the gradient itself, summed as C was broadcast."""
    return use.summed(_times(use.grad, getattr(use.node, "_saved_beta", 1)))


def _first_operand(use: Use) -> Tensor:
    return use.saved(_FIRST_OPERAND[operation_of(use.node.name())])


def _scaled(use: Use) -> Tensor:
    return _times(use.grad, getattr(use.node, "_saved_alpha", 1))


def _times(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else tensor * factor


def _one_group(rows: Rows) -> Rows:
    return Rows(rows.data.unsqueeze(-2), rows.samples)
