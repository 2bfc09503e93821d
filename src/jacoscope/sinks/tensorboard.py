"""The TensorBoard sink: everything that a run shows there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jacoscope.alerts import Alert, describe_alert
from jacoscope.config import Output
from jacoscope.faults import Faults
from jacoscope.leaderboard import EpochBoards
from jacoscope.plan import lanes_of
from jacoscope.probe_record import ProbeRecord
from jacoscope.quantities import HEADLINES, HISTOGRAM_EDGES
from jacoscope.record import GradientInfo, Record, StepRecord
from jacoscope.sinks._alert_table import alerts_text
from jacoscope.sinks._card import card_text
from jacoscope.sinks._pictures import Pictures
from jacoscope.sinks._probe_pictures import ProbePictures
from jacoscope.sinks._record_events import RecordEvents
from jacoscope.sinks._sample_pictures import SamplePictures
from jacoscope.sinks._sample_tables import sample_tables
from jacoscope.sinks._sink import RunInfo, Sink

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TensorBoardSink"]


class TensorBoardSink(Sink):
    """Writes records to a TensorBoard event file.

    Args:
        writer: The event file.
        output: What to write.
        owns_writer: Whether to close the writer in the end.
        headline: Whether to write the headline here, if ``output`` wants it.
        faults: What to do when a picture fails, which must not cost the record; by default, warn.

    Tags, with ``GROUP`` from ``output.group``:

    - ``GROUP/NAME``: the headline scalars, see :data:`jacoscope.quantities.HEADLINES`.
    - ``GROUP_layers_by_step/QUANTITY``: pictures.
    - ``GROUP_gradients/PARAMETER``: histograms of ``grad_histogram``.
    - ``GROUP_parameters_QUANTITY/PARAMETER``: scalars per parameter, where asked for.
    - ``GROUP_samples/BOARD``: tables of the samples that stand out in an epoch; those of all layers
      are in ``GROUP_samples/largest_gradient_by_layer``.
    - ``GROUP_samples_pictures/BOARD``: the samples themselves, where they are images, unless
      ``output.pictures`` is empty.
    - ``GROUP_all_else_equal/step``: a table of what a probed step's derivatives promised, layer by
      layer, and what came of it; ``waterfall`` and ``allocation``: pictures of it.
    - ``GROUP_outputs/…``: pictures of what moves the outputs: ``saliency``, ``ntk_spectrum``,
      ``sensitivity_by_layer``; ``about``: how the probes went.
    - ``GROUP/alerts``: a table of all alerts so far.
    - ``GROUP/about``: the text card.
    - ``jacoscope/GROUP/…``: the full record, for ``read_run``.
    """

    subject = "writing to TensorBoard"

    def __init__(
        self,
        writer: SummaryWriter,
        output: Output,
        *,
        owns_writer: bool = False,
        headline: bool = True,
        faults: Faults | None = None,
    ) -> None:
        self._writer = writer
        self._output = output
        self._owns_writer = owns_writer
        self._writes_headline = headline and output.headline
        self._events = RecordEvents(writer, output.group)
        self._pictures = Pictures(writer, output.group, output.pictures)
        is_wanted = bool(output.pictures)
        self._sample_pictures = SamplePictures(writer, output.group, is_wanted)
        self._probe_pictures = ProbePictures(writer, output.group, is_wanted)
        self._faults = faults or Faults("warn")
        self._unexplained: RunInfo | None = None
        self._alerts: list[dict[str, Any]] = []

    def open(self, run: RunInfo) -> None:
        """Take note of the run; its card is written with the first step."""
        self._events.open(run)
        lanes = lanes_of(run.selection)
        pairs = [pair for lane in lanes for pair in lane.axes.items()]
        self._pictures.expect([*pairs, *run.probed])
        self._probe_pictures.features = run.config.probes.features
        self._unexplained = run

    def write(self, record: StepRecord) -> None:
        """Write one captured step."""
        if self._unexplained is not None:
            self._explain(self._unexplained, record.gradient, record.step)
            self._unexplained = None
        if self._writes_headline:
            for name, value in record.headline.items():
                self._writer.add_scalar(f"{self._output.group}/{name}", value, record.step)
        if self._output.records:
            self._events.write(record)
        for item in record.records:
            if item.quantity == "grad_histogram":
                self._write_histograms(item, record.step)
            elif item.quantity in self._output.layer_scalars:
                self._write_layer_scalars(item, record.step)
        with self._faults.contain("drawing pictures", self._pictures.stop):
            self._pictures.write(record)

    def write_boards(self, boards: EpochBoards) -> None:
        """Write the sample leaderboards of an epoch."""
        for name, text in sample_tables(boards):
            self._writer.add_text(f"{self._output.group}_samples/{name}", text, boards.step)
        if self._output.records:
            self._events.write_boards(boards)
        with self._faults.contain("drawing samples", self._sample_pictures.stop):
            self._sample_pictures.write(boards)

    def write_probe(self, record: ProbeRecord) -> None:
        """Write the probes of a step."""
        if self._unexplained is not None:
            self._explain(self._unexplained, GradientInfo(), record.step)
            self._unexplained = None
        if self._writes_headline:
            for name, value in record.headline.items():
                self._writer.add_scalar(f"{self._output.group}/{name}", value, record.step)
        if self._output.records:
            self._events.write_probe(record)
        for item in record.records:
            if item.quantity in self._output.layer_scalars:
                self._write_layer_scalars(item, record.step)
        with self._faults.contain("drawing probes", self._probe_pictures.stop):
            self._probe_pictures.write(record)
        with self._faults.contain("drawing pictures", self._pictures.stop):
            self._pictures.write(record)

    def write_alerts(self, alerts: Sequence[Alert]) -> None:
        """Write the alerts of a step, and a table of all so far."""
        self._alerts = [*self._alerts, *(describe_alert(alert) for alert in alerts)]
        self._writer.add_text(
            f"{self._output.group}/alerts", alerts_text(self._alerts), alerts[0].step
        )
        if self._output.records:
            self._events.write_alerts(alerts)

    def close(self) -> None:
        """Draw the last pictures, and flush or close the event file."""
        with self._faults.contain("drawing pictures", self._pictures.stop):
            self._pictures.draw()
        with self._faults.contain("drawing samples", self._sample_pictures.stop):
            self._sample_pictures.draw()
        with self._faults.contain("drawing probes", self._probe_pictures.stop):
            self._probe_pictures.draw()
        self._writer.flush()
        if self._owns_writer:
            self._writer.close()

    def state_dict(self) -> dict[str, Any]:
        """The pictures' histories."""
        return {"pictures": self._pictures.state_dict(), "alerts": list(self._alerts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the pictures' histories."""
        self._pictures.load_state_dict(state.get("pictures", {}))
        self._alerts = list(state.get("alerts", []))

    def _explain(self, run: RunInfo, gradient: GradientInfo, step: int) -> None:
        group = self._output.group
        if self._output.card:
            self._writer.add_text(f"{group}/about", card_text(run, gradient), step)
        if self._output.custom_scalars:
            self._writer.add_custom_scalars(_layout(group))

    def _write_layer_scalars(self, record: Record, step: int) -> None:
        prefix = f"{self._output.group}_parameters_{record.quantity}"
        for name, value in zip(record.axis.names, record.values.tolist(), strict=True):
            if name not in record.missing:
                self._writer.add_scalar(f"{prefix}/{name}", value, step)

    def _write_histograms(self, record: Record, step: int) -> None:
        if not self._output.histograms:
            return
        prefix = f"{self._output.group}_gradients"
        for name, counts_N in zip(record.axis.names, record.values, strict=True):
            filled = np.flatnonzero(counts_N > 0)
            if name in record.missing or not filled.size:
                continue
            first, last = int(filled[0]), int(filled[-1]) + 1
            edges, counts = HISTOGRAM_EDGES[first : last + 1], counts_N[first:last]
            centres = (edges[:-1] + edges[1:]) / 2
            # TensorBoard takes right edges and starts the first bin at the smallest number, so an
            # empty bin in front keeps the first one from being stretched.
            self._writer.add_histogram_raw(
                f"{prefix}/{name}",
                min=float(edges[0]),
                max=float(edges[-1]),
                num=float(counts.sum()),
                sum=float(counts @ centres),
                sum_squares=float(counts @ centres**2),
                bucket_limits=edges.tolist(),
                bucket_counts=[0.0, *counts.tolist()],
                global_step=step,
            )


def _layout(group: str) -> dict[str, dict[str, list[Any]]]:
    charts: dict[str, list[Any]] = {
        "gradient: norm and largest": ["Multiline", [f"{group}/grad_norm$", f"{group}/grad_max$"]],
        "pace: update ratio": ["Multiline", [f"{group}/update_ratio$"]],
        "direction: cosine of update and descent": ["Multiline", [f"{group}/update_cosine$"]],
        "faults: zero share, non-finite, coverage": [
            "Multiline",
            [f"{group}/grad_zero_fraction$", f"{group}/grad_nonfinite$", f"{group}/coverage$"],
        ],
    }
    assert all(
        any(tag.endswith(f"/{name}$") for name in [*(h.name for h in HEADLINES), "coverage"])
        for chart in charts.values()
        for tag in chart[1]
    )
    return {"Jacoscope": charts}
