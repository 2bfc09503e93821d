"""The loss of a LightningModule's training step, evaluated again on a copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn

from jacoscope.probing import ProbeError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["TrainingLoss", "loss_withheld_reason"]


def loss_withheld_reason(trainer: Trainer, module: LightningModule) -> str | None:
    """Why the loss of a batch cannot be evaluated again, or ``None`` if it can."""
    if callable(getattr(module, "probe_loss", None)):
        return None
    mend = "give the module a method probe_loss(batch) that returns the loss and does nothing else"
    if not module.automatic_optimization:
        return f"under manual optimisation training_step steps the optimisers itself; {mend}"
    if trainer.world_size > 1:
        return f"of several processes one alone would run training_step again; {mend}"
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        return f"training_step takes the loader's iterator, not a batch; {mend}"
    return None


class TrainingLoss:
    """What a copy of the module, once silenced, returns as its loss.

    The module's own ``probe_loss(batch)`` if it has one, else its ``training_step``.

    Args:
        trainer: The Trainer.

    Attributes:
        batch_idx: Index of the batch in its epoch.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.batch_idx = 0

    def __call__(self, module: nn.Module, batch: Any) -> Tensor:
        """The loss of a batch.

        Args:
            module: The copy.
            batch: The batch.

        Raises:
            ProbeError: If the training step returns none, or waits for other processes.
        """
        copied: Any = module
        if self._trainer.world_size > 1 and any(map(_waits, copied.modules())):
            raise ProbeError(
                "its SyncBatchNorm waits for the other processes, which do not probe; there is no "
                "way around it but to train without"
            )
        with self.context(), _unchanged(self._trainer):
            if callable(getattr(copied, "probe_loss", None)):
                returned = copied.probe_loss(batch)
            else:
                args = [batch]
                if is_param_in_hook_signature(copied.training_step, "batch_idx", min_args=2):
                    args.append(self.batch_idx)
                returned = copied.training_step(*args)
        loss = returned.get("loss") if isinstance(returned, Mapping) else returned
        if not isinstance(loss, Tensor):
            raise ProbeError(f"training_step returned {type(returned).__name__}, without a loss")
        return loss

    def silence(self, module: nn.Module) -> None:
        """Give a copy a Trainer that logs nothing, and take its ways of logging away."""
        for each in module.modules():
            if any(cls.__name__ == "LightningModule" for cls in type(each).__mro__):
                own = vars(each)
                own["_trainer"] = _QuietTrainer(self._trainer)
                own.update(log=_nothing, log_dict=_nothing, print=_nothing)
                # Its own way of logging may have been handed on, and then goes by these.
                own["_current_fx_name"] = "training_step"
                # Of a compiled module, these are functions that hold on to the module itself.
                for name, method in (own.get("_compiler_ctx") or {}).items():
                    if name.startswith("original_"):
                        own[name.removeprefix("original_")] = method

    def context(self) -> AbstractContextManager[Any]:
        """What the Trainer enters for double precision, which is a setting of torch's own.

        Autocast is left out on purpose.
        """
        plugin: Any = self._trainer.precision_plugin
        is_double = "64" in str(self._trainer.precision)
        context: AbstractContextManager[Any] = plugin.forward_context()
        return context if is_double else nullcontext()


class _QuietLogger(DummyLogger):
    """A logger that logs nothing, and says of its folder and name what another one says.

    Args:
        logger: The other one.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._quiet_of = logger

    @property
    def name(self) -> Any:
        """The other one's name."""
        return self._quiet_of.name

    @property
    def version(self) -> Any:
        """The other one's version."""
        return self._quiet_of.version

    @property
    def log_dir(self) -> Any:
        """The other one's folder of the run."""
        return self._quiet_of.log_dir

    @property
    def root_dir(self) -> Any:
        """The other one's folder of all versions."""
        return self._quiet_of.root_dir

    @property
    def save_dir(self) -> Any:
        """The other one's folder of all runs."""
        return self._quiet_of.save_dir


class _NoResults:
    """Takes the place of what collects the values that are logged."""

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Collect nothing."""

    def should_reset_tensors(self, fx: str) -> bool:
        """Nothing is there to be reset."""
        return False


class _QuietTrainer:
    """The Trainer as a copy of the module sees it: what it reads is there, nothing is logged.

    Args:
        trainer: The Trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._quiet_of = trainer
        self.loggers = [_QuietLogger(logger) for logger in trainer.loggers]
        self.logger = self.loggers[0] if self.loggers else None
        self._results = self._logger_connector = _NoResults()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._quiet_of, name)


def _waits(module: nn.Module) -> bool:
    return isinstance(module, nn.SyncBatchNorm) and module.training


@contextmanager
def _unchanged(trainer: Trainer) -> Iterator[None]:
    """Put back what a training step may set in the Trainer's optimisers and schedulers."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    settings = [{k: _copied(v) for k, v in group.items() if k != "params"} for group in groups]
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    states = [copy.deepcopy(scheduler.state_dict()) for scheduler in schedulers]
    try:
        yield
    finally:
        for scheduler, state in zip(schedulers, states, strict=True):
            scheduler.load_state_dict(state)
        for group, own in zip(groups, settings, strict=True):
            for name, value in own.items():
                if isinstance(group[name], Tensor) and isinstance(value, Tensor):
                    group[name].copy_(value)
                else:
                    group[name] = value


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Take the place of logging."""
