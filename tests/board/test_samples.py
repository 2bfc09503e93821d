"""Samples over any stretch of a run."""

from pathlib import Path
from typing import Any

import pytest

from board_records import GROUP, RUN, Board, Log, read, trained
from jacoscope import read_run

_ASKED = {"run": RUN, "group": GROUP}
_NUMBERS = (
    "loss", "mean_loss", "norm", "mean_norm", "alignment", "class_alignment",
    "mean_class_alignment", "last_layer_norm",
)  # fmt: skip


def _epoch(epoch: int, step: int, ids: list[Any], **more: Any) -> dict[str, Any]:
    """What a record says of an epoch; numbers are the epoch plus the place."""
    count = len(ids)
    samples: dict[str, Any] = {name: [epoch + i / 10 for i in range(count)] for name in _NUMBERS}
    samples |= {"id": ids, "label": [i % 2 for i in range(count)], "step": [step] * count}
    board = {"name": "largest", "title": "Largest", "explanation": "why", "ranked_by": "norm",
             "layer": None, "entries": []}  # fmt: skip
    return {
        "epoch": epoch, "step": step, "seen": count, "omitted": 0, "id_source": "dataset index",
        "last_layer": "last", "boards": [board], "samples": samples, "images": {}, "pushes": {},
        **more,
    }  # fmt: skip


def _board(tmp_path: Path, *epochs: dict[str, Any]) -> Board:
    with Log(tmp_path / RUN) as log:
        for epoch in epochs:
            log.capture(epoch["step"])
            log.event(epoch["step"], log.text(".samples", epoch))
    return Board(read(tmp_path))


def test_a_real_run() -> None:
    run = read_run(trained())
    found = Board(read(trained())).json("samples", run="cnn", group=GROUP)
    frame = run.samples.sort_values("epoch", kind="stable").drop_duplicates("id", keep="last")
    expected = frame.set_index("id").sort_index()
    columns = found["columns"]
    assert len(columns["id"]) == len(expected) == len(set(columns["id"]))
    for place, name in enumerate(columns["id"]):
        row = expected.loc[name]
        for column in ("label", "epoch", "step", "norm", "mean_loss"):
            assert columns[column][place] == pytest.approx(row[column])
    assert found["classes"] == sorted(found["classes"])
    assert [epoch["epoch"] for epoch in found["epochs"]] == [0, 1]
    boards = {board["name"] for board in found["boards"]}
    assert "largest_gradient" in boards
    layers = [board["layer"] for board in found["layer_boards"]]
    assert len(layers) == len(set(layers)) == 5
    assert set(found["images"]) == set(found["pushes"])
    assert all(url.startswith("data:image/png;base64,") for url in found["images"].values())
    assert found["thinned"] is False


def test_each_sample_has_its_latest_values(tmp_path: Path) -> None:
    board = _board(tmp_path, _epoch(0, 10, ["a", "b"]), _epoch(1, 20, ["c", "b"]))
    found = board.json("samples", **_ASKED)
    columns = found["columns"]
    assert columns["id"] == ["a", "b", "c"]
    assert columns["epoch"] == [0, 1, 1]
    assert columns["loss"] == [0.0, 1.1, 1.0]
    assert found["range"] == [10, 20]


def test_a_range_of_steps(tmp_path: Path) -> None:
    epochs = [_epoch(epoch, 10 * epoch + 9, ["a", f"new {epoch}"]) for epoch in range(4)]
    board = _board(tmp_path, *epochs)
    found = board.json("samples", **_ASKED, from_=19, to=30)
    assert [epoch["epoch"] for epoch in found["epochs"]] == [1, 2]
    assert found["columns"]["id"] == ["a", "new 1", "new 2"]
    assert found["columns"]["epoch"] == [2, 1, 2]
    # What there is altogether is told whatever was asked for.
    assert (found["first_step"], found["last_step"]) == (9, 39)
    empty = board.json("samples", **_ASKED, from_=1000)
    assert empty["epochs"] == []
    assert empty["columns"]["id"] == []
    assert empty["range"] == [9, 39]


def test_an_epoch_that_was_done_again_counts_once(tmp_path: Path) -> None:
    again = _epoch(1, 25, ["z"])  # ended later than the first time
    board = _board(tmp_path, _epoch(0, 10, ["a"]), _epoch(1, 20, ["b"]), again)
    found = board.json("samples", **_ASKED)
    assert found["columns"]["id"] == ["a", "z"]
    assert [epoch["step"] for epoch in found["epochs"]] == [10, 25]


def test_texts_images_and_pushes_are_by_sample(tmp_path: Path) -> None:
    entries = [{"id": 7, "label": 1, "text": "<b>one</b>", "norm": 1.0, "alignment": None,
                "step": 3, "loss": 2.0}]  # fmt: skip
    layer = {"name": "layer x", "layer": "x", "entries": entries}
    first = _epoch(0, 10, [7], boards=[layer], images={"7": "data:old"}, pushes={"7": [["x", 1]]})
    second = _epoch(1, 20, [8], images={"7": "data:new"}, pushes={"7": [["y", 0.5]]})
    board = _board(tmp_path, first, second)
    found = board.json("samples", **_ASKED)
    assert found["texts"] == {"7": "<b>one</b>"}
    assert found["images"] == {"7": "data:new"}
    assert found["pushes"] == {"7": [["y", 0.5]]}
    assert found["layer_boards"] == []  # the last epoch has none
    assert found["boards"] == [
        {"name": "largest", "title": "Largest", "explanation": "why", "ranked_by": "norm"}
    ]
    found = board.json("samples", **_ASKED, to=10)
    assert found["layer_boards"] == [
        {"layer": "x",
         "entries": [{"id": 7, "label": 1, "norm": 1.0, "alignment": None, "step": 3}]}
    ]  # fmt: skip


def test_numbers_that_are_none_come_as_they_are_recorded(tmp_path: Path) -> None:
    epoch = _epoch(0, 10, ["caf\udce9"])
    epoch["samples"]["norm"] = ["inf"]
    epoch["samples"]["loss"] = [None]
    found = _board(tmp_path, epoch).json("samples", **_ASKED)
    assert found["columns"]["id"] == ["caf\udce9"]
    assert found["columns"]["norm"] == ["inf"]
    assert found["columns"]["loss"] == [None]


def test_classes_of_any_kind_are_in_order(tmp_path: Path) -> None:
    epoch = _epoch(0, 10, list(range(6)))
    epoch["samples"]["label"] = ["b", 10, 2, "a", None, [1]]
    found = _board(tmp_path, epoch).json("samples", **_ASKED)
    assert found["classes"] == [2, 10, "a", "b"]


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"samples": {"id": [1]}},
        {"epoch": "x", "samples": 3, "boards": [1, {"entries": [2]}], "images": []},
        {"epoch": 0, "samples": {"id": [[1], {}]}},
    ],
)
def test_records_of_another_kind_break_nothing(tmp_path: Path, record: Any) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0)
        log.event(0, log.text(".samples", record))
    found = Board(read(tmp_path)).json("samples", **_ASKED)
    assert found["columns"]["id"] == []


def test_a_run_without_samples(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0)
    found = Board(read(tmp_path)).json("samples", **_ASKED)
    assert found["range"] is None
    assert found["boards"] == found["epochs"] == []
