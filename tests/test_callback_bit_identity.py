"""Training with and without the callback ends the same, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning

from helpers import adversaries, classifier, data, fingerprint, trainer
from jacoscope import SensitivityMonitor
from jacoscope.quantities import QUANTITIES

CASES: dict[str, tuple[Callable[[ModuleType], Any], dict[str, Any]]] = {
    "sgd": (lambda pl: classifier(pl), {}),
    "adamw": (lambda pl: classifier(pl, optimizer="adamw"), {}),
    "lbfgs": (lambda pl: classifier(pl, optimizer="lbfgs"), {}),
    "scheduler": (lambda pl: classifier(pl, optimizer="scheduled"), {}),
    "clipping by norm": (lambda pl: classifier(pl), {"gradient_clip_val": 0.1}),
    "clipping by value": (
        lambda pl: classifier(pl),
        {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"},
    ),
    "accumulation": (lambda pl: classifier(pl), {"accumulate_grad_batches": 5}),
    "bf16": (lambda pl: classifier(pl), {"precision": "bf16-mixed"}),
    "double": (lambda pl: classifier(pl), {"precision": "64-true"}),
    "two optimisers by hand": (lambda pl: adversaries(pl), {}),
    "overfitting a batch": (lambda pl: classifier(pl), {"overfit_batches": 1}),
}


def run(
    pl: ModuleType,
    folder: Path,
    module: Callable[[ModuleType], Any],
    options: dict[str, Any],
    watch: bool,
    draws: bool = False,
) -> tuple[str, SensitivityMonitor]:
    pl.seed_everything(7, verbose=False)
    monitor = SensitivityMonitor(
        quantities=tuple(QUANTITIES),
        schedule={"every": 3, "first": 2},  # type: ignore[arg-type]
        output={} if draws else {"pictures": ()},  # type: ignore[arg-type]
        on_error="raise",
    )
    fitting = trainer(pl, folder, callbacks=[monitor] if watch else [], **options)
    model = module(pl)
    fitting.fit(model, data(), data(16))
    states = [optimizer.state_dict() for optimizer in fitting.optimizers]
    return fingerprint(model.state_dict(), states), monitor


@pytest.mark.parametrize("pl", [lightning.pytorch, pytorch_lightning], ids=lambda pl: pl.__name__)
@pytest.mark.parametrize("case", CASES)
def test_training_is_bit_identical(case: str, pl: ModuleType, tmp_path: Path) -> None:
    module, options = CASES[case]
    plain, _ = run(pl, tmp_path, module, options, watch=False)
    watched, monitor = run(pl, tmp_path, module, options, watch=True, draws=case == "sgd")
    assert monitor.state_dict()["captures"] > 0
    assert watched == plain


def test_the_fingerprint_sees_a_single_random_number(tmp_path: Path) -> None:
    """Guards the test above: it must be able to fail."""
    import torch

    torch.manual_seed(1)
    before = fingerprint()
    torch.rand(1)
    assert fingerprint() != before
