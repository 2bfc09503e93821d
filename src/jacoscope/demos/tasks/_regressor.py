"""Regression."""

from typing import final

from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.regression import MeanAbsoluteError, R2Score

from jacoscope.demos.tasks._optimizer import adamw_with_cosine


@final
class Regressor(LightningModule):
    """Trains a network to predict a number for each sample, with the mean squared error as loss.

    Logs ``train/loss`` (the target's unit squared, each logged step); each epoch ``val/loss``,
    ``train/mae`` and ``val/mae`` (mean absolute error, the target's unit) and ``val/r2`` (share of
    the targets' variance that is explained, at most 1).

    Args:
        network: Maps inputs (N, ...) to predictions (N, 1).
        lr: Highest learning rate.
        weight_decay: Decoupled weight decay.
    """

    def __init__(self, network: nn.Module, lr: float = 3e-3, weight_decay: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["network"])
        self.network = network
        self.lr = lr
        self.weight_decay = weight_decay
        self.train_mae = MeanAbsoluteError()
        self.val_mae = MeanAbsoluteError()
        self.val_r2 = R2Score()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (N, ...) to predictions (N, 1)."""
        predictions: Tensor = self.network(inputs)
        return predictions

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            batch: Inputs (N, ...) and targets (N, 1), float32.
        """
        inputs, targets = batch
        predictions = self(inputs)
        loss = F.mse_loss(predictions, targets)
        self.train_mae.update(predictions, targets)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/mae", self.train_mae, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Measure a batch.

        Args:
            batch: Inputs (N, ...) and targets (N, 1), float32.
        """
        inputs, targets = batch
        predictions = self(inputs)
        self.val_mae.update(predictions, targets)
        self.val_r2.update(predictions.flatten(), targets.flatten())
        self.log("val/loss", F.mse_loss(predictions, targets), prog_bar=True, sync_dist=True)
        self.log("val/mae", self.val_mae, prog_bar=True)
        self.log("val/r2", self.val_r2, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with warm-up and a cosine decay."""
        return adamw_with_cosine(self, self.lr, self.weight_decay)
