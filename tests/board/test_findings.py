"""Findings: each says what its numbers say, and nothing where they say nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from jacoscope.board.findings._alerts import raised
from jacoscope.board.findings._coverage import coverage, lost_coverage, not_measured
from jacoscope.board.findings._dead import dead_layers
from jacoscope.board.findings._finding import (
    Finding,
    counted,
    in_order,
    listed,
    percent,
    said,
)
from jacoscope.board.findings._gradients import RECENT, by_layer, non_finite, risen, spread
from jacoscope.board.findings._probes import allocation, probed_step
from jacoscope.board.findings._samples import agreement, noise
from jacoscope.board.findings._updates import pace
from jacoscope.board.missing import Gap
from jacoscope.board.table import Row, Table

NAN, INF = float("nan"), float("inf")
LAYERS = ("first", "middle", "last")


def _table(
    columns: Sequence[Sequence[float]],
    kinds: Sequence[str] = (),
    layers: Sequence[str] = (),
    sizes: Sequence[int] = (),
) -> Table:
    """A table with one column per row, each a list of values by step."""
    values = np.array(columns, np.float64).T
    rows = tuple(
        Row(
            f"row{place}",
            layers[place] if layers else f"layer{place}",
            kinds[place] if kinds else "weight",
            sizes[place] if sizes else 10,
        )
        for place in range(len(columns))
    )
    return Table(rows, np.arange(len(values)), values, None, False)


def _rows(count: int) -> tuple[Row, ...]:
    return tuple(Row(f"row{i}", f"layer{i // 2}", "weight", 1) for i in range(count))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1.0, "1"), (0.5, "0.5"), (1.23456, "1.23"), (-2, "−2"), (99.96, "100"),
        (410, "410"), (1234.5, "1,234"), (-5568.9, "−5,569"), (1e6, "1e6"),
        (1.5e-4, "1.5e−4"), (1e-4, "1e−4"), (0.001, "0.001"),
        (NAN, "not a number"), (INF, "infinite"), (-INF, "−infinite"),
    ],
)  # fmt: skip
def test_numbers_in_words(value: float, text: str) -> None:
    assert said(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.5, "50 %"), (0.1234, "12.3 %"), (0.99996, "over 99.9 %"),
     (0.0001, "under 0.1 %")],
)  # fmt: skip
def test_shares_in_words(share: float, text: str) -> None:
    assert percent(share) == text


def test_lists_in_words() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert counted(1, "layer") == "1 layer"
    assert counted(2000, "layer") == "2,000 layers"


def test_the_gravest_come_first_and_equals_keep_their_order() -> None:
    kinds = ["good", "note", "alert", "warning", "note", "alert"]
    found = in_order(Finding(str(i), s, "", "") for i, s in enumerate(kinds))  # type: ignore[arg-type]
    assert [finding.kind for finding in found] == ["2", "5", "3", "1", "4", "0"]


def test_only_five_layers_are_named() -> None:
    described = Finding("x", "note", "", "", layers=tuple("abcdefg")).described()
    assert described["layers"] == list("abcde")
    assert described["more"] == 2


def test_layers_are_put_together_by_size() -> None:
    table = _table(
        [[3.0, NAN], [4.0, 2.0], [1.0, NAN], [9.0, 9.0]],
        layers=["a", "a", "b", "(all)"],
        kinds=["weight", "bias", "weight", "all"],
        sizes=[100, 300, 1, 401],
    )
    layers, values = by_layer(table)
    assert layers == ("a", "b")
    both = np.sqrt((100 * 9 + 300 * 16) / 400)
    np.testing.assert_allclose(values, [[both, 1], [2, NAN]])


class TestNonFinite:
    def test_all_is_well(self) -> None:
        found = non_finite(_rows(2), np.arange(5), np.zeros((5, 2), bool))
        assert found is not None
        assert (found.severity, found.title) == ("good", "All gradients are finite.")
        assert found.text == "In 5 captured steps."

    def test_the_first_step_and_its_layers(self) -> None:
        bad = np.zeros((5, 4), bool)
        bad[2, 2] = bad[2, 3] = bad[3, 0] = bad[4, 2] = True
        found = non_finite(_rows(4), np.array([0, 10, 20, 30, 40]), bad)
        assert found is not None
        assert found.severity == "alert"
        assert found.step == 20
        assert found.layers == ("layer1",)
        assert "First at step 20, last at step 40; 3 of 5 captured steps" in found.text

    def test_a_single_step(self) -> None:
        bad = np.zeros((5, 4), bool)
        bad[1, 0] = True
        found = non_finite(_rows(4), np.arange(5), bad)
        assert found is not None
        assert found.text.startswith("Only step 1 is affected.")

    def test_loss_scaling_makes_some_expected(self) -> None:
        found = non_finite(_rows(1), np.arange(1), np.ones((1, 1), bool), "16-mixed")
        assert found is not None
        assert found.severity == "warning"
        assert "loss scaling" in found.text

    def test_nothing_captured(self) -> None:
        assert non_finite(_rows(1), np.arange(0), np.zeros((0, 1), bool)) is None


class TestSpread:
    def test_even_gradients(self) -> None:
        found = spread(LAYERS, np.array([[1e-3, 2e-3, 1.5e-3]]))
        assert found is not None
        assert found.severity == "good"
        assert "from 0.001 in first to 0.002 in middle, a factor of 2" in found.text

    def test_two_decades_are_noted_and_four_are_a_warning(self) -> None:
        for low, severity in ((2e-2, "good"), (9e-3, "note"), (2e-4, "note"), (9e-5, "warning")):
            found = spread(LAYERS, np.array([[low, 0.5, 1.0]]))
            assert found is not None
            assert found.severity == severity

    def test_which_way_they_go(self) -> None:
        rising, falling = np.array([[1e-6, 1e-3, 1.0]]), np.array([[1.0, 1e-3, 1e-6]])
        shrinking, growing = spread(LAYERS, rising), spread(LAYERS, falling)
        mixed = spread((*LAYERS, "more"), np.array([[1.0, 1e-6, 1e-6, 1.0]]))
        assert shrinking is not None
        assert growing is not None
        assert mixed is not None
        assert "shrink towards the first layers, as vanishing gradients do" in shrinking.text
        assert "grow towards the first layers, as exploding gradients do" in growing.text
        assert "do not go with depth" in mixed.text

    def test_the_last_captures_count(self) -> None:
        values = np.array([[1.0, 1.0]] * 5 + [[1e-5, 1.0]] * RECENT)
        found = spread(("a", "b"), values)
        assert found is not None
        assert found.title == "Layers' gradients are 5.0 decades apart."

    @pytest.mark.parametrize(
        "values", [[[1.0]], [[0.0, 1.0]], [[NAN, 1.0]], [[INF, 1.0]], np.empty((0, 2))]
    )
    def test_nothing_to_compare(self, values: Any) -> None:
        assert spread(("a", "b")[: np.shape(values)[1]], np.array(values)) is None


class TestRisen:
    def test_a_layer_that_grew_a_thousandfold(self) -> None:
        early, late = np.full((RECENT, 3), 1e-3), np.array([[1e-3, 1.0, 0.2]] * RECENT)
        found = risen(LAYERS, early, late)
        assert found is not None
        assert found.severity == "warning"
        assert found.layers == ("middle", "last")
        assert "Most in middle, by a factor of 1,000" in found.text

    def test_usual_growth_is_no_finding(self) -> None:
        assert risen(LAYERS, np.full((3, 3), 1e-3), np.full((3, 3), 0.09)) is None

    def test_what_was_zero_or_is_not_finite_does_not_count(self) -> None:
        early, late = np.array([[0.0, NAN, 1.0]]), np.array([[1.0, 1.0, INF]])
        assert risen(LAYERS, early, late) is None


class TestDead:
    def test_no_gradient_at_all(self) -> None:
        found = dead_layers(_table([[0.0] * RECENT, [1.0] * RECENT]), None)
        assert found is not None
        assert found.layers == ("layer0",)
        assert found.title == "1 layer learns next to nothing."
        assert "exactly zero in row0" in found.text

    def test_hardly_any_gradient(self) -> None:
        zeros = _table([[0.9995] * RECENT, [0.99] * RECENT, [1.0] * RECENT],
                       kinds=["weight", "weight", "embedding"])  # fmt: skip
        found = dead_layers(None, zeros)
        assert found is not None
        # Rows of an embedding whose tokens are absent have none by right.
        assert found.layers == ("layer0",)
        assert "at least 99.9 % of it is zero in row0" in found.text

    def test_some_captures_are_not_enough(self) -> None:
        assert dead_layers(_table([[0.0] * (RECENT - 1)]), None) is None
        assert dead_layers(_table([[0.0] * RECENT + [1.0]]), None) is None
        assert dead_layers(_table([[NAN] * RECENT]), None) is None
        assert dead_layers(None, None) is None


class TestPace:
    def test_usual(self) -> None:
        found = pace(_table([[1e-3] * RECENT, [5e-3] * RECENT]))
        assert found is not None
        assert found.severity == "good"
        assert "from 0.001 to 0.005" in found.text

    def test_too_fast_outweighs_too_slow(self) -> None:
        found = pace(_table([[1e-6] * RECENT, [0.5] * RECENT, [1e-3] * RECENT]))
        assert found is not None
        assert found.severity == "warning"
        assert found.layers == ("layer1",)
        assert found.title == "1 weight tensor of 3 moves by more than 0.1 of their norm in a step."

    def test_too_slow(self) -> None:
        found = pace(_table([[1e-6] * RECENT, [5e-5] * RECENT]))
        assert found is not None
        assert found.severity == "note"
        assert found.layers == ("layer0", "layer1")

    def test_biases_start_at_no_scale(self) -> None:
        assert pace(_table([[INF] * RECENT], kinds=["bias"])) is None
        assert pace(_table([[1e-9] * (RECENT - 1)])) is None


class TestNoise:
    def test_a_batch_far_below_the_noise_scale(self) -> None:
        found = noise(410, 64, 7)
        assert found is not None
        assert found.severity == "note"
        assert found.title == "Steps are mostly noise: the noise scale is 6.4 times the batch."
        assert "B_simple ≈ 410 samples, a step has 64 samples" in found.text
        assert "13.5 % of the progress" in found.text
        assert "arXiv:1812.06162" in found.text

    def test_a_batch_far_above_it(self) -> None:
        found = noise(10, 100, 7)
        assert found is not None
        assert found.title == "The batch is 10 times the noise scale."

    def test_a_batch_about_as_large(self) -> None:
        found = noise(100, 90, 7)
        assert found is not None
        assert found.severity == "good"

    @pytest.mark.parametrize("scale", [-3.0, 0.0, INF, -INF])
    def test_no_signal_to_tell(self, scale: float) -> None:
        found = noise(scale, 64, 7)
        assert found is not None
        assert found.title == "The gradient cannot be told from its noise yet."

    def test_without_a_batch_there_is_nothing_to_compare(self) -> None:
        found = noise(410, None, 7)
        assert found is not None
        assert "times" not in found.title
        assert noise(NAN, 64, 7) is None


class TestAgreement:
    @pytest.mark.parametrize(
        ("coherence", "title"),
        [
            (0.7, "Samples mostly agree."),
            (0.2, "Samples agree in part."),
            (0.01, "Samples hardly agree."),
            (-0.001, "Samples hardly agree."),
            # At least half of what is possible among 11 samples, −1/10.
            (-0.06, "Samples cancel one another."),
        ],
    )
    def test_coherence(self, coherence: float, title: str) -> None:
        found = agreement({"coherence": coherence}, 11)
        assert found is not None
        assert found.title == title

    def test_only_what_there_is_is_said(self) -> None:
        found = agreement({"sample_opposed": 0.25, "coherence": NAN}, None)
        assert found is not None
        assert found.text == "In the last captures, 25 % of the samples pull against their batch."
        assert agreement({"coherence": NAN}, 3) is None
        assert agreement({}, 3) is None


class TestCoverage:
    def test_all(self) -> None:
        found = coverage("coverage", 1.0, [])
        assert found is not None
        assert (found.severity, found.layers) == ("good", ())

    def test_a_part_with_the_reasons(self) -> None:
        left = [{"parameter": f"p{i}", "layer": "l", "reason": "frozen"} for i in range(3)]
        left.append({"parameter": "q", "layer": "m", "reason": "no rule matches it"})
        found = coverage("coverage", 0.4, left)
        assert found is not None
        assert found.severity == "warning"
        assert found.title == "The gradients of 40 % of the model are measured."
        assert "3 parameters: frozen; 1 parameter: no rule matches it." in found.text
        assert found.layers == ("l", "m")

    def test_a_fall(self) -> None:
        shares = np.array([NAN, 1.0, 1.0, 0.5, 0.6])
        found = lost_coverage("coverage", np.arange(0, 50, 10), shares)
        assert found is not None
        assert found.step == 30
        assert "fell from 100 % to 50 % of the model's scalars; it is 60 % now" in found.text

    @pytest.mark.parametrize("shares", [[1.0, 1.0], [0.5, 1.0], [1.0, 0.995], [1.0], [NAN, NAN]])
    def test_no_fall(self, shares: list[float]) -> None:
        assert lost_coverage("coverage", np.arange(len(shares)), np.array(shares)) is None

    def test_what_could_not_be_measured_is_told_together(self) -> None:
        gaps = [
            Gap("noise_scale", "the loss is no mean over samples.", (), 5),
            Gap("coherence", "the loss is no mean over samples.", (), 3),
            Gap("grad_norm", "no gradient reached it", ("a", "b"), 7),
            Gap("grad_norm", "it is sparse", ("c",), 6),
        ]
        whole, rows = not_measured(gaps)
        assert whole.title == "noise_scale and coherence could not be measured."
        assert whole.text == "Since step 3: the loss is no mean over samples."
        assert (whole.severity, whole.layers) == ("warning", ())
        assert rows.title == "grad_norm could not be measured in 3 rows."
        assert rows.text == "Since step 6: no gradient reached it (and 1 more reason)."
        assert (rows.severity, rows.layers) == ("note", ("a", "b", "c"))
        assert not_measured([]) == []


class TestProbes:
    @pytest.mark.parametrize(
        ("predicted", "after", "severity", "title"),
        [
            (-0.1, 0.91, "good", "about what its derivative promised"),
            (-0.1, 0.97, "note", "kept 30 % of what it promised"),
            (-0.1, 1.05, "warning", "raised the loss that it was to lower"),
            (0.1, 1.1, "note", "The last probed step."),
            # Less than rounding.
            (-1e-9, 1.0 + 1e-9, "note", "The last probed step."),
        ],
    )
    def test_a_step(self, predicted: float, after: float, severity: str, title: str) -> None:
        record = {
            "before": 1.0, "after": after, "predicted": predicted, "sentence": "It went so.",
            "rounding": 1e-8,
        }  # fmt: skip
        found = probed_step(40, record)
        assert found is not None
        assert (found.severity, found.step) == (severity, 40)
        assert title in found.title
        assert "It went so." in found.text

    @pytest.mark.parametrize("record", [{}, {"before": 1.0, "after": "inf", "predicted": -1.0}])
    def test_a_step_without_numbers(self, record: dict[str, Any]) -> None:
        assert probed_step(40, record) is None

    def test_an_allocation(self) -> None:
        record = {"change": -2.0, "gap": -0.1, "by_layer": {"a": -0.5, "b": -1.4, "c": None}}
        found = allocation(40, record)
        assert found is not None
        assert found.severity == "good"
        assert found.title == "b did most to the loss so far."
        assert "changed by −2; what is allocated to layers adds up to −1.9, of which −1.4 to b" in (
            found.text
        )

    def test_an_allocation_that_does_not_add_up(self) -> None:
        found = allocation(40, {"change": -2.0, "gap": 1.0, "by_layer": {"a": -3.0}})
        assert found is not None
        assert found.title == "The allocation to layers is 50 % off: probe more often."
        assert allocation(40, {"change": 0.0, "gap": 0.0, "by_layer": {"a": 0.0}}) is None
        assert allocation(40, {"by_layer": {}}) is None


def test_alerts_are_told_by_rule() -> None:
    def alert(step: int, name: str, severity: str, row: str) -> dict[str, Any]:
        sentence = f"{name}: grad_norm of {row} is 5, above 1, at step {step}"
        return {"step": step, "name": name, "severity": severity, "subject": "grad_norm",
                "sentence": sentence, "rows": [{"row": row, "value": 5, "bound": 1}]}  # fmt: skip

    first, second = raised(
        [
            alert(3, "steep", "alert", "a"),
            alert(4, "other", "note", "(model)"),
            alert(9, "steep", "alert", "b"),
        ]
    )
    assert (first.severity, first.step, first.layers) == ("alert", 3, ("a", "b"))
    assert first.title == "Alert “steep” at step 3."
    assert first.text == "Grad_norm of a is 5, above 1, at step 3. 2 times, last at step 9."
    assert (second.severity, second.layers) == ("note", ())
