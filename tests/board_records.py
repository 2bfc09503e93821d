"""Records for the tests of the tab's back end: written event by event, read as TensorBoard does.

Real runs are in :mod:`board_runs`; these are for what a real run does not do at will.
"""

from __future__ import annotations

import functools
import json
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import settings
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins import base_plugin
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from werkzeug.test import Client, TestResponse

from board_runs import convolutional
from jacoscope.board.catalogue import Catalogue
from jacoscope.board.plugin import SensitivityPlugin
from jacoscope.board.recording import Recording
from jacoscope.board.store import Place, Store
from jacoscope.schema import SCHEMA_VERSION
from jacoscope.sinks._events import tensor_value, text_value

CALM = settings(derandomize=True, deadline=None)
"""For tests of properties: the same every time, on however slow a machine."""

RUN, GROUP = "run", "sensitivity"
NAMES = ("first.weight", "first.bias", "last.weight")


class Log:
    """Writes events of a run at the wall times that a test wants.

    Args:
        folder: The run's folder.
        group: The monitor's group.
    """

    def __init__(self, folder: Path, group: str = GROUP) -> None:
        self._writer = EventFileWriter(str(folder))
        self._prefix = f"jacoscope/{group}"
        self._described: set[str] = set()
        self._wall = 1000.0

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def event(self, step: int, *values: Any, wall: float | None = None) -> None:
        """Write values as one event; each later than the last, unless said otherwise."""
        self._wall = self._wall + 1 if wall is None else wall
        event = Event(step=step, wall_time=self._wall, summary=Summary(value=values))
        self._writer.add_event(event)

    def capture(self, step: int, *values: Any, epoch: int = 0, wall: float | None = None) -> None:
        """Write a captured step."""
        steps = self.tensor(".steps", np.array([epoch], np.float32))
        self.event(step, steps, *values, wall=wall)

    def probe(self, step: int, *values: Any, epoch: int = 0, wall: float | None = None) -> None:
        """Write a probed step."""
        probes = self.tensor(".probes", np.array([epoch], np.float32))
        self.event(step, probes, *values, wall=wall)

    def quantity(
        self,
        name: str,
        values: Sequence[Any],
        names: Sequence[str] = NAMES,
        digest: str = "a",
        **schema: Any,
    ) -> Any:
        """A quantity's values."""
        described = {
            "names": list(names),
            "layers": [name.rpartition(".")[0] or name for name in names],
            "kinds": [name.rpartition(".")[2] for name in names],
            "sizes": [10] * len(names),
            "title": name.title(),
            "unit": "1",
            "log": True,
            **schema,
        }
        return self.tensor(name, np.asarray(values, np.float32), digest=digest, **described)

    def tensor(self, name: str, array: npt.NDArray[Any], digest: str = "", **schema: Any) -> Any:
        """A tensor; its metadata stand in the first event of its tag alone."""
        tag = f"{self._prefix}/{name}" + (f"/{digest}" if digest else "")
        return tensor_value(tag, array, self._first(tag, {"quantity": name, **schema}))

    def error(self, of: str, values: Sequence[float], names: Sequence[str], digest: str) -> Any:
        """Standard errors of a quantity."""
        tag = f"{self._prefix}/.error/{of}/{digest}"
        schema = {"quantity": ".error", "of": of, "names": list(names), "probe": True}
        return tensor_value(tag, np.asarray(values, np.float64), self._first(tag, schema))

    def text(self, name: str, record: Any) -> Any:
        """A text: an object as JSON, or as it stands."""
        tag = f"{self._prefix}/{name}"
        text = record if isinstance(record, str) else json.dumps(record)
        return text_value(tag, text, self._first(tag, {"quantity": name}))

    def headline(self, digest: str = "h", **scalars: float) -> Any:
        """Headline scalars."""
        names = list(scalars)
        schema = {"names": names, "titles": [n.title() for n in names], "units": ["1"] * len(names)}
        values = np.array(list(scalars.values()), np.float64)
        return self.tensor(".headline", values, digest=digest, **schema)

    def raw(self, tag: str, array: npt.NDArray[Any], content: bytes) -> Any:
        """A tensor under any tag, with any metadata."""
        return tensor_value(tag, array, content)

    def _first(self, tag: str, schema: Mapping[str, Any]) -> bytes | None:
        if tag in self._described:
            return None
        self._described.add(tag)
        return json.dumps({"version": SCHEMA_VERSION, **schema}).encode()


def described(parameters: Iterable[str] = NAMES, **more: Any) -> dict[str, Any]:
    """What ``.run`` says of watched parameters."""
    return {
        "versions": {"jacoscope": "1"},
        "parameters": [
            {"parameter": name, "layer": name.rpartition(".")[0], "size": 10, "quantities": []}
            for name in parameters
        ],
        "left_out": [],
        **more,
    }


@functools.cache
def trained() -> Path:
    """The log folder of a real run named ``cnn``, the same for all tests, which only read it."""
    folder = tempfile.TemporaryDirectory(prefix="board")
    _FOLDERS.append(folder)
    convolutional(Path(folder.name))
    return Path(folder.name)


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
"""Removed when the tests end."""


def read(folder: Path) -> Any:
    """A data provider over a log folder, such as TensorBoard has with ``--load_fast=false``."""
    multiplexer = EventMultiplexer(size_guidance={"tensors": 0})
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    return MultiplexerDataProvider(multiplexer, str(folder))


def place() -> Place:
    """Where a request without a server reads."""
    from tensorboard.context import RequestContext

    return Place(RequestContext(), "")


def catalogue(folder: Path) -> Catalogue:
    """What is recorded in a log folder."""
    return Store(read(folder)).catalogue(place())


def recording(folder: Path, run: str = RUN, group: str = GROUP) -> Recording:
    """What a monitor recorded in a run of a log folder."""
    store = Store(read(folder))
    return Recording(store.catalogue(place()).find(run, group), store, place())


class Board:
    """Asks the tab's back end without a server.

    Args:
        provider: A data provider.
    """

    def __init__(self, provider: Any) -> None:
        plugin = SensitivityPlugin(base_plugin.TBContext(data_provider=provider))
        self.apps = plugin.get_plugin_apps()

    def get(self, name: str, raw: str | None = None, **query: Any) -> TestResponse:
        """The reply to a request; ``raw`` is a query as it stands."""
        headers = query.pop("headers", {})
        method = query.pop("method", "GET")
        client = Client(self.apps[f"/data/{name}"])
        if raw is not None:
            return client.open(
                "/", method=method, headers=headers, environ_overrides={"QUERY_STRING": raw}
            )
        query = {key.rstrip("_"): value for key, value in query.items()}
        return client.open("/", method=method, headers=headers, query_string=query)

    def json(self, name: str, **query: Any) -> Any:
        """The JSON of a reply that must be one."""
        response = self.get(name, **query)
        assert response.status_code == 200, response.text
        return response.json

    def arrays(self, name: str, **query: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The header and the arrays of a reply that must have them."""
        response = self.get(name, **query)
        assert response.status_code == 200, response.text
        return unpacked(response.data)


def unpacked(body: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and arrays of a binary reply, as a page unpacks it."""
    (length,) = struct.unpack_from("<I", body)
    header = json.loads(body[4 : 4 + length])
    start = 4 + length
    assert start % 8 == 0
    arrays = {}
    for item in header["arrays"]:
        assert item["offset"] % 8 == 0
        count = int(np.prod(item["shape"]))
        found = np.frombuffer(body, item["dtype"], count, start + item["offset"])
        arrays[item["name"]] = found.reshape(item["shape"])
    return header, arrays
