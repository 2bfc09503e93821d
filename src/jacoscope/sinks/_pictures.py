"""Layer × step pictures, drawn now and then and at the end of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jacoscope.config import QuantityName
from jacoscope.probe_record import ProbeRecord
from jacoscope.quantities import QUANTITIES
from jacoscope.record import Axis, StepRecord
from jacoscope.sinks._drawing_time import DrawingTime
from jacoscope.sinks._history import History, page_count

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Pictures"]

_FIRST_DRAWING = 8
_GROWTH = 1.5


class Pictures:
    """Draws chosen quantities as layer × step pictures.

    Drawing takes a tenth of a second, or seconds for hundreds of layers. It is done after 8, 12,
    18, 27, … captures, as far as there is time for it, and once more when the run ends.

    Args:
        writer: The event file.
        group: The monitor's group.
        quantities: What to draw, where it is measured.
        time: What drawing takes.
    """

    def __init__(
        self,
        writer: SummaryWriter,
        group: str,
        quantities: Sequence[QuantityName],
        time: DrawingTime,
    ) -> None:
        self._writer = writer
        self._group = group
        self._quantities = quantities
        self._histories: dict[tuple[str, str], History] = {}
        self._restored: dict[str, Any] = {}
        self._expected: set[str] | None = None
        self._captures = 0
        self._next_drawing = _FIRST_DRAWING
        self._drawn_at = -1
        self._time = time

    def expect(self, axes: Iterable[tuple[str, Axis]]) -> None:
        """Take note of the quantities and axes to come; histories of others are let go."""
        self._expected = {f"{quantity}/{axis.digest}" for quantity, axis in axes}
        self.load_state_dict(self._restored)

    def write(self, record: StepRecord | ProbeRecord) -> None:
        """Take up a captured step, and draw if it is time."""
        for item in record.records:
            if item.quantity not in self._quantities or item.axis.is_of_groups:
                continue
            key = (str(item.quantity), item.axis.digest)
            if key not in self._histories:
                self._histories[key] = History(item.axis)
                self._histories[key].load_state_dict(self._restored.get("/".join(key), {}))
            self._histories[key].append(record.step, item.values, item.missing)
        self._captures += 1
        if self._captures >= self._next_drawing:
            self._next_drawing = int(self._captures * _GROWTH)
            if self._time.allows(self._pages):
                self.draw()

    @property
    def _pages(self) -> int:
        return sum(page_count(history) for history in self._histories.values())

    def draw(self) -> None:
        """Draw every picture that has changed since it was last drawn."""
        latest = max((history.last_step for history in self._histories.values()), default=-1)
        if latest == self._drawn_at:
            return
        self._drawn_at = latest
        with self._time.drawing(self._pages):
            self._draw(latest)

    def _draw(self, step: int) -> None:
        # Matplotlib takes half a second to import, which runs without pictures need not pay.
        from jacoscope.sinks._heatmap import draw_heatmap

        drawn: Counter[str] = Counter()
        for key, history in self._histories.items():
            name = key[0]
            drawn[name] += 1  # layers with schedules of their own make pictures of their own
            quantity = QUANTITIES[name]  # type: ignore[index]
            for page in range(page_count(history)):
                image = draw_heatmap(quantity, history, page)
                lane = f"_{drawn[name]}" if drawn[name] > 1 else ""
                part = f"_page{page + 1}" if page_count(history) > 1 else ""
                tag = f"{self._group}_layers_by_step/{name}{lane}{part}"
                self._writer.add_image(tag, image, step, dataformats="HWC")

    def stop(self) -> None:
        """Draw nothing any more."""
        self._quantities = ()
        self._histories.clear()
        self._restored.clear()

    def state_dict(self) -> dict[str, Any]:
        """The histories as plain values."""
        current = {"/".join(key): history.state_dict() for key, history in self._histories.items()}
        return {**self._restored, **current}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up histories, to be continued by the steps that follow."""
        known = self._expected
        self._restored = {k: v for k, v in state.items() if known is None or k in known}
