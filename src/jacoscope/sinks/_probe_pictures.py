"""Texts and pictures of probes; pictures are drawn now and then and at the end of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from jacoscope.probe_record import AllocationRecord, ProbeRecord
from jacoscope.quantities import FloatArray
from jacoscope.sinks._drawing_time import DrawingTime
from jacoscope.sinks._probe_tables import probe_notes, step_table

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["ProbePictures"]

T = TypeVar("T")

_MOST_KEPT = 512
_WHOLE = "(all)"
_WATERFALL, _ALLOCATION = "all_else_equal/waterfall", "all_else_equal/allocation"
_SALIENCY, _SENSITIVITY = "outputs/saliency", "outputs/sensitivity_by_layer"
_SPECTRUM = "outputs/ntk_spectrum"


class ProbePictures:
    """Writes what probes say as texts, and draws it.

    Texts are written at once: ``GROUP_all_else_equal/step`` and, if it has changed,
    ``GROUP_outputs/about``. Pictures are drawn as soon as there is time for it, and the last
    probe's when the run ends: ``waterfall`` and ``allocation`` of ``GROUP_all_else_equal``,
    ``saliency``, ``ntk_spectrum`` and ``sensitivity_by_layer`` of ``GROUP_outputs``.

    Args:
        writer: The event file.
        group: The monitor's group.
        is_wanted: Whether to draw at all.
        time: What drawing takes.
        features: Names of the features of a table.

    Attributes:
        features: Names of the features of a table.
    """

    def __init__(
        self,
        writer: SummaryWriter,
        group: str,
        is_wanted: bool,
        time: DrawingTime,
        features: Sequence[str] = (),
    ) -> None:
        self.features = features
        self._writer = writer
        self._group = group
        self._is_wanted = is_wanted
        self._about = ""
        self._waiting: dict[str, ProbeRecord] = {}
        self._spectra: _Past[Mapping[str, FloatArray]] = _Past()
        self._allocations: _Past[AllocationRecord] = _Past()
        self._time = time

    def write(self, record: ProbeRecord) -> None:
        """Write a probe's texts, take up what is to be drawn, and draw it if it is time."""
        self._write_texts(record)
        if not self._is_wanted:
            return
        waiting = [tag for tag, part in _parts(record).items() if part is not None]
        self._waiting |= dict.fromkeys(waiting, record)
        if _SPECTRUM in waiting:
            self._spectra.add(record.step, {_WHOLE: record.spectra[_WHOLE]})
        if record.allocation is not None:
            self._allocations.add(record.step, record.allocation)
        self.catch_up()

    def catch_up(self) -> None:
        """Draw what waits, if there is time for it by now."""
        if self._waiting and self._time.allows(len(self._waiting)):
            self.draw()

    def draw(self) -> None:
        """Draw what has changed since it was last drawn."""
        with self._time.drawing(len(self._waiting)):
            for tag in list(self._waiting):
                record = self._waiting.pop(tag)
                image = self._picture(tag, record)
                self._writer.add_image(
                    f"{self._group}_{tag}", image, record.step, dataformats="HWC"
                )

    def stop(self) -> None:
        """Draw nothing any more; texts are still written."""
        self._is_wanted = False
        self._waiting.clear()
        self._spectra, self._allocations = _Past(), _Past()

    def _write_texts(self, record: ProbeRecord) -> None:
        if record.all_else_equal is not None:
            text = step_table(record.all_else_equal, record.step)
            self._writer.add_text(f"{self._group}_all_else_equal/step", text, record.step)
        about = probe_notes(record)
        # At the end of a run there is a record of the allocation alone, which says nothing of it.
        is_last = record.allocation is not None and not record.notes
        if not is_last and about != self._about:
            self._writer.add_text(f"{self._group}_outputs/about", about, record.step)
            self._about = about

    def _picture(self, tag: str, record: ProbeRecord) -> npt.NDArray[np.uint8]:
        # Matplotlib takes half a second to import, which runs without pictures need not pay.
        if tag == _WATERFALL and record.all_else_equal is not None:
            from jacoscope.sinks._waterfall import draw_waterfall

            return draw_waterfall(record.all_else_equal, record.step)
        if tag == _SALIENCY and record.saliency is not None:
            from jacoscope.sinks._saliency_picture import draw_saliency

            return draw_saliency(record.saliency, record.step, record.ids, self.features)
        if tag == _SENSITIVITY and record.output_sensitivity is not None:
            from jacoscope.sinks._output_sensitivity import draw_output_sensitivity

            return draw_output_sensitivity(record.output_sensitivity, record.step)
        if tag == _SPECTRUM:
            from jacoscope.sinks._spectrum_picture import draw_spectra

            return draw_spectra(self._spectra.entries, _WHOLE)
        from jacoscope.sinks._allocation_picture import draw_allocation

        return draw_allocation(self._allocations.entries)


def _parts(record: ProbeRecord) -> dict[str, object | None]:
    """By picture, what it shows of a record."""
    return {
        _WATERFALL: record.all_else_equal,
        _ALLOCATION: record.allocation,
        _SALIENCY: record.saliency,
        _SPECTRUM: record.spectra.get(_WHOLE),
        _SENSITIVITY: record.output_sensitivity,
    }


class _Past(Generic[T]):
    """A history by step: the first and the last entry, and some evenly between."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, T]] = []
        self._stride = 1
        self._count = 0

    def add(self, step: int, entry: T) -> None:
        if self._count and (self._count - 1) % self._stride:
            del self.entries[-1]  # was kept as the last alone
        self.entries.append((step, entry))
        self._count += 1
        if len(self.entries) > _MOST_KEPT:
            self._stride *= 2
            last = self.entries[-1]
            del self.entries[1::2]
            if self.entries[-1] is not last:
                self.entries.append(last)
