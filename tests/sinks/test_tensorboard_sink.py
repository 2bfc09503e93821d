"""Which tags are written, as each output option says, and what the standard tabs read."""

import io
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util import tensor_util
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import jacoscope
from jacoscope import MonitorConfig
from jacoscope.config import Output
from jacoscope.quantities import HEADLINES, HISTOGRAM_EDGES
from jacoscope.record import StepRecord
from jacoscope.sinks import TensorBoardSink
from jacoscope.sinks._events import histogram_value

Train = Callable[..., list[StepRecord]]
Values = Callable[..., list[tuple[int, Any]]]

_ALL = ("grad_norm", "grad_rms", "grad_histogram", "update_ratio")
_NAMES = ("first.weight", "first.bias", "second.weight", "second.bias")  # what has a gradient
_HEADLINE = {
    *(f"sensitivity/{item.name}" for item in HEADLINES),
    "sensitivity/coverage",
    "sensitivity/monitor_overhead",
}
_OFF: dict[str, Any] = {
    "headline": False,
    "records": False,
    "pictures": [],
    "histograms": False,
    "layer_scalars": [],
    "card": False,
    "custom_scalars": False,
}


def _tags(found: list[tuple[int, Any]]) -> set[str]:
    return {value.tag for _, value in found}


def _config(**output: Any) -> dict[str, Any]:
    return {"quantities": _ALL, "output": output}


def test_everything_off_writes_nothing(write: Train, values: Values, tiny: type) -> None:
    write(tiny(), _config(**_OFF))
    assert values() == []


_NAMED = "jacoscope/sensitivity/.headline/"


def test_defaults_write_what_is_documented(write: Train, values: Values, tiny: type) -> None:
    records = write(tiny(), _config())
    full = {f"jacoscope/sensitivity/{i.quantity}/{i.axis.digest}" for i in records[0].records}
    headline = {f"sensitivity/{name}" for name in records[0].headline}
    assert headline == {
        f"sensitivity/{name}"
        for name in ("grad_norm", "grad_rms_spread", "update_norm", "weight_norm")
    } | {"sensitivity/update_ratio", "sensitivity/coverage", "sensitivity/monitor_overhead"}
    (named,) = (tag for tag in _tags(values()) if tag.startswith(_NAMED))
    assert _tags(values()) == {
        *headline,
        *full,
        named,
        *(f"jacoscope/sensitivity/.{name}" for name in ("steps", "status", "run")),
        "sensitivity_layers_by_step/grad_rms",
        "sensitivity_layers_by_step/update_ratio",
        *(f"sensitivity_gradients/{name}" for name in _NAMES),
        "sensitivity/about/text_summary",
    }


@pytest.mark.parametrize(
    ("option", "value", "plugin", "tags"),
    [
        ("headline", True, "scalars", _HEADLINE),
        ("pictures", ["grad_norm"], "images", {"sensitivity_layers_by_step/grad_norm"}),
        ("histograms", True, "histograms", {f"sensitivity_gradients/{name}" for name in _NAMES}),
        (
            *("layer_scalars", ["grad_max"], "scalars"),
            {f"sensitivity_parameters_grad_max/{name}" for name in _NAMES},
        ),
        ("card", True, "text", {"sensitivity/about/text_summary"}),
        ("custom_scalars", True, "custom_scalars", {"custom_scalars__config__"}),
    ],
)
def test_an_option_alone_writes_its_own_tags(
    option: str,
    value: Any,
    plugin: str,
    tags: set[str],
    write: Train,
    values: Values,
    tiny: type,
) -> None:
    quantities = (*MonitorConfig().quantities, "grad_histogram")
    write(tiny(), {"quantities": quantities, "output": {**_OFF, option: value}})
    assert _tags(values()) == tags == _tags(values(plugin))


def test_records_alone_write_the_full_record(write: Train, values: Values, tiny: type) -> None:
    write(tiny(), _config(**_OFF | {"records": True}))
    tags = _tags(values())
    assert len(tags) == len(_ALL) + 4
    assert all(tag.startswith("jacoscope/sensitivity/") for tag in tags)


@pytest.mark.parametrize("group", ["a.b-c_2", "Größe", "jacoscope"])
def test_the_group_stands_in_every_tag(
    group: str, write: Train, values: Values, tiny: type
) -> None:
    write(tiny(), _config(group=group, layer_scalars=["grad_rms"]), steps=[0])
    heads = Counter(tag.split("/")[0] for tag in _tags(values()) if f"/{group}/" not in tag)
    assert set(heads) == {
        group,
        f"{group}_layers_by_step",
        f"{group}_gradients",
        f"{group}_parameters_grad_rms",
    }


def test_scalars_are_the_headline_s(write: Train, values: Values, tiny: type) -> None:
    records = write(tiny(), _config())
    found = {
        (step, value.tag): tensor_util.make_ndarray(value.tensor).item()
        for step, value in values("scalars")
    }
    expected = {
        (record.step, f"sensitivity/{name}"): np.float32(value)
        for record in records
        for name, value in record.headline.items()
    }
    assert found == expected


def test_headline_can_be_left_to_another_sink(
    train: Train, values: Values, tiny: type, tmp_path: Path
) -> None:
    writer = SummaryWriter(str(tmp_path))
    sink = TensorBoardSink(writer, Output(**_OFF | {"headline": True}), headline=False)
    train(tiny(), sinks=[sink])
    writer.close()
    assert values() == []


def test_layer_scalars_are_the_records_values(write: Train, values: Values, tiny: type) -> None:
    records = write(tiny(), _config(**_OFF | {"layer_scalars": ["grad_rms", "update_ratio"]}))
    expected = {
        (record.step, f"sensitivity_parameters_{item.quantity}/{name}"): np.float32(value)
        for record in records
        for item in record.records
        if item.quantity in ("grad_rms", "update_ratio")
        for name, value in zip(item.axis.names, item.values, strict=True)
        if name not in item.missing
    }
    found = {
        (step, value.tag): tensor_util.make_ndarray(value.tensor).item()
        for step, value in values("scalars")
    }
    assert len(found) == 3 * 2 * len(_NAMES)
    assert found == expected


class _Given(nn.Module):
    """A parameter whose gradient is given."""

    gradient: torch.Tensor

    def __init__(self, gradient: torch.Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros_like(gradient))
        self.register_buffer("gradient", gradient)


def _dot(model: _Given) -> torch.Tensor:
    return (model.theta * model.gradient).sum()


_GRADIENTS = {
    "normal": torch.linspace(-3, 3, 1001).pow(3),
    "tiny and huge": torch.tensor([1e-30, -1e-12, 2e-11, 1.0, 65535.0, 65537.0, -3e38]),
    "zeros": torch.zeros(7),
    "zero and one": torch.tensor([0.0, -0.0, 1.0]),
    "positive": torch.tensor([1.0, 1.1, 1.24, 1.25, 1.26, 2.0]),
    "negative": torch.tensor([-1.0, -1.24, -1.26, -4.0]),
    "one": torch.tensor([0.3]),
    "not finite": torch.tensor([0.5, float("nan"), float("inf"), -float("inf"), -0.5, 0.0]),
    "matrix": torch.linspace(-1, 1, 600).view(20, 30),
}


@pytest.mark.parametrize("name", _GRADIENTS)
def test_histograms_are_those_of_the_gradient(name: str, write: Train, values: Values) -> None:
    gradient = _GRADIENTS[name]
    config = {"quantities": ["grad_histogram"], "output": {**_OFF, "histograms": True}}
    write(_Given(gradient), config, steps=range(2), loss=_dot)
    finite = gradient[gradient.isfinite()].double().numpy()
    found = values("histograms")
    assert [step for step, _ in found] == [0, 1]
    for _, value in found:
        left_N, right_N, count_N = tensor_util.make_ndarray(value.tensor).T
        assert count_N.sum() == len(finite)
        assert (np.diff(right_N) > 0).all()
        np.testing.assert_array_equal(left_N[1:], right_N[:-1])
        assert (left_N <= right_N).all()
        assert np.isfinite(left_N).all()
        assert np.isfinite(right_N).all()
        for left, right, count in zip(left_N, right_N, count_N, strict=True):
            assert count == _within(finite, left, right)
        assert count_N[-1] > 0  # the chart ends where the gradients end


def _within(gradient: npt.NDArray[np.float64], left: float, right: float) -> int:
    """Gradients in a bin, which holds its edge nearer to zero and not the other."""
    if left == right:
        return 0
    above = gradient > left if left < 0 else gradient >= left
    below = gradient <= right if right < 0 else gradient < right
    return int((above & below).sum())


def test_a_gradient_with_nothing_finite_has_no_histogram(write: Train, values: Values) -> None:
    config = {"quantities": ["grad_histogram"], "output": {**_OFF, "histograms": True}}
    write(_Given(torch.full((3,), float("nan"))), config, loss=_dot)
    assert values() == []


def _picture(value: Any) -> npt.NDArray[np.uint8]:
    """The picture of an image summary: width, height and the PNG itself."""
    width, height, png = tensor_util.make_ndarray(value.tensor).tolist()
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert pixels.shape[:2] == (int(height), int(width))
    return pixels


def test_pictures_are_images(write: Train, values: Values, tiny: type) -> None:
    write(tiny(), _config(**_OFF | {"pictures": ["grad_rms"]}))
    ((step, value),) = values("images")
    assert step == 2
    assert _picture(value).shape[2] == 3


def test_pictures_wait_until_they_are_affordable(write: Train, values: Values, tiny: type) -> None:
    config = {**_config(**_OFF | {"pictures": ["grad_rms"]}), "schedule": {"every": 1}}
    write(tiny(), config, steps=range(29))
    assert [step for step, _ in values("images")] == [28], "a run of a moment is drawn at its end"


def test_pictures_are_drawn_now_and_then(
    write: Train, values: Values, tiny: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jacoscope.sinks._drawing_time._SHARE", float("inf"))
    config = {**_config(**_OFF | {"pictures": ["grad_rms"]}), "schedule": {"every": 1}}
    write(tiny(), config, steps=range(29))
    assert [step for step, _ in values("images")] == [7, 11, 17, 26, 28]


def test_pictures_that_wait_have_their_chance_at_every_captured_step(
    write: Train, tiny: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("_sample_pictures.SamplePictures", "_probe_pictures.ProbePictures"):
        path = f"jacoscope.sinks.{name}.catch_up"
        monkeypatch.setattr(path, lambda self: asked.append(type(self).__name__))
    write(tiny(), _config(**_OFF | {"pictures": ["grad_rms"]}), steps=range(3))
    assert asked == ["SamplePictures", "ProbePictures"] * 3


def test_a_picture_is_not_drawn_twice(write: Train, values: Values, tiny: type) -> None:
    write(tiny(), _config(**_OFF | {"pictures": ["grad_rms"]}), steps=range(8))
    assert [step for step, _ in values("images")] == [7]


def test_nothing_captured_draws_nothing(write: Train, values: Values, tiny: type) -> None:
    write(tiny(), _config(pictures=["grad_rms"]), steps=[])
    assert values() == []


def test_layers_with_schedules_of_their_own_have_pictures_of_their_own(
    write: Train, values: Values, tiny: type
) -> None:
    config = _config(**_OFF | {"pictures": ["grad_rms"]})
    own = {"match": "first.*", "schedule": {"first": 0, "every": 2}}
    write(tiny(), {**config, "layers": [own, {"match": "second.*"}]})
    tags = _tags(values("images"))
    assert len(tags) == 2
    assert all(tag.startswith("sensitivity_layers_by_step/grad_rms") for tag in tags)


def test_many_layers_have_pages(write: Train, values: Values) -> None:
    model = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(41)))
    write(model, _config(**_OFF | {"pictures": ["grad_rms"]}), steps=[0])
    tags = _tags(values("images"))
    assert len(tags) == 2
    assert all(tag.startswith("sensitivity_layers_by_step/grad_rms") for tag in tags)


_MISSING, _NONFINITE = (0xEC, 0xEC, 0xEC), (0xD6, 0x27, 0x28)


def _has(picture: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    return int((picture == colour).all(axis=2).sum()) > 100


def test_a_parameter_that_is_never_captured_is_shown_as_missing(
    write: Train, values: Values, tiny: type
) -> None:
    write(tiny(), _config(**_OFF | {"pictures": ["grad_rms"]}))
    ((_, value),) = values("images")
    assert _has(_picture(value), _MISSING)
    assert not _has(_picture(value), _NONFINITE)


@pytest.mark.parametrize("skipped", [0, 1], ids=["missing before", "missing now"])
def test_missing_is_a_matter_of_the_step(
    skipped: int, write: Train, values: Values, tiny: type
) -> None:
    """A layer that one step leaves out and whose gradient another step makes nan."""

    def loss(model: nn.Module) -> torch.Tensor:
        number = model.passes
        value = model(torch.randn(5, 3)).square().mean()
        return value if number == skipped else value * float("nan")

    layers = [{"match": "second.*"}]
    config = {**_config(**_OFF | {"pictures": ["grad_rms"]}), "layers": layers}
    write(tiny(skips={skipped}), config, steps=range(2), loss=loss)
    ((_, value),) = values("images")
    assert _has(_picture(value), _MISSING)
    assert _has(_picture(value), _NONFINITE)


def test_a_picture_that_fails_costs_pictures_alone(
    write: Train, values: Values, tiny: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no such font")

    monkeypatch.setattr("jacoscope.sinks._heatmap.draw_heatmap", fail)
    config = {**_config(), "schedule": {"every": 1}, "on_error": "warn"}
    with pytest.warns(jacoscope.MonitorWarning, match="no such font"):
        write(tiny(), config, steps=range(12))
    steps = [step for step, value in values("jacoscope") if value.tag.endswith("/.steps")]
    assert steps == list(range(12))


def _resumed(
    train: Train, model: nn.Module, folder: Path, parts: list[range], **output: Any
) -> None:
    """Train in parts, each a run of its own that takes up the state of the one before."""
    state: dict[str, Any] = {}
    config = _config(**_OFF | output)
    for part in parts:
        sink = TensorBoardSink(
            SummaryWriter(str(folder)), MonitorConfig(**config).output, owns_writer=True
        )
        train(model, config, [sink], steps=part, state=state)
        state = {"captures": 0, "sinks": {"TensorBoardSink": sink.state_dict()}}


def test_a_resumed_run_draws_its_past_too(
    train: Train, values: Values, tiny: type, tmp_path: Path
) -> None:
    _resumed(train, tiny(), tmp_path / "parts", [range(4), range(4, 6)], pictures=["grad_rms"])
    torch.manual_seed(0)
    _resumed(train, tiny(), tmp_path / "whole", [range(6)], pictures=["grad_rms"])
    parts, whole = (_last_picture(tmp_path / name) for name in ("parts", "whole"))
    np.testing.assert_array_equal(parts, whole)


def _last_picture(folder: Path) -> npt.NDArray[np.uint8]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    pictures = {
        event.step: value
        for file in folder.iterdir()
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "images"
    }
    return _picture(pictures[max(pictures)])


def test_a_checkpoint_before_the_first_capture_keeps_the_past(
    train: Train, tiny: type, tmp_path: Path
) -> None:
    parts = [range(4), range(0), range(4, 6)]
    _resumed(train, tiny(), tmp_path / "parts", parts, pictures=["grad_rms"])
    torch.manual_seed(0)
    _resumed(train, tiny(), tmp_path / "whole", [range(6)], pictures=["grad_rms"])
    parts_picture, whole = (_last_picture(tmp_path / name) for name in ("parts", "whole"))
    np.testing.assert_array_equal(parts_picture, whole)


def test_state_is_plain_enough_for_a_checkpoint(train: Train, tiny: type, tmp_path: Path) -> None:
    sink = TensorBoardSink(SummaryWriter(str(tmp_path)), Output(), owns_writer=True)
    train(tiny(), sinks=[sink])
    file = io.BytesIO()
    torch.save(sink.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert _same(loaded, sink.state_dict())


def _same(first: Any, second: Any) -> bool:
    """Whether plain values are equal, with nan equal to itself."""
    if isinstance(first, dict):
        return set(first) == set(second) and all(_same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_same, first, second))
    both_nan = isinstance(first, float) and math.isnan(first) and math.isnan(second)
    return both_nan or (type(first) is type(second) and first == second)


def test_custom_scalars_lay_out_tags_that_are_written(
    write: Train, values: Values, tiny: type
) -> None:
    import re

    write(tiny(), {"output": {"custom_scalars": True, "pictures": []}})
    found = values()
    ((_, value),) = [(s, v) for s, v in found if v.tag == "custom_scalars__config__"]
    layout = layout_pb2.Layout.FromString(tensor_util.make_ndarray(value.tensor).item())
    assert [category.title for category in layout.category] == ["Jacoscope"]
    charts = layout.category[0].chart
    patterns = [pattern for chart in charts for pattern in chart.multiline.tag]
    assert len(patterns) >= len(charts) > 2
    scalars = _tags(values("scalars"))
    for pattern in patterns:
        assert sum(re.match(pattern, tag) is not None for tag in scalars) == 1


def test_a_writer_that_is_not_owned_stays_open(
    train: Train, values: Values, tiny: type, tmp_path: Path
) -> None:
    writer = SummaryWriter(str(tmp_path))
    output = Output(**_OFF | {"headline": True})  # too little to be written without a flush
    train(tiny(), sinks=[TensorBoardSink(writer, output)])
    assert len(values("scalars")) == 3 * len(_HEADLINE)  # flushed, though not closed
    writer.add_scalar("mine", 1.0, 3)
    writer.close()
    assert "mine" in _tags(values("scalars"))
    assert len(list(tmp_path.iterdir())) == 1


def test_two_monitors_share_a_file(
    train: Train, values: Values, tiny: type, tmp_path: Path
) -> None:
    writer = SummaryWriter(str(tmp_path))
    for group in ("a", "b"):
        train(tiny(), sinks=[TensorBoardSink(writer, Output(group=group, pictures=()))])
    writer.close()
    tags = _tags(values())
    assert len(list(tmp_path.iterdir())) == 1
    in_a = {tag for tag in tags if tag.startswith(("a/", "jacoscope/a/"))}
    assert tags - in_a == {
        tag.replace("jacoscope/a/", "jacoscope/b/") if "jacoscope" in tag else "b" + tag[1:]
        for tag in in_a
    }


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e30])
def test_charts_of_histograms_have_few_bins_and_lose_nothing(scale: float) -> None:
    """Bins far narrower than what TensorBoard draws are put together; counts and ends stay."""
    numbers = scale * np.random.default_rng(0).standard_normal(20_000)
    counts = np.histogram(numbers, HISTOGRAM_EDGES)[0].astype(np.float64)
    drawn = histogram_value("tag", HISTOGRAM_EDGES, counts).histo
    assert sum(drawn.bucket) == drawn.num == counts.sum()
    assert len(drawn.bucket) < 150
    centres = (HISTOGRAM_EDGES[:-1] + HISTOGRAM_EDGES[1:]) / 2  # sums are of the record's bins
    assert drawn.sum == pytest.approx(counts @ centres, rel=1e-9)
    assert drawn.sum_squares == pytest.approx(counts @ centres**2, rel=1e-9)
    edges = np.array([drawn.min, *drawn.bucket_limit[1:]])
    assert (np.diff(edges) > 0).all()
    below = np.cumsum(drawn.bucket)[1:]
    for edge, count in zip(edges[1:], below, strict=True):
        assert count == counts[: np.searchsorted(HISTOGRAM_EDGES, edge)].sum()
    # No bin is wider than one of the record, or than what is drawn as one.
    widest = np.diff(HISTOGRAM_EDGES)[np.searchsorted(HISTOGRAM_EDGES, edges[1:]) - 1]
    assert (np.diff(edges) <= np.maximum(widest, (edges[-1] - edges[0]) / 100)).all()
