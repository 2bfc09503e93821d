"""Language modelling."""

import math
from typing import final

from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from jacoscope.demos.tasks._optimizer import adamw_with_cosine


@final
class LanguageModel(LightningModule):
    """Trains a network to predict each next token, with the mean cross-entropy as loss.

    The mean runs over samples and positions alike. Logs ``train/loss`` (nats per token) and
    ``train/bits_per_character`` (the same divided by ln 2) each logged step; ``val/loss``,
    ``val/bits_per_character`` and ``val/accuracy`` (share of tokens predicted right) each epoch.

    Args:
        network: Maps tokens (N, T) to logits (N, T, V).
        lr: Highest learning rate.
        weight_decay: Decoupled weight decay.
    """

    def __init__(self, network: nn.Module, lr: float = 3e-3, weight_decay: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["network"])
        self.network = network
        self.lr = lr
        self.weight_decay = weight_decay

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (N, T), int64, to logits (N, T, V) of the token after each."""
        logits: Tensor = self.network(tokens)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            batch: Tokens and next tokens, both (N, T), int64.
        """
        tokens, next_tokens = batch
        loss = _cross_entropy(self(tokens), next_tokens)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/bits_per_character", loss.detach() / math.log(2))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Measure a batch.

        Args:
            batch: Tokens and next tokens, both (N, T), int64.
        """
        tokens, next_tokens = batch
        logits = self(tokens)
        loss = _cross_entropy(logits, next_tokens)
        right = (logits.argmax(-1) == next_tokens).float().mean()
        self.log("val/loss", loss, sync_dist=True)
        self.log("val/bits_per_character", loss / math.log(2), prog_bar=True, sync_dist=True)
        self.log("val/accuracy", right, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with warm-up and a cosine decay."""
        return adamw_with_cosine(self, self.lr, self.weight_decay)


def _cross_entropy(logits: Tensor, next_tokens: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats of logits (N, T, V) against tokens (N, T)."""
    return F.cross_entropy(logits.flatten(0, 1), next_tokens.flatten())
