"""Distributions over a parameter's scalars and over samples."""

from pathlib import Path

import numpy as np
import pytest

from board_records import GROUP, NAMES, RUN, Board, Log, read, trained
from jacoscope import read_run

_ASKED = {"run": RUN, "group": GROUP}
_EDGES = [-1.0, 0.0, 1.0]


def test_histograms_of_a_real_run_are_what_the_reader_reads() -> None:
    run, board = read_run(trained()), Board(read(trained()))
    name = str(run.parameters["parameter"].iloc[0])
    frame = run.histogram(name)
    step = int(frame.index[3])
    header, arrays = board.arrays("distribution", run="cnn", group=GROUP, row=name, step=step)
    assert header["step"] == step
    assert header["steps"] == frame.index.tolist()
    np.testing.assert_array_equal(arrays["counts"], frame.loc[step].to_numpy())
    assert arrays["edges"].tolist() == [*frame.columns.left, frame.columns.right[-1]]
    header, arrays = board.arrays("quantiles", run="cnn", group=GROUP, row="(all)")
    assert header["quantiles"] == [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]
    assert arrays["values"].shape == (7, 20)
    assert (np.diff(arrays["values"], axis=0) >= 0).all()
    mean = run["sample_grad_norm"]["(all)"].to_numpy()
    assert (arrays["values"][0] <= mean).all()
    assert (arrays["values"][-1] >= mean).all()


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """Histograms at steps 0, 10, …, the last of other rows; quantiles of three rows."""
    with Log(tmp_path / RUN) as log:
        for step in (0, 10, 20):
            quantiles = np.arange(9, dtype=np.float32).reshape(3, 3) + step
            log.capture(
                step,
                log.quantity("grad_histogram", [[step, 1], [2, 3], [4, 5]], edges=_EDGES),
                log.tensor(".sample_quantiles", quantiles, "q", names=list(NAMES),
                           quantiles=[0, 0.5, 1], unit="u"),
            )  # fmt: skip
        log.capture(
            30, log.quantity("grad_histogram", [[7, 8]], [NAMES[1]], digest="b", edges=_EDGES)
        )
    return Board(read(tmp_path))


@pytest.mark.parametrize(
    ("asked", "step"), [(None, 20), (20, 20), (15, 10), (-3, 0), (1000, 20), (0, 0)]
)
def test_the_nearest_step_that_is_recorded(board: Board, asked: int | None, step: int) -> None:
    query = {} if asked is None else {"step": asked}
    header, arrays = board.arrays("distribution", **_ASKED, row=NAMES[0], **query)
    assert header["step"] == step
    assert arrays["counts"].tolist() == [step, 1]
    assert arrays["edges"].tolist() == _EDGES
    assert not header["thinned"]


def test_a_row_may_lie_in_several_tags(board: Board) -> None:
    header, arrays = board.arrays("distribution", **_ASKED, row=NAMES[1])
    assert header["steps"] == [0, 10, 20, 30]
    assert arrays["counts"].tolist() == [7, 8]


def test_only_bins_that_hold_anything_are_kept(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.quantity("grad_histogram", [[1], [5], [6]], ["x", "y"], edges=_EDGES))
    for name, count in (("x", 5), ("y", 6)):
        _, arrays = Board(read(tmp_path)).arrays("distribution", **_ASKED, row=name)
        assert arrays["counts"].tolist() == [0, count]


def test_many_steps_are_offered_in_part(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        for step in range(1500):
            log.capture(step, log.quantity("grad_histogram", [[1, 2]], ["x"], edges=_EDGES))
    header, _ = Board(read(tmp_path)).arrays("distribution", **_ASKED, row="x", step=1234)
    assert len(header["steps"]) == 1000
    assert header["thinned"]
    # What was asked for is given all the same.
    assert header["step"] == 1234


def test_quantiles_of_a_row(board: Board) -> None:
    header, arrays = board.arrays("quantiles", **_ASKED, row=NAMES[1])
    assert (header["quantiles"], header["unit"]) == ([0, 0.5, 1], "u")
    assert arrays["step"].tolist() == [0, 10, 20]
    assert arrays["values"].tolist() == [[3, 13, 23], [4, 14, 24], [5, 15, 25]]
    header, arrays = board.arrays("quantiles", **_ASKED, row=NAMES[1], from_=5, points=2)
    assert arrays["values"].tolist() == [[13, 23], [14, 24], [15, 25]]
    header, arrays = board.arrays("quantiles", **_ASKED, row=NAMES[1], points=2)
    assert header["binned"]
    assert arrays["count"].tolist() == [1, 2]
    assert arrays["values"].tolist() == [[3, 13], [4, 19], [5, 25]]


@pytest.mark.parametrize("name", ["distribution", "quantiles"])
def test_a_row_that_there_is_not(board: Board, name: str) -> None:
    response = board.get(name, **_ASKED, row="first.wait")
    assert response.status_code == 404
    assert "'first.wait'; did you mean 'first.weight'?" in response.json["error"]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("distribution", {"edges": (0,), "counts": (0,)}),
        ("quantiles", {"step": (0,), "values": (0, 0)}),
    ],
)
def test_a_row_whose_rule_does_not_ask_for_it(
    name: str, shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    """No mistake of who asks: the page cannot know, and an error would look like one."""
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.quantity("grad_norm", [1, 2, 3]))
    header, arrays = Board(read(tmp_path)).arrays(name, **_ASKED, row=NAMES[0])
    assert "does not ask for" in header["absent"]
    assert {key: array.shape for key, array in arrays.items()} == shapes


@pytest.mark.parametrize("counts", [[[1, 2, 3]], [[2], [1]], [[0.5], [1]], [[-1], [1]]])
def test_damaged_histograms(counts: list[list[float]], tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.quantity("grad_histogram", counts, ["x"], edges=_EDGES))
    response = Board(read(tmp_path)).get("distribution", **_ASKED, row="x")
    assert response.status_code == 404
    assert response.json == {"error": "the histograms of step 0 are damaged"}


def test_damaged_quantiles_are_left_out(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        for step, shape in enumerate([(1, 3), (2, 3), (1, 2), (3,), (1, 3)]):
            values = np.full(shape, step, np.float32)
            schema = {"names": ["x"], "quantiles": [0, 0.5, 1]}
            log.capture(step, log.tensor(".sample_quantiles", values, "q", **schema))
    _, arrays = Board(read(tmp_path)).arrays("quantiles", **_ASKED, row="x")
    assert arrays["step"].tolist() == [0, 4]
