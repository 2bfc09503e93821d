"""Why a number is not there."""

from pathlib import Path
from typing import Any

import pytest

from board_records import GROUP, NAMES, RUN, Board, Log, read

_ASKED = {"run": RUN, "group": GROUP}


@pytest.fixture
def board(tmp_path: Path) -> Board:
    nan = float("nan")
    status = {"missing": {"grad_norm": {NAMES[1]: "frozen"}}, "withheld": {"noise_scale": "a sum"}}
    probe = {"missing": {"ntk_trace": {NAMES[0]: "too large"}}, "withheld": {"ntk_drift": "none"}}
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.quantity("grad_norm", [1, 2, 3]))
        log.capture(10, log.quantity("grad_norm", [1, nan, 3]), log.text(".status", status))
        log.capture(20, log.quantity("grad_norm", [1, 2], NAMES[:2], digest="b"))
        log.capture(30, log.text(".status", {"missing": {}, "withheld": {}}))
        log.probe(5, log.quantity("ntk_trace", [nan, 1, 1], probe=True), log.text(".probe", probe))
        log.probe(15, log.quantity("ntk_trace", [1, 1, 1]), log.text(".probe", {}))
    return Board(read(tmp_path))


@pytest.mark.parametrize(
    ("query", "reasons"),
    [
        ({"quantity": "grad_norm", "step": 0}, {}),
        ({"quantity": "grad_norm", "step": 10}, {NAMES[1]: "frozen"}),
        # It holds until something else is told.
        ({"quantity": "grad_norm", "step": 29}, {NAMES[1]: "frozen"}),
        ({"quantity": "grad_norm", "step": 30}, {}),
        ({"quantity": "grad_norm", "step": 10, "row": NAMES[1]}, {NAMES[1]: "frozen"}),
        ({"quantity": "grad_norm", "step": 10, "row": NAMES[0]}, {}),
        (
            {"quantity": "grad_norm", "step": 20, "row": NAMES[2]},
            {NAMES[2]: "it was not watched, or not due, at this step"},
        ),
        ({"quantity": "noise_scale", "step": 12}, {"*": "a sum"}),
        ({"quantity": "noise_scale", "step": 12, "row": "(all)"}, {"(all)": "a sum"}),
        # What a probe tells is of its own step.
        ({"quantity": "ntk_trace", "step": 5}, {NAMES[0]: "too large"}),
        ({"quantity": "ntk_trace", "step": 6}, {}),
        ({"quantity": "ntk_trace", "step": 15}, {}),
        ({"quantity": "ntk_drift", "step": 5}, {"*": "none"}),
    ],
)
def test_reasons(board: Board, query: dict[str, Any], reasons: dict[str, str]) -> None:
    found = board.json("missing", **_ASKED, **query)
    assert found["step"] == query["step"]
    assert {item["row"]: item["reason"] for item in found["reasons"]} == reasons


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"quantity": "grad_nrom", "step": 1}, "the run has no quantity 'grad_nrom'"),
        ({"quantity": "grad_norm", "step": 1, "row": "x"}, "grad_norm has no row 'x'"),
    ],
)
def test_what_there_never_was(board: Board, query: dict[str, Any], sentence: str) -> None:
    response = board.get("missing", **_ASKED, **query)
    assert response.status_code == 404
    assert response.json["error"].startswith(sentence)
