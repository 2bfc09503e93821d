"""Requests as they come: conditional, malformed, hostile, and against what fails."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.errors import NotFoundError, PermissionDeniedError
from werkzeug.test import Client

from board_records import CALM, GROUP, NAMES, RUN, Board, Log, described, read, trained
from jacoscope.board.assets import StaticApp
from jacoscope.board.endpoints import ENDPOINTS

_ASKED = {"run": RUN, "group": GROUP}
_SERIES = {**_ASKED, "quantity": "grad_norm"}


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return _recorded(tmp_path)


def _recorded(folder: Path) -> Board:
    with Log(folder / RUN) as log:
        for step in range(3):
            values = log.quantity("grad_norm", [step] * 3)
            log.capture(step, values, *([log.text(".run", described())] if step == 0 else []))
    return Board(read(folder))


class Counting:
    """A data provider that counts what is read of it.

    Args:
        provider: What it reads from.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def read_tensors(self, *args: Any, **kwargs: Any) -> Any:
        self.reads += 1
        return self._provider.read_tensors(*args, **kwargs)


def test_every_reply_has_the_headers_that_it_needs(board: Board) -> None:
    for name, content_type in (
        ("runs", "application/json"),
        ("series", "application/octet-stream"),
    ):
        response = board.get(name, **({} if name == "runs" else _SERIES))
        assert response.status_code == 200
        assert response.headers["Content-Type"] == content_type
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert response.headers["ETag"].startswith('W/"')


def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    _recorded(tmp_path)
    provider = Counting(read(tmp_path))
    tag = Board(provider).get("series", **_SERIES).headers["ETag"]
    assert provider.reads > 0
    provider.reads = 0
    for known in (tag, f'"x", {tag}', tag.removeprefix("W/"), "*"):
        fresh = Board(provider)  # which has nothing cached
        response = fresh.get("series", **_SERIES, headers={"If-None-Match": known})
        assert response.status_code == 304
        assert response.data == b""
        assert response.headers["ETag"] == tag
        # TensorBoard warns of responses without, and browsers take it over.
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert provider.reads == 0
    other = Board(provider).get("series", **_SERIES, headers={"If-None-Match": '"x"'})
    assert other.status_code == 200


def test_tags_differ_by_query_and_by_data(board: Board, tmp_path: Path) -> None:
    def tag(board: Board, **query: Any) -> str:
        return board.get("series", **_SERIES, **query).headers["ETag"]

    before = tag(board)
    assert tag(board) == before
    assert tag(board, points=5) != before
    assert tag(board, rows="0") not in (before, tag(board, points=5))
    # More data of another quantity is no reason to send this one again.
    with Log(tmp_path / RUN) as log:
        log.event(3, log.quantity("grad_max", [1, 2, 3]), wall=5000.0)
    assert tag(Board(read(tmp_path))) == before
    with Log(tmp_path / RUN) as log:
        log.capture(4, log.quantity("grad_norm", [1, 2, 3]), wall=6000.0)
    assert tag(Board(read(tmp_path))) != before


def test_new_data_of_a_growing_run_are_seen(tmp_path: Path) -> None:
    _recorded(tmp_path)
    provider = read(tmp_path)
    board = Board(provider)
    assert board.arrays("series", **_SERIES)[1]["step"].tolist() == [0, 1, 2]
    with Log(tmp_path / RUN) as log:
        log.capture(3, log.quantity("grad_norm", [7, 7, 7]), wall=5000.0)
    provider._multiplexer.Reload()
    assert board.arrays("series", **_SERIES)[1]["step"].tolist() == [0, 1, 2, 3]


def test_long_json_is_compressed_where_that_is_understood() -> None:
    board = Board(read(trained()))
    plain = board.get("samples", run="cnn", group=GROUP)
    packed = board.get("samples", run="cnn", group=GROUP, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.headers["Vary"] == "Accept-Encoding"
    assert len(packed.data) < len(plain.data) / 2
    assert gzip.decompress(packed.data) == plain.data
    assert packed.headers["ETag"] == plain.headers["ETag"]


def test_short_json_and_arrays_are_not_compressed(board: Board) -> None:
    for name in ("runs", "series"):
        query = {} if name == "runs" else _SERIES
        response = board.get(name, **query, headers={"Accept-Encoding": "gzip"})
        assert "Content-Encoding" not in response.headers
    never = board.get("runs", headers={"Accept-Encoding": "gzip;q=0"})
    assert "Content-Encoding" not in never.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_but_reading(board: Board, method: str) -> None:
    for app in (board.apps["/data/runs"], board.apps["/static/index.js"]):
        response = Client(app).open("/", method=method)
        assert response.status_code == 405
        assert response.headers["Allow"] == "GET, HEAD"
        assert response.json == {"error": f"{method} is not answered here; use GET"}


def test_a_request_for_the_head_has_no_body(board: Board) -> None:
    full = board.get("series", **_SERIES)
    head = board.get("series", **_SERIES, method="HEAD")
    assert head.status_code == 200
    assert head.data == b""
    assert head.headers["ETag"] == full.headers["ETag"]
    assert head.headers["Content-Length"] == full.headers["Content-Length"]


_HOSTILE = (
    "../../../etc/passwd", "..\\..\\windows", "<script>alert(1)</script>", "'\"--;DROP TABLE runs",
    "日本 🙂 ‮gnp.exe", "%2e%2e%2f", "\t\r\nSet-Cookie: a=b", "a" * 2048, "{{7*7}}", "$(id)", "",
    "nan", "-1", "1e999", "__proto__",
)  # fmt: skip


@pytest.mark.parametrize("text", _HOSTILE, ids=range(len(_HOSTILE)))
@pytest.mark.parametrize("name", [name for name in ENDPOINTS if name != "runs"])
def test_hostile_values_are_refused_as_json(board: Board, name: str, text: str) -> None:
    for parameter in ENDPOINTS[name].parameters:
        query = {"run": RUN, "group": GROUP, "quantity": "grad_norm", "row": NAMES[0], "step": "0",
                 "kind": "ntk"}  # fmt: skip
        query = {key: value for key, value in query.items() if key in ENDPOINTS[name].parameters}
        query[parameter] = text
        raw = "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
        response = board.get(name, raw=raw)
        if (text, parameter) in {("-1", "from"), ("-1", "to"), ("-1", "step")}:
            assert response.status_code in (200, 404)
            continue
        assert response.status_code in (400, 404), response.text
        assert response.headers["Content-Type"] == "application/json"
        assert list(response.json) == ["error"]
        sentence = response.json["error"]
        assert sentence
        assert len(sentence) < 600
        # What was sent is not sent back as it was, where a browser might take it for something.
        assert "\n" not in sentence


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        ("", 400),
        ("run=run", 400),
        ("run=run&group=sensitivity&quantity=grad_norm&quantity=grad_norm", 400),
        ("run=run%00&group=sensitivity&quantity=grad_norm", 400),
        ("run=" + "x" * 10_240 + "&group=sensitivity&quantity=grad_norm", 400),
        ("run=%F0%28%8C%28&group=sensitivity&quantity=grad_norm", 400),
        ("run=run&group=sensitivity&quantity=grad_norm&extra=1", 400),
        ("run=run&group=sensitivity&quantity=grad_norm&from=3&to=1", 400),
        ("run=run&group=sensitivity&quantity=grad_norm&points=0", 400),
        ("run=nowhere&group=sensitivity&quantity=grad_norm", 404),
        ("run=run&group=nowhere&quantity=grad_norm", 404),
        ("run=run&group=sensitivity&quantity=.steps", 404),
        ("run=run&group=sensitivity&quantity=grad_norm&rows=99", 404),
        ("run=run&group=sensitivity&quantity=grad_norm&&", 200),
    ],
)
def test_malformed_queries(board: Board, raw: str, status: int) -> None:
    response = board.get("series", raw=raw)
    assert response.status_code == status
    if status != 200:
        assert list(json.loads(response.data)) == ["error"]


_ANY_TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    [RUN, GROUP, "cnn", "grad_norm", "(all)", "0", "1,2", "ntk", "5", "-3", ""]
)
_NAMES = st.sampled_from(
    ["run", "group", "quantity", "row", "rows", "step", "from", "to", "points", "kind", "x"]
)


@settings(CALM, max_examples=300)
@given(
    name=st.sampled_from(list(ENDPOINTS)),
    pairs=st.lists(st.tuples(_NAMES, _ANY_TEXT), max_size=6),
    tail=st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=255), max_size=10),
)
def test_no_query_is_a_fault(name: str, pairs: list[tuple[str, str]], tail: str) -> None:
    board = _real()
    valid = [("run", "cnn"), ("group", GROUP)] if "run" in ENDPOINTS[name].parameters else []
    for query in (pairs, [*valid, *((k, v) for k, v in pairs if k not in ("run", "group"))]):
        raw = "&".join(f"{key}={quote(value, safe='')}" for key, value in query)
        for text in (raw, raw + tail):
            response = board.get(name, raw=text.encode("utf-8").decode("latin-1"))
            assert response.status_code in (200, 400, 404), response.text
            if response.status_code != 200:
                assert response.json["error"]


_BOARDS: list[Board] = []


def _real() -> Board:
    if not _BOARDS:
        _BOARDS.append(Board(read(trained())))
    return _BOARDS[0]


def test_a_fault_is_told_to_the_page_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _recorded(tmp_path)
    provider = Counting(read(tmp_path))

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("disk <b>gone</b>")

    provider.read_tensors = fail  # type: ignore[method-assign]
    board = Board(provider)
    with caplog.at_level(logging.ERROR):
        responses = [board.get("series", **_SERIES) for _ in range(3)]
    for response in responses:
        assert response.status_code == 500
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.json == {
            "error": "a fault of the tab itself in /data/series: OSError: disk <b>gone</b>"
        }
    assert [record.getMessage() for record in caplog.records] == ["/data/series failed"]
    # What does not read is answered all the same.
    assert board.get("runs").status_code == 200


@pytest.mark.parametrize(
    ("error", "status"), [(NotFoundError("gone"), 404), (PermissionDeniedError("not yours"), 403)]
)
def test_what_tensorboard_refuses_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception, status: int
) -> None:
    provider = Counting(read(tmp_path))

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    provider.list_tensors = refuse  # type: ignore[attr-defined]
    response = Board(provider).get("runs")
    assert response.status_code == status
    assert str(error) in response.json["error"]
    assert not caplog.records


def test_names_are_only_text(tmp_path: Path) -> None:
    run, name = "<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>"
    with Log(tmp_path / run) as log:
        log.capture(0, log.quantity("grad_norm", [1.0], names=[name]))
    board = Board(read(tmp_path))
    assert board.json("runs")["runs"][0]["run"] == run
    header, _ = board.arrays("series", run=run, group=GROUP, quantity="grad_norm")
    assert header["rows"][0]["name"] == name


def test_the_files_of_the_page(board: Board) -> None:
    routes = [route for route in board.apps if route.startswith("/static/")]
    assert "/static/index.js" in routes
    assert not any(".." in route or "*" in route for route in board.apps)
    types = {"js": "text/javascript", "css": "text/css", "txt": "text/plain",
             "svg": "image/svg+xml"}  # fmt: skip
    for route in routes:
        response = Client(board.apps[route]).get("/")
        assert response.status_code == 200
        assert response.mimetype == types[route.rpartition(".")[2]]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.data
        tag = response.headers["ETag"]
        again = Client(board.apps[route]).get("/", headers={"If-None-Match": tag})
        assert again.status_code == 304
        assert again.headers["Content-Type"] == response.headers["Content-Type"]


def test_a_file_that_has_gone(tmp_path: Path) -> None:
    file = tmp_path / "gone.js"
    response = Client(StaticApp(file)).get("/")
    assert response.status_code == 404
    assert response.json == {"error": "gone.js is gone from the installation"}


def test_every_kind_of_data_has_one_fixed_route(board: Board) -> None:
    data = {route for route in board.apps if route.startswith("/data/")}
    assert data == {f"/data/{name}" for name in ENDPOINTS}
    assert {
        "runs", "overview", "series", "missing", "distribution", "quantiles", "samples",
        "agreement", "gram", "outputs", "spectra", "probes", "probe", "allocation",
    } == set(ENDPOINTS)  # fmt: skip


def test_wide_values_are_sent_as_they_are(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(2**40, log.tensor("grad_norm", np.zeros(1, np.float32), "a", names=["x"]))
    _, arrays = Board(read(tmp_path)).arrays("series", **_SERIES)
    assert arrays["step"].tolist() == [2.0**40]
