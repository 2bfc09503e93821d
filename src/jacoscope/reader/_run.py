"""What a run recorded, as pandas frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from jacoscope.errors import nearest
from jacoscope.reader._alerts import alert_frame
from jacoscope.reader._grams import Gram, quantile_frame
from jacoscope.reader._probes import ProbedSteps
from jacoscope.reader._samples import board_frame, sample_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Histogram", "Run"]


class Run:
    """What a monitor recorded in a run.

    ``run[quantity]`` is a frame with one row per captured step and one column per parameter;
    ``nan`` is a value that is not a number or, as :attr:`missing` then says, was not captured.

    Attributes:
        path: The run's folder.
        group: The monitor's group.
        config: The monitor's configuration, as plain values.
        versions: Versions of the packages that were at work.
        units: By quantity, its unit.
        steps: One row per captured step: its epoch, wall time, and which gradient it is of; the
            number of its ``samples`` and of those that per-sample quantities were measured on
            (``measured_samples``), and in words, as ``extent``, on how much of the step that was
            where an overhead budget left out samples or layers. Missing where it does not apply.
        parameters: One row per watched parameter: layer, type, kind, shape, size, quantities, …
        left_out: One row per parameter that is not watched, with the reason.
        missing: One row per value that is missing: step, quantity, parameter (``*`` for all) and
            reason.
        samples: One row per epoch and sample seen in it, with its last values in the epoch: id,
            label, loss, norm of its gradient, alignment with its batch and with its class (the mean
            of the cosines with the gradients of its others in the batch), running means over
            epochs of all but the alignment with its batch, …; ``nan`` where not known.
        samples_missing: By column of ``samples``, ``label`` or ``loss``, why captured steps lack it
            that should have it.
        capture: One row per parameter whose per-sample gradients were captured: the rules that it
            went by, how samples were told apart, and its relative error against masked
            back-propagation; as last recorded.
        coupled: Layers that couple the samples (batch normalisation in training mode).
        probes: What probes recorded besides their quantities: all else equal by layer and single
            weight, spectra, saliency; see :class:`~jacoscope.reader._probes.ProbedSteps`.
        standard_errors: By quantity, the standard errors of values that are estimates from random
            cotangents, as a frame like the quantity's own.
        headline: One row per captured or probed step, one column per headline scalar, and
            ``sample_count``, the number of samples in the captured batch; ``nan`` where a step does
            not have it. The run's last step has a row for ``monitor_overhead``, captured or not.
        alerts: One row per alert and row of it: step, epoch, name and severity of the rule, what it
            is on, the row, its value and bound, and all of it as a sentence.
        grams: By step, the Gram matrices of captured batches that were recorded whole; see
            :class:`~jacoscope.reader._grams.Gram`.
        leaderboards: One row per epoch, board and place: the samples that stand out. ``layer`` is
            that of a layer's board, whose norms and alignments are over the layer alone.
    """

    def __init__(
        self,
        path: Path,
        group: str,
        values: dict[str, pd.DataFrame],
        histograms: dict[str, Histogram],
        steps: pd.DataFrame,
        missing: pd.DataFrame,
        units: dict[str, str],
        described: dict[str, Any],
        epochs: Mapping[int, Mapping[str, Any]],
        capture: Mapping[str, Any],
        probes: ProbedSteps,
        standard_errors: dict[str, pd.DataFrame],
        headline: pd.DataFrame,
        alerts: Mapping[int, Sequence[Mapping[str, Any]]],
        grams: dict[int, Gram],
        quantiles: tuple[Mapping[int, tuple[tuple[str, ...], npt.NDArray[Any]]], tuple[float, ...]],
        unknown: Mapping[str, str],
    ) -> None:
        import pandas as pd

        self.path = path
        self.probes = probes
        self.standard_errors = standard_errors
        self.headline = headline
        self.alerts = alert_frame(alerts)
        self.grams = grams
        self._quantiles = quantiles
        self.capture = pd.DataFrame(
            [
                (name, rule, capture["layouts"].get(name), capture["verification"].get(name))
                for name, rule in capture.get("rules", {}).items()
            ],
            columns=["parameter", "rule", "layout", "verification"],
        ).set_index("parameter")
        self.coupled = tuple(capture.get("coupled", ()))
        self.group = group
        self.units = units
        self.steps = steps
        self.missing = missing
        self.config: dict[str, Any] = described.get("config", {})
        self.versions: dict[str, str] = described.get("versions", {})
        self.parameters = pd.DataFrame(described.get("parameters", []))
        self.left_out = pd.DataFrame(
            described.get("left_out", []), columns=["parameter", "layer", "reason"]
        )
        self.samples = sample_frame(epochs)
        self.samples_missing = dict(unknown)
        self.leaderboards = board_frame(epochs)
        self._values = values
        self._histograms = histograms

    @property
    def quantities(self) -> list[str]:
        """Names of the quantities that have one value per parameter."""
        return list(self._values)

    def __contains__(self, quantity: object) -> bool:
        """Whether the run has a quantity with one value per parameter or row."""
        return quantity in self._values

    def __iter__(self) -> Iterator[str]:
        """Names of these quantities."""
        return iter(self._values)

    def __getitem__(self, quantity: str) -> pd.DataFrame:
        """A quantity: one row per captured step, one column per parameter."""
        if quantity == "grad_histogram" and self._histograms:
            raise KeyError("grad_histogram has many values per parameter; use run.histogram(name)")
        if quantity not in self._values:
            raise KeyError(f"the run has no {quantity!r}{self._why_without(quantity)}")
        return self._values[quantity].copy()

    def _why_without(self, quantity: str) -> str:
        """Why the run lacks a quantity, to end a sentence with."""
        reasons = list(self.missing["reason"][self.missing["quantity"] == quantity].unique())
        if not reasons:
            return f"; {nearest(quantity, self._values)}"
        others = f" (run.missing has {len(reasons) - 1} more reasons)" if reasons[1:] else ""
        return f", which was withheld: {reasons[-1]}{others}"

    def histogram(self, parameter: str) -> pd.DataFrame:
        """A parameter's gradients by bin: one row per captured step, one column per bin.

        Columns are intervals; the outermost hold all that lies beyond, up to the largest float. A
        number on an edge counts in the bin that is farther from zero.
        """
        if parameter not in self._histograms:
            hint = nearest(parameter, self._histograms)
            raise KeyError(f"the run has no histogram of {parameter!r}; {hint}")
        return self._histograms[parameter].frame()

    def sample_norm_quantiles(self, row: str = "(all)") -> pd.DataFrame:
        """Quantiles of the per-sample gradient norms ‖g_i‖ over the samples of each captured step.

        Args:
            row: A parameter, or what is measured as a whole: ``(all)``, ``layer NAME``.
        """
        steps, quantiles = self._quantiles
        rows = dict.fromkeys(name for names, _ in steps.values() for name in names)
        if row not in rows:
            raise KeyError(f"the run has no sample norms of {row!r}; {nearest(row, rows)}")
        return quantile_frame(steps, quantiles, row)

    def to_frame(self) -> pd.DataFrame:
        """Everything in long form: columns step, epoch, quantity, parameter, layer, value."""
        import pandas as pd

        layers = dict(zip(self.parameters["parameter"], self.parameters["layer"], strict=True))
        parts = []
        for quantity, frame in self._values.items():
            part = frame.melt(var_name="parameter", value_name="value", ignore_index=False)
            parts.append(part.reset_index().assign(quantity=quantity))
        columns = ["step", "epoch", "quantity", "parameter", "layer", "value"]
        if not parts:
            return pd.DataFrame(columns=columns)
        long = pd.concat(parts, ignore_index=True)
        long["layer"] = long["parameter"].map(layers)
        epochs = {**self.probes.epochs, **dict(self.steps.get("epoch", {}))}
        long["epoch"] = long["step"].map(epochs)
        return long[columns]

    def __repr__(self) -> str:
        return (
            f"Run({str(self.path)!r}, group={self.group!r}, {len(self.steps)} captured steps, "
            f"{len(self.parameters)} parameters, quantities: {', '.join(self._values)})"
        )


class Histogram:
    """A parameter's histograms by step.

    Args:
        edges: Edges of the bins, shape (N + 1,).
    """

    def __init__(self, edges: list[float]) -> None:
        self.edges = edges
        self.counts: dict[int, npt.NDArray[Any]] = {}

    def frame(self) -> pd.DataFrame:
        """One row per step, one column per bin."""
        import pandas as pd

        columns = pd.IntervalIndex.from_breaks(self.edges, closed="neither")
        frame = pd.DataFrame(self.counts, index=columns).T.sort_index()
        frame.index.name = "step"
        return frame
