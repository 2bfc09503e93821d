"""Weights and biases of a fused LSTM layer: one walk back in time for all samples at once.

A layer (Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 9, 1997; forget
gate by Gers et al., Neural Computation 12, 2000) computes, for t = 1 … T,

    z_t = W_ih x_t + W_hh h_{t−1} + b,
    i, f, o = σ(z_i), σ(z_f), σ(z_o),  g = tanh(z_g),
    c_t = f c_{t−1} + i g,  h_t = o tanh(c_t),

so that with δ_t = ∂L/∂z_t, which backpropagation through time gives for each row of the batch
apart, ∂L/∂W_ih = Σ_t δ_t x_tᵀ, ∂L/∂W_hh = Σ_t δ_t h_{t−1}ᵀ and ∂L/∂b = Σ_t δ_t: the outer products
of a linear layer whose rows run over time and batch (Goodfellow, arXiv:1510.01799). The node has
saved x and h, from which the gates are computed anew.

On the CPU these layers are the nodes ``MkldnnRnnLayer``, one per layer and direction, always with
time first. Initial states that are parameters themselves, without a dimension that was expanded to
the batch, go by the generic rule; so do cuDNN's layers (``CudnnRnn``), one node for all layers and
directions, which keep what lies between two layers to themselves.

Shape suffixes: T time steps, N rows of the batch, D features of the input, H hidden units, Z = 4 H
gates in the order i, f, g, o.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from jacoscope.capturing._layout import Irregular, Layout, LayoutError, Regular, Rows
from jacoscope.capturing._terms import OuterTerm, Term
from jacoscope.capturing.rules._call import Use

__all__ = ["LSTMLayer", "lstm_bias_rule", "lstm_hidden_weight_rule", "lstm_input_weight_rule"]

_LSTM = 2  # how the node calls this kind of cell


def lstm_input_weight_rule(use: Use) -> Term:
    """W_ih: the gates' gradient times the input."""
    swept = _swept(use)
    return swept.outer(swept.layer.input_TND)


def lstm_hidden_weight_rule(use: Use) -> Term:
    """W_hh: the gates' gradient times the previous output."""
    swept = _swept(use)
    return swept.outer(swept.layer.previous_TNH)


def lstm_bias_rule(use: Use) -> Term:
    """Either bias: the gates' gradient."""
    swept = _swept(use)
    return swept.use.added(swept.grad_TNZ, _ROWS)


_ROWS = (0, 1)  # time and batch


class LSTMLayer:
    """One layer in one direction.

    Args:
        input_TND: The input.
        output_TNH: Every output, in the order of the input.
        hx_NH: The hidden state at the start.
        cx_NH: The cell state at the start.
        weight_ZD: W_ih.
        weight_ZH: W_hh.
        bias_Z: The sum of both biases, or ``None``.
        is_reversed: Whether it starts at the end of the sequence.
    """

    def __init__(
        self,
        input_TND: Tensor,
        output_TNH: Tensor,
        hx_NH: Tensor,
        cx_NH: Tensor,
        weight_ZD: Tensor,
        weight_ZH: Tensor,
        bias_Z: Tensor | None,
        *,
        is_reversed: bool = False,
    ) -> None:
        self.input_TND = input_TND
        self._is_reversed = is_reversed
        self.previous_TNH = self._delayed(output_TNH, hx_NH)
        self._cx_NH = cx_NH
        self._weight_ZD = weight_ZD
        self._weight_ZH = weight_ZH
        self._bias_Z = bias_Z

    def gate_gradients(
        self, output_TNH: Tensor | None, hn_NH: Tensor | None, cn_NH: Tensor | None
    ) -> Tensor:
        """The gradient of the gates before their nonlinearities, shape (T, N, Z).

        Args:
            output_TNH: The gradient of the output; ``None`` for zero, here and below.
            hn_NH: The gradient of the last hidden state.
            cn_NH: The gradient of the last cell state.
        """
        i, f, g, o = self._gates()
        cell_TNH = self._cells(i * g, f)
        tanh = cell_TNH.tanh()
        sigmoid_backward = torch.ops.aten.sigmoid_backward  # (a, σ) to a σ (1 − σ)
        tanh_backward = torch.ops.aten.tanh_backward  # (a, τ) to a (1 − τ²)
        previous = self._delayed(cell_TNH, self._cx_NH)
        # What the gradients of the cell (for i, f, g) and of the output (for o) are multiplied by;
        # the products take its place.
        into_cell = sigmoid_backward(g, i), sigmoid_backward(previous, f), tanh_backward(i, g)
        grad_TN4H = torch.stack([*into_cell, sigmoid_backward(tanh, o)], dim=-2)
        through_TNH = tanh_backward(o, tanh)
        hidden = torch.zeros_like(self._cx_NH) if hn_NH is None else hn_NH
        cell = torch.zeros_like(self._cx_NH) if cn_NH is None else cn_NH
        for t in reversed(self._order()):
            if output_TNH is not None:
                hidden = hidden + output_TNH[t]
            cell = torch.addcmul(cell, hidden, through_TNH[t])
            grad_TN4H[t, :, :3] *= cell.unsqueeze(1)
            grad_TN4H[t, :, 3] *= hidden
            hidden = grad_TN4H[t].flatten(1) @ self._weight_ZH
            cell = cell * f[t]
        return grad_TN4H.flatten(2)

    def _gates(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gates_TNZ = functional.linear(self.input_TND, self._weight_ZD, self._bias_Z)
        gates_TNZ += functional.linear(self.previous_TNH, self._weight_ZH)
        i, f, g, o = gates_TNZ.chunk(4, dim=-1)
        return i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()

    def _cells(self, entering_TNH: Tensor, forget_TNH: Tensor) -> Tensor:
        cells = torch.empty_like(entering_TNH)
        cell = self._cx_NH
        for t in self._order():
            cell = torch.addcmul(entering_TNH[t], forget_TNH[t], cell, out=cells[t])
        return cells

    def _delayed(self, states_TNH: Tensor, start_NH: Tensor) -> Tensor:
        """The states before each step."""
        start = start_NH.unsqueeze(0)
        if self._is_reversed:
            return torch.cat([states_TNH[1:], start])
        return torch.cat([start, states_TNH[:-1]])

    def _order(self) -> range:
        """The time steps in the order in which they were run."""
        steps = len(self.input_TND)
        return range(steps - 1, -1, -1) if self._is_reversed else range(steps)


@dataclass(frozen=True, eq=False)
class _Swept:
    """What the uses of one node have in common.

    Args:
        layer: The layer.
        grad_TNZ: The gradient of its gates.
        use: A use as of an output alone, that has the layout of the whole.
    """

    layer: LSTMLayer
    grad_TNZ: Tensor
    use: Use

    def outer(self, right: Tensor) -> OuterTerm:
        """The gates' gradient times this, at each time step."""
        left = self.use.rows(self.grad_TNZ, _ROWS)
        return OuterTerm(_one_group(left), _one_group(self.use.rows(right, _ROWS)), self.use.shape)


def _swept(use: Use) -> _Swept:
    """The walk back in time, once for all uses of a node."""
    if _Swept not in use.shared:
        layout = _layout_of_rows(use)
        layer = _layer(use)
        dtype = layer.input_TND.dtype
        grads = [None if grad is None else grad.to(dtype) for grad in use.grads[:3]]
        use.shared[_Swept] = layout, layer, layer.gate_gradients(*grads)
    layout, layer, grad_TNZ = use.shared[_Swept]
    output = torch.zeros((), dtype=grad_TNZ.dtype).expand(layer.previous_TNH.shape)
    return _Swept(layer, grad_TNZ, replace(use, grads=(output,), layouts=(layout,)))


def _layer(use: Use) -> LSTMLayer:
    node: Any = use.node
    if node._saved_mode != _LSTM or len(node._saved_batch_sizes):
        raise LayoutError("not an LSTM over sequences of one length")
    half = use.saved("input").dtype in (torch.float16, torch.bfloat16)

    def saved(name: str) -> Tensor:
        return use.saved(name).float() if half else use.saved(name)

    return LSTMLayer(
        saved("input"),
        saved("result0"),
        saved("hx_"),
        saved("cx_"),
        saved("weight0"),
        saved("weight1"),
        saved("weight2") + saved("weight3") if node._saved_has_biases else None,
        is_reversed=bool(node._saved_reverse),
    )


def _layout_of_rows(use: Use) -> Layout:
    """The layout of all outputs, as one of shape (T, N, H) along N.

    Raises:
        LayoutError: If samples are told apart by anything else, or otherwise at another output.
    """
    found: list[Layout] = []
    owners: list[Tensor] = []
    for grad, layout in zip(use.grads, use.layouts, strict=True):
        if grad is None:
            continue
        if layout is None:
            raise LayoutError("the samples of an output cannot be told apart")
        shape, batch = tuple(grad.shape), grad.dim() - 2
        samples = layout.samples(shape, grad.device)
        if samples.numel() != samples.shape[batch]:
            raise LayoutError(f"{layout.describe()} is not along the batch")
        owners.append(samples.flatten().expand(shape[batch]))
        found.append(layout)
    if not _are_equal(owners):
        raise LayoutError("the outputs have samples in another order")
    if isinstance(found[0], Regular):
        return replace(found[0], dim=1)
    return Irregular(owners[0].view(1, -1, 1))


def _are_equal(tensors: Sequence[Tensor]) -> bool:
    return all(torch.equal(tensors[0], other) for other in tensors[1:])


def _one_group(rows: Rows) -> Rows:
    return Rows(rows.data.unsqueeze(-2), rows.samples)
