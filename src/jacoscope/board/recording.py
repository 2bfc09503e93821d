"""What one monitor recorded in one run, read as it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from jacoscope.board.catalogue import RunGroup, Tag
from jacoscope.board.fields import parsed, parsed_list
from jacoscope.board.store import Place, Store
from jacoscope.board.track import Steps, Track, is_overwritten

__all__ = ["Recording"]

_UNCLOCKED = (".run", ".steps", ".probes")
"""What runs describe themselves by comes with the first event, be it of a capture or of a probe."""

_EMPTY = Track(np.empty(0, np.int64), np.empty(0), np.empty(0))


class Recording:
    """Reads the values of a run's tags, without those that a resumed run overwrote.

    Args:
        group: What is there.
        store: Where to read it.
        place: Whose request it is.
    """

    def __init__(self, group: RunGroup, store: Store, place: Place) -> None:
        self.group = group
        self._store = store
        self._place = place
        self._texts: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}

    def tags(self, *quantities: str) -> tuple[Tag, ...]:
        """The tags of some quantities, and of what is needed to read them."""
        return self.group.of(*dict.fromkeys((*quantities, ".steps", ".probes")))

    def track(self, tag: Tag, most: int | None = None) -> Track:
        """The values of a tag that count.

        Args:
            tag: The tag.
            most: How many steps are enough, drawn at random, the last among them; all by default.
        """
        track = self._raw(tag, most)
        if tag.quantity in _UNCLOCKED:
            return track
        # Probes have a clock of their own: they are written at once, captures when the device has
        # answered, which may be after the probes of later steps.
        clock = self.probed if tag.is_probe else self.captured
        return track.where(~is_overwritten(track, clock))

    def _raw(self, tag: Tag, most: int | None = None) -> Track:
        return self._store.track(self._place, self.group.run, tag, most)

    @cached_property
    def captured(self) -> Track:
        """The epoch of every captured step."""
        return self._clock(".steps")

    @cached_property
    def probed(self) -> Track:
        """The epoch of every probed step."""
        return self._clock(".probes")

    def _clock(self, name: str) -> Track:
        tags = self.group.of(name)
        return self._raw(tags[0]) if tags else _EMPTY

    def tracks(self, *quantities: str) -> Iterable[tuple[Tag, Track]]:
        """The tags of some quantities with their values."""
        return [(tag, self.track(tag)) for tag in self.group.of(*quantities)]

    def texts(self, name: str) -> list[tuple[int, Mapping[str, Any]]]:
        """By step, the objects that a tag's texts hold; what is none is passed over."""
        if name not in self._texts:
            self._texts[name] = list(self.texts_backwards(name))[::-1]
        return self._texts[name]

    def texts_backwards(self, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The same from the last to the first, each parsed when it is asked for."""
        for _, track in self.tracks(name):
            for step, value in zip(track.steps_S[::-1].tolist(), track.values_S[::-1], strict=True):
                record = parsed(value) if isinstance(value, bytes | str) else None
                if record is not None:
                    yield step, record

    def lists(self, name: str) -> list[Mapping[str, Any]]:
        """The objects in the lists that a tag's texts hold, in the order of steps."""
        return [
            item
            for _, track in self.tracks(name)
            for value in track.values_S
            if isinstance(value, bytes | str)
            for item in parsed_list(value)
        ]

    def last_text(self, name: str) -> Mapping[str, Any]:
        """The last object that a tag's texts hold; empty if there is none."""
        return next((record for _, record in self.texts_backwards(name)), {})

    def steps_of(self, *quantities: str) -> Steps:
        """The steps at which any of these has a value."""
        steps = [track.steps_S for _, track in self.tracks(*quantities)]
        return np.unique(np.concatenate(steps)) if steps else np.empty(0, np.int64)
