"""All else equal: whether the loss moved as each layer's partial derivative said it would."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from jacoscope.errors import nearest
from jacoscope.probing._errors import ProbeError
from jacoscope.probing._function import Tensors
from jacoscope.probing._isolation import isolated, replica
from jacoscope.probing._loss import Loss, dot

__all__ = ["REST", "AllElseEqual", "LayerShare", "WeightShare", "all_else_equal", "compare"]

REST = "(not watched)"
"""The row of the parameters that belong to no layer asked for."""


@dataclass(frozen=True)
class LayerShare:
    """What one layer's move did to the loss, every other layer held where it was.

    Args:
        layer: Name of the layer.
        predicted: g·Δθ over the layer: the first order.
        second_order: ½ Δθᵀ H Δθ over the layer; ``nan`` if the loss has no second derivative.
        actual: L with only this layer moved, minus L before.
    """

    layer: str
    predicted: float
    second_order: float
    actual: float


@dataclass(frozen=True)
class WeightShare:
    """One weight's partial derivative, and the slope that moving it alone shows.

    Args:
        parameter: Name of its parameter.
        index: Its place in the parameter.
        derivative: ∂L/∂θ by autograd.
        difference: (L(θ + h) − L(θ − h)) / 2h.
        h: The distance moved to either side.
        error: About how far rounding of L alone puts the difference off: ε |L| / h.
        step: Δθ of this weight in the step.
    """

    parameter: str
    index: tuple[int, ...]
    derivative: float
    difference: float
    h: float
    error: float
    step: float

    @property
    def predicted(self) -> float:
        """The change of the loss that the weight's own step promised, to first order."""
        return self.derivative * self.step


@dataclass(frozen=True)
class AllElseEqual:
    """A step's change of the loss, and what each layer had promised and did alone.

    Args:
        before: L before the step.
        after: L after it.
        layers: Every layer's share, in the model's order.
        second_order: ½ Δθᵀ H Δθ of the whole step; ``nan`` if the loss has no second derivative.
        weights: The weights most responsible, by |∂L/∂θ Δθ|, largest first.
        missing: Why there is no second order, if there is none.
        method: How second derivatives came about.
        moved: Whether any parameter moved.
        rounding: About how far rounding alone puts a difference of two losses off: 2 ε |L|.
    """

    before: float
    after: float
    layers: tuple[LayerShare, ...]
    second_order: float
    weights: tuple[WeightShare, ...] = ()
    missing: str | None = None
    method: str | None = None
    moved: bool = True
    rounding: float = 0.0
    _by_name: Mapping[str, LayerShare] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {share.layer: share for share in self.layers})

    def __getitem__(self, layer: str) -> LayerShare:
        if layer not in self._by_name:
            raise KeyError(f"no layer {layer!r}; {nearest(layer, self._by_name)}")
        return self._by_name[layer]

    @property
    def actual(self) -> float:
        """L after minus L before."""
        return self.after - self.before

    @property
    def predicted(self) -> float:
        """g·Δθ of the whole step."""
        return _sum(share.predicted for share in self.layers)

    @property
    def interaction(self) -> float:
        """What layers do together: the step's change minus the sum of each layer's alone."""
        return self.actual - _sum(share.actual for share in self.layers)

    @property
    def sentence(self) -> str:
        """The result in words."""
        if not self.moved:
            return f"No parameter moved; the loss is {_number(self.after)}."
        if not math.isfinite(self.actual):
            return f"This step took the loss from {_number(self.before)} to {_number(self.after)}."
        if not self.actual:
            said = f"This step left the loss at {_number(self.after)}"
        else:
            said = f"This step {_by(self.actual, 'the loss')}, to {_number(self.after)}"
        moved = [share for share in self.layers if share.predicted or share.actual]
        if not moved:
            return f"{said}, which depends on nothing that moved."
        first = max(moved, key=lambda share: abs(share.actual))
        alone = f"{first.layer} alone {_by(first.actual, 'it')}, where its derivative promised"
        said = f"{said}; {alone} {_number(first.predicted, signed=True)}"
        if len(moved) == 1 and abs(self.interaction) <= 1e-6 * abs(self.actual):
            return f"{said}."
        return f"{said}; layers together interact by {_number(self.interaction, signed=True)}."

    def __str__(self) -> str:
        width = max([len("layer"), *(len(share.layer) for share in self.layers), 11])
        head = f"{'layer':<{width}}  {'predicted':>11}  {'2nd order':>11}  {'actual':>11}"
        lines = [self.sentence, "", head]
        rows = [(s.layer, s.predicted, s.second_order, s.actual) for s in self.layers]
        together = _sum(s.second_order for s in self.layers)
        rows += [
            ("interaction", 0.0, self.second_order - together, self.interaction),
            ("whole step", self.predicted, self.second_order, self.actual),
        ]
        lines += [f"{n:<{width}}  {p:>+11.3e}  {s:>+11.3e}  {a:>+11.3e}" for n, p, s, a in rows]
        if self.weights:
            names = [f"{w.parameter}[{', '.join(map(str, w.index))}]" for w in self.weights]
            width = max(width, *map(len, names))
            lines += [
                "",
                f"{'weight':<{width}}  {'∂L/∂θ':>11}  {'difference':>11}  {'step':>11}",
                *(
                    f"{name:<{width}}  {w.derivative:>+11.3e}  {w.difference:>+11.3e}  "
                    f"{w.step:>+11.3e}"
                    for name, w in zip(names, self.weights, strict=True)
                ),
            ]
        if self.rounding:
            lines += [
                "",
                f"Actual changes below {_number(self.rounding)} are rounding of the loss.",
            ]
        return "\n".join(lines)


def all_else_equal(
    model: nn.Module,
    loss: Callable[[Any], Tensor],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor] | None = None,
    *,
    layers: Mapping[str, Iterable[str]] | None = None,
    second_order: bool = True,
    weights: int = 5,
) -> AllElseEqual:
    """Compare what partial derivatives promised of a step with what each layer's move did.

    For a step from θ to θ + Δθ: g·Δθ, ½ Δθᵀ H Δθ and the change of the loss with only one layer
    moved, for each layer; the change of the whole step; and what is left, the layers' interaction.
    The model is copied, and random numbers (dropout) are the same in every evaluation.

    Args:
        model: The model; its modules stay in the mode that they are in.
        loss: From a model to the loss of one and the same batch, called with a copy of ``model``.
        before: Parameters before the step, by name; those that it leaves out did not move.
        after: Parameters after it; by default those that the model has.
        layers: Names of parameters by layer; by default each module that owns parameters.
        second_order: Whether to take second derivatives.
        weights: How many single weights to check by finite differences.

    Returns:
        What was promised and what came, for the step, each layer and some weights, in units of
        the loss; printing it says so in words.

    Raises:
        ProbeError: If the loss is not one number, or not the same number twice.
        ValueError: If a parameter is unknown or of another shape.

    Example:
        >>> import torch
        >>> import jacoscope
        >>> model = torch.nn.Linear(1, 1, bias=False).double()
        >>> _ = torch.nn.init.constant_(model.weight, 1.0)
        >>> before = {"weight": torch.tensor([[2.0]], dtype=torch.float64)}
        >>> x = torch.tensor([[3.0]], dtype=torch.float64)
        >>> result = jacoscope.all_else_equal(model, lambda m: m(x).square().mean(), before)
        >>> result.predicted, result.second_order, result.actual
        (-36.0, 9.0, -27.0)
    """
    known = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    ends = {name: p.detach() for name, p in known.items()}
    for argument, given in (("before", before), ("after", after or {})):
        for name, tensor in given.items():
            _check(argument, name, tensor, known)
    ends.update({name: t.detach() for name, t in (after or {}).items()})
    starts = {**ends, **{name: t.detach().to(ends[name]) for name, t in before.items()}}
    grouped = _grouped(model, known, layers)
    copied = replica(model)
    with isolated({p.device for p in known.values()}):
        evaluated = Loss(copied, loss)
        return compare(evaluated, starts, ends, grouped, second_order=second_order, weights=weights)


def compare(
    loss: Loss,
    starts: Tensors,
    ends: Tensors,
    layers: Mapping[str, Sequence[str]],
    *,
    second_order: bool = True,
    weights: int = 0,
) -> AllElseEqual:
    """As :func:`all_else_equal`, on a loss that is ready to be evaluated.

    Args:
        loss: The loss.
        starts: Every parameter before the step, by name.
        ends: Every parameter after it.
        layers: Names of parameters by layer; those in none make a layer of their own.
        second_order: Whether to take second derivatives.
        weights: How many single weights to check by finite differences.
    """
    steps = {name: ends[name] - starts[name] for name in starts}
    moving = [name for name, step in steps.items() if bool(step.any())]
    rest = [name for name in moving if not any(name in names for names in layers.values())]
    grouped = {**layers, **({REST: rest} if rest else {})}
    before = loss.value(starts)
    again = loss.value(starts)
    if not (before == again or (math.isnan(before) and math.isnan(again))):
        raise ProbeError(
            f"the loss of one batch at the same parameters is {before!r} once and {again!r} the "
            "next time, so that its changes cannot be compared"
        )
    after = loss.value(ends)
    gradient = loss.gradient(starts, moving)[0] if moving else {}
    mine = {layer: [n for n in names if n in gradient] for layer, names in grouped.items()}
    parts = [names for names in mine.values() if names]
    missing: str | None = None
    seconds = [math.nan] * (len(parts) + 1)
    if second_order and moving:
        try:
            seconds = [each / 2 for each in loss.curvatures(starts, steps, [*parts, moving])]
        except ProbeError as error:
            missing = str(error)
    has_second = second_order and missing is None
    whole = seconds[-1] if moving or not has_second else 0.0
    left = iter(seconds)
    shares: list[LayerShare] = []
    for layer, names in mine.items():
        if not names:
            shares.append(LayerShare(layer, 0.0, 0.0 if has_second else math.nan, 0.0))
            continue
        is_all = len(names) == len(moving)
        there = {**starts, **{name: ends[name] for name in names}}
        reached = after if is_all else loss.value(there)
        promised = dot(gradient, steps, names)
        shares.append(LayerShare(layer, promised, next(left), reached - before))
    checked = _check_weights(loss, starts, steps, gradient, before, weights)
    epsilon = max((torch.finfo(step.dtype).eps for step in steps.values()), default=0.0)
    return AllElseEqual(
        before=before,
        after=after,
        layers=tuple(shares),
        second_order=whole,
        weights=checked,
        missing=missing,
        method=loss.second_order,
        moved=bool(moving),
        rounding=2 * epsilon * abs(before),
    )


def _check_weights(
    loss: Loss, starts: Tensors, steps: Tensors, gradient: Tensors, value: float, count: int
) -> tuple[WeightShare, ...]:
    """The weights that promised most, each against a central finite difference."""
    candidates: list[tuple[float, str, int]] = []
    for name, slope in gradient.items():
        promised = (slope * steps[name]).abs().flatten()
        most, places = promised.topk(min(count, promised.numel()))
        pairs = zip(most.tolist(), places.tolist(), strict=True)
        candidates += [(size, name, place) for size, place in pairs if size > 0]
    candidates.sort(key=lambda found: -found[0])
    checked = []
    for _, name, place in candidates[:count]:
        start = starts[name]
        epsilon = torch.finfo(start.dtype).eps
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), start.shape))
        # The step that balances rounding of L against the third derivative (Nocedal and Wright,
        # Numerical Optimization, section 8.1), as it is once rounded.
        scale = max(abs(float(start[index])), float(start.square().mean().sqrt()), 1e-3)
        wanted = epsilon ** (1 / 3) * scale
        above, below = start.clone(), start.clone()
        above[index] += wanted
        below[index] -= wanted
        width = float(above[index].double() - below[index].double())
        rise = loss.value({**starts, name: above}) - loss.value({**starts, name: below})
        checked.append(
            WeightShare(
                parameter=name,
                index=index,
                derivative=float(gradient[name][index]),
                difference=rise / width if width else math.nan,
                h=width / 2,
                error=epsilon * abs(value) / (width / 2) if width else math.nan,
                step=float(steps[name][index]),
            )
        )
    return tuple(checked)


def _grouped(
    model: nn.Module, known: Tensors, layers: Mapping[str, Iterable[str]] | None
) -> dict[str, list[str]]:
    if layers is None:
        grouped: dict[str, list[str]] = {}
        for name in known:
            grouped.setdefault(name.rpartition(".")[0] or "(model)", []).append(name)
        return grouped
    given = {
        layer: [names] if isinstance(names, str) else list(names) for layer, names in layers.items()
    }
    for layer, names in given.items():
        for name in names:
            if name not in known:
                raise ValueError(
                    f"layers[{layer!r}] has {name!r}, which is not a floating-point parameter of "
                    f"the model; {nearest(name, known)}"
                )
    taken = [name for names in given.values() for name in names]
    twice = {name for name in taken if taken.count(name) > 1}
    if twice:
        raise ValueError(f"layers has {sorted(twice)[0]!r} twice; each parameter is in one layer")
    return given


def _check(argument: str, name: str, tensor: Tensor, known: Tensors) -> None:
    if name not in known:
        raise ValueError(
            f"{argument} has {name!r}, which is not a floating-point parameter of the model; "
            f"{nearest(name, known)}"
        )
    if tensor.shape != known[name].shape:
        raise ValueError(
            f"{argument}[{name!r}] has shape {tuple(tensor.shape)}, but the model's has "
            f"{tuple(known[name].shape)}; give copies taken before the step"
        )


def _sum(values: Iterable[float]) -> float:
    """The sum, ``nan`` where infinities cancel or it overflows."""
    try:
        return math.fsum(values)
    except (ValueError, OverflowError):
        return math.nan


def _number(value: float, *, signed: bool = False) -> str:
    return f"{value:{'+' if signed else ''}.2g}"


def _by(change: float, what: str) -> str:
    if not change:
        return f"left {what} as it was"
    return f"{'raised' if change > 0 else 'lowered'} {what} by {_number(abs(change))}"
