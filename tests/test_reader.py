"""What a monitor wrote comes back as frames, from whole, cut, mixed and doubled event files."""

import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

import jacoscope
from jacoscope import Monitor, MonitorConfig, Run, read_run
from jacoscope.config import Output, check_section
from jacoscope.quantities import HISTOGRAM_EDGES, QUANTITIES, is_per_sample, is_probed
from jacoscope.record import GradientInfo, StepRecord
from jacoscope.sinks import MemorySink, TensorBoardSink
from jacoscope.sinks._events import add_values, tensor_value, text_value

_ALL = tuple(name for name in QUANTITIES if not (is_per_sample(name) or is_probed(name)))
_BRIEF: dict[str, Any] = {"quantities": ["grad_norm", "update_ratio"]}


class _Net(nn.Module):
    """Two layers, one of which some passes leave out, an unused parameter and an integer one."""

    def __init__(self, skips: Iterable[int] = ()) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 4)
        self.unused = nn.Parameter(torch.ones(2))
        self.counts = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
        self.skips = set(skips)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        self.passes += 1
        return x if self.passes - 1 in self.skips else self.second(x)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _write(
    folder: Path,
    config: dict[str, Any] | None = None,
    model: nn.Module | None = None,
    steps: Iterable[int] = range(3),
    epoch: Callable[[int], int] = lambda step: step // 2,
    gradient: GradientInfo | None = None,
    **output: Any,
) -> list[StepRecord]:
    """Train a model while a monitor writes into ``folder``; what it recorded."""
    quiet = {"pictures": [], "card": False, "headline": False, "histograms": False}
    config = {"on_error": "raise", **(config or {}), "output": {**quiet, **output}}
    model = _Net() if model is None else model
    memory = MemorySink()
    writer = SummaryWriter(str(folder))
    board = TensorBoardSink(writer, MonitorConfig(**config).output, owns_writer=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dtype = next(model.parameters()).dtype
    with Monitor(model, config, sinks=[memory, board]) as monitor:
        for step in steps:
            monitor.begin_step(step, epoch(step))
            optimizer.zero_grad()
            model(torch.randn(5, 3, dtype=dtype)).square().mean().backward()
            monitor.before_optimizer_step(optimizer, gradient)
            optimizer.step()
            monitor.end_step()
    return memory.records


def _check(run: Run, records: list[StepRecord], dtype: type = np.float32) -> None:
    """Whether a run says all that these records say."""
    assert list(run.steps.index) == [record.step for record in records]
    for record in records:
        for item in record.records:
            if item.quantity == "grad_histogram":
                for name, counts_N in zip(item.axis.names, item.values, strict=True):
                    found = run.histogram(name).loc[record.step].to_numpy()
                    np.testing.assert_array_equal(found, counts_N)
                continue
            frame = run[item.quantity]
            assert set(item.axis.names) <= set(frame)
            found = frame.loc[record.step, list(item.axis.names)].to_numpy(np.float64)
            np.testing.assert_array_equal(found, item.values.astype(dtype).astype(np.float64))


# What comes back


def test_everything_comes_back_to_single_precision(tmp_path: Path) -> None:
    records = _write(tmp_path, {"quantities": _ALL})
    run = read_run(tmp_path)
    assert run.quantities == [name for name in _ALL if name != "grad_histogram"]
    _check(run, records)
    frame = run["grad_rms"]
    assert frame.index.name == "step"
    assert list(frame) == ["unused", "first.weight", "first.bias", "second.weight", "second.bias"]
    assert all(dtype == np.float64 for dtype in frame.dtypes)


def test_double_precision_comes_back_exactly(tmp_path: Path) -> None:
    records = _write(tmp_path, {"quantities": _ALL}, model=_Net().double())
    _check(read_run(tmp_path), records, np.float64)
    rms = read_run(tmp_path)["grad_rms"].loc[0, "first.weight"]
    assert rms != np.float32(rms)


def test_frames_are_copies(tmp_path: Path) -> None:
    _write(tmp_path, _BRIEF)
    run = read_run(tmp_path)
    frame = run["grad_norm"]
    frame.loc[:] = 0
    assert (run["grad_norm"]["first.weight"] > 0).all()


def test_steps_say_when_and_of_which_gradient(tmp_path: Path) -> None:
    before = pd.Timestamp.now("UTC").tz_localize(None)
    gradient = GradientInfo("S", "C", 3, 4, 2, "R", "16-mixed")
    _write(tmp_path, _BRIEF, steps=range(5), gradient=gradient)
    steps = read_run(tmp_path).steps
    assert list(steps.index) == [0, 1, 2, 3, 4]
    assert steps.index.name == "step"
    assert list(steps["epoch"]) == [0, 0, 1, 1, 2]
    slack = pd.Timedelta(seconds=2)
    assert steps["wall_time"].between(before - slack, before + 60 * slack).all()
    assert steps["wall_time"].is_monotonic_increasing
    for name, value in vars(gradient).items():
        assert (steps[name] == value).all()


def test_a_window_cut_short_is_told_by_step(tmp_path: Path) -> None:
    memory, config = MemorySink(), MonitorConfig(**_BRIEF, output={"pictures": []})
    sink = TensorBoardSink(SummaryWriter(str(tmp_path)), config.output, owns_writer=True)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, config, sinks=[memory, sink]) as monitor:
        for step, window in enumerate((4, 4, 1, 4)):
            monitor.begin_step(step)
            model(torch.ones(2, 3)).sum().backward()
            monitor.before_optimizer_step(optimizer, GradientInfo(window=window, full_window=4))
            optimizer.step()
            monitor.end_step()
    assert list(read_run(tmp_path).steps["window"]) == [4, 4, 1, 4]


def test_histograms_come_back(tmp_path: Path) -> None:
    _write(tmp_path, {"quantities": ["grad_histogram", "grad_norm"]})
    frame = read_run(tmp_path).histogram("first.weight")
    assert frame.index.name == "step"
    assert list(frame.index) == [0, 1, 2]
    assert (frame.sum(axis=1) == 12).all()
    np.testing.assert_array_equal(frame.columns.left, HISTOGRAM_EDGES[:-1])
    np.testing.assert_array_equal(frame.columns.right, HISTOGRAM_EDGES[1:])
    assert frame.columns.is_monotonic_increasing


def test_units_are_the_quantities_own(tmp_path: Path) -> None:
    _write(tmp_path, {"quantities": _ALL})
    assert read_run(tmp_path).units == {name: QUANTITIES[name].unit for name in _ALL}


def test_parameters_are_described_in_the_model_s_order(tmp_path: Path) -> None:
    rules = [{"match": "*bias", "quantities": ["grad_max"]}, {"match": "*"}]
    _write(tmp_path, {**_BRIEF, "layers": rules})
    run = read_run(tmp_path)
    table = run.parameters.set_index("parameter")
    assert list(table.index) == [
        *("unused", "first.weight", "first.bias", "second.weight", "second.bias"),
    ]
    row = table.loc["first.bias"]
    assert (row["layer"], row["type"], row["kind"]) == ("first", "Linear", "bias")
    assert (row["shape"], row["size"], row["rule"]) == ([4], 4, 0)
    assert row["quantities"] == ["grad_max"]
    assert list(run["grad_max"]) == ["first.bias", "second.bias"]
    assert list(run["grad_norm"]) == ["unused", "first.weight", "second.weight"]


def test_tied_parameters_name_their_aliases(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    _write(tmp_path, _BRIEF, model=model)
    table = read_run(tmp_path).parameters.set_index("parameter")
    assert table.loc["0.weight", "aliases"] == ["1.weight"]


def test_what_is_left_out_comes_with_its_reason(tmp_path: Path) -> None:
    _write(tmp_path, {**_BRIEF, "layers": [{"match": "second.*"}]})
    left_out = read_run(tmp_path).left_out.set_index("parameter")
    assert set(left_out.index) == {"unused", "counts", "first.weight", "first.bias"}
    assert left_out.loc["first.bias"].to_dict() == {
        "layer": "first",
        "reason": "no rule matches it",
    }


def test_nothing_left_out_is_an_empty_frame(tmp_path: Path) -> None:
    _write(tmp_path, _BRIEF, model=nn.Linear(3, 2))
    left_out = read_run(tmp_path).left_out
    assert left_out.empty
    assert list(left_out) == ["parameter", "layer", "reason"]


def test_missing_values_come_with_their_reason(tmp_path: Path) -> None:
    records = _write(tmp_path, _BRIEF, model=_Net(skips={1}))
    run = read_run(tmp_path)
    assert run["grad_norm"].isna().sum().to_dict() == {
        "unused": 3,
        "first.weight": 0,
        "first.bias": 0,
        "second.weight": 1,
        "second.bias": 1,
    }
    expected = {
        (record.step, quantity, name, reason)
        for record in records
        for quantity, names in record.missing.items()
        for name, reason in names.items()
    }
    assert set(run.missing.itertuples(index=False, name=None)) == expected
    assert (1, "grad_norm", "second.bias") in {row[:3] for row in expected}
    assert (0, "grad_norm", "second.bias") not in {row[:3] for row in expected}
    assert all("no gradient" in row[3] for row in expected)
    assert list(run.missing) == ["step", "quantity", "parameter", "reason"]


def test_nan_that_was_measured_is_not_missing(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    _write(tmp_path, {"quantities": ["grad_norm", "grad_nonfinite"]}, model=model)
    run = read_run(tmp_path)
    assert run["grad_norm"].isna().all(axis=None)
    assert (run["grad_nonfinite"]["weight"] == 3).all()
    assert run.missing.empty


def test_what_is_withheld_is_missing_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jacoscope.quantities import _statistics

    def fail(_: object) -> Tensor:
        raise RuntimeError("no such kernel")

    table = _statistics.STATISTICS
    broken = {
        "update_sq": type(table["update_sq"])("update_sq", frozenset({"update"}), "sum", fail)
    }
    monkeypatch.setattr("jacoscope.quantities._table.STATISTICS", {**table, **broken})
    with pytest.warns(jacoscope.MonitorWarning, match="update_ratio"):
        _write(tmp_path, {**_BRIEF, "on_error": "warn"})
    run = read_run(tmp_path)
    assert run.quantities == ["grad_norm"]
    withheld = run.missing[run.missing["parameter"] == "*"]
    assert list(withheld["step"]) == [0, 1, 2]
    assert set(withheld["quantity"]) == {"update_ratio"}
    assert withheld["reason"].str.contains("no such kernel").all()


def test_the_configuration_is_the_one_in_use(tmp_path: Path) -> None:
    config = {
        "quantities": ["grad_norm", "saliency"],
        "layers": [{"match": ["first.*", "second.weight"], "schedule": {"every": 2}}],
        "schedule": {"every": 1, "steps": [3, 4]},
        "on_error": "raise",
    }
    _write(tmp_path, config, group="mine", layer_scalars=["saliency"])
    run = read_run(tmp_path)
    assert check_section(run.config) == MonitorConfig(
        **config,
        output={
            "pictures": [],
            "card": False,
            "headline": False,
            "histograms": False,
            "group": "mine",
            "layer_scalars": ["saliency"],
        },
    )
    assert run.group == "mine"


def test_versions_are_those_at_work(tmp_path: Path) -> None:
    _write(tmp_path, _BRIEF)
    versions = read_run(tmp_path).versions
    assert versions["torch"] == torch.__version__
    assert {"lightning", "tensorboard"} <= set(versions)


def test_our_own_version_is_among_them(tmp_path: Path) -> None:
    _write(tmp_path, _BRIEF)
    assert read_run(tmp_path).versions["jacoscope"] == jacoscope.__version__


def test_the_long_form_holds_everything(tmp_path: Path) -> None:
    _write(tmp_path, {"quantities": _ALL}, steps=range(4))
    run = read_run(tmp_path)
    long = run.to_frame()
    assert list(long) == ["step", "epoch", "quantity", "parameter", "layer", "value"]
    assert len(long) == 4 * 5 * len(run.quantities)
    for quantity in run.quantities:
        wide = long[long["quantity"] == quantity].pivot(
            index="step", columns="parameter", values="value"
        )
        pd.testing.assert_frame_equal(
            wide, run[quantity], check_like=True, check_names=False, check_column_type=False
        )
    assert (long["layer"] == long["parameter"].str.rpartition(".")[0]).all()
    assert (long["epoch"] == long["step"] // 2).all()


def test_the_long_form_of_histograms_alone_is_empty(tmp_path: Path) -> None:
    _write(tmp_path, {"quantities": ["grad_histogram"]})
    long = read_run(tmp_path).to_frame()
    assert long.empty
    assert list(long) == ["step", "epoch", "quantity", "parameter", "layer", "value"]


def test_its_repr_says_what_there_is(tmp_path: Path) -> None:
    _write(tmp_path, _BRIEF)
    text = repr(read_run(tmp_path))
    for part in (str(tmp_path), "'sensitivity'", "3 captured steps", "5 parameters", "grad_norm"):
        assert part in text


_ODD_NAMES = ["Größe", "重み", "a b", "slash/within", "tab\tand'quote\"", "x" * 300, "comma,semi;"]


@pytest.mark.parametrize("name", _ODD_NAMES)
def test_names_of_any_kind(name: str, tmp_path: Path) -> None:
    model = nn.Sequential()
    model.add_module(name, nn.Linear(3, 2))
    quantities = ["grad_norm", "grad_histogram"]
    records = _write(tmp_path, {"quantities": quantities}, model=model, layer_scalars=["grad_norm"])
    run = read_run(tmp_path)
    assert list(run["grad_norm"]) == [f"{name}.weight", f"{name}.bias"]
    assert list(run.parameters["layer"]) == [name, name]
    _check(run, records)


# Schedules of their own


def test_layers_with_schedules_of_their_own_have_gaps(tmp_path: Path) -> None:
    layers = [{"match": "first.*", "schedule": {"every": 2, "first": 0}}, {"match": "second.*"}]
    config = {**_BRIEF, "layers": layers, "schedule": {"every": 3, "first": 0}}
    records = _write(tmp_path, config, steps=range(9))
    run = read_run(tmp_path)
    assert list(run.steps.index) == [0, 2, 3, 4, 6, 8]
    for quantity in _BRIEF["quantities"]:
        frame = run[quantity]
        captured = {name: list(frame.index[frame[name].notna()]) for name in frame}
        assert captured == {
            "first.weight": [0, 2, 4, 6, 8],
            "first.bias": [0, 2, 4, 6, 8],
            "second.weight": [0, 3, 6],
            "second.bias": [0, 3, 6],
        }
    _check(run, records)


def test_every_gap_has_its_reason(tmp_path: Path) -> None:
    layers = [{"match": "first.*", "schedule": {"every": 2, "first": 0}}, {"match": "second.*"}]
    config = {**_BRIEF, "layers": layers, "schedule": {"every": 3, "first": 0}}
    _write(tmp_path, config, steps=range(4))
    run = read_run(tmp_path)
    explained = set(run.missing[["step", "quantity", "parameter"]].itertuples(index=False))
    for quantity in run.quantities:
        gaps = run[quantity].stack(future_stack=True)
        for step, name in gaps[gaps.isna()].index:
            assert (step, quantity, name) in explained


def test_histograms_have_the_steps_that_captured_them(tmp_path: Path) -> None:
    schedule = {"steps": [1, 3], "every": None, "first": 0}
    rule = {"match": "first.*", "quantities": ["grad_histogram"], "schedule": schedule}
    _write(tmp_path, {**_BRIEF, "layers": [rule, {"match": "second.*"}]}, steps=range(5))
    run = read_run(tmp_path)
    assert list(run.histogram("first.bias").index) == [1, 3]
    with pytest.raises(KeyError, match=r"no histogram of 'second\.bias'"):
        run.histogram("second.bias")


# Runs that were resumed


def test_after_resuming_the_last_write_wins(tmp_path: Path) -> None:
    config = {"quantities": ["grad_norm", "grad_histogram"], "schedule": {"every": 1}}
    first = _write(tmp_path, config, steps=range(6), epoch=lambda _: 0)
    second = _write(tmp_path, config, steps=range(4, 8), epoch=lambda _: 1)
    assert len(list(tmp_path.iterdir())) == 2
    run = read_run(tmp_path)
    _check(run, [*first[:4], *second])
    assert list(run.steps["epoch"]) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert first[4].records[0].values[0] != second[0].records[0].values[0]


def test_after_resuming_old_reasons_are_gone(tmp_path: Path) -> None:
    _write(tmp_path, _BRIEF, model=_Net(skips={2, 3}), steps=range(4))
    _write(tmp_path, _BRIEF, model=_Net(skips={1}), steps=range(2, 4))
    missing = read_run(tmp_path).missing
    steps = missing[missing["parameter"] == "second.bias"]["step"]
    assert list(steps) == [3, 3]


def test_values_that_are_no_longer_recorded_do_not_linger(tmp_path: Path) -> None:
    layers = [{"match": "first.*"}, {"match": "second.*", "schedule": {"every": 4, "first": 0}}]
    config = {"quantities": ["grad_norm", "grad_histogram"]}
    _write(tmp_path, config, steps=range(5))
    _write(tmp_path, {**config, "layers": layers}, steps=range(1, 5))
    run = read_run(tmp_path)
    assert run["grad_norm"]["second.bias"].notna().tolist() == [True, False, False, False, True]
    assert list(run.histogram("second.bias").index) == [0, 4]


def test_what_only_the_earlier_part_watched_is_kept(tmp_path: Path) -> None:
    first = _write(tmp_path, {**_BRIEF, "layers": [{"match": "first.*"}]})
    second = _write(tmp_path, {**_BRIEF, "layers": [{"match": "second.*"}]}, steps=range(3, 6))
    run = read_run(tmp_path)
    assert set(run["grad_norm"]) == {"first.weight", "first.bias", "second.weight", "second.bias"}
    _check(run, [*first, *second])


def test_files_are_read_in_the_order_of_their_writing(tmp_path: Path) -> None:
    _write(tmp_path / "a", _BRIEF)
    later = _write(tmp_path / "b", _BRIEF)
    (tmp_path / "run").mkdir()
    for folder, number in (("a", 9), ("b", 10)):
        (file,) = (tmp_path / folder).iterdir()
        file.rename(tmp_path / "run" / f"events.out.tfevents.1700000000.host.77.{number}")
    _check(read_run(tmp_path / "run"), later)


# Files that are damaged or not ours


def test_a_cut_file_is_read_up_to_the_cut(tmp_path: Path) -> None:
    records = _write(tmp_path, _BRIEF, steps=range(6))
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    lengths = []
    for length in range(len(data), 0, -37):
        file.write_bytes(data[:length])
        try:
            run = read_run(tmp_path)
        except FileNotFoundError:
            lengths.append(0)
            continue
        lengths.append(len(run.steps))
        _check(run, records[: lengths[-1]])
    assert lengths == sorted(lengths, reverse=True)
    assert set(lengths) == set(range(7))


def test_a_cut_file_and_its_continuation_are_one_run(tmp_path: Path) -> None:
    first = _write(tmp_path, _BRIEF, steps=range(6))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-50])
    second = _write(tmp_path, _BRIEF, steps=range(3, 7))
    _check(read_run(tmp_path), [*first[:3], *second])


def test_a_damaged_file_is_read_up_to_the_damage(tmp_path: Path) -> None:
    records = _write(tmp_path, _BRIEF, steps=range(4))
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    dice = random.Random(0)
    seen = set()
    for _ in range(60):
        damaged = bytearray(data)
        damaged[dice.randrange(len(data))] ^= 0xFF
        file.write_bytes(damaged)
        try:
            run = read_run(tmp_path)
        except FileNotFoundError:
            seen.add(0)
            continue
        seen.add(len(run.steps))
        _check(run, records[: len(run.steps)])
    assert len(seen) > 2


def test_a_user_s_own_charts_do_not_disturb(tmp_path: Path) -> None:
    records = _write(tmp_path, _BRIEF, headline=True, card=True, histograms=True)
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(50):
            writer.add_scalar("loss", 1.0, step)
        writer.add_text("notes", "…", 0)
        writer.add_histogram("weights", torch.randn(10), 0)
        writer.add_scalar("jacoscope", 1.0, 0)
        writer.add_scalar("my/jacoscope/sensitivity/grad_norm", 1.0, 0)
    _check(read_run(tmp_path), records)


def test_a_file_that_is_no_event_file_does_not_disturb(tmp_path: Path) -> None:
    records = _write(tmp_path, _BRIEF)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "events.out.tfevents.0.empty").write_bytes(b"")
    (tmp_path / "events.out.tfevents.0.junk").write_bytes(b"\x00junk" * 50)
    _check(read_run(tmp_path), records)


@pytest.mark.parametrize(
    ("kind", "tag"),
    [
        ("scalar", "jacoscope/loss"),
        ("text", "jacoscope/notes"),
        ("pr_curve", "jacoscope/curve"),
        ("pr_curve", "jacoscope/sensitivity/curve"),
        ("scalar", "jacoscope/sensitivity/loss"),
        ("text", "jacoscope/sensitivity/notes"),
    ],
)
def test_a_user_s_own_tags_under_our_prefix_are_passed_over(
    kind: str, tag: str, tmp_path: Path
) -> None:
    records = _write(tmp_path, _BRIEF)
    with SummaryWriter(str(tmp_path)) as writer:
        if kind == "scalar":
            writer.add_scalar(tag, 1.0, 0)
        elif kind == "text":
            writer.add_text(tag, "…", 0)
        else:
            writer.add_pr_curve(tag, torch.tensor([0, 1]), torch.tensor([0.2, 0.3]), 0)
    _check(read_run(tmp_path), records)


def test_a_group_may_be_called_jacoscope(tmp_path: Path) -> None:
    records = _write(tmp_path, _BRIEF, group="jacoscope", headline=True, card=True)
    run = read_run(tmp_path)
    assert run.group == "jacoscope"
    _check(run, records)


_JUNK = [
    ("jacoscope/sensitivity/x", b"\xff junk"),
    ("jacoscope/sensitivity/x", b"{}"),
    ("jacoscope/sensitivity/x", b"[1]"),
    ("jacoscope/sensitivity/x", b'{"quantity": "grad_norm"}'),
    ("jacoscope/sensitivity/x", b'{"quantity": "grad_norm", "names": ["a"], "unit": "1"}'),
    ("jacoscope/other/x", b'{"version": 999, "quantity": "grad_norm"}'),
]


@pytest.mark.parametrize(("tag", "content"), _JUNK)
def test_events_that_cannot_be_understood_are_passed_over(
    tag: str, content: bytes, tmp_path: Path
) -> None:
    records = _write(tmp_path, _BRIEF)
    with SummaryWriter(str(tmp_path)) as writer:
        add_values(writer, [tensor_value(tag, np.zeros(2, np.float32), content)], 0)
    _check(read_run(tmp_path), records)


@pytest.mark.parametrize("name", [".run", ".status"])
def test_texts_that_cannot_be_understood_are_passed_over(name: str, tmp_path: Path) -> None:
    records = _write(tmp_path, _BRIEF)
    with SummaryWriter(str(tmp_path)) as writer:
        add_values(writer, [text_value(f"jacoscope/sensitivity/{name}", "no JSON", b"{}")], 9)
    _check(read_run(tmp_path), records)


# Which run


def test_a_run_is_found_by_any_kind_of_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "home" / "runs" / "version_0"
    records = _write(folder, _BRIEF)
    (file,) = folder.iterdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for path in (folder, str(folder), file, folder.parent, tmp_path, "~/runs"):
        run = read_run(path)
        _check(run, records)
        assert run.path == folder


def test_several_runs_are_listed(tmp_path: Path) -> None:
    for version in (0, 1):
        _write(tmp_path / f"version_{version}", _BRIEF, steps=[0])
    with pytest.raises(ValueError, match="several records") as caught:
        read_run(tmp_path)
    for version in (0, 1):
        assert f"{tmp_path / f'version_{version}'} (group sensitivity)" in str(caught.value)
    assert read_run(tmp_path / "version_1").path == tmp_path / "version_1"


def test_several_groups_are_listed(tmp_path: Path) -> None:
    records = {group: _write(tmp_path, _BRIEF, group=group) for group in ("a", "b")}
    with pytest.raises(ValueError, match="several records") as caught:
        read_run(tmp_path)
    assert f"{tmp_path} (group a)" in str(caught.value)
    assert f"{tmp_path} (group b)" in str(caught.value)
    for group, expected in records.items():
        run = read_run(tmp_path, group=group)
        assert run.group == group
        _check(run, expected)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; give the folder of a run"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize("output", [None, {"records": False}])
def test_a_folder_without_a_record(output: dict[str, Any] | None, tmp_path: Path) -> None:
    if output is not None:
        _write(tmp_path, _BRIEF, headline=True, **output)
    with pytest.raises(FileNotFoundError, match="no record under") as caught:
        read_run(tmp_path)
    for reason in ("its schedule", "ended before", "not be written", "output.records is false"):
        assert reason in str(caught.value)


def test_a_group_that_does_not_exist(tmp_path: Path) -> None:
    _write(tmp_path, _BRIEF)
    with pytest.raises(FileNotFoundError, match="no record of group 'sensitive'"):
        read_run(tmp_path, group="sensitive")


def test_a_file_that_is_no_event_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("trainer: {}\n")
    with pytest.raises(FileNotFoundError, match="no record under"):
        read_run(file)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("grad_nrom", "no 'grad_nrom'; did you mean 'grad_norm'?"),
        ("UPDATE_RATIO", "did you mean 'update_ratio'?"),
        ("zzz", "valid names are grad_norm, update_ratio"),
    ],
)
def test_a_mistyped_quantity_is_told_the_nearest(asked: str, told: str, tmp_path: Path) -> None:
    _write(tmp_path, _BRIEF)
    with pytest.raises(KeyError) as caught:
        read_run(tmp_path)[asked]
    assert told in str(caught.value.args[0])


def test_a_mistyped_parameter_is_told_the_nearest(tmp_path: Path) -> None:
    _write(tmp_path, {"quantities": ["grad_histogram"]})
    run = read_run(tmp_path)
    with pytest.raises(KeyError, match=r"'first.wieght'; did you mean 'first.weight'\?"):
        run.histogram("first.wieght")
    with pytest.raises(KeyError, match=r"many values per parameter; use run.histogram"):
        run["grad_histogram"]


def test_numbers_beyond_single_precision_are_not_mistaken_for_zero(tmp_path: Path) -> None:
    model = nn.Linear(3, 1).double()
    with torch.no_grad():
        model.weight.fill_(1e-60)
    _write(tmp_path, {"quantities": ["weight_norm"]}, model=model, steps=[0])
    norm = read_run(tmp_path)["weight_norm"].loc[0, "weight"]
    assert math.isclose(norm, math.sqrt(3) * 1e-60)


def test_numbers_beyond_single_precision_are_kept(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    for scale in (1e-24, 1e21):
        folder, sink = tmp_path / str(scale), MemorySink()
        board = TensorBoardSink(SummaryWriter(str(folder)), Output(pictures=()), owns_writer=True)
        config = {"quantities": ["taylor_importance"]}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with Monitor(model, config, sinks=[sink, board]) as monitor:
            monitor.begin_step(0)
            optimizer.zero_grad()
            (model.weight.sum() * scale).backward()
            monitor.before_optimizer_step(optimizer)
            optimizer.step()
            monitor.end_step()
        given = sink.records[0].records[0].values[0]
        assert 0 < given < np.inf
        assert read_run(folder)["taylor_importance"].loc[0, "weight"] == given
