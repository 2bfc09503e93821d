import math

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from jacoscope.demos import LanguageModel

GENERATOR = torch.Generator().manual_seed(0)
SAMPLES = TensorDataset(
    torch.randint(5, (10, 6), generator=GENERATOR), torch.randint(5, (10, 6), generator=GENERATOR)
)
UNEVEN_BATCHES = DataLoader(SAMPLES, batch_size=4)


def test_validation_averages_over_samples_and_positions(trainer: Trainer) -> None:
    task = LanguageModel(nn.Embedding(5, 5))
    metrics = trainer.validate(task, UNEVEN_BATCHES, verbose=False)[0]
    tokens, next_tokens = SAMPLES.tensors
    with torch.no_grad():
        scores = task(tokens).log_softmax(-1)
    loss = -scores.gather(-1, next_tokens.unsqueeze(-1)).mean().item()
    assert metrics["val/loss"] == pytest.approx(loss)
    assert metrics["val/bits_per_character"] == pytest.approx(loss / math.log(2))
    right = (scores.argmax(-1) == next_tokens).float().mean().item()
    assert metrics["val/accuracy"] == pytest.approx(right)


def test_fit_logs_what_the_docstring_lists(trainer: Trainer) -> None:
    trainer.fit(LanguageModel(nn.Embedding(5, 5)), UNEVEN_BATCHES, UNEVEN_BATCHES)
    assert set(trainer.callback_metrics) == {
        *("train/loss", "train/bits_per_character"),
        *("val/loss", "val/bits_per_character", "val/accuracy"),
    }
