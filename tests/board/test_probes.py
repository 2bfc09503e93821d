"""The loss, all else equal, as probes recorded it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from board_records import GROUP, RUN, Board, Log, read, trained
from jacoscope import read_run

NAN = float("nan")
_ASKED = {"run": RUN, "group": GROUP}


def test_a_real_run_is_what_the_reader_reads() -> None:
    run, board = read_run(trained()), Board(read(trained()))
    asked = {"run": "cnn", "group": GROUP}
    found = board.json("probes", **asked)
    steps = {item["step"]: item for item in found["steps"]}
    assert list(steps) == run.probes.steps
    every = run.probes.all_else_equal().set_index(["step", "layer"])
    for (step, layer), row in every.iterrows():
        if layer == "(all)":
            assert steps[step]["predicted"] == pytest.approx(row["predicted"])
            assert steps[step]["actual"] == pytest.approx(row["actual"])
            assert steps[step]["sentence"]
    layers = [name for _, name in every.index if not name.startswith("(")]
    assert found["layers"][:5] == list(dict.fromkeys(layers))
    allocation = run.probes.allocation()
    header, arrays = board.arrays("allocation", **asked)
    assert arrays["step"].tolist() == allocation.index.tolist()
    expected = allocation[header["layers"]].to_numpy()
    np.testing.assert_allclose(arrays["by_layer"], expected, rtol=1e-6)
    np.testing.assert_allclose(arrays["gap"], allocation["(gap)"], rtol=1e-6)
    whole = board.json("probe", **asked, step=run.probes.steps[0])
    assert whole["steps"] == run.probes.steps
    assert whole["all_else_equal"]["layers"]


@pytest.fixture
def board(tmp_path: Path) -> Board:
    share = {"layer": "a", "predicted": -1.0, "second_order": None, "actual": -0.5}
    result = {"before": 2.0, "after": 1.5, "predicted": -1.0, "second_order": None,
              "interaction": "inf", "sentence": "So <b>it</b> went.",
              "layers": [share]}  # fmt: skip
    allocation = {"since": 0, "by_layer": {"a": -0.25, "b": None}, "change": -0.5, "gap": -0.25,
                  "loss": 1.5}  # fmt: skip
    later = {**allocation, "by_layer": {"c": 1.0}, "change": "-inf"}
    missing = {"ntk_trace": {"a": "why", "b": "why"}, "ntk_drift": {"a": "why"}}
    with Log(tmp_path / RUN) as log:
        log.probe(0, log.text(".probe", {"step": 0, "epoch": 0, "all_else_equal": result,
                                         "allocation": allocation, "missing": missing,
                                         "withheld": {"x": "y"}}))  # fmt: skip
        log.probe(10, log.text(".probe", {"step": 10, "epoch": 1, "all_else_equal": None,
                                          "allocation": later}))  # fmt: skip
        log.probe(20, log.text(".probe", {}))
    return Board(read(tmp_path))


def test_one_entry_per_probe(board: Board) -> None:
    found = board.json("probes", **_ASKED)
    assert found["layers"] == ["a", "b", "c"]
    first, second, third = found["steps"]
    assert first == {
        "step": 0, "epoch": 0, "before": 2.0, "after": 1.5, "actual": -0.5, "predicted": -1.0,
        "second_order": None, "interaction": "inf", "sentence": "So <b>it</b> went.",
        "allocation": {"since": 0, "change": -0.5, "gap": -0.25, "loss": 1.5},
        "withheld": {"x": "y"}, "missing_count": 3,
    }  # fmt: skip
    assert (second["actual"], second["predicted"], second["sentence"]) == (None, None, "")
    assert third["allocation"] is None


def test_a_probe_as_a_whole(board: Board) -> None:
    found = board.json("probe", **_ASKED, step=0)
    assert found["all_else_equal"]["interaction"] == "inf"
    assert found["steps"] == [0, 10, 20]
    response = board.get("probe", **_ASKED, step=5)
    assert response.status_code == 404
    assert response.json == {"error": "no probe is recorded at step 5"}


def test_the_allocation_over_time(board: Board) -> None:
    header, arrays = board.arrays("allocation", **_ASKED)
    assert header["layers"] == ["a", "b", "c"]
    assert arrays["step"].tolist() == [0, 10]
    expected = np.array([[-0.25, NAN, NAN], [NAN, NAN, 1]], np.float32)
    np.testing.assert_array_equal(arrays["by_layer"], expected)
    assert arrays["change"].tolist() == [-0.5, -np.inf]
    assert arrays["since"].tolist() == [0, 0]


def test_a_run_without_probes(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0)
    board = Board(read(tmp_path))
    assert board.json("probes", **_ASKED) == {"steps": [], "layers": []}
    header, arrays = board.arrays("allocation", **_ASKED)
    assert header["layers"] == []
    assert arrays["by_layer"].shape == (0, 0)
    assert board.get("probe", **_ASKED, step=0).status_code == 404


@pytest.mark.parametrize(
    "record",
    [
        {"all_else_equal": [1], "allocation": "x", "missing": [1], "withheld": 4},
        {"all_else_equal": {"layers": {"a": 1}, "before": "x"}, "missing": {"a": [1]}},
        {"allocation": {"by_layer": [1], "since": "x", "change": True}},
    ],
)
def test_records_of_another_kind_break_nothing(tmp_path: Path, record: Any) -> None:
    with Log(tmp_path / RUN) as log:
        log.probe(0, log.text(".probe", record))
    board = Board(read(tmp_path))
    (step,) = board.json("probes", **_ASKED)["steps"]
    assert step["actual"] is None
    board.arrays("allocation", **_ASKED)
    board.json("probe", **_ASKED, step=0)
