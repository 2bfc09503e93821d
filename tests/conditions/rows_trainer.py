"""Options and callbacks of the Trainer, and what a training step may return."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from torch import Tensor, nn

from conditions.condition import Condition, Subject, withheld
from conditions.expected import LOSS_PROBES
from sample_training import cross_entropies, loader_of, perceptron, rows_of_pairs

__all__ = ["TRAINER"]

_GROUP = "Trainer"


def _subject(kind: type[Subject] = Subject, **options: Any) -> Any:
    return lambda: kind(perceptron(torch.float64), **options)


def _with(**options: Any) -> Mapping[str, Any]:
    return {"options": {"precision": "64-true", **options}}


class WithBackbone(Subject):
    @property
    def backbone(self) -> Any:
        return self.network[0]  # type: ignore[index]


class Searched(Subject):
    """Its learning rate and batch size can be searched for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.lr = 0.05
        self.batch_size = 4

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> Any:
        return loader_of(rows_of_pairs(20, torch.float64), self.batch_size)


class Skipping(Subject):
    """Has no loss for the second batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 1 else super().training_step(batch, batch_idx)


class Mapped(Subject):
    """Returns more than the loss."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = self(batch[0])
        loss = nn.functional.cross_entropy(outputs, batch[1])
        return {"loss": loss, "outputs": outputs.detach(), "place": batch_idx}


class Validating(Subject):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.losses(self, batch).mean())

    def val_dataloader(self) -> Any:
        return loader_of(rows_of_pairs(20, torch.float64, seed=1))


def _nan_at_the_end(network: nn.Module, batch: Any) -> Tensor:
    """The last sample of the data has no loss."""
    losses = cross_entropies(network, batch)
    return losses * torch.where(batch[0][:, 0] > 0.94, math.nan, 1.0)


TRAINER = (
    Condition(
        _GROUP,
        "StochasticWeightAveraging",
        callbacks=lambda: [StochasticWeightAveraging(swa_lrs=0.02, swa_epoch_start=1)],
        **_with(max_epochs=3),
        steps=9,
        note="what is recorded is of the weights that train, not of their average",
    ),
    Condition(
        _GROUP,
        "EMAWeightAveraging",
        callbacks=lambda: [EMAWeightAveraging(decay=0.9)],
        module=_subject(Validating),
        **_with(max_epochs=2),
        steps=6,
        note="what is recorded is of the weights that train, not of their average",
    ),
    Condition(
        _GROUP,
        "BackboneFinetuning",
        module=_subject(WithBackbone),
        callbacks=lambda: [BackboneFinetuning(unfreeze_backbone_at_epoch=1)],
        **_with(max_epochs=2),
        first=3,
        steps=3,
        note="layers join as they are unfrozen",
    ),
    Condition(
        _GROUP,
        "GradientAccumulationScheduler",
        callbacks=lambda: [GradientAccumulationScheduler({0: 1, 1: 2})],
        **_with(max_epochs=2),
        steps=5,
    ),
    Condition(
        _GROUP,
        "LearningRateFinder",
        module=_subject(Searched),
        loader=lambda: None,
        callbacks=lambda: [LearningRateFinder(num_training_steps=4, early_stop_threshold=None)],
        steps=5,
        note="nothing of the search is recorded",
    ),
    Condition(
        _GROUP,
        "Tuner: lr_find and scale_batch_size",
        note="nothing of the search is recorded",
        shown_by=("conditions/test_runs.py::test_nothing_of_a_tuner_s_search_is_recorded",),
    ),
    Condition(
        _GROUP,
        "resuming in the middle of an epoch (ckpt_path)",
        shown_by=("conditions/test_runs.py::test_a_run_resumed_in_the_middle_of_an_epoch",),
    ),
    Condition(
        _GROUP,
        "training_step returns None for some batches",
        withheld(
            "it has no gradient in this training step",
            quantities=("grad_norm", "grad_max", "update_norm"),
            steps=(1,),
        ),
        withheld("no backward was seen in this step: there was no loss", steps=(1,)),
        withheld("training_step returned NoneType", quantities=LOSS_PROBES, steps=(1,)),
        module=_subject(Skipping),
        note="such a step has weights alone",
    ),
    Condition(_GROUP, "training_step returns a dict", module=_subject(Mapped)),
    Condition(
        _GROUP,
        "a loss that is nan",
        samples=withheld("its gradient is not finite", steps=(2,)),
        module=_subject(losses=_nan_at_the_end),
        loader=lambda: loader_of(rows_of_pairs(24, torch.float64)),
        note="samples are withheld for such a step",
    ),
    Condition(_GROUP, "detect_anomaly", **_with(detect_anomaly=True)),
    Condition(_GROUP, "overfit_batches", **_with(overfit_batches=2, max_epochs=2), steps=4),
    Condition(_GROUP, "limit_train_batches", **_with(limit_train_batches=2)),
    Condition(
        _GROUP,
        "validation in between",
        module=_subject(Validating),
        **_with(val_check_interval=1, num_sanity_val_steps=2),
    ),
    Condition(
        _GROUP,
        "inference_mode=False",
        module=_subject(Validating),
        **_with(inference_mode=False),
    ),
)
