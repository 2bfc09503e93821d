"""Finding out which sample each element of each gradient belongs to, by asking the graph.

The gradient at the frontier, where samples are told apart by the shape, is replaced by random
numbers; then again by the same numbers times a power of two that encodes the sample. A backward is
linear, and powers of two pass through floating-point arithmetic without rounding, so wherever an
element depends on one sample alone its second value is its first times that sample's power of two,
exactly; wherever samples are mixed it is not. One backward per digit tells all samples of all
tensors; no second forward, no random number of the training is drawn.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from jacoscope.capturing._layout import Constant, Irregular, Layout, Regular, regular_layouts
from jacoscope.capturing._passes import extra_pass
from jacoscope.capturing._walk import Graph, Shape

__all__ = ["Flow", "Grads", "Layouts", "Reading", "read_layouts"]

Grads = tuple[Tensor | None, ...]
Layouts = Mapping[int, tuple[Layout | None, ...]]

_PROBED = 2048
_TILT = 0.7
"""How much the imaginary part of a complex number counts beside the real one."""
_LEVELS, _LEVELS_HALF = 16, 4


@dataclass(frozen=True, eq=False)
class Reading:
    """What is known of one output of one node.

    Args:
        layout: Its layout, where samples are told apart.
        is_alive: Whether any gradient reached it; if not, nothing is known.
        is_certain: Whether no other regular layout would explain the elements that were reached.
    """

    layout: Layout | None
    is_alive: bool
    is_certain: bool = True


class Flow:
    """Random gradients that start where samples are known, and go down to the parameters.

    They start at the frontier, so that what the loss itself does is not run again, and start anew
    behind each cut. No ``.grad`` is written and the graph is kept.

    Args:
        graph: The graph of the loss.
        parameters: What to differentiate by.
        frontier: By node, the layouts of its outputs, where gradients start.
        cuts: By node, the layouts of its outputs, where gradients are replaced.
    """

    def __init__(
        self,
        graph: Graph,
        parameters: Sequence[Tensor],
        frontier: Layouts,
        cuts: Layouts,
    ) -> None:
        self._graph = graph
        self._parameters = list(parameters)
        self._frontier = frontier
        self._cuts = cuts

    def run(
        self,
        weigh: Callable[[Tensor], Tensor] | None = None,
        observers: Mapping[int, Callable[[Grads], object]] | None = None,
    ) -> list[Tensor | None]:
        """One backward.

        Args:
            weigh: From samples to factors, each of the same shape; ``None`` for one.
            observers: By node, what to call with the gradients of its outputs before it runs.

        Returns:
            Gradients of the parameters.
        """
        observers = observers or {}
        edges, starts = [], []
        for node, layouts in self._frontier.items():
            for output, layout in enumerate(layouts):
                if layout is not None:
                    metadata = self._graph.nodes[node]._input_metadata[output]
                    blank = torch.empty(
                        tuple(metadata.shape), dtype=metadata.dtype, device=metadata.device
                    )
                    edges.append(GradientEdge(self._graph.nodes[node], output))
                    starts.append(_weighed(blank, layout, node * 8 + output, weigh))
        with extra_pass(self._graph.nodes), ExitStack() as stack:
            for node in {*self._cuts, *observers}:
                hook = self._hook(node, weigh, observers.get(node))
                handle = self._graph.nodes[node].register_prehook(hook)
                stack.callback(handle.remove)
            return list(
                torch.autograd.grad(
                    edges, self._parameters, starts, retain_graph=True, allow_unused=True
                )
            )

    def _hook(
        self,
        node: int,
        weigh: Callable[[Tensor], Tensor] | None,
        observer: Callable[[Grads], object] | None,
    ) -> Callable[[Grads], Grads | None]:
        def hook(grads: Grads) -> Grads | None:
            edited: Grads | None = None
            if node in self._cuts:
                layouts = (*self._cuts[node], *[None] * len(grads))
                edited = tuple(
                    None if grad is None else _weighed(grad, layout, node * 8 + output, weigh)
                    for output, (grad, layout) in enumerate(zip(grads, layouts, strict=False))
                )
            if observer is not None:
                observer(grads if edited is None else edited)
            return edited

        return hook


def read_layouts(
    flow: Flow, samples: int, index: Tensor | None, asked: Collection[int], *, half: bool
) -> dict[int, tuple[Reading, ...]]:
    """Ask the graph for the layout of the gradients at nodes.

    Args:
        flow: Gradients that start where samples are known.
        samples: Number of samples.
        index: Sample of each row, where the user gave one.
        asked: Nodes to ask for.
        half: Whether some are in half precision, whose range is narrow.

    Returns:
        By node, what is known of each of its outputs; nodes that the backward does not pass are
        left out.
    """
    question = _Question(flow, samples, index, half)
    readings = question.ask(dict.fromkeys(asked, _PROBED))
    irregular = [
        node
        for node, found in readings.items()
        if any(isinstance(reading.layout, Irregular) for reading in found)
    ]
    if irregular:
        readings |= question.ask(dict.fromkeys(irregular, sys.maxsize))
    return readings


class _Question:
    """Asks a graph, some elements of each node at a time."""

    def __init__(self, flow: Flow, samples: int, index: Tensor | None, half: bool) -> None:
        self._flow = flow
        self._samples = samples
        self._index = index
        self._levels = _LEVELS_HALF if half else _LEVELS
        digits = math.log(max(samples, 2), self._levels)
        self._digits = max(2, math.ceil(digits - 1e-9))
        # Digits that follow the order of the samples could be matched by a mixture of neighbours.
        self._shuffle = torch.randperm(samples, generator=torch.Generator().manual_seed(samples))

    def ask(self, asked: Mapping[int, int]) -> dict[int, tuple[Reading, ...]]:
        base = _Probe(asked)
        self._flow.run(None, base.observers())
        owners = self._decode(base)
        readings: dict[int, list[Reading]] = {}
        for (node, output), first in base.values.items():
            key = node, output
            reading = _decide(
                base.shapes[key],
                base.places[key],
                owners[key],
                _alive(first),
                self._samples,
                self._index,
            )
            found = readings.setdefault(node, [])
            found += [Reading(None, False)] * (output + 1 - len(found))
            found[output] = reading
        return {node: tuple(found) for node, found in readings.items()}

    def _decode(self, base: _Probe) -> dict[tuple[int, int], Tensor]:
        """The sample of each element that was probed, −1 where samples are mixed."""
        values = base.values
        decoded = {key: torch.zeros_like(value).long() for key, value in values.items()}
        mixed = {key: torch.zeros_like(value).bool() for key, value in values.items()}
        for digit in range(self._digits):
            code = self._shuffle // self._levels**digit % self._levels
            probe = _Probe(base.asked, base)
            # From two on, so that what has passed by the encoding counts as mixed.
            factors = torch.exp2(1 + code.double())
            self._flow.run(_looked_up(factors), probe.observers())
            for key, first in values.items():
                exponent, clean = _exponent(first, probe.values[key], self._levels)
                decoded[key] += exponent * self._levels**digit
                mixed[key] |= ~clean
        unshuffle = torch.argsort(self._shuffle)
        owners = {}
        for key, number in decoded.items():
            valid = ~mixed[key] & (number < self._samples)
            owners[key] = torch.where(valid, unshuffle[number.clamp(0, self._samples - 1)], -1)
        return owners


class _Probe:
    """Keeps some elements of the gradients that reach nodes, always the same ones."""

    def __init__(self, asked: Mapping[int, int], like: _Probe | None = None) -> None:
        self.asked = asked
        self.values: dict[tuple[int, int], Tensor] = {}
        self.places: dict[tuple[int, int], Tensor] = {} if like is None else like.places
        self.shapes: dict[tuple[int, int], Shape] = {}

    def observers(self) -> dict[int, Callable[[Grads], None]]:
        return {node: functools.partial(self._keep, node) for node in self.asked}

    def _keep(self, node: int, grads: Grads) -> None:
        for output, grad in enumerate(grads):
            if grad is None or not grad.numel():
                continue
            grad = grad.to_dense() if grad.is_sparse else grad
            if grad.is_complex():
                grad = grad.real + _TILT * grad.imag
            if not grad.is_floating_point():
                continue
            key = (node, output)
            if key not in self.places:
                self.places[key] = _places(grad.numel(), self.asked[node], node)
            self.shapes[key] = tuple(grad.shape)
            flat = grad.detach().reshape(-1)
            self.values[key] = flat[self.places[key].to(flat.device)].double().cpu()


def _places(count: int, most: int, seed: int) -> Tensor:
    if count <= most:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(count, (most,), generator=generator)


def _looked_up(factors: Tensor) -> Callable[[Tensor], Tensor]:
    def weigh(owners: Tensor) -> Tensor:
        return torch.where(owners < 0, 0.0, factors.to(owners.device)[owners.clamp(min=0)])

    return weigh


def _weighed(
    grad: Tensor, layout: Layout | None, seed: int, weigh: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """Random numbers of either sign, the same ones for one seed, weighed by sample."""
    if layout is None:
        return torch.zeros_like(grad)
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(min(grad.numel(), 1 << 20), generator=generator) + 0.5
    numbers *= torch.where(torch.rand(len(numbers), generator=generator) < 0.5, -1.0, 1.0)
    repeats = -(-grad.numel() // len(numbers)) if len(numbers) else 0
    tiled = numbers.repeat(repeats)[: grad.numel()].view(grad.shape)
    tiled = tiled.to(grad.device, grad.dtype)
    if grad.is_complex():
        tiled = tiled * complex(1, _TILT)
    if weigh is None:
        return tiled
    owners = layout.samples(tuple(grad.shape), grad.device)
    return tiled * weigh(owners).to(grad.dtype)


def _alive(values: Tensor) -> Tensor:
    top = values.abs().max() if values.numel() else values.sum()
    return values.isfinite() & (values.abs() > 1e-5 * top) & (values != 0)


def _exponent(first: Tensor, second: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    ratio = second / first
    exponent = torch.log2(ratio.where(ratio > 0, torch.nan)) - 1
    nearest = exponent.round()
    clean = ((exponent - nearest).abs() < 4e-3) & (nearest >= 0) & (nearest < levels)
    return torch.where(clean, nearest, 0.0).long(), clean


def _decide(
    shape: Shape, places: Tensor, owners: Tensor, alive: Tensor, samples: int, index: Tensor | None
) -> Reading:
    """The layout that explains which samples these elements belong to."""
    if not bool(alive.any()):
        return Reading(None, False)
    dead = not bool(alive.all())
    owners, places = owners[alive], places[alive]
    clean = owners >= 0
    if float(clean.double().mean()) < 0.98:
        return Reading(None, True)
    along = torch.unravel_index(places, shape) if shape else ()
    fitting: list[Regular] = []
    for layout in regular_layouts(shape, samples, index):
        predicted = along[layout.dim] // layout.inner % layout.count
        if layout.index is not None:
            predicted = layout.index.cpu()[predicted]
        if bool((predicted == owners)[clean].all()):
            if not fitting and _mixes_a_sample(predicted, clean, samples):
                return Reading(None, True)
            fitting.append(layout)
            if not dead:
                break
    if fitting:
        maps = [each.samples(shape, torch.device("cpu")).expand(shape) for each in fitting[:4]]
        certain = all(torch.equal(maps[0], other) for other in maps[1:])
        return Reading(fitting[0], True, certain)
    owners, places = owners[clean], places[clean]
    if bool((owners == owners[0]).all()):
        return Reading(Constant(int(owners[0])), True)
    full = torch.full((math.prod(shape),), -1)
    full[places] = owners
    return Reading(Irregular.of(full.view(shape)), True)


def _mixes_a_sample(predicted: Tensor, clean: Tensor, samples: int) -> bool:
    """Whether the elements of any one sample are mixed, though most are not."""
    if bool(clean.all()):
        return False
    seen = torch.bincount(predicted, minlength=samples)
    mixed = torch.bincount(predicted[~clean], minlength=samples)
    return bool((2 * mixed > seen).any())
