"""Whether the samples of a batch ask for the same step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from board_records import GROUP, RUN, Board, Log, read
from jacoscope.board.agreement import class_order, effective_rank

NAN = float("nan")
_ASKED = {"run": RUN, "group": GROUP}


def _gram(gradients: Any) -> Any:
    return (gradients @ gradients.T).astype(np.float32)


@pytest.mark.parametrize(
    ("spectrum", "rank"),
    [([1, 1, 1, 1], 4), ([5, 0, 0], 1), ([1, 1, -1e-9], 2), ([0, 0], NAN), ([NAN, NAN], NAN),
     ([], NAN)],
)  # fmt: skip
def test_effective_rank(spectrum: list[float], rank: float) -> None:
    assert effective_rank(np.array(spectrum, float)) == pytest.approx(rank, nan_ok=True)


def test_effective_rank_is_the_exponential_of_the_entropy() -> None:
    shares = np.array([0.5, 0.25, 0.25])
    # 1.5 bits of entropy.
    assert effective_rank(8 * shares) == pytest.approx(2**1.5)


def test_samples_are_ordered_by_class_and_then_along_the_first_direction() -> None:
    along = np.array([3.0, -1.0, 2.0, 0.5, -2.0])
    gram = np.outer(along, along)
    assert class_order(gram, None).tolist() == [0, 2, 3, 1, 4]
    assert class_order(gram, [1, 0, 0, "x", 1]).tolist() == [2, 1, 0, 4, 3]
    # Numbers in order, not as texts.
    assert class_order(np.eye(3), [10, 2, 1]).tolist() == [2, 1, 0]


def test_the_first_direction_is_the_one_that_the_batch_pulls_in() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        along = rng.standard_normal(6)
        along *= np.sign(along.sum())
        gram = np.outer(along, along)
        assert class_order(gram, None).tolist() == np.argsort(-along).tolist()


@pytest.mark.parametrize("gram", [np.full((3, 3), NAN), np.full((3, 3), np.inf), np.zeros((0, 0))])
def test_a_matrix_that_is_not_finite_keeps_its_order(gram: Any) -> None:
    assert class_order(gram, None).tolist() == list(range(len(gram)))


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """Two recorded batches, the second one smaller."""
    rng = np.random.default_rng(0)
    with Log(tmp_path / RUN) as log:
        for step, count in ((0, 5), (10, 3)):
            gram = _gram(rng.standard_normal((count, 4)))
            spectrum = np.linalg.eigvalsh(gram)[::-1].astype(np.float32)
            batch = {
                "epoch": step // 10, "row": "(all)", "samples": 8, "shown": count,
                "id_source": "dataset index", "ids": list(range(count)),
                "labels": [i % 2 for i in range(count)],
                "losses": [-0.0, "inf", *[1.5] * (count - 2)],
            }  # fmt: skip
            log.capture(
                step,
                log.tensor(".gram", gram, unit="u²"),
                log.tensor(".gram_spectrum", spectrum, unit="u²"),
                log.text(".gram_batch", batch),
            )
        log.capture(20)
    return Board(read(tmp_path))


def test_spectra_over_time(board: Board) -> None:
    header, arrays = board.arrays("agreement", **_ASKED)
    assert header["steps"] == arrays["step"].tolist() == [0, 10]
    assert header["n"] == [5, 3]
    assert header["unit"] == "u²"
    assert arrays["spectra"].shape == (2, 5)
    assert np.isnan(arrays["spectra"][1, 3:]).all()
    for place in range(2):
        spectrum = arrays["spectra"][place]
        spectrum = spectrum[~np.isnan(spectrum)]
        assert (np.diff(spectrum) <= 0).all()
        positive = np.maximum(spectrum, 0)
        assert arrays["trace"][place] == pytest.approx(positive.sum(), rel=1e-5)
        assert arrays["top_share"][place] == pytest.approx(spectrum[0] / positive.sum(), rel=1e-5)
        assert 1 <= arrays["effective_rank"][place] <= len(spectrum)


def test_a_gram_matrix_with_its_samples(board: Board) -> None:
    header, arrays = board.arrays("gram", **_ASKED, step=0)
    assert (header["step"], header["steps"], header["n"]) == (0, [0, 10], 5)
    assert (header["samples"], header["epoch"], header["row"]) == (8, 0, "(all)")
    assert header["ids"] == [0, 1, 2, 3, 4]
    assert header["classes"] == [0, 1]
    assert header["losses"] == [0.0, "inf", 1.5, 1.5, 1.5]
    assert not str(header["losses"][0]).startswith("-")
    assert arrays["gram"].shape == (5, 5)
    assert arrays["order"].dtype == np.int32
    assert sorted(arrays["order"].tolist()) == [0, 1, 2, 3, 4]
    assert [header["labels"][i] for i in arrays["order"]] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(("asked", "step"), [({}, 10), ({"step": 9}, 0), ({"step": 99}, 10),
                                             ({"step": -5}, 0)])  # fmt: skip
def test_the_nearest_batch_that_is_recorded(board: Board, asked: Any, step: int) -> None:
    assert board.arrays("gram", **_ASKED, **asked)[0]["step"] == step


def test_long_spectra_are_cut_and_their_numbers_are_of_all(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.tensor(".gram_spectrum", np.ones(100, np.float32)))
    _, arrays = Board(read(tmp_path)).arrays("agreement", **_ASKED)
    assert arrays["spectra"].shape == (1, 64)
    assert arrays["trace"][0] == 100
    assert arrays["effective_rank"][0] == pytest.approx(100)


def test_a_batch_that_was_not_finite(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        bad = np.full((2, 2), NAN, np.float32)
        log.capture(0, log.tensor(".gram", bad), log.tensor(".gram_spectrum", bad[0]))
    board = Board(read(tmp_path))
    _, arrays = board.arrays("agreement", **_ASKED)
    assert np.isnan(arrays["effective_rank"]).all()
    assert np.isnan(arrays["top_share"]).all()
    header, arrays = board.arrays("gram", **_ASKED)
    # Nothing tells whose samples these are.
    assert (header["labels"], header["ids"], header["classes"]) == (None, [], [])
    assert arrays["order"].tolist() == [0, 1]


def test_a_run_without_gram_matrices(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.tensor(".gram", np.zeros((2, 3), np.float32)))
    board = Board(read(tmp_path))
    header, arrays = board.arrays("agreement", **_ASKED)
    assert header["steps"] == []
    assert arrays["spectra"].shape == (0, 0)
    response = board.get("gram", **_ASKED)
    assert response.status_code == 404
    assert response.json == {"error": "this run has no Gram matrix of a batch"}
