"""Trains with parameters sharded over two gloo processes (FSDP2 on the CPU)."""

from __future__ import annotations

import sys
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from jacoscope import SensitivityMonitor


class Sharded(pl.LightningModule):
    def configure_model(self) -> None:
        if "network" not in self._modules:
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
            fully_shard(self.network, mesh=self.device_mesh["data_parallel"])

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.randn(32, 5), batch_size=4)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.network(batch).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


if __name__ == "__main__":
    torch.set_num_threads(1)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=2,
        strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
        default_root_dir=sys.argv[1],
        callbacks=[SensitivityMonitor()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Sharded())
    print("DONE", trainer.global_rank)
