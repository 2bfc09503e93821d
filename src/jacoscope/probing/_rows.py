"""Rows of output Jacobians: by torch.func, all samples at once, or one row after another.

Shape suffixes: N samples, K cotangents, C outputs per sample, b tangents.
"""

from __future__ import annotations

import abc
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from jacoscope.probing._errors import NoPartError, ProbeError
from jacoscope.probing._function import INPUT, ModelFunction, Tensors
from jacoscope.probing._graph import check_reentrant, depends_on
from jacoscope.probing._isolation import without_fused_kernels

__all__ = ["TOLERANCE", "Looped", "Rows", "Vectorized", "is_same", "quietly"]

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""How far one sample's outputs may be from its outputs in the batch, relative to the largest."""


class Rows(abc.ABC):
    """Rows v·∂f_i/∂θ and v·∂f_i/∂x of a function's Jacobian.

    Args:
        function: The function f.
        fallback: Why the rows are not computed all at once, or ``None`` if they are.

    Attributes:
        sample_bytes: About how many bytes a forward keeps for the backward, per sample.
    """

    #: How the rows come about.
    method: str

    def __init__(self, function: ModelFunction, fallback: str | None = None) -> None:
        self.function = function
        self.fallback = fallback
        self.sample_bytes = 0

    @abc.abstractmethod
    def of_parameters(
        self, names: Sequence[str], samples: slice, cotangents: Tensor
    ) -> dict[str, Tensor]:
        """Rows v_k·∂f_i/∂θ, shape (samples, K, *parameter) by name.

        Args:
            names: The parameters.
            samples: Which samples.
            cotangents: v, shape (K, C).
        """

    @abc.abstractmethod
    def of_place(self, place: str, index: int | None, samples: slice, cotangents: Tensor) -> Tensor:
        """Rows v_k·∂f_i/∂x_i, shape (samples, K, *x); x is part of the input or a layer's output.

        Args:
            place: :data:`~jacoscope.probing._function.INPUT` or a module's name.
            index: Which part of the input.
            samples: Which samples.
            cotangents: v, shape (K, C).
        """

    @abc.abstractmethod
    def columns_of_place(self, place: str, index: int | None, samples: slice) -> Tensor:
        """All of ∂f_i/∂x_i by forward mode, shape (samples, C, *x)."""

    def along(self, name: str, tangents: Tensor) -> Tensor:
        """∂f/∂θ along directions, shape (b, N, C), by forward mode.

        Args:
            name: The parameter θ.
            tangents: The directions, shape (b, *parameter).
        """
        point = self.function.parameters[name]

        def push(tangent: Tensor) -> Tensor:
            with self.function.rewound():
                found: Any = jvp(lambda p: self.function.batch({name: p}), (point,), (tangent,))
            if not is_same(found[0].detach(), self.function.values):
                raise ProbeError("its forward draws other random numbers in forward mode")
            out: Tensor = found[1].detach()
            return out

        try:
            return torch.stack([push(tangent) for tangent in tangents])
        except NotImplementedError:
            with without_fused_kernels():
                return torch.stack([push(tangent) for tangent in tangents])


class Vectorized(Rows):
    """All samples at once, by ``torch.func``: vmap over samples of vjp, or of jvp for columns."""

    method = "vmap"

    def of_parameters(
        self, names: Sequence[str], samples: slice, cotangents: Tensor
    ) -> dict[str, Tensor]:
        """See :meth:`Rows.of_parameters`."""
        points = {name: self.function.parameters[name] for name in names}

        def rows(inputs: list[Tensor]) -> dict[str, Tensor]:
            pull = _pull(lambda given: self.function.single(given, inputs), points)
            found: dict[str, Tensor] = vmap(pull)(cotangents)[0]
            return found

        inputs = [each[samples] for each in self.function.sample_inputs]
        found: dict[str, Tensor] = self._mapped(rows, inputs)
        return {name: rows.detach() for name, rows in found.items()}

    def of_place(self, place: str, index: int | None, samples: slice, cotangents: Tensor) -> Tensor:
        """See :meth:`Rows.of_place`."""

        def rows(x: Tensor, inputs: list[Tensor]) -> Tensor:
            pull = _pull(self._of_one(place, index, inputs), x)
            found: Tensor = vmap(pull)(cotangents)[0]
            return found

        found: Tensor = self._mapped(
            rows, self._point(place, index, samples), self._inputs(samples)
        )
        return found.detach()

    def columns_of_place(self, place: str, index: int | None, samples: slice) -> Tensor:
        """See :meth:`Rows.columns_of_place`."""

        def columns(x: Tensor, inputs: list[Tensor]) -> Tensor:
            function = self._of_one(place, index, inputs)
            basis = torch.eye(x.numel(), dtype=x.dtype, device=x.device).reshape(-1, *x.shape)
            found: Tensor = vmap(lambda along: jvp(function, (x,), (along,))[1])(basis)
            return found.movedim(0, -1).reshape(-1, *x.shape)

        points = self._point(place, index, samples)
        found: Tensor = self._mapped(columns, points, self._inputs(samples))
        return found.detach()

    def _mapped(self, function: Any, *args: Any) -> Any:
        with self.function.rewound():
            return quietly(vmap(function), *args)

    def _inputs(self, samples: slice) -> list[Tensor]:
        return [each[samples] for each in self.function.sample_inputs]

    def _point(self, place: str, index: int | None, samples: slice) -> Tensor:
        if index is not None:
            return self.function.sample_inputs[index][samples]
        return torch.zeros_like(self.function.place_value(place)[samples])

    def _of_one(self, place: str, index: int | None, inputs: list[Tensor]) -> Any:
        """One sample's outputs as a function of x."""

        def function(x: Tensor) -> Tensor:
            if index is not None:
                return self.function.single({}, [*inputs[:index], x, *inputs[index + 1 :]])
            with self.function.shifted(place, x.unsqueeze(0)):
                return self.function.single({}, inputs)

        return function


class Looped(Rows):
    """One row after another, by plain autograd through one forward of the whole batch.

    Right for every model that autograd can differentiate, also where samples are coupled: the row
    of sample i is of its outputs in this batch.
    """

    method = "loop"

    def __init__(self, function: ModelFunction, fallback: str | None = None) -> None:
        super().__init__(function, fallback)
        self._by_parameters: tuple[dict[str, Tensor], Tensor] | None = None

    def of_parameters(
        self, names: Sequence[str], samples: slice, cotangents: Tensor
    ) -> dict[str, Tensor]:
        """See :meth:`Rows.of_parameters`."""
        leaves, outputs = self._parameter_graph()
        mine = [leaves[name] for name in names]
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        for row in outputs[samples]:
            for cotangent in cotangents:
                gradients = torch.autograd.grad(
                    row, mine, cotangent, retain_graph=True, allow_unused=True
                )
                for name, leaf, gradient in zip(names, mine, gradients, strict=True):
                    found[name].append(_dense(gradient, leaf))
        shape = len(outputs[samples]), len(cotangents)
        return {
            name: _stacked(rows).reshape(*shape, *leaves[name].shape)
            for name, rows in found.items()
        }

    def of_place(self, place: str, index: int | None, samples: slice, cotangents: Tensor) -> Tensor:
        """See :meth:`Rows.of_place`."""
        leaf, outputs = self._place_graph(place, index)
        found: list[Tensor] = []
        for sample in range(self.function.samples)[samples]:
            for cotangent in cotangents:
                (gradient,) = torch.autograd.grad(
                    outputs[sample], leaf, cotangent, retain_graph=True, allow_unused=True
                )
                found.append(torch.zeros_like(leaf[0]) if gradient is None else gradient[sample])
        shape = len(outputs[samples]), len(cotangents)
        return torch.stack(found).reshape(*shape, *leaf.shape[1:])

    def columns_of_place(self, place: str, index: int | None, samples: slice) -> Tensor:
        """See :meth:`Rows.columns_of_place`; by rows, which every model has."""
        values = self.function.values
        basis = torch.eye(self.function.outputs, dtype=values.dtype, device=values.device)
        return self.of_place(place, index, samples, basis)

    def _evaluated(self, parameters: Tensors, inputs: Sequence[Tensor] | None = None) -> Tensor:
        with self.function.rewound():
            return self.function.batch(parameters, inputs)

    def _parameter_graph(self) -> tuple[dict[str, Tensor], Tensor]:
        if self._by_parameters is None:
            kept = _Kept()
            try:
                with torch.autograd.graph.saved_tensors_hooks(kept.note, _as_it_is):
                    leaves, outputs = self.function.plain()
            except RuntimeError as error:
                if "saved tensor hooks" not in str(error):
                    raise
                leaves, outputs = self.function.plain()  # it differentiates by torch.func
            if outputs.grad_fn is None:
                raise NoPartError(
                    "the model's output does not depend on its parameters by autograd"
                )
            check_reentrant(outputs)
            _check_same(outputs, self.function)
            self.sample_bytes = kept.bytes // self.function.samples
            self._by_parameters = leaves, outputs
        return self._by_parameters

    def _place_graph(self, place: str, index: int | None) -> tuple[Tensor, Tensor]:
        inputs = list(self.function.sample_inputs)
        if index is not None:
            leaf = inputs[index].detach().clone().requires_grad_()
            inputs[index] = leaf
            # What a checkpoint computes again it computes with the parameters that the model holds.
            outputs = self.function.plain(inputs=inputs)[1]
        else:
            leaf = torch.zeros_like(self.function.place_value(place)).requires_grad_()
            with self.function.shifted(place, leaf):
                outputs = self._evaluated({})
        if not depends_on(outputs, leaf):
            where = "input" if place == INPUT else f"output of {place!r}"
            raise NoPartError(f"the model's output does not depend on the {where} by autograd")
        check_reentrant(outputs)
        _check_same(outputs, self.function)
        return leaf, outputs


def is_same(found: Tensor, values: Tensor) -> bool:
    """Whether outputs are the same up to rounding."""
    finite = values[torch.isfinite(values)].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    tolerance = TOLERANCE.get(values.dtype, 1e-2) * scale
    return torch.allclose(found, values, rtol=0, atol=tolerance, equal_nan=True)


def _check_same(outputs: Tensor, function: ModelFunction) -> None:
    """Refuse a model whose outputs for the same samples change from call to call."""
    if not is_same(outputs.detach(), function.values):
        raise ProbeError(
            "the model's outputs for the same samples change from one call to the next, though "
            "random states, buffers and attributes are put back; something that it holds counts"
        )


class _Kept:
    """Counts the bytes that a forward keeps for its backward."""

    def __init__(self) -> None:
        self.bytes = 0

    def note(self, tensor: Tensor) -> Tensor:
        self.bytes += tensor.numel() * tensor.element_size()
        # A node that saves its own output would hold itself if it were handed back as it is.
        return tensor.detach()


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _stacked(rows: list[Tensor]) -> Tensor:
    """Rows as one tensor; one alone, which may be large, is not copied."""
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)


def _dense(gradient: Tensor | None, leaf: Tensor) -> Tensor:
    if gradient is None:
        return torch.zeros_like(leaf)
    return gradient.to_dense() if gradient.is_sparse else gradient


def _pull(function: Any, point: Any) -> Any:
    """What takes a cotangent back to the point."""
    found: Any = vjp(function, point)
    return found[1]


def quietly(function: Any, *args: Any) -> Any:
    """Call a vmapped function without its hints about its own speed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        return function(*args)
