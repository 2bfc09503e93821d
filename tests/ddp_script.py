"""Trains under DDP with two gloo processes; Lightning starts the second by running this again."""

from __future__ import annotations

import sys
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from jacoscope import SensitivityMonitor
from jacoscope.quantities import QUANTITIES, is_per_sample, is_probed


class Regression(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))

    def train_dataloader(self) -> Any:
        """Deals samples out in turn, so that processes together make up the same global batches."""
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(64, 5, generator=generator)
        dataset = TensorDataset(inputs, inputs.sum(1).sin())
        processes = self.trainer.world_size
        sampler = DistributedSampler(dataset, processes, self.trainer.global_rank, shuffle=False)
        return DataLoader(dataset, batch_size=8 // processes, sampler=sampler)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = (part.double() for part in batch)
        return nn.functional.mse_loss(self.network(inputs).squeeze(1), targets)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.05)


def main(folder: str, processes: int, accumulate: int) -> None:
    monitor = SensitivityMonitor(
        quantities=tuple(
            name for name in QUANTITIES if not (is_per_sample(name) or is_probed(name))
        ),
        schedule={"every": 1},  # type: ignore[arg-type]
        on_error="raise",
    )
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        accumulate_grad_batches=accumulate,
        gradient_clip_val=0.1,
        precision="64-true",
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[monitor],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=pl.loggers.TensorBoardLogger(folder, name="run", version=0),
    )
    trainer.fit(Regression())
    if processes > 1:
        torch.distributed.destroy_process_group()
    print("DONE", trainer.global_rank)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
