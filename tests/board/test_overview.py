"""What a run says at first sight."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from board_records import GROUP, NAMES, RUN, Board, Log, described, read, trained

NAN = float("nan")
_ASKED = {"run": RUN, "group": GROUP}


def _kinds(header: dict[str, Any]) -> dict[str, str]:
    return {finding["kind"]: finding["severity"] for finding in header["findings"]}


@pytest.fixture(name="board", scope="module")
def _board() -> Board:
    return Board(read(trained()))


def test_a_real_run(board: Board) -> None:
    header, arrays = board.arrays("overview", run="cnn", group=GROUP)
    card = header["card"]
    assert card["versions"]["jacoscope"]
    assert (card["captured"], card["probed"]) == (20, 5)
    assert (card["first_step"], card["epochs"], card["parameters"]) == (0, 2, 10)
    names = [item["name"] for item in header["headline"]]
    assert names[:2] == ["grad_norm", "grad_max"]
    assert arrays["low"].shape == arrays["high"].shape == arrays["values"].shape
    assert arrays["values"].shape == (len(names), len(arrays["step"]))
    for place, item in enumerate(header["headline"]):
        found = arrays["values"][place]
        assert item["last"] == pytest.approx(float(found[~np.isnan(found)][-1]), rel=1e-6)
    kinds = _kinds(header)
    assert {"non_finite", "spread", "coverage", "noise", "agreement", "probed_step"} <= set(kinds)
    assert kinds["non_finite"] == kinds["coverage"] == "good"
    order = ["alert", "warning", "note", "good"]
    severities = [order.index(finding["severity"]) for finding in header["findings"]]
    assert severities == sorted(severities)
    assert header["missing"] == []
    assert header["gradient"]["precision"] == "32-true"


def test_views_are_of_what_is_recorded(board: Board) -> None:
    header, _ = board.arrays("overview", run="cnn", group=GROUP)
    (run,) = board.json("runs")["runs"]
    recorded = {quantity["name"] for quantity in run["quantities"]}
    for finding in header["findings"]:
        quantity = (finding["view"] or {}).get("quantity")
        assert quantity is None or quantity in recorded
    assert any((f["view"] or {}).get("quantity") == "grad_rms" for f in header["findings"])


def test_on_how_much_of_a_step_it_is_measured(tmp_path: Path) -> None:
    half, quarter = ({"samples": {"extent": f"measured on {n} of 64 samples"}} for n in (32, 16))
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.text(".status", half))
        log.capture(5, log.text(".status", quarter))
        log.capture(9, log.text(".status", {**quarter, "withheld": {"gsnr": "why"}}))
    header, _ = Board(read(tmp_path)).arrays("overview", **_ASKED)
    told = [(gap["quantity"], gap["reason"], gap["since_step"]) for gap in header["missing"]]
    assert told == [
        ("per-sample quantities", "measured on 16 of 64 samples", 5),
        ("gsnr", "why", 9),
    ]
    assert not any("per-sample" in finding["title"] for finding in header["findings"])


def test_headline_scalars_that_come_and_go_are_put_together(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.headline(grad_norm=1.0, coverage=1.0))
        log.capture(1, log.headline(grad_norm=NAN, coverage=1.0))
        log.capture(2, log.headline("g", grad_norm=3.0, sample_count=8.0))
        log.probe(2, log.headline("p", predicted_change=-0.5))
    header, arrays = Board(read(tmp_path)).arrays("overview", **_ASKED)
    places = {item["name"]: place for place, item in enumerate(header["headline"])}
    assert set(places) == {"grad_norm", "coverage", "sample_count", "predicted_change"}
    values = arrays["values"]
    expected = {
        "grad_norm": [1, NAN, 3], "coverage": [1, 1, NAN], "sample_count": [NAN, NAN, 8],
        "predicted_change": [NAN, NAN, -0.5],
    }  # fmt: skip
    for name, row in expected.items():
        np.testing.assert_array_equal(values[places[name]], np.array(row, np.float32))
    last = {item["name"]: (item["last_step"], item["last"]) for item in header["headline"]}
    assert last["coverage"] == (1, 1.0)
    assert last["grad_norm"] == (2, 3.0)


def test_a_headline_that_is_not_a_number_last_is_null(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.headline(a=NAN, b=float("inf")))
    header, _ = Board(read(tmp_path)).arrays("overview", **_ASKED)
    assert {item["name"]: item["last"] for item in header["headline"]} == {"a": None, "b": "inf"}


def test_sparklines_keep_the_extremes(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        for step in range(1000):
            log.capture(step, log.headline(grad_norm=50.0 if step == 333 else 1.0))
    header, arrays = Board(read(tmp_path)).arrays("overview", **_ASKED)
    assert header["steps_total"] == 1000
    assert arrays["low"].shape == (1, 400)
    assert arrays["high"].max() == 50
    assert arrays["low"].min() == 1


def test_the_step_at_which_gradients_were_lost(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        for step in range(5):
            bad = [0, 2, 0] if step >= 3 else [0, 0, 0]
            log.capture(
                step, log.quantity("grad_nonfinite", bad), log.headline(grad_nonfinite=sum(bad))
            )
    header, _ = Board(read(tmp_path)).arrays("overview", **_ASKED)
    finding = header["findings"][0]
    assert (finding["kind"], finding["severity"], finding["step"]) == ("non_finite", "alert", 3)
    assert finding["layers"] == ["first"]
    assert finding["view"] == {"view": "layers", "quantity": "grad_nonfinite"}


def test_gradients_that_are_not_finite_without_counts_of_them(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        for step in range(3):
            log.capture(step, log.quantity("grad_rms", [1, NAN if step == 2 else 1, 1]))
    header, _ = Board(read(tmp_path)).arrays("overview", **_ASKED)
    finding = header["findings"][0]
    assert (finding["kind"], finding["step"]) == ("non_finite", 2)
    assert finding["view"]["quantity"] == "grad_rms"


def test_a_row_that_could_not_be_had_is_no_lost_gradient(tmp_path: Path) -> None:
    missing = {"missing": {"grad_rms": {NAMES[1]: "it has no gradient"}}}
    with Log(tmp_path / RUN) as log:
        for step in range(3):
            values = log.quantity("grad_rms", [1, NAN, 1])
            log.capture(step, values, *([log.text(".status", missing)] if step == 0 else []))
    header, _ = Board(read(tmp_path)).arrays("overview", **_ASKED)
    assert _kinds(header)["non_finite"] == "good"
    assert header["missing"] == [
        {"quantity": "grad_rms", "reason": "it has no gradient", "rows": [NAMES[1]], "count": 1,
         "since_step": 0}
    ]  # fmt: skip


def test_what_is_missing_says_since_when_without_a_break(tmp_path: Path) -> None:
    def status(**withheld: str) -> dict[str, Any]:
        return {"missing": {}, "withheld": withheld}

    with Log(tmp_path / RUN) as log:
        log.capture(0, log.text(".status", status(a="x")))
        log.capture(1, log.text(".status", status()))
        log.capture(2, log.text(".status", status(a="x", b="y")))
        log.capture(3, log.text(".status", status(a="x", b="z")))
        log.probe(2, log.text(".probe", {"withheld": {"d": "v"}}))
        log.probe(3, log.text(".probe", {"missing": {"e": {"r": "w"}}, "withheld": {"d": "v"}}))
        log.probe(4, log.text(".probe", {"missing": {"c": {"r": "w"}}, "withheld": {"d": "v"}}))
        # The last of a run does no more than conclude the allocation.
        log.probe(5, log.text(".probe", {"missing": {}, "withheld": {}, "allocation": {"a": 1}}))
    header, _ = Board(read(tmp_path)).arrays("overview", **_ASKED)
    found = {(gap["quantity"], gap["reason"]): gap["since_step"] for gap in header["missing"]}
    assert found == {("a", "x"): 2, ("b", "z"): 3, ("c", "w"): 4, ("d", "v"): 2}
    assert {gap["quantity"]: gap["rows"] for gap in header["missing"]}["c"] == ["r"]


def test_a_run_without_samples_and_probes_says_so(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.quantity("grad_norm", [1, 2, 3]), log.text(".run", described()))
    header, _ = Board(read(tmp_path)).arrays("overview", **_ASKED)
    assert {"no_samples", "no_probes"} <= set(_kinds(header))
    assert "noise" not in _kinds(header)


def test_samples_that_could_not_be_had_are_not_said_to_be_unasked(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.text(".status", {"withheld": {"noise_scale": "the loss is a sum"}}))
    header, _ = Board(read(tmp_path)).arrays("overview", **_ASKED)
    assert "no_samples" not in _kinds(header)
    (finding,) = (f for f in header["findings"] if f["kind"].startswith("missing"))
    # There is no such quantity to look at.
    assert finding["view"] is None


def test_a_run_that_ends_in_nan_has_no_healthy_layers(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        for step in range(12):
            values = [1.0, 2.0, float("nan") if step > 5 else 1.0]
            log.capture(step, log.quantity("grad_rms", values))
    kinds = _kinds(Board(read(tmp_path)).arrays("overview", **_ASKED)[0])
    assert "non_finite" in kinds
    assert not {"spread", "risen"} & set(kinds)


def test_the_noise_scale_is_held_against_the_usual_batch(tmp_path: Path) -> None:
    """The last batch of an epoch is smaller."""
    with Log(tmp_path / RUN) as log:
        for step, samples in enumerate([64.0, 64.0, 64.0, 5.0]):
            headline = log.headline("g", noise_scale=640.0, sample_count=samples)
            log.capture(step, log.quantity("noise_scale", [640.0] * 3), headline)
    header, _ = Board(read(tmp_path)).arrays("overview", **_ASKED)
    (finding,) = (f for f in header["findings"] if f["kind"] == "noise")
    assert "a step has 64 samples" in finding["text"]


def test_alerts_of_the_run_itself(tmp_path: Path) -> None:
    alert = {"step": 1, "name": "steep", "severity": "alert", "subject": "grad_norm",
             "sentence": "steep: grad_norm is 9", "rows": [{"row": "first.weight"}]}  # fmt: skip
    with Log(tmp_path / RUN) as log:
        log.capture(1, log.quantity("grad_norm", [9, 9, 9]))
        log.event(1, log.text(".alerts", [alert, "no object"]))
    header, _ = Board(read(tmp_path)).arrays("overview", **_ASKED)
    first = header["findings"][0]
    assert (first["kind"], first["severity"], first["step"]) == ("alert: steep", "alert", 1)
    assert first["view"] == {"view": "layers", "quantity": "grad_norm"}


@pytest.mark.parametrize(
    "run",
    [
        {},
        {"parameters": 3, "left_out": "none", "versions": [1]},
        {"parameters": [1, None, {"parameter": 5, "size": "x", "quantities": [1]}]},
        {"left_out": [{"layer": None, "reason": {}}]},
    ],
)
def test_descriptions_of_another_kind_break_nothing(tmp_path: Path, run: Any) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(
            0,
            log.quantity("grad_rms", [1, 2, 3]),
            log.headline(coverage=0.5, sample_coverage=0.5),
            log.text(".run", run),
            log.text(".status", {"missing": [1], "withheld": {"a": 3}, "gradient": "?"}),
        )
        log.probe(0, log.text(".probe", {"all_else_equal": 1, "allocation": {"by_layer": []}}))
    header, _ = Board(read(tmp_path)).arrays("overview", **_ASKED)
    assert header["card"]["captured"] == 1
    assert header["card"]["scalars"] == 0


def test_an_empty_run(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.event(0, log.text(".run", described()))
    header, arrays = Board(read(tmp_path)).arrays("overview", **_ASKED)
    assert header["card"]["last_step"] is None
    assert header["headline"] == []
    assert arrays["low"].shape == (0, 0)
