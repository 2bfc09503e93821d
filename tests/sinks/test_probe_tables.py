"""Probes as tables in Markdown, as TensorBoard shows them."""

import dataclasses
import math
from html import unescape
from re import DOTALL, findall, sub

import numpy as np
import pytest
import torch
from tensorboard import plugin_util
from torch import nn

from jacoscope.probe_record import ProbeRecord
from jacoscope.probing import AllElseEqual, LayerShare, WeightShare, all_else_equal
from jacoscope.record import Axis, Record
from jacoscope.sinks._probe_tables import probe_notes, step_table

_NAN, _INFINITE = math.nan, math.inf
_NASTY = [
    "a|b",
    "<script>alert(1)</script>",
    "**bold** _it_ `code`",
    "[link](http://example.org)",
    "$x_{b}$ ~~s~~",
    "line\nbreak",
    "重み ü 🐈",
]


def _result(**changes: object) -> AllElseEqual:
    given: dict[str, object] = {
        "before": 2.5,
        "after": 2.0,
        "layers": (LayerShare("conv", -0.4, 0.1, -0.2), LayerShare("head", 0.0, 0.05, 0.05)),
        "second_order": 0.2,
        "method": "forward over reverse",
    }
    return AllElseEqual(**(given | changes))  # type: ignore[arg-type]


def _rows(text: str, table: int = 0) -> list[list[str]]:
    """The cells of a table as a browser shows them: header first."""
    shown = plugin_util.markdown_to_safe_html(text)
    html = findall(r"<table>(.*?)</table>", shown, DOTALL)[table]
    rows = findall(r"<tr>(.*?)</tr>", html, DOTALL)
    return [
        [
            unescape(sub(r"</?(strong|em)>", "", cell))
            for cell in findall(r"<t[hd]>(.*?)</t[hd]>", row)
        ]
        for row in rows
    ]


def _record(**changes: object) -> ProbeRecord:
    given: dict[str, object] = {"step": 7, "epoch": 0, "records": ()}
    return ProbeRecord(**(given | changes))  # type: ignore[arg-type]


# A step


def test_a_step_has_a_row_for_each_layer_and_one_for_what_they_do_together() -> None:
    rows = _rows(step_table(_result(), 12))
    assert rows == [
        ["layer", "predicted", "with second order", "actual", "share of the promise kept"],
        ["conv", "−0.4", "−0.3", "−0.2", "50%"],
        ["head", "0", "+0.05", "+0.05", "–"],
        ["interaction", "0", "+0.05", "−0.35", "–"],
        ["whole step", "−0.4", "−0.2", "−0.5", "125%"],
    ]


def test_a_step_is_said_in_words() -> None:
    text = unescape(step_table(_result(), 12))
    assert text.startswith("### Step 12:")
    assert "This step lowered the loss by 0.5, to 2; conv alone lowered it by 0.2" in text
    assert "where its derivative promised −0.4" in text
    assert "Second derivatives: forward over reverse" in text


def test_the_numbers_of_a_real_step_add_up() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    before = {name: p.detach() + 0.1 for name, p in model.named_parameters()}
    result = all_else_equal(model, lambda m: m(x).square().mean(), before)
    rows = _rows(step_table(result, 0))
    assert [row[0] for row in rows] == ["layer", "0", "2", "interaction", "whole step"]
    numbers = np.array([[float(c.replace("−", "-")) for c in row[1:4]] for row in rows[1:]])
    np.testing.assert_allclose(numbers[:3].sum(0), numbers[3], rtol=0.02)
    (weights, first, *_) = _rows(step_table(result, 0), 1)
    assert weights == ["weight", "∂L/∂θ", "finite difference", "rounding error", "Δθ", "promised"]
    assert first[0] == f"{result.weights[0].parameter}{list(result.weights[0].index)}"
    derivative, difference, error, step, promised = (float(c.replace("−", "-")) for c in first[1:])
    assert derivative == pytest.approx(difference, rel=0.01)
    assert promised == pytest.approx(derivative * step, rel=0.02)
    assert 0 < error < 1e-6


def test_no_weights_no_table_of_them() -> None:
    assert "finite difference" not in step_table(_result(), 0)


@pytest.mark.parametrize(
    ("predicted", "actual", "kept"),
    [(-1.0, 0.5, "−50%"), (1e-9, 1.0, "+1e+09 times"), (0.0, 1.0, "–"), (_NAN, 1.0, "–")],
)
def test_the_share_of_the_promise(predicted: float, actual: float, kept: str) -> None:
    result = _result(layers=(LayerShare("a", predicted, 0.0, actual),))
    assert _rows(step_table(result, 0))[1][-1] == kept


def test_no_second_order_says_why() -> None:
    layers = (LayerShare("a", -0.4, _NAN, -0.2),)
    result = _result(layers=layers, second_order=_NAN, missing="no rule for flash attention")
    text = step_table(result, 0)
    assert [row[2] for row in _rows(text)[1:]] == ["–", "–", "–"]
    assert "No second order: no rule for flash attention" in text


@pytest.mark.parametrize(
    "actuals", [(_NAN, 1.0), (_INFINITE, -_INFINITE), (1e308, 1e308), (-_INFINITE, 0.0)]
)
def test_numbers_that_are_none_are_said(actuals: tuple[float, float]) -> None:
    layers = tuple(LayerShare(name, -1.0, 0.0, a) for name, a in zip("ab", actuals, strict=True))
    text = step_table(_result(layers=layers, after=_NAN), 0)
    assert "from 2.5 to not a number" in text
    rows = _rows(text)
    assert rows[-1][3] == "not a number"
    for row, actual in zip(rows[1:], actuals, strict=False):
        if not math.isfinite(actual):
            assert row[3] in ("not a number", "+infinite", "−infinite")
            assert row[4] == "–"
            assert row[0] in text.split("moved alone:")[1].split(".")[0]


def test_a_step_without_layers() -> None:
    rows = _rows(step_table(_result(layers=(), second_order=0.0), 0))
    assert [row[0] for row in rows] == ["layer", "interaction", "whole step"]


@pytest.mark.parametrize("nasty", _NASTY)
def test_names_are_shown_as_they_are(nasty: str) -> None:
    weight = WeightShare(nasty, (0,), 1.0, 1.0, 1e-3, 1e-9, 0.1)
    layers = (LayerShare(nasty, -0.4, 0.1, -0.2), LayerShare("b", 0.0, 0.0, 0.0))
    text = step_table(_result(layers=layers, weights=(weight,), method=nasty), 0)
    shown = plugin_util.markdown_to_safe_html(text)
    assert "<script" not in shown
    assert "<a " not in shown
    assert "<code>" not in shown
    name = " ".join(nasty.split())
    assert _rows(text)[1][0] == name
    assert {len(row) for row in _rows(text)} == {5}
    assert _rows(text, 1)[1][0] == f"{name}[0]"


def test_long_names_are_cut_in_the_middle() -> None:
    names = [f"{'encoder.' * 40}{index}" for index in (1, 10)]
    layers = tuple(LayerShare(name, -0.4, 0.1, -0.2) for name in names)
    text = unescape(step_table(_result(layers=layers), 0))
    cut = [row[0] for row in _rows(text)[1:3]]
    assert [len(name) for name in cut] == [80, 80]
    assert cut[1].endswith("encoder.10")
    assert f"{cut[0]} alone lowered it" in text
    assert names[0] not in text


# How the probes went


def test_notes_say_what_is_withheld_and_why() -> None:
    record = _record(
        notes={"outputs": "8 samples, 10 outputs each"},
        withheld={"ntk_condition": "it needs a row per output"},
    )
    text = probe_notes(record)
    assert _rows(text)[1] == ["outputs", "8 samples, 10 outputs each"]
    assert _rows(text, 1)[1] == ["ntk_condition", "it needs a row per output"]
    assert "Everything" not in text


def test_notes_say_when_nothing_is_withheld() -> None:
    assert "Everything that was asked for was computed." in probe_notes(_record())


def test_notes_gather_layers_by_why_they_are_missing() -> None:
    names = tuple(f"l{index}" for index in range(8))
    axis = Axis(names, names, ("weight",) * 8, (1,) * 8)
    missing = {**dict.fromkeys(names[:7], "frozen"), "l7": "unused"}
    gaps = Record("ntk_trace", axis, np.full(8, np.nan), missing)
    rows = _rows(probe_notes(_record(records=(gaps,))))
    assert rows[1:] == [
        ["ntk_trace", "l0, l1, l2, l3, l4 and 2 more", "frozen"],
        ["ntk_trace", "l7", "unused"],
    ]
    withheld = _record(records=(gaps,), withheld={"ntk_trace": "it failed"})
    assert "frozen" not in probe_notes(withheld)


def test_notes_do_not_depend_on_the_step() -> None:
    record = _record(notes={"a": "b"})
    assert probe_notes(record) == probe_notes(dataclasses.replace(record, step=8, epoch=1))


@pytest.mark.parametrize("nasty", _NASTY)
def test_notes_are_shown_as_they_are(nasty: str) -> None:
    text = probe_notes(_record(notes={nasty: nasty}, withheld={nasty: nasty}))
    shown = plugin_util.markdown_to_safe_html(text)
    assert "<script" not in shown
    assert "<a " not in shown
    for table in range(2):
        assert _rows(text, table)[1] == [" ".join(nasty.split())] * 2
