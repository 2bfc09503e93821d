"""How probes are run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jacoscope.config._coerce import coerce_fields
from jacoscope.config._schedule import ProbeSchedule, Schedule
from jacoscope.errors import ConfigError

__all__ = ["Probes"]


@dataclass(frozen=True)
class Probes:
    """How probes are run, where quantities of outputs or of all else equal are asked for.

    Probes evaluate a copy of the model on a few samples after the optimiser has stepped, in full
    precision. Paths name keys, places or attributes joined by dots, such as ``image`` or ``1``.

    Args:
        schedule: When to probe; a probe costs some tens of training steps.
        samples: How many of the batch's samples outputs are differentiated on.
        batch: Which batch these are from: the ``first`` that is probed, whose samples are kept so
            that curves over the run are of the same samples, or that of ``each`` step.
        loss_samples: How many of the batch's samples the loss of all else equal is taken on.
        mode: ``eval`` for output Jacobians in evaluation mode, ``train`` to leave every module in
            the mode that it trains in. All else equal is always as in training.
        module: Name of the module within the model that maps inputs to outputs; by default the
            model itself.
        method: Name of its method that does; by default ``probe_forward`` if it has one, else
            ``forward``.
        input: Path of the input in the batch; by default those keys that the method takes, the
            first entry of a list, or the batch itself.
        output: Path of the output in what the method returns; by default ``logits`` if there is
            such an entry, else the first tensor with a row per sample.
        max_outputs: Up to how many outputs per sample are enumerated; more are sketched.
        sketches: How many random cotangents a sketch has.
        chain: Modules in the order that they run in, by name or glob pattern; layer Jacobians are
            of each one's output by that of the one before.
        second_order: Whether all else equal takes second derivatives too.
        weights: How many single weights all else equal checks by finite differences.
        saliency: How many samples the saliency picture shows; 0 for none.
        features: Names of a table's features, for the saliency picture.
        seed: Seed of the random cotangents.
        memory_budget: Megabytes that rows of Jacobians may take.

    Raises:
        ConfigError: If a number is out of range.
    """

    schedule: ProbeSchedule = ProbeSchedule()
    samples: int = 8
    batch: Literal["first", "each"] = "first"
    loss_samples: int = 64
    mode: Literal["eval", "train"] = "eval"
    module: str | None = None
    method: str | None = None
    input: str | None = None
    output: str | None = None
    max_outputs: int = 32
    sketches: int = 16
    chain: tuple[str, ...] = ()
    second_order: bool = True
    weights: int = 5
    saliency: int = 4
    features: tuple[str, ...] = ()
    seed: int = 0
    memory_budget: int = 256

    def __post_init__(self) -> None:
        if isinstance(self.schedule, Schedule) and not isinstance(self.schedule, ProbeSchedule):
            object.__setattr__(self, "schedule", ProbeSchedule(**vars(self.schedule)))
        coerce_fields(self)
        least = {
            "samples": 1,
            "loss_samples": 1,
            "max_outputs": 1,
            "sketches": 2,
            "weights": 0,
            "saliency": 0,
            "seed": 0,
            "memory_budget": 1,
        }
        for key, smallest in least.items():
            value = getattr(self, key)
            if value < smallest:
                raise ConfigError(f"got {value}, must be {smallest} or more", key=key)
        for key in ("module", "method", "input", "output"):
            if getattr(self, key) == "":
                raise ConfigError("is empty; name one, or write null", key=key)
        for index, name in enumerate(self.chain):
            if not name:
                raise ConfigError("is empty; name a module", key=f"chain[{index}]")
