"""The sinks that are not TensorBoard: headline scalars for any logger, and memory."""

from collections.abc import Callable
from typing import Any

import pytest

from jacoscope.quantities import HEADLINES
from jacoscope.record import StepRecord
from jacoscope.sinks import MemorySink, ScalarSink

Train = Callable[..., list[StepRecord]]


def _sink(group: str = "g") -> tuple[ScalarSink, list[tuple[dict[str, float], int]]]:
    logged: list[tuple[dict[str, float], int]] = []
    return ScalarSink(lambda scalars, step: logged.append((scalars, step)), group), logged


def test_headlines_are_logged_under_the_group(train: Train, tiny: type) -> None:
    sink, logged = _sink("my.group")
    records = train(tiny(), sinks=[sink])
    assert [step for _, step in logged] == [0, 1, 2]
    for (scalars, _), record in zip(logged, records, strict=True):
        assert scalars == {f"my.group/{name}": value for name, value in record.headline.items()}
    added = {"coverage", "monitor_overhead"}
    assert set(records[0].headline) == {item.name for item in HEADLINES} | added


def test_steps_without_a_headline_are_passed_over(train: Train, tiny: type) -> None:
    sink, logged = _sink()
    rule = {"match": "first.*", "schedule": {"first": 0, "every": 1}}
    config = {"layers": [rule, {"match": "*"}], "schedule": {"first": 0, "every": 2}}
    records = train(tiny(), config, [sink], steps=range(4))
    assert [record.step for record in records] == [0, 1, 2, 3]
    assert [step for _, step in logged] == [0, 2, 3]
    assert [*logged[-1][0]] == ["g/monitor_overhead"], "where the run ends"


def test_coverage_counts_what_can_be_trained(train: Train, tiny: type) -> None:
    sink, logged = _sink()
    train(tiny(), {"layers": [{"match": "first.*"}]}, [sink])
    trainable, measured = 16 + 20 + 2, 16  # first, second and unused; first
    assert logged[0][0]["g/coverage"] == pytest.approx(measured / trainable)


@pytest.mark.parametrize("sink", [MemorySink(), _sink()[0]])
def test_they_keep_nothing_for_a_checkpoint(sink: Any) -> None:
    assert sink.state_dict() == {}
    sink.load_state_dict({"anything": 1})
    sink.close()


def test_memory_keeps_every_record_in_order(train: Train, tiny: type) -> None:
    sink = MemorySink()
    assert train(tiny(), sinks=[sink]) == sink.records
    assert [record.step for record in sink.records] == [0, 1, 2]
