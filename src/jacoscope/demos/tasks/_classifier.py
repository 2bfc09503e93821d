"""Classification."""

from typing import final

from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from jacoscope.demos.tasks._optimizer import adamw_with_cosine


@final
class Classifier(LightningModule):
    """Trains a network to name the class of each sample, with the mean cross-entropy as loss.

    Logs ``train/loss`` (nats, each logged step), ``val/loss`` (nats, each epoch),
    ``train/accuracy`` and ``val/accuracy`` (share of samples from 0 to 1, each epoch).

    Args:
        network: Maps inputs (N, ...) to logits (N, K).
        classes: Number of classes K.
        lr: Highest learning rate.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int = 10,
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["network"])
        self.network = network
        self.lr = lr
        self.weight_decay = weight_decay
        self.train_accuracy = MulticlassAccuracy(classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(classes, average="micro")

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (N, ...) to logits (N, K)."""
        logits: Tensor = self.network(inputs)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            batch: Inputs (N, ...) and labels (N,), int64.
        """
        inputs, labels = batch
        logits = self(inputs)
        loss = F.cross_entropy(logits, labels)
        self.train_accuracy.update(logits, labels)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Measure a batch.

        Args:
            batch: Inputs (N, ...) and labels (N,), int64.
        """
        inputs, labels = batch
        logits = self(inputs)
        self.val_accuracy.update(logits, labels)
        self.log("val/loss", F.cross_entropy(logits, labels), prog_bar=True, sync_dist=True)
        self.log("val/accuracy", self.val_accuracy, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with warm-up and a cosine decay."""
        return adamw_with_cosine(self, self.lr, self.weight_decay)
