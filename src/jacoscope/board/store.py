"""Reading tags from TensorBoard: each once, kept while there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from tensorboard.data.provider import RunTagFilter
from tensorboard.errors import NotFoundError

from jacoscope.board.catalogue import Catalogue, Tag
from jacoscope.board.fields import listing
from jacoscope.board.track import Track
from jacoscope.schema import PLUGIN_NAME

__all__ = ["Place", "Store"]

_ALL_STEPS = 10**9
_READ_BYTES = 64 * 2**20
"""The most to read of a tag at once: TensorBoard refuses messages of more than 256 MiB."""
_CACHE_BYTES = 256 * 2**20

_NUMBER_BYTES = 4
"""Of a number in single precision; in a run that trains in double, replies are twice as large."""

_Key = tuple[str, str, str, int, float, int | None]


@dataclass(frozen=True)
class Place:
    """Where a request reads.

    Args:
        context: TensorBoard's context of the request.
        experiment: TensorBoard's id of the experiment.
    """

    context: Any
    experiment: str


class Store:
    """Reads what is recorded; safe to use from several threads.

    Args:
        provider: TensorBoard's data provider.
        cache_bytes: How much of what was read to keep.
        read_bytes: How much to read of one tag; of one that has more, steps are left out.
    """

    def __init__(
        self, provider: Any, cache_bytes: int = _CACHE_BYTES, read_bytes: int = _READ_BYTES
    ) -> None:
        self._provider = provider
        self._cache_bytes = cache_bytes
        self._read_bytes = read_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, Track] = OrderedDict()
        self._sizes: dict[_Key, int] = {}
        self._reading: dict[_Key, Future[Track]] = {}

    def catalogue(self, place: Place) -> Catalogue:
        """What is recorded now."""
        listing = self._provider.list_tensors(
            place.context, experiment_id=place.experiment, plugin_name=PLUGIN_NAME
        )
        return Catalogue(listing)

    def track(self, place: Place, run: str, tag: Tag, most: int | None = None) -> Track:
        """The values of a tag; several threads that want the same wait for one of them.

        Args:
            place: Whose request it is.
            run: The run.
            tag: The tag.
            most: How many steps are enough; of more, so many are drawn, the last among them.
        """
        whole: _Key = (place.experiment, run, *tag.state, None)
        key: _Key = (*whole[:-1], most)
        with self._lock:
            for known in (whole, key):
                if known in self._kept:
                    self._kept.move_to_end(known)
                    return self._kept[known]
            future = self._reading.get(key)
            is_first = future is None
            if future is None:
                future = self._reading[key] = Future()
        if not is_first:
            return future.result()
        try:
            track = self._read(place, run, tag, most)
        except BaseException as error:
            with self._lock:
                del self._reading[key]
            future.set_exception(error)
            raise
        with self._lock:
            del self._reading[key]
            self._keep(key, track)
        future.set_result(track)
        return track

    def _keep(self, key: _Key, track: Track) -> None:
        """Keep a tag's values instead of its older ones, and forget what was not used longest."""
        same = [other for other in self._kept if other[:3] == key[:3]]
        for older in [other for other in same if other[:5] != key[:5]]:
            self._forget(older)
        size = track.nbytes
        if size > self._cache_bytes:
            return
        self._kept[key] = track
        self._sizes[key] = size
        while sum(self._sizes.values()) > self._cache_bytes:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: _Key) -> None:
        del self._kept[key]
        del self._sizes[key]

    def _read(self, place: Place, run: str, tag: Tag, enough: int | None) -> Track:
        size = _bytes_per_step(tag) or self._bytes_of_last(place, run, tag)
        most = min(max(2, self._read_bytes // size), enough or _ALL_STEPS)
        data = self._fetch(place, run, tag, most)
        return Track.of(
            [datum.step for datum in data],
            [datum.wall_time for datum in data],
            [datum.numpy for datum in data],
            is_thinned=len(data) >= most,
        )

    def _bytes_of_last(self, place: Place, run: str, tag: Tag) -> int:
        """How large the last value is, or twice that where they differ: histograms and texts."""
        last = self._fetch(place, run, tag, 1)
        if not last:
            return 1
        value = last[-1].numpy
        if value.dtype == object:
            return max(1, 2 * sum(len(item) for item in value.flat))
        return max(1, int(value.nbytes) * (2 if "edges" in tag.schema else 1))

    def _fetch(self, place: Place, run: str, tag: Tag, most: int) -> list[Any]:
        try:
            found = self._provider.read_tensors(
                place.context,
                experiment_id=place.experiment,
                plugin_name=PLUGIN_NAME,
                downsample=most,
                run_tag_filter=RunTagFilter(runs=[run], tags=[tag.name]),
            )
        except NotFoundError:  # the run was deleted since it was listed
            return []
        return list(found.get(run, {}).get(tag.name, ()))


def _bytes_per_step(tag: Tag) -> int | None:
    """How large a value is at most, where the metadata say it."""
    if tag.quantity in (".steps", ".probes"):
        return _NUMBER_BYTES
    rows = len(tag.names) * _NUMBER_BYTES
    if tag.quantity == ".sample_quantiles":
        return rows * max(1, len(listing(tag.schema, "quantiles")))
    is_column = not tag.quantity.startswith(".") or tag.quantity in (".headline", ".error")
    return rows or None if is_column and "edges" not in tag.schema else None
