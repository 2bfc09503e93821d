import pytest
import torch
from lightning import Trainer
from torch import nn

from jacoscope.demos import Regressor
from jacoscope.demos.tasks._optimizer import cosine_factor


def test_learning_rate_rises_peaks_and_falls_to_zero() -> None:
    factors = [cosine_factor(100)(step) for step in range(101)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert factors[99] > 0
    assert factors[100] == pytest.approx(0)


def test_learning_rate_stays_zero_beyond_the_run() -> None:
    assert cosine_factor(100)(250) == pytest.approx(0)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_shortest_runs_still_learn(steps: int) -> None:
    assert all(cosine_factor(steps)(step) > 0 for step in range(steps))


def test_endless_run_keeps_the_learning_rate() -> None:
    task = Regressor(nn.Linear(2, 1), lr=0.5)
    task.trainer = Trainer(max_epochs=-1, logger=False, accelerator="cpu")
    optimizer = task.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["lr"] == 0.5
