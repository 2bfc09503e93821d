"""Verification inside a Trainer: one batch, one loss, one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback
from torch import Tensor

from jacoscope.batches import batch_size_of, pick, rows_of
from jacoscope.capturing import Verification, verify
from jacoscope.config import MonitorConfig
from jacoscope.errors import ConfigError
from jacoscope.selection import select

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["VerifyingCallback"]

_CHECKED = 3


class VerifyingCallback(Callback):
    """Verifies the per-sample gradients of the first loss that goes backward.

    Args:
        config: Which parameters are watched, and how samples are told apart.

    Attributes:
        result: What came out.
    """

    def __init__(self, config: MonitorConfig) -> None:
        super().__init__()
        self._config = config
        self._batch: Any = None
        self.result: Verification | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take note of the batch."""
        self._batch = batch

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Verify, once."""
        if self.result is not None or loss.grad_fn is None:
            return
        told, targets = self._config.samples, select(pl_module, self._config).targets
        rows = pick(self._batch, told.rows, "samples.rows") if told.rows else rows_of(self._batch)
        count = told.batch_size
        if count is None and rows is None:
            count = batch_size_of(self._batch)
            if count is None:
                raise ConfigError(
                    "is not given, and the batch has no tensor to tell it; give the number of "
                    "samples in a batch",
                    key="samples.batch_size",
                )
        names = [target.name for target in targets if target.info.parameter.requires_grad]
        self.result = verify(
            loss,
            pl_module,
            count,
            samples=rows,
            parameters=names,
            batch_dim=told.batch_dim,
            custom_functions=told.custom_functions,
            count=max(told.verify, _CHECKED),
            memory_budget=told.memory_budget * 2**20,
        )
