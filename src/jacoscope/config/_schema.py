"""The one schema of the monitor: what Python dataclasses and YAML files both say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jacoscope.config._alerts import DEFAULT_ALERTS, AlertRule
from jacoscope.config._coerce import coerce_fields
from jacoscope.config._names import ParameterKind, QuantityName
from jacoscope.config._probes import Probes
from jacoscope.config._schedule import Schedule
from jacoscope.errors import ConfigError

__all__ = [
    "DEFAULT_QUANTITIES",
    "LayerRule",
    "MonitorConfig",
    "Output",
    "Samples",
    "Schedule",
]

DEFAULT_QUANTITIES: tuple[QuantityName, ...] = (
    "grad_norm",
    "grad_rms",
    "grad_max",
    "grad_mean",
    "grad_zero_fraction",
    "grad_nonfinite",
    "weight_norm",
    "update_norm",
    "update_ratio",
    "update_cosine",
    "saliency",
)

_LEAST_OVERHEAD = 0.0001
"""With less, not one step in ten thousand could be captured, and most runs would have none."""


@dataclass(frozen=True)
class LayerRule:
    """One rule on which parameters are watched, and how. The first rule that matches decides.

    All criteria given must hold; a rule with none matches every parameter.

    Args:
        match: Glob pattern or patterns (``*`` crosses dots) on the full name of the parameter, such
            as ``encoder.layers.*.weight``, or of any module that it lies within, such as
            ``encoder`` or ``encoder.layers.0``.
        regex: Regular expression searched for in the parameter's full name.
        type: Class name or names of the layer that owns the parameter or of a module around it,
            such as ``Linear``, ``torch.nn.Conv2d`` or ``TransformerEncoderLayer``.
        kind: Kind or kinds of parameter: weight, bias, norm, embedding, other.
        min_depth: Smallest nesting depth of the owning layer; ``head`` has 1, ``encoder.0`` has 2.
        max_depth: Largest nesting depth of the owning layer.
        exclude: Leave these parameters out.
        quantities: What to measure here, instead of the monitor's ``quantities``.
        schedule: When to capture here, instead of the monitor's ``schedule``.
        group: Name of a group; per-sample quantities are measured on each group as a whole, too.

    Raises:
        ConfigError: If criteria contradict one another or a regular expression cannot be read.
    """

    match: str | tuple[str, ...] | None = None
    regex: str | None = None
    type: str | tuple[str, ...] | None = None
    kind: ParameterKind | tuple[ParameterKind, ...] | None = None
    min_depth: int | None = None
    max_depth: int | None = None
    exclude: bool = False
    quantities: tuple[QuantityName, ...] | None = None
    schedule: Schedule | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        coerce_fields(self)
        _check_regex(self.regex)
        for key in ("match", "regex", "type", "kind", "quantities", "group"):
            value = getattr(self, key)
            if value in ((), "") or (isinstance(value, tuple) and "" in value):
                raise ConfigError("is empty; name at least one, or leave the key out", key=key)
        if self.exclude and (self.quantities is not None or self.schedule is not None):
            key = "quantities" if self.quantities is not None else "schedule"
            raise ConfigError(
                "an excluding rule measures nothing; remove this key or exclude: true", key=key
            )
        for key in ("min_depth", "max_depth"):
            if (getattr(self, key) or 0) < 0:
                raise ConfigError(f"got {getattr(self, key)}, depths count from 0", key=key)
        if None not in (self.min_depth, self.max_depth) and self.min_depth > self.max_depth:  # type: ignore[operator]
            raise ConfigError(
                f"got {self.min_depth}, must not exceed max_depth, which is {self.max_depth}",
                key="min_depth",
            )


@dataclass(frozen=True)
class Samples:
    """How samples are told apart, where per-sample quantities are measured.

    Paths into a batch name keys, places or attributes joined by dots, such as ``image`` or ``1``.

    Args:
        batch_size: Number of samples in a batch; by default the first dimension of the batch's
            first tensor.
        rows: Path of a tensor that says which sample each row of the batch belongs to, for batches
            whose rows are not one per sample (graphs of variable size, two views per sample).
        batch_dim: Which dimension of the model's outputs is the batch, where another one has as
            many elements and nothing in the graph tells them apart; by default the first.
        custom_functions: Whether the backward of your own autograd functions may be run several
            times: ``withhold`` leaves out the parameters below them, ``run`` says that their
            backward uses nothing up, changes nothing in place, and draws no random numbers.
        compiled: What becomes of samples where ``torch.compile`` makes one node of the graph:
            ``withhold`` leaves them out; ``eager`` runs the forward of captured steps uncompiled,
            which changes the training by the compiler's rounding, and takes an uncompiled step's
            time.
        loss_reduction: Whether the loss is a ``mean`` or a ``sum`` over samples, which decides how
            a contribution to it becomes a sample's own gradient.
        id: Path of the samples' ids; by default the dataset's indices as the sampler drew them,
            else positions in the run.
        label: Path of class labels; by default the batch's one integer tensor of shape (N,).
        thing: Path of what to show of a sample, an image or text; by default the batch's first
            image-like tensor, if it has one. Write ``none`` for nothing.
        leaderboard: How many samples a leaderboard of an epoch has; 0 for no leaderboards.
        layer_leaderboard: How many samples the leaderboard of each layer has.
        verify: How many samples to check by masked back-propagation whenever the structure of the
            graph is new.
        gram_every: Record the Gram matrix g_i·g_k of every n-th captured batch, the first included,
            where quantities need that matrix anyway; ``null`` for none.
        gram_samples: On how many of the batch's samples, the first ones.
        memory_budget: Megabytes that temporary tensors may take.

    Raises:
        ConfigError: If a number is out of range.
    """

    batch_size: int | None = None
    rows: str | None = None
    batch_dim: int | None = None
    custom_functions: Literal["withhold", "run"] = "withhold"
    compiled: Literal["withhold", "eager"] = "withhold"
    loss_reduction: Literal["mean", "sum"] = "mean"
    id: str | None = None
    label: str | None = None
    thing: str | None = None
    leaderboard: int = 32
    layer_leaderboard: int = 5
    verify: int = 2
    gram_every: int | None = 10
    gram_samples: int = 128
    memory_budget: int = 256

    def __post_init__(self) -> None:
        coerce_fields(self)
        least = {
            "batch_size": 1,
            "gram_every": 1,
            "gram_samples": 2,
            "memory_budget": 1,
            "batch_dim": 0,
            "verify": 0,
            "leaderboard": 0,
            "layer_leaderboard": 0,
        }
        for key, smallest in least.items():
            value = getattr(self, key)
            if value is not None and value < smallest:
                raise ConfigError(f"got {value}, must be {smallest} or more", key=key)
        for key in ("rows", "id", "label", "thing"):
            if getattr(self, key) == "":
                raise ConfigError("is empty; name a path into the batch, or null", key=key)


@dataclass(frozen=True)
class Output:
    """What is written, and where.

    Args:
        group: First part of every tag; two monitors in one run need different ones.
        directory: Folder for the event file instead of the logger's own run folder.
        headline: Write about ten scalars on the whole model under ``group/``.
        records: Write the full record, one tensor per quantity and captured step, that
            ``jacoscope.read_run`` reads.
        pictures: Quantities drawn as a layer × step picture in the Images tab.
        histograms: Write ``grad_histogram``, where it is watched, to the Histograms tab.
        layer_scalars: Quantities also written as one scalar chart per parameter, which is many.
        card: Write a text card that explains every tag and shows the configuration.
        custom_scalars: Write a layout for the Custom Scalars tab; it replaces one of your own.

    Raises:
        ConfigError: If ``group`` is empty or has characters that TensorBoard rewrites.
    """

    group: str = "sensitivity"
    directory: str | None = None
    headline: bool = True
    records: bool = True
    pictures: tuple[QuantityName, ...] = ("grad_rms", "update_ratio")
    histograms: bool = True
    layer_scalars: tuple[QuantityName, ...] = ()
    card: bool = True
    custom_scalars: bool = False

    def __post_init__(self) -> None:
        coerce_fields(self)
        if not self.group or not all(char.isalnum() or char in "_-." for char in self.group):
            raise ConfigError(
                f"got {self.group!r}, must be letters, digits, '_', '-' or '.', such as "
                "'sensitivity'",
                key="group",
            )
        for key in ("pictures", "layer_scalars"):
            if "grad_histogram" in getattr(self, key):
                raise ConfigError(
                    "grad_histogram has many values per layer; use histograms: true instead",
                    key=key,
                )


@dataclass(frozen=True)
class MonitorConfig:
    """Everything that the monitor can be told.

    Args:
        quantities: What to measure on the parameters that are watched.
        layers: Rules on which parameters are watched; the first that matches a parameter decides.
            With no rules every parameter is watched; with some, a parameter that none matches is
            not.
        schedule: When to capture.
        overhead: The largest share of the training time that the monitor may take, such as 0.03,
            and at least 0.0001: what schedules ask for is then left out where it would take more.
            Where captures would come less than a tenth as often, or hardly at all in a run of known
            length, per-sample quantities are measured on fewer samples (a half, a quarter, …, at
            least 16), and after that on a part of the layers at a time; nothing is approximated
            without the record saying so. It bounds neither the first capture nor what comes before
            the first step and after the last, such as drawing the last pictures; the log tells what
            that took. What is captured depends on how fast the machine is; with ``null`` on the
            schedules alone.
        output: What is written, and where.
        samples: How samples are told apart, where per-sample quantities are measured.
        probes: How probes are run, where quantities of outputs or of all else equal are asked for.
        alerts: What to be told of; by default (``null``) non-finite, exploding, vanishing and dead
            gradients, updates far too fast or slow, batches that are nearly all noise, and lost
            coverage.
        on_alert: Import path ``package.module.function``, or in Python a callable, called with a
            ``jacoscope.Alert`` (step, name, severity, rows, sentence) for each.
        on_error: What a fault inside the monitor does: ``warn`` warns once, drops what failed and
            goes on; ``raise`` stops the training.

    Raises:
        ConfigError: If a value has the wrong type, or a name is unknown.
    """

    quantities: tuple[QuantityName, ...] = DEFAULT_QUANTITIES
    layers: tuple[LayerRule, ...] = ()
    schedule: Schedule = Schedule()
    overhead: float | None = None
    output: Output = Output()
    samples: Samples = Samples()
    probes: Probes = Probes()
    alerts: tuple[AlertRule, ...] | None = None
    on_alert: Callable[[Any], object] | str | None = None
    on_error: Literal["warn", "raise"] = "warn"

    def __post_init__(self) -> None:
        coerce_fields(self)
        if not self.quantities:
            raise ConfigError("is empty; name at least one quantity", key="quantities")
        if self.overhead is not None and not _LEAST_OVERHEAD <= self.overhead <= 1:
            raise ConfigError(
                f"got {self.overhead}, must be a share of the training time, at least "
                f"{_LEAST_OVERHEAD} and at most 1, such as 0.03, or null for no bound",
                key="overhead",
            )
        self._check_alerts()

    def _check_alerts(self) -> None:
        asked = {*self.quantities, *(q for rule in self.layers for q in rule.quantities or ())}
        names = [rule.name for rule in self.alerts or ()]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ConfigError(
                    f"got {name!r} twice; give each rule a name of its own",
                    key=f"alerts[{index}].name",
                )
        for index, rule in enumerate(self.alerts or ()):
            # The default rules may be idle; one that somebody wrote would deceive.
            if rule.quantity is None or rule.quantity in asked:
                continue
            raise ConfigError(
                f"{rule.quantity} is not measured on any parameter, so the rule {rule.name!r} "
                "could never tell of it; add it to quantities, or leave the rule out",
                key=f"alerts[{index}].quantity",
            )

    @property
    def alert_rules(self) -> tuple[AlertRule, ...]:
        """What to be told of: the rules given, or the default ones."""
        return DEFAULT_ALERTS if self.alerts is None else self.alerts

    def to_dict(self) -> dict[str, object]:
        """The configuration as plain values, as YAML would write it."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def _plain(value: object) -> object:
    if isinstance(value, Schedule | LayerRule | Samples | Probes | Output | AlertRule):
        return {name.name: _plain(getattr(value, name.name)) for name in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if callable(value):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return f"{value.__module__}.{name}"
    return value


def _check_regex(pattern: str | None) -> None:
    import re

    try:
        re.compile(pattern or "")
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{pattern!r} is not a regular expression ({error}); escape special characters with "
            "a backslash, or use match for a glob pattern",
            key="regex",
        ) from None
