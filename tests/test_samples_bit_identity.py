"""Training with and without per-sample quantities ends the same, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from helpers import classifier, data, fingerprint, trainer
from sample_training import (
    PER_SAMPLE,
    Learner,
    into_memory,
    loader_of,
    perceptron,
    rows_of_pairs,
    watching,
)


def normalised() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
    )


def shuffled(**options: Any) -> DataLoader[Any]:
    return loader_of(rows_of_pairs(44), shuffle=True, **options)


class Drawing(list[Any]):
    """A dataset that draws random numbers where it is read."""

    def __getitem__(self, index: Any) -> Any:
        features, label = super().__getitem__(index)
        return features + 0.01 * torch.randn(6), label


Loader = Callable[[], DataLoader[Any]]
CASES: dict[str, tuple[Callable[[], Any], Loader, dict[str, Any]]] = {
    "plain": (lambda: Learner(perceptron()), shuffled, {}),
    "adamw": (lambda: Learner(perceptron(), optimizer=torch.optim.AdamW), shuffled, {}),
    "sum": (lambda: Learner(perceptron(), reduction="sum"), shuffled, {}),
    "dropout": (lambda: Learner(perceptron(dropout=0.4)), shuffled, {}),
    "batch normalisation": (lambda: Learner(normalised()), shuffled, {}),
    "convolutions, dropout and normalisation": (classifier, lambda: data(40), {}),
    "accumulation": (lambda: Learner(normalised()), shuffled, {"accumulate_grad_batches": 4}),
    "bf16": (lambda: Learner(perceptron(dropout=0.4)), shuffled, {"precision": "bf16-mixed"}),
    "double": (lambda: Learner(perceptron()), shuffled, {"precision": "64-true"}),
    "clipping": (lambda: Learner(normalised()), shuffled, {"gradient_clip_val": 0.01}),
    "two workers": (
        lambda: Learner(perceptron(dropout=0.4)),
        lambda: loader_of(Drawing(rows_of_pairs(44)), shuffle=True, num_workers=2),
        {},
    ),
    "the loader's own generator": (
        lambda: Learner(perceptron(dropout=0.4)),
        lambda: shuffled(generator=torch.Generator().manual_seed(5), drop_last=True),
        {},
    ),
    "an optimiser that evaluates again": (
        lambda: classifier(optimizer="lbfgs"),
        lambda: data(40),
        {},
    ),
    "validation in between": (
        lambda: Learner(normalised()),
        shuffled,
        {"val_check_interval": 2, "num_sanity_val_steps": 1},
    ),
}


class Digests(pl.Callback):
    """Fingerprints of everything at the end of every batch, not of the last one alone."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        states = [optimizer.state_dict() for optimizer in trainer.optimizers]
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.seen.append(fingerprint(pl_module.state_dict(), states, gradients))


def run(folder: Path, case: str, *, watch: bool) -> list[str]:
    make, loader, options = CASES[case]
    pl.seed_everything(7, verbose=False)
    digests = Digests()
    monitor = watching(quantities=("grad_norm", *PER_SAMPLE))
    callbacks = [monitor, digests] if watch else [digests]
    fitting = trainer(pl, folder, callbacks=callbacks, **{"logger": False, **options})
    module = make()
    validation = data(16) if "val_check_interval" in options else None
    if validation is not None:
        module.validation_step = lambda batch, batch_idx: None
    fitting.fit(module, loader(), validation)
    states = [optimizer.state_dict() for optimizer in fitting.optimizers]
    return [*digests.seen, fingerprint(module.state_dict(), states)]


@pytest.mark.parametrize("case", CASES)
def test_training_is_bit_identical(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(tmp_path, case, watch=False)
    sink = into_memory(monkeypatch)
    watched = run(tmp_path, case, watch=True)
    assert watched == plain
    assert sink.records
    coverage = {record.headline["sample_coverage"] for record in sink.records}
    assert coverage == ({0.0} if case == "an optimiser that evaluates again" else {1.0})


def test_the_comparison_sees_a_single_random_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the test above: a monitor that draws one number is found out."""
    plain = run(tmp_path, "dropout", watch=False)
    into_memory(monkeypatch)
    monkeypatch.setattr("jacoscope.monitor.Monitor.after_backward", lambda _: torch.rand(1))
    assert run(tmp_path, "dropout", watch=True) != plain
