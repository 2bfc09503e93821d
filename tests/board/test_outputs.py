"""What moves the outputs, as probes recorded it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from board_records import GROUP, RUN, Board, Log, read, trained
from jacoscope import read_run

NAN = float("nan")
_ASKED = {"run": RUN, "group": GROUP}


def test_a_real_run_is_what_the_reader_reads() -> None:
    probes, board = read_run(trained()).probes, Board(read(trained()))
    asked = {"run": "cnn", "group": GROUP}
    header, arrays = board.arrays("outputs", **asked)
    step = header["step"]
    saliency = probes.saliency(step)
    np.testing.assert_array_equal(arrays["saliency_maps"], saliency["maps"])
    np.testing.assert_array_equal(arrays["saliency_things"], saliency["things"])
    assert header["saliency"]["kind"] == saliency["kind"]
    assert header["ids"] == list(saliency["ids"])
    frame = probes.output_sensitivity(step)
    assert header["sensitivity_layers"] == list(frame.index)
    np.testing.assert_array_equal(arrays["output_sensitivity"], frame.to_numpy())
    values = probes.input_singular_values(step).to_numpy()
    np.testing.assert_array_equal(arrays["input_singular_values"], values)
    meta, spectra = board.arrays("spectra", **asked, kind="ntk")
    assert spectra["step"].tolist() == header["steps"]
    for place, row in enumerate(meta["rows"]):
        expected = probes.ntk_spectrum(row).to_numpy()
        np.testing.assert_array_equal(spectra["values"][:, place], expected)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """Probes at 0, 10 and 20; things at 0 alone, and another kernel's rows at 20."""
    with Log(tmp_path / RUN) as log:
        for step in (0, 10, 20):
            maps = np.full((2, 3, 4), step, np.float32)
            things = [log.tensor(".saliency_things", maps[:, 0])] if step == 0 else []
            rows = ["(all)", "layer b"] if step == 20 else ["(all)", "layer a"]
            spectrum = np.full((2, 3 if step else 2), step, np.float32)
            record = {"epoch": 1, "notes": {"a": "b"}, "withheld": {}, "ids": ["x", "y"],
                      "saliency": {"kind": "table"}}  # fmt: skip
            log.probe(
                step,
                log.tensor(".saliency_maps", maps),
                *things,
                log.tensor(".ntk_spectrum", spectrum, rows[1][-1], names=rows),
                log.tensor(".input_singular_values", np.full((2, 2), step, np.float32)),
                log.text(".probe", record),
            )
        log.probe(25, log.text(".probe", {"allocation": {}}))
    return Board(read(tmp_path))


@pytest.mark.parametrize(("asked", "step"), [(None, 20), (25, 20), (19, 10), (-1, 0)])
def test_the_nearest_probe_of_outputs(board: Board, asked: int | None, step: int) -> None:
    query = {} if asked is None else {"step": asked}
    header, arrays = board.arrays("outputs", **_ASKED, **query)
    assert header["step"] == step
    # The last probe had nothing to do with outputs.
    assert header["steps"] == [0, 10, 20]
    assert (arrays["saliency_maps"] == step).all()
    # Things hold until there are others.
    assert (arrays["saliency_things"] == 0).all()
    assert header["ntk_rows"] == ["(all)", "layer b" if step == 20 else "layer a"]
    assert header["notes"] == {"a": "b"}
    assert "output_sensitivity" not in arrays
    assert header["sensitivity_layers"] == []


def test_spectra_of_rows_and_lengths_that_change(board: Board) -> None:
    header, arrays = board.arrays("spectra", **_ASKED, kind="ntk")
    assert header["rows"] == ["(all)", "layer a", "layer b"]
    assert arrays["step"].tolist() == [0, 10, 20]
    values = arrays["values"]
    assert values.shape == (3, 3, 3)
    np.testing.assert_array_equal(values[0], [[0, 0, NAN], [0, 0, NAN], [NAN] * 3])
    np.testing.assert_array_equal(values[2], [[20] * 3, [NAN] * 3, [20] * 3])


def test_singular_values_over_time(board: Board) -> None:
    header, arrays = board.arrays("spectra", **_ASKED, kind="input")
    assert header["rows"] == ["sample 0", "sample 1"]
    assert arrays["values"].shape == (3, 2, 2)


def test_a_run_without_probes_of_outputs(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.probe(0, log.text(".probe", {}))
    board = Board(read(tmp_path))
    response = board.get("outputs", **_ASKED)
    assert response.status_code == 404
    assert response.json == {"error": "this run has no probes of its outputs"}
    header, arrays = board.arrays("spectra", **_ASKED, kind="ntk")
    assert header["rows"] == []
    assert arrays["values"].shape == (0, 0, 0)


@pytest.mark.parametrize(
    ("name", "value", "names"),
    [
        (".ntk_spectrum", np.zeros((3, 2), np.float32), ["a", "b"]),
        (".ntk_spectrum", np.zeros(2, np.float32), ["a", "b"]),
        (".output_sensitivity", np.zeros((1, 2), np.float32), ["a", "b"]),
    ],
)
def test_damaged_tensors_are_left_out(
    tmp_path: Path, name: str, value: Any, names: list[str]
) -> None:
    with Log(tmp_path / RUN) as log:
        log.probe(0, log.tensor(name, value, "d", names=names))
    board = Board(read(tmp_path))
    header, arrays = board.arrays("outputs", **_ASKED)
    assert header["step"] == 0
    assert header["saliency"] is None
    if value.ndim == 2:
        assert arrays == {}
    assert board.arrays("spectra", **_ASKED, kind="ntk")[1]["values"].size == 0
