"""The TensorBoard sink: everything that a run shows there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
from jacoscope.sinks._drawing_time import DrawingTime
from jacoscope.sinks._events import add_values, histogram_value, scalar_value, text_panel
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
        time = DrawingTime()
        self._pictures = Pictures(writer, output.group, output.pictures, time)
        is_wanted = bool(output.pictures)
        self._sample_pictures = SamplePictures(writer, output.group, is_wanted, time)
        self._probe_pictures = ProbePictures(writer, output.group, is_wanted, time)
        self._faults = faults or Faults("warn")
        self._run: RunInfo | None = None
        self._unexplained: RunInfo | None = None
        self._extent = ""
        self._alerts: list[dict[str, Any]] = []

    def open(self, run: RunInfo) -> None:
        """Take note of the run; its card is written with the first step."""
        self._events.open(run)
        lanes = lanes_of(run.selection)
        pairs = [pair for lane in lanes for pair in lane.axes.items()]
        self._pictures.expect([*pairs, *run.probed])
        self._probe_pictures.features = run.config.probes.features
        self._run = self._unexplained = run

    def write(self, record: StepRecord) -> None:
        """Write one captured step."""
        if record.samples is not None and record.capture.get("extent", "") != self._extent:
            self._extent = record.capture.get("extent", "")
            self._unexplained = self._run
        if self._unexplained is not None:
            self._explain(self._unexplained, record.gradient, record.step)
            self._unexplained = None
        values = self._headline(record.headline)
        for item in record.records:
            if item.quantity == "grad_histogram":
                values += self._histograms(item)
            elif item.quantity in self._output.layer_scalars:
                values += self._layer_scalars(item)
        if self._output.records:
            self._events.write(record, values)
        else:
            self._add(values, record.step)
        with self._faults.contain("drawing pictures", self._pictures.stop):
            self._pictures.write(record)
        with self._faults.contain("drawing samples", self._sample_pictures.stop):
            self._sample_pictures.catch_up()
        with self._faults.contain("drawing probes", self._probe_pictures.stop):
            self._probe_pictures.catch_up()

    def write_boards(self, boards: EpochBoards) -> None:
        """Write the sample leaderboards of an epoch."""
        group = f"{self._output.group}_samples"
        tables = sample_tables(boards)
        self._add([text_panel(f"{group}/{name}", text) for name, text in tables], boards.step)
        if self._output.records:
            self._events.write_boards(boards)
        with self._faults.contain("drawing samples", self._sample_pictures.stop):
            self._sample_pictures.write(boards)

    def write_probe(self, record: ProbeRecord) -> None:
        """Write the probes of a step."""
        if self._unexplained is not None:
            self._explain(self._unexplained, GradientInfo(), record.step)
            self._unexplained = None
        values = self._headline(record.headline)
        for item in record.records:
            if item.quantity in self._output.layer_scalars:
                values += self._layer_scalars(item)
        self._add(values, record.step)
        if self._output.records:
            self._events.write_probe(record)
        with self._faults.contain("drawing probes", self._probe_pictures.stop):
            self._probe_pictures.write(record)
        with self._faults.contain("drawing pictures", self._pictures.stop):
            self._pictures.write(record)

    def write_headline(self, step: int, headline: Mapping[str, float]) -> None:
        """Write scalars that are of no record."""
        self._add(self._headline(headline), step)
        if self._output.records:
            self._events.write_headline(step, headline)

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
            self._writer.add_text(f"{group}/about", card_text(run, gradient, self._extent), step)
        if self._output.custom_scalars:
            self._writer.add_custom_scalars(_layout(group))

    def _add(self, values: list[Any], step: int) -> None:
        """Write values as one event: each may have to wait for the file, and wakes its thread."""
        if values:
            add_values(self._writer, values, step)

    def _headline(self, headline: Mapping[str, float]) -> list[Any]:
        if not self._writes_headline:
            return []
        return [
            scalar_value(f"{self._output.group}/{name}", value) for name, value in headline.items()
        ]

    def _layer_scalars(self, record: Record) -> list[Any]:
        prefix = f"{self._output.group}_parameters_{record.quantity}"
        return [
            scalar_value(f"{prefix}/{name}", value)
            for name, value in zip(record.axis.names, record.values.tolist(), strict=True)
            if name not in record.missing
        ]

    def _histograms(self, record: Record) -> list[Any]:
        if not self._output.histograms:
            return []
        prefix = f"{self._output.group}_gradients"
        return [
            histogram_value(f"{prefix}/{name}", HISTOGRAM_EDGES, counts_N)
            for name, counts_N in zip(record.axis.names, record.values, strict=True)
            if name not in record.missing and (counts_N > 0).any()
        ]


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
