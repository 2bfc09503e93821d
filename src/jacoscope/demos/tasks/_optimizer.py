"""The optimiser that every task uses unless the YAML names another."""

import math
from collections.abc import Callable

from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

WARMUP_SHARE = 0.05
"""Share of the run over which the learning rate rises."""


def adamw_with_cosine(
    task: LightningModule, lr: float, weight_decay: float
) -> OptimizerLRScheduler:
    """Return AdamW whose learning rate rises linearly to ``lr`` and falls to 0 along a cosine.

    A run without an end (``max_epochs: -1``) keeps ``lr`` throughout.

    Args:
        task: A module attached to its trainer.
        lr: Highest learning rate.
        weight_decay: Decoupled weight decay.
    """
    optimizer = AdamW(task.parameters(), lr=lr, weight_decay=weight_decay)
    steps = task.trainer.estimated_stepping_batches
    if not 0 < steps < math.inf:
        return optimizer
    scheduler = LambdaLR(optimizer, cosine_factor(int(steps)))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def cosine_factor(steps: int) -> Callable[[int], float]:
    """Return the factor on the learning rate as a function of the step, counted from 0.

    Args:
        steps: Steps of the run; beyond them the factor stays 0.
    """
    warmup = max(1, round(WARMUP_SHARE * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        return (1 + math.cos(math.pi * min(1.0, progress))) / 2

    return factor
