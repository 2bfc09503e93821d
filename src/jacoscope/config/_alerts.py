"""What to be told of while a model trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jacoscope.config._coerce import coerce_fields
from jacoscope.config._names import ParameterKind, QuantityName
from jacoscope.errors import ConfigError

__all__ = ["ALERT_REASONS", "DEFAULT_ALERTS", "AlertRule", "HeadlineName"]

HeadlineName = Literal[
    "grad_norm",
    "grad_max",
    "grad_rms_spread",
    "grad_zero_fraction",
    "grad_nonfinite",
    "weight_norm",
    "update_norm",
    "update_ratio",
    "update_cosine",
    "saliency",
    "coverage",
    "monitor_overhead",
    "sample_closure",
    "sample_coverage",
]
"""The headline scalars that a rule can be on."""


@dataclass(frozen=True)
class AlertRule:
    """One thing to be told of: a value beyond a bound, for some captures in a row.

    Args:
        name: What it is called in the log and in TensorBoard.
        quantity: The quantity that it is on, row by row; or else
        headline: the headline scalar that it is on.
        match: Glob pattern or patterns (``*`` crosses dots) on the names of rows: parameters, and
            for per-sample quantities ``(all)``, ``layer NAME`` and ``group NAME`` too. By default
            all parameters.
        kind: Kind or kinds of parameter: weight, bias, norm, embedding, other.
        above: Tell when the value is above this bound.
        below: Tell when the value is below this bound.
        of: What the bounds are multiples of: the ``value`` 1, that is, bounds as they stand; the
            ``median`` of the same quantity over the rule's rows at the same step; the ``past`` of
            the same row, its geometric running mean over earlier captures, once there are five; or
            the ``batch``, its number of samples.
        captures: For how many captures in a row.
        severity: ``note``, ``warning`` or ``alert``.
        stop: Whether to ask the Trainer to stop as well; with several processes, at the end of the
            epoch.

    Raises:
        ConfigError: If it is not on one thing, has no bound, or a number is out of range.
    """

    name: str
    quantity: QuantityName | None = None
    headline: HeadlineName | None = None
    match: str | tuple[str, ...] | None = None
    kind: ParameterKind | tuple[ParameterKind, ...] | None = None
    above: float | None = None
    below: float | None = None
    of: Literal["value", "median", "past", "batch"] = "value"
    captures: int = 1
    severity: Literal["note", "warning", "alert"] = "warning"
    stop: bool = False

    def __post_init__(self) -> None:
        coerce_fields(self)
        if not self.name.strip():
            raise ConfigError("is empty; say in a word what it tells of", key="name")
        if (self.quantity is None) == (self.headline is None):
            given = "neither" if self.quantity is None else "both"
            raise ConfigError(
                f"{given} of quantity and headline given; name the one that the rule is on",
                key="quantity",
            )
        if self.quantity == "grad_histogram":
            raise ConfigError(
                "grad_histogram has many values per layer; name another quantity", key="quantity"
            )
        self._check_rows()
        self._check_bounds()

    def _check_rows(self) -> None:
        for key in ("match", "kind"):
            value = getattr(self, key)
            if value is not None and self.headline is not None:
                raise ConfigError(
                    "a headline scalar is on the whole model; leave this key out, or name a "
                    "quantity",
                    key=key,
                )
            if value in ((), "") or (isinstance(value, tuple) and "" in value):
                raise ConfigError("is empty; name at least one, or leave the key out", key=key)
        if self.headline is not None and self.of == "median":
            raise ConfigError(
                "got 'median', but a headline scalar has no other rows; write past or value",
                key="of",
            )

    def _check_bounds(self) -> None:
        if self.above is None and self.below is None:
            raise ConfigError("has no bound; give above, below or both", key="above")
        if self.above is not None and self.below is not None and self.below >= self.above:
            raise ConfigError(
                f"got {self.below}, but above is {self.above}; every value would be told of",
                key="below",
            )
        for key in ("above", "below"):
            bound = getattr(self, key)
            if bound is None:
                continue
            if bound != bound:
                raise ConfigError("got nan, must be a number", key=key)
            if self.of != "value" and bound <= 0:
                raise ConfigError(
                    f"got {bound}, must be more than 0 as a multiple of the {self.of}", key=key
                )
        if self.captures < 1:
            raise ConfigError(f"got {self.captures}, must be at least 1", key="captures")


DEFAULT_ALERTS: tuple[AlertRule, ...] = (
    AlertRule(name="non-finite", quantity="grad_nonfinite", above=0, severity="alert"),
    AlertRule(name="exploding", headline="grad_norm", above=100, of="past"),
    AlertRule(
        name="vanishing", quantity="grad_rms", kind="weight", below=1e-4, of="median", captures=10
    ),
    AlertRule(name="dead", quantity="grad_zero_fraction", kind="weight", above=0.999, captures=10),
    AlertRule(name="too fast", quantity="update_ratio", kind="weight", above=0.1, captures=10),
    AlertRule(name="too slow", quantity="update_ratio", kind="weight", below=6e-8, captures=20),
    AlertRule(
        name="noisy batch",
        quantity="noise_scale",
        match="(all)",
        above=20,
        of="batch",
        captures=20,
        severity="note",
    ),
    AlertRule(name="coverage lost", headline="coverage", below=0.99, of="past"),
    AlertRule(name="coverage of samples lost", headline="sample_coverage", below=0.99, of="past"),
)
"""What one is told of by default."""

ALERT_REASONS = {
    "non-finite": "A gradient that is not finite spoils the weights with the next step; one is "
    "enough.",
    "exploding": "Norms vary a few times from step to step; a hundredfold jump over the run so "
    "far is a cliff of the loss (Pascanu et al., arXiv:1211.5063, section 2.3) or a broken batch.",
    "vanishing": "Weights whose gradient is ten thousand times smaller than is usual in the model: "
    "where gradients shrink from layer to layer by a constant factor, the first layers come to "
    "this (Glorot and Bengio, AISTATS 2010, section 4).",
    "dead": "Next to no weight of the layer has a gradient, so that it does not learn (Lu et al., "
    "arXiv:1903.06733). Embeddings are left out: rows of absent tokens have none by right.",
    "too fast": "About 1e-3 is usual; at a tenth, ten steps replace the weights.",
    "too slow": "Half of what separates a number in single precision from the next (2⁻²⁴): such "
    "updates are lost in rounding.",
    "noisy batch": "The gradient of such a batch is nearly all noise: a larger one, or averaging "
    "over more steps, would be worth it (McCandlish et al., arXiv:1812.06162, section 2).",
    "coverage lost": "Numbers that were there are missing: what follows is not of the same model.",
    "coverage of samples lost": "The same for per-sample gradients.",
}
"""Why the default rules are what they are, by name."""
