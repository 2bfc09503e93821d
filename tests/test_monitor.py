"""The monitor without a trainer: plain loops, precision, and faults at every stage."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from helpers import fingerprint
from jacoscope import Monitor, MonitorWarning, read_run
from jacoscope.capturing import OptimizerStepCapture
from jacoscope.config import Output
from jacoscope.quantities import QUANTITIES, STATISTICS, Meter, is_per_sample, is_probed
from jacoscope.record import GradientInfo
from jacoscope.sinks import MemorySink, TensorBoardSink

_ALL = [name for name in QUANTITIES if not (is_per_sample(name) or is_probed(name))]


def train(
    model: nn.Module,
    monitor: Monitor | None,
    steps: int = 6,
    optimizer: torch.optim.Optimizer | None = None,
) -> str:
    torch.manual_seed(3)
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.1)
    for step in range(steps):
        if monitor is not None:
            monitor.begin_step(step)
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        if monitor is not None:
            monitor.before_optimizer_step(optimizer)
        optimizer.step()
        if monitor is not None:
            monitor.end_step()
    return fingerprint(model.state_dict(), optimizer.state_dict())


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 2))


def test_a_plain_loop() -> None:
    sink = MemorySink()
    model = small()
    with Monitor(model, {"schedule": {"every": 3, "first": 0}}, sinks=[sink]) as monitor:
        train(model, monitor)
    assert [record.step for record in sink.records] == [0, 3]
    assert set(sink.records[0].headline) >= {"grad_norm", "update_ratio", "coverage"}
    assert sink.records[0].headline["coverage"] == 1.0


def test_gradient_scale_is_divided_out() -> None:
    """What a fused optimiser under mixed precision needs: its gradients are still scaled."""

    def values(scale: float) -> dict[str, Any]:
        sink, model = MemorySink(), small().double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with Monitor(model, {"quantities": list(_ALL)}, sinks=[sink]) as monitor:
            monitor.begin_step(0)
            torch.manual_seed(1)
            (scale * model(torch.ones(8, 4).double()).square().mean()).backward()
            monitor.before_optimizer_step(optimizer, gradient_scale=torch.tensor(scale))
            optimizer.step()
            monitor.end_step()
        return {item.quantity: item.values for item in sink.records[0].records}

    plain, scaled = values(1.0), values(1024.0)
    for name in plain:
        np.testing.assert_allclose(scaled[name], plain[name], rtol=1e-12, err_msg=name)


def test_a_step_that_the_scaler_skips_has_no_update() -> None:
    sink, model = MemorySink(), small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with Monitor(model, {"on_error": "raise"}, sinks=[sink]) as monitor:
        for step, factor in enumerate((float("inf"), 1.0)):
            monitor.begin_step(step)
            optimizer.zero_grad()
            scaler.scale(factor * model(torch.ones(8, 4)).square().mean()).backward()
            scaler.unscale_(optimizer)
            monitor.before_optimizer_step(optimizer)
            scaler.step(optimizer)
            scaler.update()
            monitor.end_step()
    skipped, done = (
        {item.quantity: item.values for item in record.records} for record in sink.records
    )
    assert (skipped["update_norm"] == 0).all()
    assert (skipped["grad_nonfinite"] > 0).all()
    assert (done["update_norm"] > 0).all()
    assert not optimizer._optimizer_step_post_hooks


def test_records_are_stored_in_the_precision_of_training(tmp_path: Path) -> None:
    model, sink = small().double(), MemorySink()
    writer = SummaryWriter(str(tmp_path))
    board = TensorBoardSink(writer, Output(), owns_writer=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, sinks=[sink, board]) as monitor:
        monitor.begin_step(0)
        model(torch.ones(8, 4).double()).square().mean().backward()
        monitor.before_optimizer_step(optimizer, GradientInfo(precision="double"))
        optimizer.step()
        monitor.end_step()
    run = read_run(tmp_path)
    for item in sink.records[0].records:
        assert run[item.quantity].iloc[0].tolist() == item.values.tolist()
    assert run.steps["precision"].tolist() == ["double"]


def explode(*_: Any, **__: Any) -> Any:
    raise RuntimeError("planted")


STAGES: dict[str, Any] = {
    "schedule": lambda m: m.setattr("jacoscope.schedule.Timetable.is_due", explode),
    "plan": lambda m: m.setattr("jacoscope.captured_step.wanted_of", explode),
    "capture before": lambda m: m.setattr(OptimizerStepCapture, "before_step", explode),
    "capture after": lambda m: m.setattr(OptimizerStepCapture, "_after_step", explode),
    "capture end": lambda m: m.setattr(OptimizerStepCapture, "finish", explode),
    "layout": lambda m: m.setattr("jacoscope.quantities._blocks.Chunk.pack", explode),
    "measure": lambda m: m.setattr(Meter, "measure", explode),
    "transfer": lambda m: m.setattr("jacoscope.captured_step.Transfer", explode),
    "unpacking": lambda m: m.setattr("jacoscope.reduction.Transfer.result", explode),
    "finish": lambda m: m.setattr("jacoscope.captured_step.finish_record", explode),
    "headline": lambda m: m.setattr("jacoscope.captured_step.finish_headline", explode),
    "sink open": lambda m: m.setattr(MemorySink, "open", explode),
    "sink write": lambda m: m.setattr(MemorySink, "write", explode),
    "sink close": lambda m: m.setattr(MemorySink, "close", explode),
}


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_at_any_stage_leaves_training_as_it_was(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(small(), None)
    STAGES[stage](monkeypatch)
    model = small()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = {"schedule": {"every": 1}, "quantities": list(_ALL)}
        monitor = Monitor(model, config, sinks=[MemorySink()])
        watched = train(model, monitor)
        monitor.close()
    assert watched == plain
    ours = [w for w in caught if issubclass(w.category, MonitorWarning)]
    subjects = [str(warning.message).split(" failed")[0] for warning in ours]
    assert subjects, "it must be said"
    assert len(subjects) == len(set(subjects)), "each thing is said once"
    assert all("planted" in str(warning.message) for warning in ours)


@pytest.mark.parametrize("stage", STAGES)
def test_on_error_raise_lets_it_through(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    STAGES[stage](monkeypatch)
    model = small()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(RuntimeError, match="planted"):  # noqa: PT012
        monitor = Monitor(model, {"on_error": "raise"}, sinks=[MemorySink()])
        train(model, monitor, optimizer=optimizer)
        monitor.close()
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("broken", ["grad_sq", "update_grad", "weight_sq"])
def test_one_broken_statistic_costs_only_its_quantities(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statistic = STATISTICS[broken]
    planted = type(statistic)(statistic.name, statistic.inputs, statistic.combine, explode)
    monkeypatch.setitem(STATISTICS, broken, planted)
    sink, model = MemorySink(), small()
    with (
        pytest.warns(MonitorWarning, match=r"measuring .* failed and is left out") as caught,
        Monitor(model, {"quantities": list(_ALL)}, sinks=[sink]) as monitor,
    ):
        train(model, monitor)
    lost = {name for name in _ALL if broken in QUANTITIES[name].needs}
    assert len(caught) == 1
    for record in sink.records:
        assert set(record.withheld) == lost
        assert {item.quantity for item in record.records} == set(_ALL) - lost
        assert all(np.isfinite(item.values).all() for item in record.records)


def test_shadowed_rules_are_pointed_out() -> None:
    with pytest.warns(MonitorWarning, match=r"rule layers\[1\] decides nothing"):
        Monitor(small(), {"layers": [{}, {"kind": "bias"}]})


@pytest.mark.parametrize("key", ["pictures", "layer_scalars"])
def test_what_is_shown_and_not_measured_is_pointed_out(key: str) -> None:
    said = rf"output.{key} names saliency, coherence, which nothing measures; add it to quantities"
    told = {"quantities": ["grad_rms"], "layers": [{"quantities": ["grad_max"]}]}
    with pytest.warns(MonitorWarning, match=said):
        Monitor(
            small(), {**told, "output": {key: ["grad_rms", "grad_max", "saliency", "coherence"]}}
        )
    Monitor(small(), told)  # whose default pictures show less
    Monitor(small(), {**told, "output": {key: ["grad_rms", "grad_max"]}})


def test_watching_nothing_is_said() -> None:
    reason = "no parameter is watched, so nothing will be recorded: they are elsewhere"
    with pytest.warns(MonitorWarning, match=reason) as told:
        Monitor(small(), withheld="they are elsewhere")
    assert told[0].filename == __file__, "of whoever made the monitor"


def test_off_the_capture_steps_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    monitor = Monitor(model, {"schedule": {"every": 100, "first": 0}}, sinks=[MemorySink()])
    train(model, monitor, steps=1)
    monkeypatch.setattr("jacoscope.opening.CapturedStep", explode)
    monkeypatch.setattr("jacoscope.monitor.Versions", explode)
    for step in range(1, 100):
        assert not monitor.begin_step(step)
        monitor.before_backward(model(torch.ones(2, 4)).sum())
        monitor.after_backward()
        monitor.end_step()
    assert not monitor.faults.reasons


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_and_does_not_wait() -> None:
    records = {}
    for device in ("cpu", "cuda"):
        sink, model = MemorySink(), small().double().to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Monitor(model, {"quantities": list(_ALL)}, sinks=[sink]) as monitor:
            model.eval()
            model(torch.ones(8, 4, device=device).double()).square().mean().backward()
            torch.cuda.set_sync_debug_mode("error" if device == "cuda" else "default")
            try:
                monitor.begin_step(0)
                monitor.before_optimizer_step(optimizer)
                optimizer.step()
                monitor.end_step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        records[device] = {item.quantity: item.values for item in sink.records[0].records}
    for name, values in records["cpu"].items():
        np.testing.assert_allclose(records["cuda"][name], values, rtol=1e-9, err_msg=name)


def test_hooks_of_others_on_the_optimiser_are_left_alone() -> None:
    """An optimiser iterates over its hooks: removing ours there would break its step."""
    model, called = small(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: called.append("before"))
    with Monitor(model, {"on_error": "raise"}, sinks=[MemorySink()]) as monitor:
        monitor.begin_step(0)
        model(torch.randn(8, 4)).sum().backward()
        monitor.before_optimizer_step(optimizer)
        later = optimizer.register_step_post_hook(lambda *_: called.append("after"))
        optimizer.step()
        monitor.end_step()
    later.remove()
    assert called == ["before", "after"]
    assert len(optimizer._optimizer_step_post_hooks) == 1
