import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from jacoscope.demos import Classifier

GENERATOR = torch.Generator().manual_seed(0)
SAMPLES = TensorDataset(torch.randn(10, 4, generator=GENERATOR), torch.arange(10) % 3)
UNEVEN_BATCHES = DataLoader(SAMPLES, batch_size=4)


def test_validation_averages_over_samples_not_batches(trainer: Trainer) -> None:
    task = Classifier(nn.Linear(4, 3), classes=3)
    metrics = trainer.validate(task, UNEVEN_BATCHES, verbose=False)[0]
    inputs, labels = SAMPLES.tensors
    with torch.no_grad():
        chosen = task(inputs).log_softmax(-1)
    assert metrics["val/loss"] == pytest.approx(-chosen[range(10), labels].mean().item())
    assert metrics["val/accuracy"] == pytest.approx((chosen.argmax(-1) == labels).float().mean())


def test_fit_logs_what_the_docstring_lists(trainer: Trainer) -> None:
    trainer.fit(Classifier(nn.Linear(4, 3), classes=3), UNEVEN_BATCHES, UNEVEN_BATCHES)
    assert set(trainer.callback_metrics) == {
        *("train/loss", "train/accuracy"),
        *("val/loss", "val/accuracy"),
    }


def test_hyperparameters_leave_the_network_out() -> None:
    assert dict(Classifier(nn.Linear(4, 3), classes=3, lr=0.1).hparams) == {
        "classes": 3,
        "lr": 0.1,
        "weight_decay": 1e-2,
    }
