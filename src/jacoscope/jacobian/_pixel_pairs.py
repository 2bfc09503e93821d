"""Norms and Gram matrices of a convolution's rows by pairs of positions, without its patches.

A row is a sum of outer products δ_t ⊗ patch_t, so that inner products of rows are sums over pairs
of positions of (δ_t · δ_s) (patch_t · patch_s): "ghost norms", Li et al., Large language models can
be strong differentially private learners, arXiv:2110.05679, section 4, for convolutions Bu et al.,
Scalable and efficient training of large convolutional neural networks with differential privacy,
arXiv:2205.10683. Here patches are not made: the inner product of two patches is the sum, over the
kernel's elements, of inner products of pixels. One matrix of pairs of pixels, added up shifted,
serves all elements of the kernel; a stride splits the pixels into phases that do not meet.

Shape suffixes: N samples, K samples of a chunk, J samples of another, R rows of the convolution per
sample, G groups, w and p channels of a group, F phases, U pixels of a phase, T positions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import final

from torch import Tensor

from jacoscope.jacobian._geometry import Geometry, Phase
from jacoscope.jacobian._work import PASS

__all__ = ["PixelPairs"]


@final
class PixelPairs:
    """The pairs of positions of a convolution.

    Args:
        geometry: Which patches it sees.
        repeats: R.
        widths: w and p.
    """

    def __init__(self, geometry: Geometry, repeats: int, widths: tuple[int, int]) -> None:
        self._phases = geometry.phases
        self._sizes = [max(phase.count for phase in phases) for phases in self._phases]
        self._positions = geometry.positions
        self._groups, self._repeats = geometry.groups, repeats
        self._w, self._p = widths
        # Pixels that are all used, in one phase, are taken as they lie.
        self._as_they_lie = all(
            len(phases) == 1 and phases[0].count == size
            for phases, size in zip(self._phases, geometry.space, strict=True)
        )

    @property
    def overlap(self) -> bool:
        """Whether there are fewer phases than elements of the kernel, or nothing is gained."""
        return any(len(phase.shifts) > 1 for phases in self._phases for phase in phases)

    @property
    def work(self) -> float:
        """The work of one pair of samples."""
        pixels, positions = self._pixels, self._terms
        products = self._phase_count * pixels**2 * self._w + positions**2 * self._p
        passes, phases = 3, self._phase_count
        for each in self._phases:
            phases //= len(each)
            passes += phases * sum(len(phase.shifts) for phase in each)
        return self._groups * (products + PASS * passes * max(positions, pixels) ** 2)

    @property
    def pair_scalars(self) -> int:
        """Scalars that one pair of samples takes."""
        return self._groups * (2 * self._phase_count * self._pixels**2 + self._terms**2)

    @property
    def sample_scalars(self) -> int:
        """Scalars of one sample's pixels and gradients, rearranged."""
        phases = self._phase_count
        return self._groups * (phases * self._pixels * self._w + self._terms * self._p)

    def sq_norms(self, patched_KRC: Tensor, paired_KRC: Tensor) -> Tensor:
        """Squared norms of rows, shape (K,).

        Args:
            patched_KRC: What patches are taken of, shape (K, R, G · w, *space).
            paired_KRC: What stands beside them, shape (K, R, G · p, *positions).
        """
        samples = len(patched_KRC)
        pixels_BwU = self._split(patched_KRC).flatten(0, 2)
        pairs = self._pairs(pixels_BwU, pixels_BwU, samples * self._groups, 1)
        factors_BpT = self._paired(paired_KRC).flatten(0, 1)
        products_BTT = factors_BpT.mT @ factors_BpT
        products_BTT.mul_(self._of_patches(pairs).reshape(products_BTT.shape))
        return products_BTT.view(samples, -1).sum(1).clamp_min_(0)

    def gram(
        self, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Inner products of rows, shape (K, J).

        Args:
            first: Patched and paired, shapes as above.
            second: The same of other samples; by default of these.
        """
        samples, groups, terms = len(first[0]), self._groups, self._terms
        others = samples if second is None else len(second[0])
        left, right = (
            None if of is None else (_by_group(self._split(of[0])), self._grouped(of[1]))
            for of in (first, second)
        )
        assert left is not None
        right = right or left
        pairs = self._pairs(left[0], right[0], groups * samples, others)
        products = left[1].mT @ right[1]
        products.mul_(self._of_patches(pairs).reshape(products.shape))
        return products.view(groups, samples, terms, others, terms).sum((0, 2, 4))

    @property
    def _pixels(self) -> int:
        return self._repeats * math.prod(self._sizes)

    @property
    def _terms(self) -> int:
        return self._repeats * math.prod(self._positions)

    @property
    def _phase_count(self) -> int:
        return math.prod(len(phases) for phases in self._phases)

    def _split(self, patched_KRC: Tensor) -> Tensor:
        """Pixels by phase, zeros where a phase is short of them, shape (F, K, G, w, R · U)."""
        samples = len(patched_KRC)
        by_channel = patched_KRC.transpose(1, 2)
        if not self._as_they_lie:
            counts = [len(phases) for phases in self._phases]
            form = (*counts, *by_channel.shape[:3], *self._sizes)
            buffer = by_channel.new_zeros(form)
            for place in itertools.product(*map(range, counts)):
                chosen = [phases[at] for phases, at in zip(self._phases, place, strict=True)]
                target = tuple(slice(phase.count) for phase in chosen)
                source = tuple(phase.pixels for phase in chosen)
                every = (slice(None),) * 3
                buffer[place][every + target] = by_channel[every + source]
            by_channel = buffer
        return by_channel.reshape(self._phase_count, samples, self._groups, self._w, self._pixels)

    def _paired(self, paired_KRC: Tensor) -> Tensor:
        """Shape (K, G, p, R · T)."""
        by_channel = paired_KRC.transpose(1, 2)
        return by_channel.reshape(len(paired_KRC), self._groups, self._p, self._terms)

    def _grouped(self, paired_KRC: Tensor) -> Tensor:
        return _by_group(self._paired(paired_KRC).unsqueeze(0))

    def _pairs(self, left_BwU: Tensor, right_BwU: Tensor, lead: int, others: int) -> Tensor:
        """Inner products of pixels, shape (*phases, lead, R, *U, others, R, *U)."""
        pixels = (self._repeats, *self._sizes)
        counts = (len(phases) for phases in self._phases)
        return (left_BwU.mT @ right_BwU).view(*counts, lead, *pixels, others, *pixels)

    def _of_patches(self, pairs: Tensor) -> Tensor:
        """From pairs of pixels to pairs of patches, shape (lead, R, *T, others, R, *T)."""
        dimensions = len(self._phases)
        for dimension, phases in enumerate(self._phases):
            rows = dimensions - dimension - 1 + 2 + dimension
            axes = (rows, rows + dimensions + 2)
            pairs = _added_up(pairs, phases, self._positions[dimension], axes)
        return pairs


def _by_group(factor_FKGwU: Tensor) -> Tensor:
    """Shape (F · G, w, K · U)."""
    return factor_FKGwU.permute(0, 2, 3, 1, 4).flatten(3).flatten(0, 1)


def _added_up(pairs: Tensor, phases: Sequence[Phase], count: int, axes: tuple[int, int]) -> Tensor:
    """Along one dimension, the pairs of pixels that belong to each pair of positions.

    Args:
        pairs: The first axis goes over the phases.
        phases: The phases.
        count: How many positions there are.
        axes: Where pixels of this dimension are, the first axis left out.
    """
    elements = [
        (pairs[place], shift, max(0, -shift), min(count, phase.count - shift))
        for place, phase in enumerate(phases)
        for shift in phase.shifts
    ]
    if len(elements) == 1 and elements[0][2:] == (0, count):
        source, shift, *_ = elements[0]
        return _window(source, axes, shift, count)
    shape = list(pairs.shape[1:])
    for axis in axes:
        shape[axis] = count
    total = pairs.new_zeros(shape)
    for source, shift, low, high in elements:
        if low < high:
            part = _window(source, axes, low + shift, high - low)
            _window(total, axes, low, high - low).add_(part)
    return total


def _window(pairs: Tensor, axes: tuple[int, int], start: int, length: int) -> Tensor:
    for axis in axes:
        pairs = pairs.narrow(axis, start, length)
    return pairs
