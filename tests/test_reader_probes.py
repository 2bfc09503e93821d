"""What probes recorded comes back as frames."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from jacoscope import Monitor, MonitorConfig, Run, read_run
from jacoscope.config import Output
from jacoscope.probe_record import ProbeRecord
from jacoscope.quantities import QUANTITIES
from jacoscope.sinks import MemorySink, TensorBoardSink
from jacoscope.sinks._events import add_values, text_value
from probe_training import EACH, OF_LOSS, PROBED, cross_entropy
from sample_training import perceptron

QUIET = {"pictures": [], "card": False, "headline": False}
CAPTURED = ("grad_norm", "update_ratio")


def batch_of(step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), torch.randint(3, (8,), generator=generator)


def write(
    folder: Path,
    quantities: Iterable[str] = PROBED,
    *,
    steps: Iterable[int] = range(3),
    dtype: torch.dtype = torch.float32,
    state: dict[str, Any] | None = None,
    model: nn.Module | None = None,
    loss: Any = cross_entropy,
    probes: dict[str, Any] | None = None,
    **config: Any,
) -> tuple[MemorySink, dict[str, Any]]:
    """Train while a monitor writes into a folder; what it recorded, and its state."""
    given = {"quantities": tuple(quantities), "probes": {**EACH, **(probes or {})}, **config}
    made = MonitorConfig(**given, output=Output(**QUIET))  # type: ignore[arg-type]
    memory = MemorySink()
    board = TensorBoardSink(SummaryWriter(str(folder)), made.output, owns_writer=True)
    model = perceptron(dtype) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    with Monitor(model, made, sinks=[memory, board], loss=loss) as monitor:
        monitor.load_state_dict(state or {})
        for step in steps:
            batch = batch_of(step, dtype)
            monitor.begin_step(step, epoch=step // 2)
            monitor.begin_batch(batch, ("dataset index", list(range(10, 18))))
            optimizer.zero_grad()
            cross_entropy(model, batch).backward()
            monitor.before_optimizer_step(optimizer)
            optimizer.step()
            monitor.end_step()
        kept = monitor.state_dict()
    return memory, kept


def check(run: Run, records: Iterable[ProbeRecord], dtype: Any) -> None:
    """Every value of every record is in the frames, and nothing else."""
    for record in records:
        for item in record.records:
            frame = run[item.quantity]
            found = frame.loc[record.step, list(item.axis.names)].to_numpy(np.float64)
            stored = item.values.astype(dtype).astype(np.float64)
            np.testing.assert_allclose(found, stored, rtol=1e-15, atol=0, err_msg=item.quantity)
            if item.errors is not None and np.isfinite(item.errors).any():
                errors = run.standard_errors[item.quantity]
                given = errors.loc[record.step, list(item.axis.names)].to_numpy(np.float64)
                np.testing.assert_array_equal(given, item.errors)
        for name, spectrum in record.spectra.items():
            found = run.probes.ntk_spectrum(name).loc[record.step].to_numpy(np.float64)
            np.testing.assert_array_equal(found, np.asarray(spectrum).astype(dtype))


@pytest.mark.parametrize(
    ("dtype", "stored"), [(torch.float32, np.float32), (torch.float64, np.float64)]
)
def test_everything_comes_back(dtype: torch.dtype, stored: Any, tmp_path: Path) -> None:
    memory, _ = write(tmp_path, (*CAPTURED, *PROBED), dtype=dtype)
    run = read_run(tmp_path)
    assert run.quantities == [*CAPTURED, *PROBED]
    check(run, memory.probes, stored)
    assert list(run.steps.index) == [0, 1, 2]
    assert run.probes.steps == [0, 1, 2]
    assert run.probes.epochs == {0: 0, 1: 0, 2: 1}
    for name in PROBED:
        assert run.units[name] == QUANTITIES[name].unit
        assert run[name].index.name == "step"
        assert list(run[name].index) == [0, 1, 2]
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert list(run["ntk_trace"]) == [*names, "(all)", "layer 0", "layer 2"]
    assert list(run["actual_change"]) == ["(all)", "layer 0", "layer 2"]
    assert list(run["layer_jacobian_mean_sq"]) == ["0 → 2"]
    assert run.missing.empty


def test_a_run_of_probes_alone(tmp_path: Path) -> None:
    memory, _ = write(tmp_path)
    run = read_run(tmp_path)
    check(run, memory.probes, np.float32)
    assert run.quantities == list(PROBED)
    assert run.steps.empty
    assert list(run.parameters["parameter"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert run.config["quantities"] == list(PROBED)
    long = run.to_frame()
    assert set(long["quantity"]) == set(PROBED)
    assert long.set_index("step")["epoch"].to_dict() == {0: 0, 1: 0, 2: 1}
    assert "ntk_trace" in repr(run)
    assert "3 probes" in repr(run.probes)


def test_standard_errors_of_what_was_sketched(tmp_path: Path) -> None:
    memory, _ = write(tmp_path, probes={"max_outputs": 2, "sketches": 8})
    run = read_run(tmp_path)
    check(run, memory.probes, np.float32)
    assert set(run.standard_errors) == {
        *("output_jacobian_norm", "ntk_trace", "ntk_alignment", "ntk_drift"),
        *("input_jacobian_norm", "layer_jacobian_mean_sq"),
    }
    errors = run.standard_errors["ntk_trace"]
    assert list(errors) == list(run["ntk_trace"])
    assert errors.index.name == "step"
    assert (errors >= 0).all(axis=None)
    assert (errors["(all)"] > 0).all()
    withheld = run.missing[run.missing["parameter"] == "*"]
    assert set(withheld["quantity"]) == {
        *("output_jacobian_spectral_norm", "ntk_top_eigenvalue", "ntk_condition"),
        *("ntk_effective_rank", "input_jacobian_spectral_norm", "input_jacobian_condition"),
    }
    with pytest.raises(KeyError, match="has no spectrum of"):
        run.probes.ntk_spectrum()


def test_without_sketches_there_are_no_errors(tmp_path: Path) -> None:
    write(tmp_path, ("ntk_trace", "grad_norm"))
    assert read_run(tmp_path).standard_errors == {}


# The frames of probes.


def test_all_else_equal_comes_back(tmp_path: Path) -> None:
    memory, _ = write(tmp_path, probes={"weights": 3})
    run = read_run(tmp_path)
    frame = run.probes.all_else_equal()
    assert list(frame) == ["step", "layer", "predicted", "second_order", "actual"]
    layers = ["0", "2", "(interaction)", "(all)"]
    assert list(frame["layer"]) == layers * 3
    weights = run.probes.weights()
    assert len(weights) == 9
    for record in memory.probes:
        result, part = record.all_else_equal, frame[frame["step"] == record.step]
        assert result is not None
        rows = part.set_index("layer")
        for share in result.layers:
            given = rows.loc[share.layer, ["predicted", "second_order", "actual"]]
            assert list(given) == [share.predicted, share.second_order, share.actual]
        assert rows.loc["(interaction)", "actual"] == result.interaction
        assert rows.loc["(interaction)", ["predicted", "second_order"]].isna().all()
        assert rows.loc["(all)", "predicted"] == result.predicted
        assert rows.loc["(all)", "second_order"] == result.second_order
        assert rows.loc["(all)", "actual"] == pytest.approx(result.actual, abs=1e-15)
        mine = weights[weights["step"] == record.step]
        for weight, row in zip(result.weights, mine.to_dict("records"), strict=True):
            same = ("parameter", "index", "derivative", "difference", "h", "error")
            assert {name: row[name] for name in same} == {n: getattr(weight, n) for n in same}
            assert row["delta"] == weight.step


def test_without_second_order_its_column_is_empty(tmp_path: Path) -> None:
    write(tmp_path, probes={"second_order": False})
    run = read_run(tmp_path)
    assert run.probes.all_else_equal()["second_order"].isna().all()
    withheld = run.missing.set_index("quantity")["reason"]
    assert set(withheld.index) == {"second_order_change"}
    assert (withheld == "probes.second_order is false").all()


def test_the_allocation_comes_back(tmp_path: Path) -> None:
    memory, _ = write(tmp_path, probes={"schedule": {"every": 2}}, steps=range(4))
    frame = read_run(tmp_path).probes.allocation()
    assert frame.index.name == "step"
    assert list(frame.index) == [0, 2, 3]
    assert list(frame) == ["0", "2", "(change)", "(gap)"]
    for record in memory.probes:
        allocation = record.allocation
        assert allocation is not None
        row = frame.loc[record.step]
        assert row[["0", "2"]].to_dict() == dict(allocation.by_layer)
        assert row["(change)"] == allocation.change
        assert row["(gap)"] == allocation.gap
        assert row[["0", "2", "(gap)"]].sum() == pytest.approx(allocation.change, abs=1e-12)


def test_what_outputs_show_comes_back(tmp_path: Path) -> None:
    memory, _ = write(tmp_path, probes={"saliency": 2})
    run = read_run(tmp_path)
    for record in memory.probes:
        assert record.output_sensitivity is not None
        assert record.singular_values is not None
        assert record.saliency is not None
        frame = run.probes.output_sensitivity(record.step)
        assert list(frame.index) == list(record.output_sensitivity.layers) == ["0", "2"]
        np.testing.assert_allclose(frame, record.output_sensitivity.values, rtol=1e-6)
        values = run.probes.input_singular_values(record.step)
        assert values.shape == (8, 3)
        assert values.index.name == "sample"
        np.testing.assert_allclose(values, record.singular_values, rtol=1e-6)
        saliency = run.probes.saliency(record.step)
        assert saliency["kind"] == "features"
        np.testing.assert_allclose(saliency["maps"], record.saliency.maps, rtol=1e-6)
        np.testing.assert_allclose(saliency["things"], record.saliency.things, rtol=1e-6)
        assert saliency["outputs"] == record.saliency.outputs.tolist()
        assert saliency["labels"] == list(record.saliency.labels)
        assert saliency["ids"] == [str(index) for index in range(10, 18)]
    notes = run.probes.notes()
    assert list(notes) == ["step", "subject", "note"]
    said = {(row.step, row.subject): row.note for row in notes.itertuples()}
    for record in memory.probes:
        for subject, note in record.notes.items():
            assert said[record.step, subject] == note


@pytest.mark.parametrize(
    ("method", "told"),
    [("output_sensitivity", "step"), ("input_singular_values", "step"), ("saliency", "step")],
)
def test_a_step_that_was_not_probed_is_said(method: str, told: str, tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(KeyError, match=told):
        getattr(read_run(tmp_path).probes, method)(7)


def test_a_row_without_a_spectrum_is_said(tmp_path: Path) -> None:
    write(tmp_path)
    probes = read_run(tmp_path).probes
    with pytest.raises(KeyError, match="did you mean 'layer 0'"):
        probes.ntk_spectrum("layer0")
    assert probes.ntk_spectrum().equals(probes.ntk_spectrum("(all)"))
    assert probes.ntk_spectrum("layer 2").shape == (3, 24)


# Reasons.


def test_reasons_come_back(tmp_path: Path) -> None:
    layers = [{"match": "0", "quantities": ["layer_jacobian_mean_sq", "ntk_alignment"]}]
    config = {"layers": layers, "probes": {"chain": ["0", "1", "2"]}}

    class Skipping(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            return self[2](self[0](inputs))

    model = Skipping(*perceptron())
    memory, _ = write(tmp_path, model=model, **config)  # type: ignore[arg-type]
    run = read_run(tmp_path)
    expected = {
        (record.step, item.quantity, row, reason)
        for record in memory.probes
        for item in record.records
        for row, reason in item.missing.items()
    }
    assert len(expected) == 6
    assert set(run.missing.itertuples(index=False, name=None)) == expected
    assert all("'1' runs not at all" in row[3] for row in expected)
    assert list(run.missing) == ["step", "quantity", "parameter", "reason"]
    assert run["layer_jacobian_mean_sq"].isna().all(axis=None)
    assert not run["ntk_alignment"]["(all)"].isna().any()


def test_what_is_withheld_at_some_steps_has_its_reason_there(tmp_path: Path) -> None:
    calls = [0]

    def failing(model: nn.Module, batch: Any) -> Tensor:
        calls[0] += batch[0].shape[0] == 8
        return cross_entropy(model, batch) + (torch.rand(()) if step[0] == 1 else 0) * calls[0]

    step = [0]

    class Steps(list[int]):
        def __iter__(self) -> Any:
            for each in range(3):
                step[0] = each
                yield each

    memory, _ = write(tmp_path, steps=Steps(), loss=failing)
    run = read_run(tmp_path)
    assert [bool(record.withheld) for record in memory.probes] == [False, True, False]
    assert set(run.missing["step"]) == {1}
    assert set(run.missing["quantity"]) == set(OF_LOSS)
    assert set(run.missing["parameter"]) == {"*"}
    assert list(run["actual_change"].index) == [0, 2]


def test_what_is_no_number_comes_back_as_such(tmp_path: Path) -> None:
    model = perceptron()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    memory, _ = write(tmp_path, model=model, steps=range(1))
    run = read_run(tmp_path)
    check(run, memory.probes, np.float32)
    assert run["ntk_trace"].drop(columns="2.bias").isna().all(axis=None)
    assert run.missing.empty
    assert run.probes.all_else_equal()["actual"].isna().any()


# Runs that are resumed, and older ones.


def test_the_last_write_wins(tmp_path: Path) -> None:
    """After resuming, probes of a step take the place of its probes, captures of its captures."""
    both = (*CAPTURED, *PROBED)
    first, state = write(tmp_path, both, steps=range(4))
    model = perceptron()
    with torch.no_grad():
        model[0].weight.mul_(2)
    second, _ = write(tmp_path, both, steps=range(2, 5), model=model, state=state)
    run = read_run(tmp_path)
    assert run.probes.steps == [0, 1, 2, 3, 4]
    check(run, [*first.probes[:2], *second.probes], np.float32)
    for record in (*first.records[:2], *second.records):
        for item in record.records:
            found = run[item.quantity].loc[record.step, list(item.axis.names)]
            np.testing.assert_allclose(found, item.values, rtol=1e-6)
    assert list(run.probes.all_else_equal()["step"].unique()) == [0, 1, 2, 3, 4]
    results = {record.step: record.all_else_equal for record in second.probes}
    whole = run.probes.all_else_equal().query("layer == '(all)'").set_index("step")
    for step, result in results.items():
        assert result is not None
        assert whole.loc[step, "predicted"] == result.predicted


def test_probes_again_leave_what_was_captured(tmp_path: Path) -> None:
    captured, _ = write(tmp_path, (*CAPTURED, *PROBED))
    sparse, _ = write(tmp_path, ("ntk_trace",), steps=range(1, 3))
    run = read_run(tmp_path)
    assert list(run["grad_norm"].index) == [0, 1, 2]
    for record in captured.records:
        for item in record.records:
            found = run[item.quantity].loc[record.step, list(item.axis.names)]
            np.testing.assert_allclose(found, item.values, rtol=1e-6)
    check(run, sparse.probes, np.float32)
    assert list(run["ntk_alignment"].index) == [0], "those of the later probes are gone"
    assert list(run["actual_change"].index) == [0]
    assert list(run.probes.ntk_spectrum().index) == [0]
    assert list(run.probes.all_else_equal()["step"].unique()) == [0]


def test_errors_of_probes_that_were_replaced_are_gone(tmp_path: Path) -> None:
    write(tmp_path, ("ntk_trace",), probes={"max_outputs": 2, "sketches": 4})
    write(tmp_path, ("ntk_trace",), steps=range(1, 3))
    run = read_run(tmp_path)
    assert list(run["ntk_trace"].index) == [0, 1, 2]
    assert list(run.standard_errors["ntk_trace"].index) == [0]
    assert set(run.missing["step"]) <= {0}


def test_captures_again_leave_what_was_probed(tmp_path: Path) -> None:
    probed, _ = write(tmp_path, (*CAPTURED, *PROBED))
    again, _ = write(tmp_path, ("grad_norm",), steps=range(1, 3))
    run = read_run(tmp_path)
    check(run, probed.probes, np.float32)
    assert list(run["update_ratio"].index) == [0]
    for record in again.records:
        for item in record.records:
            found = run[item.quantity].loc[record.step, list(item.axis.names)]
            np.testing.assert_allclose(found, item.values, rtol=1e-6)


def test_things_of_a_resumed_run_are_its_own(tmp_path: Path) -> None:
    """They are written where they are new; a probe shows those last written before it."""
    write(tmp_path, steps=range(4), probes={"saliency": 2})
    memory, _ = write(tmp_path, steps=range(2, 6), probes={"saliency": 2})
    probes = read_run(tmp_path).probes
    np.testing.assert_allclose(probes.saliency(1)["things"], batch_of(0, torch.float32)[0][:2])
    for record in memory.probes:
        assert record.saliency is not None
        found = probes.saliency(record.step)["things"]
        np.testing.assert_allclose(found, record.saliency.things, rtol=1e-6)


def test_the_allocation_goes_through_a_checkpoint(tmp_path: Path) -> None:
    """Its state is plain values, which JSON can hold."""
    names = ("allocated_change", "allocation_gap")
    first, state = write(tmp_path, names)
    state = json.loads(json.dumps(state))
    assert set(state["probes"]) == {"since", "by_layer", "change"}
    second, later = write(tmp_path, names, steps=range(3, 5), state=state)
    then, now = first.probes[-1].allocation, second.probes[0].allocation
    assert then is not None
    assert now is not None
    assert now.since == 0
    alone, _ = write(tmp_path / "alone", names, steps=range(3, 5))
    fresh = alone.probes[0].allocation
    assert fresh is not None
    assert fresh.since == 3
    assert now.change == pytest.approx(then.change + fresh.change, rel=1e-12)
    for layer, value in now.by_layer.items():
        assert value == pytest.approx(then.by_layer[layer] + fresh.by_layer[layer], rel=1e-12)
    assert now.gap == pytest.approx(then.gap + fresh.gap, abs=1e-12)
    last = second.probes[-1].allocation
    assert last is not None
    assert later["probes"]["change"] == last.change
    frame = read_run(tmp_path / "alone").probes.allocation()
    assert list(frame.index) == [3, 4]


def test_a_state_without_probes_is_taken_up(tmp_path: Path) -> None:
    """Checkpoints of versions that knew no probes have none."""
    _, state = write(tmp_path / "one", ("grad_norm",), steps=range(2))
    assert state["probes"] == {}
    del state["probes"]
    memory, _ = write(tmp_path / "two", ("allocated_change", "grad_norm"), state=state)
    found = memory.probes[0].allocation
    assert found is not None
    assert found.since == 0


def test_a_run_without_probes_has_empty_frames(tmp_path: Path) -> None:
    write(tmp_path, CAPTURED)
    run = read_run(tmp_path)
    assert run.probes.steps == []
    assert run.standard_errors == {}
    assert list(run.quantities) == list(CAPTURED)
    for frame in (run.probes.notes(), run.probes.all_else_equal(), run.probes.weights()):
        assert isinstance(frame, pd.DataFrame)
        assert frame.empty
    assert run.probes.allocation().empty
    assert len(run.steps) == 3


def test_a_record_that_cannot_be_understood_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path)
    with SummaryWriter(str(tmp_path)) as writer:
        add_values(writer, [text_value("jacoscope/sensitivity/.probe", "no JSON", b"{}")], 9)
    assert read_run(tmp_path).probes.steps == [0, 1, 2]


def test_frames_are_copies(tmp_path: Path) -> None:
    write(tmp_path, probes={"max_outputs": 2, "sketches": 4})
    run = read_run(tmp_path)
    for take in (lambda: run["ntk_trace"], run.probes.allocation):
        frame = take()
        frame.loc[:] = 0.0
        assert not (take() == 0.0).all(axis=None)
