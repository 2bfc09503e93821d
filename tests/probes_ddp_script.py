"""Trains under DDP with two gloo processes, without and with probes; notes what became of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from helpers import fingerprint
from jacoscope import SensitivityMonitor
from jacoscope.quantities import QUANTITIES, is_probed


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.2), nn.Tanh(), nn.Linear(7, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, sync_dist=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.05)


class Evaluated(Classifier):
    def probe_loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


def main(folder: str, kind: str) -> None:
    pl.seed_everything(3, verbose=False)
    monitor = SensitivityMonitor(
        quantities=("grad_norm", *(name for name in QUANTITIES if is_probed(name))),
        schedule={"every": 1},  # type: ignore[arg-type]
        probes={"schedule": {"every": 2}},  # type: ignore[arg-type]
        on_error="raise",
    )
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 5, generator=generator)
    dataset = TensorDataset(inputs, inputs.argmax(1) % 3)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        default_root_dir=folder,
        callbacks=[] if kind == "plain" else [monitor],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=pl.loggers.TensorBoardLogger(folder, name=kind, version=0),
    )
    module = Evaluated() if kind == "evaluated" else Classifier()
    trainer.fit(module, DataLoader(dataset, batch_size=8, shuffle=True))
    states = [optimizer.state_dict() for optimizer in trainer.optimizers]
    digest = fingerprint(module.state_dict(), states)
    (Path(folder) / f"{kind}-{trainer.global_rank}").write_text(digest)
    print("DONE", kind, trainer.global_rank)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in ("plain", "probed", "evaluated"):
        main(sys.argv[1], each)
    torch.distributed.destroy_process_group()
