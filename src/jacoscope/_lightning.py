"""What the callback has to know of Lightning's Trainer and loggers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from jacoscope.config import MonitorConfig
from jacoscope.faults import Faults
from jacoscope.processes import Processes
from jacoscope.quantities import is_per_sample
from jacoscope.record import GradientInfo
from jacoscope.sinks import ScalarSink, Sink, TensorBoardSink, new_folder

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = [
    "gradient_info",
    "gradient_scale",
    "loss_scale",
    "make_sinks",
    "processes_of",
    "samples_withheld_reason",
    "steps_of",
    "withheld_reason",
]

_UNREADABLE = {
    "DeepSpeedStrategy": "DeepSpeed",
    "XLAFSDPStrategy": "FSDP on XLA",
}
_KNOWN = {
    *("SingleDeviceStrategy", "SingleDeviceXLAStrategy", "DDPStrategy"),
    *("FSDPStrategy", "ModelParallelStrategy"),
}
_SHARDING = {"FSDPStrategy", "ModelParallelStrategy"}
# Methods by which a precision plugin may scale the loss, and take the scale out again.
_SCALING = {"pre_backward", "backward", "post_backward", "optimizer_step"}

_UNSCALED = (
    "unscaled (the AMP scale is divided out; the scaler skips a step whose gradients are not "
    "finite, so that its update is 0)"
)

# Hooks of DistributedDataParallel after which gradients are the processes' mean, what may be put
# around them, and hooks after which each process has a gradient of its own.
_AVERAGING = ("allreduce_hook", "fp16_compress_hook", "bf16_compress_hook")
_ROUNDING = ("fp16_compress_wrapper", "bf16_compress_wrapper")
_SEPARATE = ("post_localSGD_hook", "noop_hook")


def withheld_reason(trainer: Trainer) -> str | None:
    """Why no parameter can be measured under this Trainer, or ``None`` if they can."""
    strategy = trainer.strategy
    for name, how in _UNREADABLE.items():
        if _is(strategy, name):
            return f"{how} keeps gradients in buffers of its own, where they cannot be read"
    if trainer.world_size > 1 and not any(_is(strategy, name) for name in _KNOWN):
        return (
            f"how {type(strategy).__name__} spreads parameters and gradients over processes is not "
            "known"
        )
    hook = _name_of(getattr(strategy, "_ddp_comm_hook", None))
    if trainer.world_size > 1 and hook in _SEPARATE:
        return f"the communication hook {hook} leaves each process a gradient of its own"
    if _scales_unknown(trainer.precision_plugin):
        return (
            f"the precision plugin {type(trainer.precision_plugin).__name__} has a backward or an "
            "optimiser's step of its own, so that what it scales gradients by is not known"
        )
    return None


def _scales_unknown(plugin: Any) -> bool:
    """Whether a precision plugin that is none of Lightning's own may scale the loss."""
    for cls in type(plugin).__mro__:
        if cls.__module__.partition(".")[0] in ("lightning", "pytorch_lightning"):
            return False
        if not _SCALING.isdisjoint(vars(cls)):
            return True
    return True


def samples_withheld_reason(trainer: Trainer, module: LightningModule) -> str | None:
    """Why samples cannot be captured under this Trainer, or ``None`` if they can."""
    if trainer.world_size > 1:
        reason = _gathering_withheld_reason(trainer.strategy)
        if reason is not None:
            return reason
    if not module.automatic_optimization:
        return "under manual optimisation a batch may go backward more than once"
    return None


def _gathering_withheld_reason(strategy: Any) -> str | None:
    """Why a sample's part of the gradient of several processes is not known, if that is so."""
    if not _is(strategy, "DDPStrategy"):
        name = type(strategy).__name__
        return f"samples of several processes are gathered under DDP only, not under {name}"
    hook = getattr(strategy, "_ddp_comm_hook", None)
    around = getattr(strategy, "_ddp_comm_wrapper", None)
    for each, allowed in ((hook, _AVERAGING), (around, _ROUNDING)):
        if each is not None and _name_of(each) not in allowed:
            return (
                f"the communication hook {each!r} may combine gradients otherwise than by their "
                "mean"
            )
    return None


def _name_of(hook: Any) -> str:
    return str(getattr(hook, "__name__", ""))


def processes_of(
    trainer: Trainer, config: MonitorConfig, withheld: str | None
) -> tuple[Processes | None, str | None]:
    """The processes that bring samples or shards together; all of them have to call it.

    Args:
        trainer: The Trainer.
        config: The configuration.
        withheld: Why samples cannot be captured, if that is so.

    Returns:
        The processes, if there are several, and samples are wanted and can be had or the strategy
        may split parameters; and why samples cannot be captured.
    """
    asked = {name for rule in config.layers for name in rule.quantities or ()}
    samples = withheld is None and any(map(is_per_sample, {*config.quantities, *asked}))
    splits = any(_is(trainer.strategy, name) for name in _SHARDING)
    if trainer.world_size == 1 or not (samples or splits):
        return None, withheld
    subject = "letting processes exchange what they measure"
    faults = Faults(config.on_error, is_quiet=not trainer.is_global_zero)
    with faults.contain(subject):
        return Processes(), withheld
    return None, withheld or faults.reasons[subject]


def loss_scale(trainer: Trainer) -> Tensor | None:
    """The factor that the loss carries into the backward, on its device, or ``None`` for 1."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    scale = getattr(scaler, "_scale", None)  # get_scale() would wait for the device
    return scale if isinstance(scale, Tensor) else None


def steps_of(trainer: Trainer) -> float:
    """How many optimiser steps the run has if nothing stops it early, infinity if it has no end.

    To be asked once the training data is loaded.
    """
    batches = float(trainer.num_training_batches)
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    most = math.inf if trainer.max_steps == -1 else trainer.max_steps
    if math.isinf(batches) or math.isinf(epochs):
        return most
    return min(most, math.ceil(batches / trainer.accumulate_grad_batches) * epochs)


def gradient_info(trainer: Trainer, module: LightningModule, batch_idx: int) -> GradientInfo:
    """Which gradient ``on_before_optimizer_step`` sees.

    Args:
        trainer: The Trainer.
        module: The model being trained.
        batch_idx: Index of the window's last batch in its epoch.
    """
    window = trainer.accumulate_grad_batches
    reduction = "gradient of the loss that training_step returned"
    if not module.automatic_optimization:
        reduction = "sum over all that training_step sent backward since it last zeroed gradients"
    if window > 1:
        reduction += f", summed over the window's batches and divided by {window}"
    if trainer.world_size > 1:
        reduction += ", mean over processes"
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return GradientInfo(
        scaling="unscaled" if scaler is None else _UNSCALED,
        clipping=_clipping(trainer, module),
        window=batch_idx % window + 1 if module.automatic_optimization else 1,
        full_window=window,
        ranks=trainer.world_size,
        reduction=reduction,
        precision=str(trainer.precision),
    )


def gradient_scale(trainer: Trainer, optimizer: Optimizer) -> Tensor | None:
    """The AMP scale that gradients still carry, on their device, or ``None`` if they do not.

    The Trainer removes it before ``on_before_optimizer_step``, except for fused optimisers, which
    remove it themselves while they step.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return None
    # get_scale() would wait for the device.
    scale = scaler._scale
    return scale if isinstance(scale, Tensor) else None


def make_sinks(trainer: Trainer, config: MonitorConfig) -> tuple[list[Sink], str | None]:
    """Sinks for the Trainer's loggers, and the folder of the event file; for rank zero.

    The record goes through the first TensorBoard logger. Without one it goes to an event file of
    its own under the first logger's run folder, or under ``default_root_dir`` if there is no
    logger. Every other logger gets the headline scalars.
    """
    dry = trainer.fast_dev_run or trainer.barebones  # type: ignore[attr-defined]
    if dry or any(_is(logger, "DummyLogger") for logger in trainer.loggers):
        return [], None
    output = config.output
    loggers: list[Any] = trainer.loggers
    board = next((logger for logger in loggers if _is(logger, "TensorBoardLogger")), None)
    sinks: list[Sink] = []
    folder: str | None = None
    faults = Faults(config.on_error)
    with faults.contain(TensorBoardSink.subject):
        if board is not None and output.directory is None:
            sinks.append(TensorBoardSink(board.experiment, output, faults=faults))
            folder = str(board.log_dir)
        else:
            own = output.directory or _own_folder(trainer)
            writer = SummaryWriter(own)
            sinks.append(TensorBoardSink(writer, output, owns_writer=True, faults=faults))
            folder = own
    for logger in trainer.loggers:
        if output.headline and (logger is not board or output.directory is not None):
            sinks.append(ScalarSink(_metrics_of(logger), output.group))
    return sinks, folder


def _metrics_of(logger: Any) -> Any:
    def log(scalars: dict[str, float], step: int) -> None:
        logger.log_metrics(scalars, step=step)

    return log


def _own_folder(trainer: Trainer) -> str:
    if not trainer.loggers:
        return new_folder(trainer.default_root_dir)
    logger: Any = trainer.loggers[0]
    if _is(logger, "CSVLogger"):
        return str(Path(logger.log_dir) / "jacoscope")
    root = Path(logger.save_dir or trainer.default_root_dir)
    parts = [str(part) for part in (logger.name, logger.version) if part not in (None, "")]
    return str(root.joinpath(*parts) / "jacoscope")


def _clipping(trainer: Trainer, module: LightningModule) -> str:
    if not module.automatic_optimization:
        return "as handed to the optimiser, after any clipping that training_step does itself"
    if trainer.gradient_clip_val is None:
        return "before clipping by the Trainer, which does none"
    algorithm = trainer.gradient_clip_algorithm or "norm"
    how = getattr(algorithm, "value", algorithm)
    return f"before clipping by {how} to {trainer.gradient_clip_val}"


def _is(thing: Any, name: str) -> bool:
    """Whether a logger or strategy is of this class, whichever of the two packages it is from."""
    return any(cls.__name__ == name for cls in type(thing).__mro__)
