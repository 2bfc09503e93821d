import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from jacoscope.demos import Regressor

GENERATOR = torch.Generator().manual_seed(0)
SAMPLES = TensorDataset(
    torch.randn(10, 4, generator=GENERATOR), torch.randn(10, 1, generator=GENERATOR)
)
UNEVEN_BATCHES = DataLoader(SAMPLES, batch_size=4)


def test_validation_averages_over_samples_not_batches(trainer: Trainer) -> None:
    task = Regressor(nn.Linear(4, 1))
    metrics = trainer.validate(task, UNEVEN_BATCHES, verbose=False)[0]
    inputs, targets = SAMPLES.tensors
    with torch.no_grad():
        errors = task(inputs) - targets
    assert metrics["val/loss"] == pytest.approx(errors.square().mean().item())
    assert metrics["val/mae"] == pytest.approx(errors.abs().mean().item())
    unexplained = errors.square().sum() / (targets - targets.mean()).square().sum()
    assert metrics["val/r2"] == pytest.approx(1 - unexplained.item())


def test_fit_logs_what_the_docstring_lists(trainer: Trainer) -> None:
    trainer.fit(Regressor(nn.Linear(4, 1)), UNEVEN_BATCHES, UNEVEN_BATCHES)
    assert set(trainer.callback_metrics) == {
        *("train/loss", "train/mae"),
        *("val/loss", "val/mae", "val/r2"),
    }
