"""Lightning Fabric: the monitor in a loop whose model, optimiser and backward are wrapped."""

from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from jacoscope import Monitor
from jacoscope.sinks import MemorySink
from sample_training import values_of

QUANTITIES = ["grad_norm", "update_norm", "sample_grad_norm", "noise_scale", "pair_cosine"]
STEPS = 4


def _model() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.05)


def _batches(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, generator=generator).to(dtype) for _ in range(STEPS)]


def _loop(
    model: Any, optimizer: Any, batches: list[Tensor], watched: Any, backward: Any
) -> list[dict[str, dict[str, float]]]:
    sink = MemorySink()
    config = {"quantities": QUANTITIES, "schedule": {"every": 1}, "on_error": "raise"}
    with Monitor(watched, config, sinks=[sink]) as monitor:
        for step, batch in enumerate(batches):
            monitor.begin_step(step)
            monitor.begin_batch(batch)
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            monitor.before_backward(loss)
            backward(loss)
            monitor.after_backward()
            monitor.before_optimizer_step(optimizer)
            optimizer.step()
            monitor.end_step()
    assert not any(record.missing for record in sink.records)
    return [values_of(record) for record in sink.records]


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "bf16-true"])
def test_the_numbers_of_a_plain_loop(precision: Any, wrapped: bool) -> None:
    """Fabric's wrapper of the model may be watched, or the model itself; names are the same."""
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    inner, optimizer = _model()
    model, stepping = fabric.setup(inner, optimizer)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    batches = _batches(dtype)
    found = _loop(model, stepping, batches, model if wrapped else inner, fabric.backward)
    plain, optimizer = _model()
    plain = plain.to(dtype)
    reference = _loop(plain, optimizer, batches, plain, lambda loss: loss.backward())
    exact = precision in ("32-true", "64-true")
    for mine, theirs in zip(found[:1] if not exact else found, reference, strict=False):
        assert set(mine) == set(theirs)
        for row, values in theirs.items():
            for name in ("grad_norm", "sample_grad_norm"):
                if name in values:
                    tolerance = 1e-6 if exact else 0.03
                    assert mine[row][name] == pytest.approx(values[name], rel=tolerance), row


def test_training_is_left_alone() -> None:
    def weights(is_watched: bool) -> list[float]:
        fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
        model, optimizer = fabric.setup(*_model())
        batches = _batches(torch.float32)
        if is_watched:
            _loop(model, optimizer, batches, model, fabric.backward)
        else:
            for batch in batches:
                optimizer.zero_grad()
                fabric.backward(model(batch).square().mean())
                optimizer.step()
        return [x for p in model.parameters() for x in p.flatten().tolist()]

    assert weights(True) == weights(False)


def test_fabric_still_refuses_a_backward_that_is_not_its_own() -> None:
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    model, optimizer = fabric.setup(*_model())
    _loop(model, optimizer, _batches(torch.float32), model, fabric.backward)
    with pytest.raises(RuntimeError, match=r"fabric\.backward"):
        model(torch.ones(2, 3)).sum().backward()
