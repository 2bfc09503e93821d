"""How a step reads: its sentence and its table."""

from __future__ import annotations

import math

import pytest

from jacoscope.probing import AllElseEqual, LayerShare, WeightShare, all_else_equal
from probing.step_cases import OPTIMIZERS, X, linear, mean_square, normal, started, stepped
from probing.step_reference import copies_of


def test_the_sentence_of_a_step_that_lowered_the_loss() -> None:
    model = linear()
    before, _ = stepped(model, mean_square, OPTIMIZERS["sgd"])
    result = all_else_equal(model, mean_square, before)
    assert result.actual < 0
    most = max(result.layers, key=lambda share: abs(share.actual))
    assert result.sentence == (
        f"This step lowered the loss by {-result.actual:.2g}, to {result.after:.2g}; "
        f"{most.layer} alone lowered it by {-most.actual:.2g}, where its derivative promised "
        f"{most.predicted:+.2g}; layers together interact by {result.interaction:+.2g}."
    )


def test_the_sentence_of_a_step_that_raised_the_loss() -> None:
    result = AllElseEqual(
        1.0, 1.5, (LayerShare("a", -0.1, 0.5, 0.4), LayerShare("b", 0.0, 0.0, 0.0)), 0.5
    )
    assert result.sentence == (
        "This step raised the loss by 0.5, to 1.5; a alone raised it by 0.4, where its derivative "
        "promised -0.1; layers together interact by +0.1."
    )


def test_the_sentence_of_no_step() -> None:
    model = linear()
    for before in ({}, copies_of(model)):
        sentence = all_else_equal(model, mean_square, before).sentence
        assert "no parameter moved" in sentence.lower()
        assert "lowered" not in sentence
        assert "raised" not in sentence


def test_the_sentence_of_a_step_that_the_loss_did_not_notice() -> None:
    """Parameters moved, but none that the loss depends on: it must not say that none did."""
    model = linear()
    before = {"2.weight": normal(1, 2)}
    sentence = all_else_equal(model, lambda m: m[0](X).square().mean(), before).sentence
    assert "no parameter moved" not in sentence.lower()
    assert "lowered" not in sentence


def test_the_sentence_of_a_loss_that_is_not_a_number() -> None:
    model = linear()
    result = all_else_equal(model, lambda m: mean_square(m) * math.nan, started(model))
    assert math.isnan(result.actual)
    assert "lowered" not in result.sentence
    assert "raised" not in result.sentence


def test_the_table() -> None:
    model = linear()
    result = all_else_equal(model, mean_square, started(model), weights=2)
    sentence, empty, head, *rows = str(result).splitlines()
    assert sentence == result.sentence
    assert (empty, head.split()) == ("", ["layer", "predicted", "2nd", "order", "actual"])
    layers, weights, last = rows[:4], rows[5:-2], rows[-1]
    assert [row.split()[0] for row in layers] == ["0", "2", "interaction", "whole"]
    for row, share in zip(layers, result.layers, strict=False):
        shown = [float(number) for number in row.split()[1:]]
        true = [share.predicted, share.second_order, share.actual]
        assert shown == pytest.approx(true, rel=1e-3)
    assert [float(n) for n in layers[3].split()[2:]] == pytest.approx(
        [result.predicted, result.second_order, result.actual], rel=1e-3
    )
    assert float(layers[2].split()[-1]) == pytest.approx(result.interaction, rel=1e-3)
    assert weights[0].split() == ["weight", "∂L/∂θ", "difference", "step"]
    assert weights[1].startswith(result.weights[0].parameter)
    assert len(weights) == 3
    assert last.endswith("are rounding of the loss.")


def test_columns_stand_below_one_another() -> None:
    name = "encoder.layers.0.self_attn.in_proj_weight"
    result = AllElseEqual(
        before=1.0,
        after=0.5,
        layers=(LayerShare("encoder.layers.0.self_attn", -0.1, 0.5, 0.4),),
        second_order=0.5,
        weights=tuple(WeightShare(name, (i, 10 * i), 1.0, 1.0, 1e-5, 1e-10, 0.1) for i in (1, 100)),
    )
    _, _, *lines = str(result).splitlines()
    cut = lines.index("")
    assert len({len(line) for line in lines[:cut]}) == 1
    assert len({len(line) for line in lines[cut + 1 :]}) == 1
