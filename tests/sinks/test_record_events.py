"""Raw events: what TensorBoard's own loaders make of the full record."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_FLOAT
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

from jacoscope import MonitorConfig
from jacoscope.filled_bins import unpack
from jacoscope.packed_text import unpack_text
from jacoscope.quantities import FAMILIES, HISTOGRAM_EDGES, QUANTITIES
from jacoscope.record import StepRecord
from jacoscope.schema import PLUGIN_NAME, SCHEMA_VERSION
from jacoscope.selection import select
from jacoscope.sinks import RunInfo
from jacoscope.sinks._events import add_values, tensor_value, text_value
from jacoscope.sinks._record_events import RecordEvents

Values = Callable[..., list[tuple[int, Any]]]
Train = Callable[..., list[StepRecord]]

_QUIET: dict[str, Any] = {"pictures": [], "card": False, "headline": False}
_CONFIG: dict[str, Any] = {
    "quantities": ["grad_norm", "update_ratio", "grad_histogram"],
    "output": _QUIET,
}


def _raw(folder: Path) -> list[tuple[int, Any]]:
    """Values as they stand in the one event file, without any loader's additions."""
    (file,) = folder.glob("*tfevents*")
    return [
        (event.step, value)
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]


def _tags(records: list[StepRecord]) -> dict[str, Any]:
    """By the tag that it should have, the records of a quantity by step."""
    found: dict[str, Any] = {}
    for record in records:
        for item in record.records:
            tag = f"jacoscope/sensitivity/{item.quantity}/{item.axis.digest}"
            found.setdefault(tag, {})[record.step] = item
    return found


def _array(proto: Any, wanted: Any) -> Any:
    """What was written, histograms with all their bins."""
    array = tensor_util.make_ndarray(proto)
    return array if wanted.ndim == 1 else unpack(array, *wanted.shape)


def test_loader_gives_back_every_value(write: Train, values: Values, tiny: type) -> None:
    records = write(tiny(), _CONFIG)
    expected = _tags(records)
    assert len(expected) == 3
    seen: Counter[str] = Counter()
    for step, value in values(PLUGIN_NAME):
        if value.tag not in expected:
            continue
        seen[value.tag] += 1
        wanted = expected[value.tag][step].values
        array = _array(value.tensor, wanted)
        assert value.tensor.dtype == DT_FLOAT
        assert array.shape == wanted.shape
        np.testing.assert_array_equal(array, wanted.astype(np.float32))
    assert seen == dict.fromkeys(expected, 3)


def test_accumulator_gives_back_every_value(write: Train, tiny: type, tmp_path: Path) -> None:
    expected = _tags(write(tiny(), _CONFIG))
    accumulator = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    assert set(expected) < set(accumulator.Tags()["tensors"])
    ours = set(accumulator.PluginTagToContent(PLUGIN_NAME))
    (headline,) = (tag for tag in ours if tag.startswith("jacoscope/sensitivity/.headline/"))
    assert ours == {
        *expected,
        headline,
        *(f"jacoscope/sensitivity/.{name}" for name in ("steps", "status", "run")),
    }
    for tag, by_step in expected.items():
        assert accumulator.SummaryMetadata(tag).data_class == DATA_CLASS_TENSOR
        events = accumulator.Tensors(tag)
        assert [event.step for event in events] == list(by_step)
        for event in events:
            wanted = by_step[event.step].values
            array = _array(event.tensor_proto, wanted)
            np.testing.assert_array_equal(array, wanted.astype(np.float32))


def test_metadata_stand_in_the_first_event_of_a_tag_alone(
    write: Train, tiny: type, tmp_path: Path
) -> None:
    write(tiny(), _CONFIG)
    seen: set[str] = set()
    for _, value in _raw(tmp_path):
        if not value.tag.startswith("jacoscope/"):
            continue
        assert value.HasField("metadata") is (value.tag not in seen)
        seen.add(value.tag)
        if value.HasField("metadata"):
            assert value.metadata.data_class == DATA_CLASS_TENSOR
            assert value.metadata.plugin_data.plugin_name == PLUGIN_NAME == "jacoscope"
    assert len(seen) == 7


def test_metadata_say_what_the_axis_is(write: Train, tiny: type, tmp_path: Path) -> None:
    records = write(tiny(), _CONFIG)
    expected = {tag: next(iter(by_step.values())) for tag, by_step in _tags(records).items()}
    contents = {
        value.tag: json.loads(value.metadata.plugin_data.content)
        for _, value in _raw(tmp_path)
        if value.HasField("metadata") and value.tag.startswith("jacoscope/")
    }
    for tag, item in expected.items():
        quantity = QUANTITIES[item.quantity]
        schema = {
            "version": SCHEMA_VERSION,
            "quantity": item.quantity,
            "title": quantity.title,
            "unit": quantity.unit,
            "log": quantity.is_log,
            "family": next(f for f, each in FAMILIES.items() if quantity in each),
            "definition": quantity.formula,
            "reading": quantity.reading,
            "source": quantity.source,
            "names": list(item.axis.names),
            "layers": list(item.axis.layers),
            "kinds": list(item.axis.kinds),
            "sizes": list(item.axis.sizes),
        }
        if item.quantity == "grad_histogram":
            schema["edges"] = HISTOGRAM_EDGES.tolist()
        assert contents[tag] == schema
    names = expected[next(iter(expected))].axis.names
    assert set(names) == {
        *("first.weight", "first.bias", "second.weight", "second.bias", "unused"),
    }
    for name in ("steps", "status", "run"):
        tag = f"jacoscope/sensitivity/.{name}"
        assert contents[tag] == {"version": SCHEMA_VERSION, "quantity": f".{name}"}
    (schema,) = (each for tag, each in contents.items() if "/.headline/" in tag)
    assert schema["names"] == list(records[0].headline)
    assert dict(zip(schema["names"], schema["units"], strict=True))["grad_norm"] == (
        QUANTITIES["grad_norm"].unit
    )
    assert "" not in schema["titles"]


def test_the_headline_stands_in_the_record(write: Train, tiny: type, tmp_path: Path) -> None:
    records = write(tiny(), _CONFIG)
    accumulator = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    (tag,) = (tag for tag in accumulator.Tags()["tensors"] if "/.headline/" in tag)
    names = json.loads(accumulator.SummaryMetadata(tag).plugin_data.content)["names"]
    for record, event in zip(records, accumulator.Tensors(tag), strict=True):
        values = tensor_util.make_ndarray(event.tensor_proto).tolist()
        assert dict(zip(names, values, strict=True)) == pytest.approx(record.headline, nan_ok=True)


def test_there_is_one_event_file_and_one_event_per_step(
    write: Train, values: Values, tiny: type, tmp_path: Path
) -> None:
    write(tiny(), {"quantities": ["grad_norm"]})  # with card, headline and pictures too
    (file,) = tmp_path.iterdir()
    assert "tfevents" in file.name
    events = [
        event
        for event in LegacyEventFileLoader(str(file)).Load()
        if any(value.tag.startswith("jacoscope/") for value in event.summary.value)
    ]
    assert [event.step for event in events] == [0, 1, 2]


def test_a_double_precision_model_is_stored_in_double(
    write: Train, values: Values, tiny: type
) -> None:
    expected = _tags(write(tiny().double(), _CONFIG))
    found = [(step, value) for step, value in values(PLUGIN_NAME) if value.tag in expected]
    assert len(found) == 9
    for step, value in found:
        assert value.tensor.dtype == DT_DOUBLE
        wanted = expected[value.tag][step].values
        np.testing.assert_array_equal(_array(value.tensor, wanted), wanted)


def test_epochs_are_written_with_every_step(write: Train, values: Values, tiny: type) -> None:
    records = write(tiny(), _CONFIG, steps=range(6))
    epochs = {
        step: tensor_util.make_ndarray(value.tensor).tolist()
        for step, value in values(PLUGIN_NAME)
        if value.tag.endswith("/.steps")
    }
    assert epochs == {record.step: [record.epoch] for record in records}
    assert epochs[5] == [2]


def _texts(found: list[tuple[int, Any]], name: str) -> dict[int, Any]:
    return {
        step: json.loads(unpack_text(tensor_util.make_ndarray(value.tensor).item()))
        for step, value in found
        if value.tag == f"jacoscope/sensitivity/.{name}"
    }


def test_status_and_run_are_written_once_where_nothing_changes(
    write: Train, values: Values, tiny: type
) -> None:
    records = write(tiny(), _CONFIG, steps=range(5))
    found = values(PLUGIN_NAME)
    assert list(_texts(found, "run")) == [0]
    status = _texts(found, "status")
    assert list(status) == [0]
    assert status[0]["missing"] == records[0].missing
    assert status[0]["gradient"] == vars(records[0].gradient)
    assert status[0]["withheld"] == {}


def test_status_is_written_when_it_changes(write: Train, values: Values, tiny: type) -> None:
    records = write(tiny(skips={2, 3}), _CONFIG, steps=range(6))
    status = _texts(values(PLUGIN_NAME), "status")
    assert list(status) == [0, 2, 4]
    assert status[0] == status[4] != status[2]
    for step in status:
        assert status[step]["missing"] == records[step].missing
    assert "no gradient" in status[2]["missing"]["grad_norm"]["second.weight"]
    assert "second.weight" not in status[0]["missing"]["grad_norm"]


def test_run_describes_what_is_watched_and_what_is_not(
    write: Train, values: Values, tiny: type
) -> None:
    config = {**_CONFIG, "layers": [{"match": "*bias", "exclude": True}, {"match": "*"}]}
    write(tiny(), config)
    (run,) = _texts(values(PLUGIN_NAME), "run").values()
    assert run["version"] == SCHEMA_VERSION
    assert MonitorConfig(**{**run["config"], "on_error": "warn"}) == MonitorConfig(**config)
    assert run["versions"]["torch"] == torch.__version__
    watched = {item["parameter"]: item for item in run["parameters"]}
    assert list(watched) == ["unused", "first.weight", "second.weight"]
    assert watched["first.weight"] == {
        "parameter": "first.weight",
        "aliases": [],
        "layer": "first",
        "type": "Linear",
        "kind": "weight",
        "shape": [4, 3],
        "size": 12,
        "rule": 1,
        "quantities": _CONFIG["quantities"],
    }
    left_out = {item["parameter"]: item for item in run["left_out"]}
    assert set(left_out) == {"first.bias", "second.bias", "counts"}
    assert left_out["first.bias"] == {
        "parameter": "first.bias",
        "layer": "first",
        "reason": "excluded by rule layers[0]",
    }


def test_run_is_written_again_when_what_is_watched_changes(
    train: Train, tiny: type, values: Values, tmp_path: Path
) -> None:
    model = tiny()
    records = train(model, _CONFIG)
    writer = SummaryWriter(str(tmp_path))
    events = RecordEvents(writer, "sensitivity")
    config = MonitorConfig(**_CONFIG)
    for record, opens in zip(records, (True, False, True), strict=True):
        if opens:
            events.open(RunInfo(config, select(model, config), {"torch": str(record.step)}))
        events.write(record)
    writer.close()
    runs = _texts(values(PLUGIN_NAME), "run")
    assert {step: run["versions"]["torch"] for step, run in runs.items()} == {0: "0", 2: "2"}


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 5), (2, 0, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_of_any_shape(
    shape: tuple[int, ...], dtype: type, values: Values, tmp_path: Path
) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(dtype)
    writer = SummaryWriter(str(tmp_path))
    add_values(writer, [tensor_value("a", array, b"{}")], 3)
    add_values(writer, [tensor_value("a", array)], 4)
    writer.close()
    found = values(PLUGIN_NAME)
    assert [step for step, _ in found] == [3, 4]
    for _, value in found:
        read = tensor_util.make_ndarray(value.tensor)
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, array)


def test_arrays_need_not_be_contiguous(values: Values, tmp_path: Path) -> None:
    array = np.arange(12.0).reshape(3, 4)
    writer = SummaryWriter(str(tmp_path))
    add_values(writer, [tensor_value("a", array.T, b"{}")], 0)
    writer.close()
    ((_, value),) = values()
    np.testing.assert_array_equal(tensor_util.make_ndarray(value.tensor), array.T)


@pytest.mark.parametrize("text", ["", "plain", "Größe ‖θ‖₂ 重み", "a\nb\x00c"])
def test_texts_of_any_kind(text: str, values: Values, tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    add_values(writer, [text_value("t", text, b"{}")], 1)
    writer.close()
    ((step, value),) = values(PLUGIN_NAME)
    assert step == 1
    assert value.metadata.data_class == DATA_CLASS_TENSOR
    assert tensor_util.make_ndarray(value.tensor).item().decode() == text


def test_the_fast_loader_keeps_every_tensor(write: Train, tiny: type, tmp_path: Path) -> None:
    """TensorBoard's data server drops tensors that have no data class."""
    from tensorboard import context
    from tensorboard.data import server_ingester
    from tensorboard.util import grpc_util

    expected = _tags(write(tiny(), _CONFIG))
    ingester = server_ingester.SubprocessServerDataIngester(
        server_binary=server_ingester.get_server_binary(),
        logdir=str(tmp_path),
        reload_interval=1,
        channel_creds_type=grpc_util.ChannelCredsType.LOCAL,
        samples_per_plugin={PLUGIN_NAME: 0},
    )
    ingester.start()
    provider, here = ingester.data_provider, context.RequestContext()
    series = provider.read_tensors(here, experiment_id="", plugin_name=PLUGIN_NAME, downsample=1000)
    (by_tag,) = series.values()
    for tag, by_step in expected.items():
        assert [datum.step for datum in by_tag[tag]] == list(by_step)
        for datum in by_tag[tag]:
            wanted = by_step[datum.step].values.astype(np.float32)
            kept = datum.numpy if wanted.ndim == 1 else unpack(datum.numpy, *wanted.shape)
            np.testing.assert_array_equal(kept, wanted)
