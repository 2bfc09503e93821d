"""Alerts: what rules tell of, when, where it goes, and that it does no harm."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from helpers import trainer
from jacoscope import (
    Alert,
    AlertRule,
    ConfigError,
    Monitor,
    MonitorConfig,
    SensitivityMonitor,
    read_run,
)
from jacoscope.alerts import Lookout
from jacoscope.config import ALERT_REASONS, DEFAULT_ALERTS
from jacoscope.faults import MonitorWarning
from jacoscope.record import Axis, GradientInfo, Record, StepRecord, StepSamples
from jacoscope.sinks import MemorySink
from sample_training import Learner, fit, loader_of, perceptron, rows_of_pairs

_NAMES = ("encoder.0.weight", "encoder.0.bias", "head.weight")
_AXIS = Axis(_NAMES, ("encoder.0", "encoder.0", "head"), ("weight", "bias", "weight"), (6, 2, 4))
_WHOLE = Axis(("(all)", "layer head"), ("(all)", "layer head"), ("all", "layer"), (12, 4))


def _record(
    step: int,
    values: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    whole: Sequence[float] = (),
    headline: Mapping[str, float] | None = None,
    samples: int | None = None,
    missing: Mapping[str, str] | None = None,
) -> StepRecord:
    records = [Record("grad_rms", _AXIS, np.array(values), missing or {})]
    if whole:
        records.append(Record("grad_rms", _WHOLE, np.array(whole), {}))
    told = None if samples is None else StepSamples(samples, _WHOLE, np.zeros((2, 7)))
    return StepRecord(step, 0, tuple(records), headline or {}, GradientInfo(), samples=told)


def _told(rule: AlertRule, records: Sequence[StepRecord]) -> dict[int, list[str]]:
    """By step, the rows that one is told of."""
    lookout = Lookout([rule])
    found = {record.step: lookout.look(record) for record in records}
    return {step: [row.name for a in alerts for row in a.rows] for step, alerts in found.items()}


def _rule(**told: Any) -> AlertRule:
    return AlertRule(**{"name": "test", "quantity": "grad_rms", **told})


class _Parts(BoringModel):
    def __init__(self) -> None:
        super().__init__()
        del self.layer
        self.encoder = torch.nn.Linear(4, 3)
        self.head = torch.nn.Linear(3, 2)
        self.rest = torch.nn.Linear(2, 2)


# When


def test_bounds_as_they_stand() -> None:
    rule = _rule(above=2.0, below=0.5)
    assert _told(rule, [_record(0, (1.0, 3.0, 0.1)), _record(1, (2.0, 0.5, math.nan))]) == {
        0: ["head.weight", "encoder.0.bias"],  # a factor of 5 below, then one of 1.5 above
        1: [],
    }


def test_for_some_captures_in_a_row_and_once_until_it_is_over() -> None:
    values = [9, 9, 1, 9, 9, 9, 9, 1, 9, 9, 9]
    records = [_record(step, (value, 1, 1)) for step, value in enumerate(values)]
    told = _told(_rule(above=2.0, captures=3), records)
    assert [step for step, rows in told.items() if rows] == [5, 10]


def test_infinite_is_above_everything_and_nan_is_on_no_side() -> None:
    rule = _rule(above=2.0, below=0.5)
    assert _told(rule, [_record(0, (math.inf, -math.inf, math.nan))]) == {
        0: ["encoder.0.weight", "encoder.0.bias"]
    }


def test_missing_values_are_not_looked_at() -> None:
    record = _record(0, (9.0, 9.0, 9.0), missing={"head.weight": "it is frozen"})
    assert _told(_rule(above=2.0), [record]) == {0: list(_NAMES[:2])}


@pytest.mark.parametrize(
    ("match", "rows"),
    [
        ("head*", ["head.weight"]),
        ("encoder", list(_NAMES[:2])),
        (["*.bias", "(all)"], ["encoder.0.bias", "(all)"]),
        ("layer *", ["layer head"]),
        ("nothing", []),
    ],
)
def test_rows_by_name(match: Any, rows: list[str]) -> None:
    record = _record(0, (9.0, 9.0, 9.0), whole=(9.0, 9.0))
    assert _told(_rule(above=2.0, match=match), [record]) == {0: rows}


def test_rows_by_kind_and_parameters_by_default() -> None:
    record = _record(0, (9.0, 9.0, 9.0), whole=(9.0, 9.0))
    assert _told(_rule(above=2.0), [record]) == {0: list(_NAMES)}
    assert _told(_rule(above=2.0, kind="bias"), [record]) == {0: ["encoder.0.bias"]}


def test_multiples_of_the_median_over_the_rule_s_rows() -> None:
    rule = _rule(below=0.1, of="median")
    assert _told(rule, [_record(0, (5.0, 0.4, 5.0)), _record(1, (5.0, 0.6, 5.0))]) == {
        0: ["encoder.0.bias"],
        1: [],
    }
    assert _told(rule, [_record(0, (math.nan,) * 3)]) == {0: []}


def test_multiples_of_the_row_s_own_past() -> None:
    """The running mean is geometric: of 1 and 100 in turn it is about 10."""
    values = [1, 100] * 4 + [500, 5000]
    records = [_record(step, (value, 1, 1)) for step, value in enumerate(values)]
    told = _told(_rule(above=100, of="past"), records)
    assert [step for step, rows in told.items() if rows] == [9]
    early = [_record(0, (1, 1, 1)), _record(1, (1e9, 1, 1))]
    assert _told(_rule(above=100, of="past"), early)[1] == []


def test_multiples_of_the_batch() -> None:
    rule = _rule(above=10, of="batch", match="(all)")
    records = [
        _record(0, whole=(641.0, 0.0), samples=64),
        _record(1, whole=(640.0, 0.0), samples=64),
        _record(2, whole=(1e9, 0.0)),
    ]
    assert _told(rule, records) == {0: ["(all)"], 1: [], 2: []}


def test_headline_scalars() -> None:
    rule = AlertRule(name="coverage lost", headline="coverage", below=0.99, of="past")
    coverage = [1.0] * 6 + [0.9, 0.9]
    records = [_record(step, headline={"coverage": c}) for step, c in enumerate(coverage)]
    told = _told(rule, records)
    assert [step for step, rows in told.items() if rows] == [6]
    assert _told(rule, [_record(0)]) == {0: []}


def test_a_checkpoint_keeps_how_long_it_has_been() -> None:
    rules = [_rule(above=2.0, captures=4), _rule(name="past", above=10, of="past")]
    records = [_record(step, (9.0 if step < 8 else 900.0, 1, 1)) for step in range(9)]
    whole, first, second = Lookout(rules), Lookout(rules), Lookout(rules)
    expected = [[a.sentence for a in whole.look(record)] for record in records]
    found = [[a.sentence for a in first.look(record)] for record in records[:3]]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += [[a.sentence for a in second.look(record)] for record in records[3:]]
    assert found == expected
    assert [step for step, told in enumerate(found) if told] == [3, 8]


def test_the_sentence_says_what_where_and_against_what() -> None:
    (alert,) = Lookout([_rule(above=2.0, of="median", captures=1)]).look(
        _record(7, (9.0, 1.0, 1.0))
    )
    assert alert.sentence == (
        "test: grad_rms of encoder.0.weight is 9, above 2 (2 × the median of all rows), at step 7"
    )


# Rules


@pytest.mark.parametrize(
    ("told", "key", "said"),
    [
        ({"quantity": None, "above": 1}, "quantity", "neither of quantity and headline"),
        ({"headline": "coverage", "above": 1}, "quantity", "both of quantity and headline"),
        ({}, "above", "has no bound"),
        ({"above": 1, "below": 2}, "below", "every value would be told of"),
        ({"above": -1, "of": "median"}, "above", "must be more than 0"),
        ({"above": math.nan}, "above", "must be a number"),
        ({"above": 1, "captures": 0}, "captures", "must be at least 1"),
        ({"above": 1, "match": ""}, "match", "is empty"),
        ({"above": 1, "name": " "}, "name", "is empty"),
        ({"above": 1, "quantity": "grad_histogram"}, "quantity", "many values per layer"),
        ({"above": 1, "quantity": "grad_rmz"}, "quantity", "did you mean 'grad_rms'"),
        (
            {"quantity": None, "headline": "coverage", "below": 1, "kind": "bias"},
            *("kind", "on the whole model"),
        ),
        (
            {"quantity": None, "headline": "coverage", "below": 1, "of": "median"},
            *("of", "no other rows"),
        ),
    ],
)
def test_a_rule_that_cannot_be_gets_one_sentence(told: Any, key: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        _rule(**told)
    assert caught.value.key == key


def test_a_rule_that_could_never_tell_is_refused() -> None:
    with pytest.raises(ConfigError, match="noise_scale is not measured on any parameter"):
        MonitorConfig(alerts=(AlertRule(name="noisy", quantity="noise_scale", above=1),))
    with pytest.raises(ConfigError, match="twice"):
        MonitorConfig(alerts=(_rule(above=1), _rule(above=2)))
    assert MonitorConfig(quantities=("weight_norm",)).alert_rules == DEFAULT_ALERTS  # may be idle
    assert MonitorConfig(alerts=()).alert_rules == ()


@pytest.mark.parametrize(
    ("told", "key", "said"),
    [
        ({"match": "haed"}, "match", "'haed' matches nothing that .*; did you mean 'head'"),
        ({"match": "haed.*"}, "match", "did you mean 'head'"),
        (
            {"match": ["*.gain", "zzz"]},
            "match",
            r"'\*.gain', 'zzz' matches nothing that grad_rms is",
        ),
        ({"match": "(all)"}, "match", "valid names are encoder, head, encoder.weight"),
        ({"match": "rest"}, "match", "'rest' matches nothing"),
        ({"kind": "norm"}, "kind", "'norm' is the kind of nothing that grad_rms .* weight, bias$"),
        ({"match": "*.bias", "kind": "weight"}, "kind", "that match takes, whose kinds are bias$"),
        ({"match": "group g", "quantity": "coherence"}, "match", "'group g' .* mean 'group q'"),
    ],
)
def test_a_rule_on_rows_that_are_not_there_is_refused(
    told: Any, key: str, said: str, tmp_path: Path
) -> None:
    config: dict[str, Any] = {
        "quantities": ["grad_rms", "coherence"],
        "layers": [{"match": ["encoder", "head"], "group": "q"}, {"exclude": True}],
        "alerts": [_rule(name="fine", above=1), _rule(above=1, **told)],
    }
    with pytest.raises(ConfigError, match=said) as caught:
        Monitor(_Parts(), config)
    assert caught.value.key == f"alerts[1].{key}"
    fitting = trainer(pl, tmp_path, callbacks=[SensitivityMonitor(**config)])
    with pytest.raises(ConfigError, match=said):
        fitting.fit(_Parts())


@pytest.mark.parametrize(
    "told",
    [
        *({"match": "head"}, {"match": ["zzz", "*.bias"], "kind": "bias"}, {"kind": "bias"}),
        *({"match": "(all)", "quantity": "coherence"}, {"quantity": "coherence"}),
        *({"match": "group q", "quantity": "coherence"}, {"match": "layer *", "quantity": "gsnr"}),
        {"match": "zzz", "quantity": "actual_change"},
    ],
)
def test_a_rule_on_rows_that_are_there(told: Any) -> None:
    quantities = ["grad_rms", "coherence", "gsnr", "actual_change"]
    layers = [{"group": "q"}]
    rules = [_rule(above=1, **told)]
    Monitor(_Parts(), {"quantities": quantities, "layers": layers, "alerts": rules})


def test_a_rule_may_name_what_a_lazy_layer_makes() -> None:
    model = torch.nn.Sequential(torch.nn.LazyLinear(3))
    Monitor(model, {"alerts": [_rule(above=1, match="zzz")]})


def test_defaults_have_names_and_reasons_of_their_own() -> None:
    assert len({rule.name for rule in DEFAULT_ALERTS}) == len(DEFAULT_ALERTS)
    assert {rule.name for rule in DEFAULT_ALERTS} == set(ALERT_REASONS)


# Where it goes


def _loop(config: Mapping[str, Any], steps: int = 12, bad: int = 9, **options: Any) -> MemorySink:
    """Train a line; at step ``bad`` the loss is not a number."""
    torch.manual_seed(0)
    model, sink = torch.nn.Linear(3, 1), MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    given = {"schedule": {"every": 1}, **config}
    with Monitor(model, given, sinks=[sink], **options) as monitor:
        for step in range(steps):
            monitor.begin_step(step)
            optimizer.zero_grad()
            loss = model(torch.ones(4, 3)).square().mean()
            (loss * (math.nan if step == bad else 1.0)).backward()
            monitor.before_optimizer_step(optimizer)
            optimizer.step()
            monitor.end_step()
    return sink


def test_the_default_rules_find_a_loss_that_is_not_a_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="jacoscope"):
        sink = _loop({})
    first = sink.alerts[0]
    assert (first.name, first.step, first.severity) == ("non-finite", 9, "alert")
    assert {row.name for row in first.rows} == {"weight", "bias"}
    assert [r.levelname for r in caplog.records if r.message == first.sentence] == ["ERROR"]


def test_healthy_training_has_none() -> None:
    assert _loop({}, steps=40, bad=-1).alerts == []


_HEARD: list[Alert] = []


def hear(alert: Alert) -> None:
    _HEARD.append(alert)


def test_a_function_is_called() -> None:
    heard: list[Alert] = []
    sink = _loop({"on_alert": heard.append})
    assert heard == sink.alerts != []


def test_a_function_that_is_named_is_imported() -> None:
    with pytest.raises(ConfigError, match="cannot be imported") as caught:
        _loop({"on_alert": "nowhere.to.be_found"})
    assert caught.value.key == "on_alert"
    sink = _loop({"on_alert": "builtins.repr"})
    assert sink.alerts


def test_a_function_that_fails_harms_nothing() -> None:
    def fail(alert: Alert) -> None:
        raise RuntimeError("no network")

    with pytest.warns(MonitorWarning, match="the function of on_alert failed") as told:
        sink = _loop({"on_alert": fail})
    assert len(told) == 1
    assert len(sink.alerts) > 0
    assert len(sink.records) == 12


class _Breaking(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)["loss"]
        return {"loss": loss * (math.inf if batch_idx == 5 else 1.0)}


def test_training_stops_where_a_rule_asks_for_it(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(
        schedule={"every": 1},
        alerts=[{"name": "halt", "quantity": "grad_nonfinite", "above": 0, "stop": True}],
    )
    fitting = trainer(pl, tmp_path, callbacks=[monitor], max_epochs=1, limit_train_batches=20)
    fitting.fit(_Breaking())
    assert fitting.global_step == 6
    run = read_run(str(monitor.run_dir))
    assert run.alerts[["step", "name", "row"]].to_numpy().tolist() == [
        [5, "halt", "layer.weight"],
        [5, "halt", "layer.bias"],
    ]


def test_alerts_come_back_from_the_event_file_and_stand_in_the_text_tab(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    monitor = SensitivityMonitor(schedule={"every": 1})
    fitting = trainer(pl, tmp_path, callbacks=[monitor], max_epochs=1, limit_train_batches=8)
    fitting.fit(_Breaking())
    run = read_run(str(monitor.run_dir))
    assert set(run.alerts["name"]) == {"non-finite", "exploding"}
    assert (run.alerts["value"] > run.alerts["bound"]).all()
    events = (
        EventAccumulator(str(monitor.run_dir)).Reload().Tensors("sensitivity/alerts/text_summary")
    )
    table = tensor_util.make_ndarray(events[-1].tensor_proto).item().decode()
    assert "| 5 | 0 | alert |" in table


def test_samples_that_are_not_finite_are_named(tmp_path: Path) -> None:
    """Of 24 samples in batches of 8, the inputs of 11 and 20 are broken."""
    dataset = rows_of_pairs(24)
    for index in (11, 20):
        features, label = dataset[index]
        dataset[index] = features.clone().fill_(math.inf), label
    monitor = SensitivityMonitor(
        quantities=("grad_nonfinite", "sample_grad_norm"), schedule={"every": 1}
    )
    module = Learner(perceptron())
    module.configure_optimizers = lambda: torch.optim.SGD(  # type: ignore[method-assign]
        module.parameters(), lr=0.0
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.sign() * 0.1)
    fit(tmp_path, module, loader_of(dataset), monitor)
    told = read_run(str(monitor.run_dir)).alerts.drop_duplicates("step")
    assert told["sentence"].iloc[0].endswith("at step 1; samples that are not finite: 11")
