"""Records: from statistics to values, with nan and a reason where something is missing."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jacoscope.config import MonitorConfig
from jacoscope.quantities import HEADLINES, QUANTITIES
from jacoscope.record import (
    Axis,
    GradientInfo,
    Record,
    StepRecord,
    finish_headline,
    finish_record,
)
from jacoscope.reduction import HostStatistics
from jacoscope.selection import select

_AXIS = Axis(("a", "b.bias", "b.weight"), ("", "b", "b"), ("other", "bias", "weight"), (1, 2, 8))


def _statistics(**columns: Sequence[float | None]) -> HostStatistics:
    """Statistics by name, in the order of the axis; ``None`` where one was not measured."""
    values = {
        name: {p: v for p, v in zip(_AXIS.names, column, strict=True) if v is not None}
        for name, column in columns.items()
    }
    return HostStatistics(values)


# Axes


def test_an_axis_describes_its_targets() -> None:
    model = nn.ModuleDict({"norm": nn.LayerNorm(3), "head": nn.Linear(3, 2)})
    assert Axis.of(select(model, MonitorConfig()).targets) == Axis(
        names=("norm.weight", "norm.bias", "head.weight", "head.bias"),
        layers=("norm", "norm", "head", "head"),
        kinds=("norm", "norm", "weight", "bias"),
        sizes=(3, 3, 6, 2),
    )


def test_equal_axes_have_one_digest_and_others_another() -> None:
    copy = Axis(_AXIS.names, _AXIS.layers, _AXIS.kinds, _AXIS.sizes)
    assert copy.digest == _AXIS.digest
    others = [
        Axis(("a", "b.bias", "c"), *[()] * 2, _AXIS.sizes),
        Axis(_AXIS.names[::-1], *[()] * 2, _AXIS.sizes[::-1]),
        Axis(_AXIS.names, *[()] * 2, (1, 2, 9)),
        Axis(_AXIS.names[:2], *[()] * 2, _AXIS.sizes[:2]),
        Axis(("a, b.bias", "b.weight"), *[()] * 2, (1, 2)),
        Axis((), (), (), ()),
    ]
    digests = [_AXIS.digest, *(other.digest for other in others)]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 8 and digest.isalnum() for digest in digests)


def test_digests_do_not_differ_between_processes_or_versions() -> None:
    assert _AXIS.digest == "9ce50e03"


def test_names_that_are_no_ascii_have_digests() -> None:
    assert Axis(("Größe", "重み"), ("", ""), ("other",) * 2, (1, 1)).digest.isalnum()


# Records


def test_values_stand_in_the_axis_s_order() -> None:
    statistics = _statistics(grad_sq=[4.0, 9.0, 32.0])
    norm = finish_record("grad_norm", _AXIS, statistics, {})
    rms = finish_record("grad_rms", _AXIS, statistics, {})
    assert norm.quantity == "grad_norm"
    assert norm.axis is _AXIS
    np.testing.assert_allclose(norm.values, [2.0, 3.0, 32**0.5])
    np.testing.assert_allclose(rms.values, [2.0, 4.5**0.5, 2.0])
    assert norm.missing == rms.missing == {}


def test_a_parameter_without_a_statistic_is_nan_with_the_reason_given() -> None:
    statistics = _statistics(grad_sq=[4.0, None, 32.0])
    record = finish_record("grad_norm", _AXIS, statistics, {"b.bias": "frozen", "a": "unrelated"})
    np.testing.assert_array_equal(np.isnan(record.values), [False, True, False])
    assert record.missing == {"b.bias": "frozen"}


def test_every_statistic_that_a_quantity_needs_is_asked_for() -> None:
    statistics = _statistics(update_sq=[1.0, None, 4.0], weight_sq=[None, 1.0, 16.0])
    record = finish_record("update_ratio", _AXIS, statistics, {})
    np.testing.assert_array_equal(record.values, [np.nan, np.nan, 0.5])
    assert record.missing == {"a": "it was not captured", "b.bias": "it was not captured"}


@pytest.mark.parametrize("name", QUANTITIES)
def test_nothing_measured_is_all_missing(name: Any) -> None:
    record = finish_record(name, _AXIS, HostStatistics(), {})
    assert len(record.values) == 3
    assert np.isnan(record.values).all()
    assert set(record.missing) == set(_AXIS.names)


@pytest.mark.parametrize("name", QUANTITIES)
def test_a_value_that_is_not_a_number_is_not_missing(name: Any) -> None:
    quantity = QUANTITIES[name]
    values = {need: dict.fromkeys(_AXIS.names, float("nan")) for need in quantity.needs}
    histograms = {parameter: np.full(5, np.nan) for parameter in _AXIS.names}
    record = finish_record(name, _AXIS, HostStatistics(values, histograms), {})
    assert np.isnan(record.values).all()
    assert record.missing == {}


def test_dividing_by_zero_warns_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    statistics = _statistics(update_sq=[1.0, 0.0, 4.0], weight_sq=[0.0, 0.0, 16.0])
    record = finish_record("update_ratio", _AXIS, statistics, {})
    np.testing.assert_array_equal(record.values, [np.inf, np.nan, 0.5])
    assert record.missing == {}
    assert not recwarn.list


def test_histograms_have_a_row_per_parameter() -> None:
    histograms = {"a": np.array([0.0, 1.0]), "b.weight": np.array([3.0, 5.0])}
    statistics = HostStatistics(histograms=histograms)
    record = finish_record("grad_histogram", _AXIS, statistics, {"b.bias": "frozen"})
    np.testing.assert_array_equal(record.values, [[0, 1], [np.nan, np.nan], [3, 5]])
    assert record.missing == {"b.bias": "frozen"}


def test_values_are_in_double_precision() -> None:
    record = finish_record("grad_norm", _AXIS, _statistics(grad_sq=[1.0, 1.0, 1.0]), {})
    assert record.values.dtype == np.float64


# Headlines


_FULL = {
    "grad_sq": [4.0, 9.0, 3.0],
    "grad_abs_max": [2.0, 3.0, 1.0],
    "grad_nonzero": [1.0, 2.0, 4.0],
    "grad_nonfinite": [0.0, 1.0, 2.0],
    "weight_sq": [1.0, 8.0, 16.0],
    "update_sq": [0.25, 0.0, 0.0],
    "update_grad": [-1.0, 0.0, 0.0],
    "weight_grad_abs": [1.0, 2.0, 3.0],
}


def test_headlines_are_of_sums_over_parameters_not_means_of_ratios() -> None:
    headline = finish_headline(_AXIS, _statistics(**_FULL))
    rms = [2.0, 4.5**0.5, (3 / 8) ** 0.5]
    assert headline == pytest.approx(
        {
            "grad_norm": 4.0,
            "grad_max": 3.0,
            "grad_rms_spread": np.log10(max(rms) / min(rms)),
            "grad_zero_fraction": 4 / 11,
            "grad_nonfinite": 3.0,
            "weight_norm": 5.0,
            "update_norm": 0.5,
            "update_ratio": 0.1,
            "update_cosine": 0.5,
            "saliency": 6.0,
        }
    )
    assert set(headline) == {item.name for item in HEADLINES}
    assert all(type(value) is float for value in headline.values())


def test_a_headline_is_over_the_parameters_that_have_what_it_needs() -> None:
    statistics = _statistics(grad_sq=[4.0, None, 5.0], weight_sq=[1.0, 1.0, 2.0])
    headline = finish_headline(_AXIS, statistics)
    assert headline["grad_norm"] == 3.0
    assert headline["weight_norm"] == 2.0
    assert set(headline) == {"grad_norm", "grad_rms_spread", "weight_norm"}


def test_ratios_are_over_the_same_parameters_above_and_below() -> None:
    statistics = _statistics(update_sq=[1.0, None, 3.0], weight_sq=[4.0, 100.0, 12.0])
    assert finish_headline(_AXIS, statistics)["update_ratio"] == 0.5


def test_nothing_measured_has_no_headline() -> None:
    assert finish_headline(_AXIS, HostStatistics()) == {}
    assert finish_headline(Axis((), (), (), ()), _statistics(**_FULL)) == {}


def test_the_spread_passes_over_parameters_without_gradient() -> None:
    spread = finish_headline(_AXIS, _statistics(grad_sq=[1.0, 0.0, 800.0]))["grad_rms_spread"]
    assert spread == pytest.approx(1.0)
    nothing = finish_headline(_AXIS, _statistics(grad_sq=[0.0, 0.0, 0.0]))
    assert np.isnan(nothing["grad_rms_spread"])


# Steps


def _step(*records: Record) -> StepRecord:
    return StepRecord(0, 0, records, {}, GradientInfo())


def test_what_is_missing_is_gathered_over_records() -> None:
    nan = np.full(3, np.nan)
    step = _step(
        Record("grad_norm", _AXIS, nan, {"a": "frozen"}),
        Record("grad_norm", _AXIS, nan, {"c": "unused"}),
        Record("grad_max", _AXIS, nan, {}),
        Record("saliency", _AXIS, nan, {"a": "frozen"}),
    )
    assert step.missing == {
        "grad_norm": {"a": "frozen", "c": "unused"},
        "saliency": {"a": "frozen"},
    }
    assert _step().missing == {}


def test_records_cannot_be_changed() -> None:
    step = _step()
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.step = 3  # type: ignore[misc,unused-ignore]
    with pytest.raises(dataclasses.FrozenInstanceError):
        _AXIS.names = ()  # type: ignore[misc,unused-ignore]


def test_which_gradient_it_is_can_be_written_as_json() -> None:
    info = GradientInfo(window=2, ranks=3)
    assert GradientInfo(**json.loads(json.dumps(vars(info)))) == info


def test_plain_values_are_worth_single_precision() -> None:
    assert np.dtype(_step().dtype) == np.float32
    assert torch.get_default_dtype() == torch.float32
