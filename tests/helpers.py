"""Small real trainings and their fingerprints, for the tests of the callback."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as lightning_pytorch
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def many(few: int, thorough: int) -> int:
    """How many examples, steps or rounds; ``JACOSCOPE_THOROUGH=1`` asks for the larger number."""
    return thorough if os.environ.get("JACOSCOPE_THOROUGH") else few


def data(samples: int = 96, batch_size: int = 8, seed: int = 0) -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(samples, 1, 6, 6, generator=generator)
    labels = (images.mean((1, 2, 3)) > 0).long()
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size, shuffle=True)


def network(dropout: float = 0.3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(64, 8),
        nn.LayerNorm(8),
        nn.Linear(8, 2),
    )


def fingerprint(*objects: Any) -> str:
    """SHA-256 of everything that a training could have changed, RNG states included."""
    digest = hashlib.sha256()

    def feed(value: Any) -> None:
        if isinstance(value, Tensor):
            value = value.to_dense() if value.is_sparse else value
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(
                value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
        elif isinstance(value, dict):
            for key in value:
                digest.update(str(key).encode())
                feed(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                feed(item)
        else:
            digest.update(pickle.dumps(value))

    feed(list(objects))
    feed(torch.get_rng_state())
    digest.update(pickle.dumps(random.getstate()))
    digest.update(pickle.dumps(np.random.get_state()[1].tolist()))
    return digest.hexdigest()


def trainer(pl: ModuleType, folder: Path, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "default_root_dir": folder,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 4,
    }
    return pl.Trainer(**{**defaults, **options})


def classifier(
    pl: ModuleType = lightning_pytorch, *, optimizer: str = "sgd", dropout: float = 0.3
) -> Any:
    class Classifier(pl.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network(dropout)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            images, labels = batch
            images = images + 0.1 * torch.randn_like(images)
            loss = nn.functional.cross_entropy(self.network(images), labels)
            self.log("train/loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", nn.functional.cross_entropy(self.network(batch[0]), batch[1]))

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("test/loss", nn.functional.cross_entropy(self.network(batch[0]), batch[1]))

        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.network(batch[0])

        def configure_optimizers(self) -> Any:
            parameters = self.parameters()
            if optimizer == "adamw":
                return torch.optim.AdamW(parameters, lr=0.01)
            if optimizer == "lbfgs":
                return torch.optim.LBFGS(parameters, lr=0.1, max_iter=3)
            sgd = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
            if optimizer == "scheduled":
                scheduler = torch.optim.lr_scheduler.OneCycleLR(sgd, max_lr=0.1, total_steps=24)
                return {
                    "optimizer": sgd,
                    "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
                }
            return sgd

    return Classifier()


def adversaries(pl: ModuleType = lightning_pytorch) -> Any:
    """Manual optimisation with two optimisers; the second steps twice per batch."""

    class Adversaries(pl.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.generator = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 36))
            self.critic = nn.Sequential(nn.Linear(36, 16), nn.Dropout(0.2), nn.Linear(16, 1))

        def training_step(self, batch: Any, batch_idx: int) -> None:
            real = batch[0].flatten(1)
            first, second = self.optimizers()
            for _ in range(2):
                self.toggle_optimizer(second)
                fake = self.generator(torch.randn(len(real), 3)).detach()
                second.zero_grad()
                self.manual_backward(self.critic(fake).mean() - self.critic(real).mean())
                self.clip_gradients(second, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
                second.step()
                self.untoggle_optimizer(second)
            self.toggle_optimizer(first)
            first.zero_grad()
            self.manual_backward(-self.critic(self.generator(torch.randn(len(real), 3))).mean())
            first.step()
            self.untoggle_optimizer(first)

        def configure_optimizers(self) -> Any:
            return [
                torch.optim.Adam(self.generator.parameters(), lr=1e-3),
                torch.optim.RMSprop(self.critic.parameters(), lr=1e-3),
            ]

    return Adversaries()


class OneOfTwo:
    """What one of two processes would be told, given what rank zero said."""

    size = 2

    def __init__(self, rank: int, said: list[Any]) -> None:
        self.rank = rank
        self._said = said

    def of_rank_zero(self, value: Any) -> Any:
        if self.rank == 0:
            self._said.append(value)
            return value
        return self._said.pop(0)
