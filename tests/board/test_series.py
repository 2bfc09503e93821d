"""Quantities over steps and rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from board_records import GROUP, NAMES, RUN, Board, Log, described, read, trained
from jacoscope import read_run
from jacoscope.board.reductions import ABSENT, MINUS_INFINITE, NOT_A_NUMBER, PLUS_INFINITE

NAN, INF = float("nan"), float("inf")
_ASKED = {"run": RUN, "group": GROUP, "quantity": "grad_norm"}


def test_every_quantity_of_a_real_run_is_what_the_reader_reads() -> None:
    board, run = Board(read(trained())), read_run(trained())
    (listed,) = board.json("runs")["runs"]
    names = [item["name"] for item in listed["quantities"] if not item["histogram"]]
    assert set(names) == set(run.quantities)
    assert len(names) > 15
    for name in names:
        frame = run[name]
        header, arrays = board.arrays("series", run="cnn", group=GROUP, quantity=name)
        assert header["unit"] == run.units[name]
        rows = [row["name"] for row in header["rows"]]
        # Parameters in the model's order, then what is measured as a whole.
        assert rows == list(frame.columns)
        assert arrays["step"].tolist() == frame.index.tolist()
        expected = frame.to_numpy().T
        for side in ("low", "high"):
            np.testing.assert_allclose(
                arrays[side], np.where(np.isfinite(expected), expected, NAN), rtol=1e-6
            )
        errors = run.standard_errors.get(name)
        assert ("error" in arrays) == (errors is not None)
        if errors is not None:
            columns = errors.reindex(index=frame.index, columns=frame.columns).to_numpy().T
            np.testing.assert_allclose(arrays["error"], columns, rtol=1e-6)


def test_missing_and_measured_nan_are_told_apart(tmp_path: Path) -> None:
    missing = {"missing": {"grad_norm": {NAMES[1]: "no gradient reached it"}}, "withheld": {}}
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.quantity("grad_norm", [1, NAN, 3]))
        log.capture(1, log.quantity("grad_norm", [1, NAN, 3]), log.text(".status", missing))
        log.capture(2, log.quantity("grad_norm", [INF, NAN, -INF]))
        log.capture(
            3,
            log.quantity("grad_norm", [NAN, NAN, 3]),
            log.text(".status", {"missing": {}, "withheld": {}}),
        )
    board = Board(read(tmp_path))
    _, arrays = board.arrays("series", **_ASKED)
    assert arrays["flags"].tolist() == [
        [0, 0, PLUS_INFINITE, NOT_A_NUMBER],
        [NOT_A_NUMBER, ABSENT, ABSENT, NOT_A_NUMBER],
        [0, 0, MINUS_INFINITE, 0],
    ]
    assert np.isnan(arrays["low"][1]).all()
    assert arrays["low"][0, :2].tolist() == [1, 1]


def test_a_probes_missing_rows_are_missing_at_its_own_step_alone(tmp_path: Path) -> None:
    told = {"missing": {"grad_norm": {NAMES[1]: "why"}}}
    with Log(tmp_path / RUN) as log:
        for step, record in ((0, told), (5, {"missing": {}})):
            values = log.quantity("grad_norm", [1, NAN, 3], probe=True)
            log.probe(step, values, log.text(".probe", record))
    _, arrays = Board(read(tmp_path)).arrays("series", **_ASKED)
    assert arrays["flags"][1].tolist() == [ABSENT, NOT_A_NUMBER]


def test_a_changed_set_of_rows_is_one_table(tmp_path: Path) -> None:
    others = (NAMES[2], "added.weight", "(all)")
    with Log(tmp_path / RUN) as log:
        for step in (0, 1):
            log.capture(step, log.quantity("grad_norm", [1, 2, 3]))
        for step in (2, 3):
            log.capture(
                step,
                log.quantity(
                    "grad_norm", [4, 5, 6], names=others, digest="b",
                    kinds=["weight", "weight", "all"],
                ),
                log.text(".run", described((*NAMES[1:], "added.weight"))),
            )  # fmt: skip
    header, arrays = Board(read(tmp_path)).arrays("series", **_ASKED)
    # The model's order as it is now, then what it does not name, groups last.
    rows = [row["name"] for row in header["rows"]]
    assert rows == [NAMES[1], NAMES[2], "added.weight", NAMES[0], "(all)"]
    assert [row["index"] for row in header["rows"]] == [0, 1, 2, 3, 4]
    expected = [[2, 2, NAN, NAN], [3, 3, 4, 4], [NAN, NAN, 5, 5], [1, 1, NAN, NAN],
                [NAN, NAN, 6, 6]]  # fmt: skip
    np.testing.assert_array_equal(arrays["low"], np.array(expected, np.float32))
    np.testing.assert_array_equal(arrays["flags"] == ABSENT, np.isnan(np.array(expected)))


def test_rows_that_changed_when_the_run_was_taken_up_again(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        for step in range(4):
            log.capture(step, log.quantity("grad_norm", [step] * 3))
        for step in (2, 3):
            log.capture(step, log.quantity("grad_norm", [9], names=["new.weight"], digest="b"))
    _, arrays = Board(read(tmp_path)).arrays("series", **_ASKED)
    assert arrays["step"].tolist() == [0, 1, 2, 3]
    assert arrays["low"][0].tolist()[:2] == [0, 1]
    assert np.isnan(arrays["low"][0][2:]).all()
    assert arrays["low"][3].tolist()[2:] == [9, 9]


@pytest.fixture
def long(tmp_path: Path) -> Board:
    """A run of 1000 captured steps, every third one."""
    rng = np.random.default_rng(0)
    with Log(tmp_path / RUN) as log:
        for step in range(0, 3000, 3):
            log.capture(step, log.quantity("grad_norm", rng.standard_normal(3)))
    return Board(read(tmp_path))


def test_columns_keep_the_extremes_and_the_counts(long: Board) -> None:
    header, every = long.arrays("series", **_ASKED, points=5000)
    assert not header["binned"]
    header, few = long.arrays("series", **_ASKED, points=7)
    assert header["binned"]
    assert header["steps_total"] == header["steps_in_range"] == 1000
    assert few["low"].shape == (3, 7)
    assert few["count"].sum() == 1000
    assert (few["step"][1:] == few["step_last"][:-1] + 3).all()
    np.testing.assert_array_equal(few["low"].min(1), every["low"].min(1))
    np.testing.assert_array_equal(few["high"].max(1), every["high"].max(1))
    assert "error" not in few


def test_a_range_of_steps(long: Board) -> None:
    header, arrays = long.arrays("series", **_ASKED, from_=10, to=20)
    assert arrays["step"].tolist() == [12, 15, 18]
    assert (header["steps_total"], header["steps_in_range"]) == (1000, 3)
    assert (header["first_step"], header["last_step"]) == (0, 2997)
    header, arrays = long.arrays("series", **_ASKED, from_=5000)
    assert header["steps_in_range"] == 0
    assert arrays["low"].shape == arrays["flags"].shape == (3, 0)
    assert long.arrays("series", **_ASKED, to=3)[1]["step"].tolist() == [0, 3]
    assert long.arrays("series", **_ASKED, from_=3, to=6)[1]["step"].tolist() == [3, 6]


def test_standard_errors_are_of_single_values(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        for step in range(4):
            values = log.quantity("grad_norm", [1, 2, 3], probe=True)
            errors = log.error("grad_norm", [0.1, step], (NAMES[2], NAMES[0]), "a")
            log.probe(step, values, *([errors] if step != 1 else []))
    board = Board(read(tmp_path))
    _, arrays = board.arrays("series", **_ASKED)
    expected = [[0, NAN, 2, 3], [NAN] * 4, [0.1, NAN, 0.1, 0.1]]
    np.testing.assert_array_equal(arrays["error"], np.array(expected, np.float32))
    # The error of a range of values is not known.
    assert "error" not in board.arrays("series", **_ASKED, points=2)[1]
    assert board.arrays("series", **_ASKED, rows="2")[1]["error"].shape == (1, 4)


def test_groups_come_after_parameters(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        kinds = ["all", "layer", "group"]
        groups = ["(all)", "layer a", "group g"]
        log.capture(
            0,
            log.quantity("grad_norm", [1, 2, 3], groups, "a", kinds=kinds),
            log.quantity("grad_norm", [1, 2, 3], digest="b"),
        )
    header, _ = Board(read(tmp_path)).arrays("series", **_ASKED)
    assert [row["name"] for row in header["rows"]] == [*NAMES, *groups]


def test_some_rows(long: Board) -> None:
    _, every = long.arrays("series", **_ASKED)
    header, some = long.arrays("series", **_ASKED, rows="2,0")
    assert [(row["name"], row["index"]) for row in header["rows"]] == [
        (NAMES[2], 2),
        (NAMES[0], 0),
    ]
    np.testing.assert_array_equal(some["low"], every["low"][[2, 0]])
    response = long.get("series", **_ASKED, rows="0,3")
    assert response.status_code == 404
    assert response.json == {"error": "row 3 of grad_norm does not exist; it has 3 rows"}


def test_a_histogram_is_not_a_series(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.quantity("grad_histogram", np.zeros((3, 2)), edges=[0, 1, 2]))
    response = Board(read(tmp_path)).get("series", run=RUN, group=GROUP, quantity="grad_histogram")
    assert response.status_code == 400
    assert "/data/distribution" in response.json["error"]


def test_damaged_values_are_left_out(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.quantity("grad_norm", [1, 2, 3]))
        log.capture(1, log.quantity("grad_norm", [1, 2, 3, 4]))
        log.capture(2, log.quantity("grad_norm", [7, 8, 9]))
        log.capture(3, log.text("grad_norm/a", "no numbers"))
        log.capture(4, log.quantity("grad_max", [1, 2]), log.quantity("odd", [[1] * 3] * 3))
    board = Board(read(tmp_path))
    _, arrays = board.arrays("series", **_ASKED)
    assert arrays["step"].tolist() == [0, 2]
    assert arrays["low"][:, 1].tolist() == [7, 8, 9]
    header, arrays = board.arrays("series", run=RUN, group=GROUP, quantity="grad_max")
    assert header["steps_total"] == 0
    assert arrays["low"].shape == (3, 0)
    assert board.arrays("series", run=RUN, group=GROUP, quantity="odd")[0]["steps_total"] == 0


def test_values_beyond_single_precision_stay_finite(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        names = {"names": list(NAMES)}
        log.capture(0, log.tensor("grad_norm", np.array([1e300, 1e-300, 1.0]), digest="a", **names))
    header, arrays = Board(read(tmp_path)).arrays("series", **_ASKED)
    assert arrays["high"][:, 0].tolist() == pytest.approx([3.4e38, 0, 1])
    assert arrays["flags"].sum() == 0
    # What the metadata do not say is not made up.
    row: dict[str, Any] = header["rows"][0]
    assert (row["layer"], row["kind"], row["size"]) == (NAMES[0], "", 0)
    assert (header["title"], header["unit"], header["log"]) == ("grad_norm", "", False)
