"""How much of a captured step per-sample quantities are measured on.

All of it, unless a budget of the training time asks for less: then some of the samples, drawn anew
at each step, and after that a part of the layers, each in its turn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jacoscope.selection import Target

__all__ = ["LEAST_SAMPLES", "Extent", "extents_of"]

LEAST_SAMPLES = 16
"""Samples below which fewer are not taken: what is averaged over them would say little."""


@dataclass(frozen=True)
class Extent:
    """The samples and layers that per-sample quantities are measured on in a step.

    Args:
        halvings: How often the number of samples is halved.
        parts: Into how many parts the layers are divided, of which a step has one.
        turn: Which of them this step has.
        overhead: The share of the training time because of which it is not all.
    """

    halvings: int = 0
    parts: int = 1
    turn: int = 0
    overhead: float = 1.0

    @property
    def why(self) -> str:
        """Why it is not all, to end a sentence with."""
        return f"to stay within overhead: {self.overhead:g}"

    @property
    def is_all(self) -> bool:
        """Whether it is all samples and all layers."""
        return not self.halvings and self.parts == 1

    def size(self, samples: int) -> int:
        """Of so many samples, how many are measured."""
        halved = -(-samples // 2**self.halvings)
        return samples if not self.halvings else min(samples, max(halved, LEAST_SAMPLES))

    def share(self, samples: int) -> float:
        """The share of all samples' rows of all layers, where there are so many samples."""
        return (self.size(samples) / samples if samples else 1.0) / self.parts

    def drawn(self, samples: int, seed: str) -> tuple[int, ...] | None:
        """The samples that are measured, in order; ``None`` for all of them.

        Every set of that size is as likely as any other. The training's own random numbers are
        left alone.

        Args:
            samples: How many there are.
            seed: Tells one batch from another.
        """
        size = self.size(samples)
        if size == samples:
            return None
        return tuple(sorted(random.Random(seed).sample(range(samples), size)))

    def resting(self, targets: Sequence[Target]) -> frozenset[str]:
        """Names of the parameters whose turn comes at another step; whole layers.

        Args:
            targets: The parameters that have per-sample quantities.
        """
        if self.parts == 1:
            return frozenset()
        sizes: dict[str, int] = {}
        for target in targets:
            sizes[target.info.layer] = sizes.get(target.info.layer, 0) + target.numel
        loads = [0] * self.parts
        place: dict[str, int] = {}
        for layer in sorted(sizes, key=lambda layer: -sizes[layer]):
            place[layer] = loads.index(min(loads))
            loads[place[layer]] += sizes[layer]
        turn = self.turn % self.parts
        return frozenset(t.name for t in targets if place[t.info.layer] != turn)

    def described(self, measured: int, samples: int) -> str:
        """What it is in words, where so many samples were measured of so many."""
        said = "all samples" if measured == samples else f"{measured} of {samples} samples"
        return said if self.parts == 1 else f"{said} and one of {self.parts} parts of the layers"


def extents_of(samples: int, layers: int, *, fewer_samples: bool) -> tuple[Extent, ...]:
    """Extents from all down to the least, each about half of the one before.

    Args:
        samples: How many samples a batch has.
        layers: How many layers have per-sample quantities.
        fewer_samples: Whether fewer samples are of any use.
    """
    found = [Extent()]
    while fewer_samples and samples >> (found[-1].halvings + 1) >= LEAST_SAMPLES:
        found.append(Extent(found[-1].halvings + 1))
    while 2 * found[-1].parts <= layers:
        found.append(replace(found[-1], parts=2 * found[-1].parts))
    return tuple(found)
