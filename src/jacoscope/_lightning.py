"""What the callback has to know of Lightning's Trainer and loggers."""

from __future__ import annotations

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
from jacoscope.sinks import ScalarSink, Sink, TensorBoardSink

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = [
    "gradient_info",
    "gradient_scale",
    "loss_scale",
    "make_sinks",
    "processes_of",
    "samples_withheld_reason",
    "withheld_reason",
]

_SHARDED = {
    "FSDPStrategy": "FSDP",
    "DeepSpeedStrategy": "DeepSpeed",
    "XLAFSDPStrategy": "FSDP",
}

# Hooks of DistributedDataParallel after which gradients are the processes' mean.
_AVERAGING = ("allreduce_hook", "fp16_compress_hook", "bf16_compress_hook")


def withheld_reason(trainer: Trainer) -> str | None:
    """Why no parameter can be measured under this Trainer, or ``None`` if they can."""
    for cls in type(trainer.strategy).__mro__:
        if cls.__name__ in _SHARDED:
            how = _SHARDED[cls.__name__]
            return f"{how} splits parameters over processes, which is not supported yet"
    return None


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
    if not any(cls.__name__ == "DDPStrategy" for cls in type(strategy).__mro__):
        name = type(strategy).__name__
        return f"samples of several processes are gathered under DDP only, not under {name}"
    hook = getattr(strategy, "_ddp_comm_hook", None)
    if hook is not None and getattr(hook, "__name__", "") not in _AVERAGING:
        return f"the communication hook {hook!r} may combine gradients otherwise than by their mean"
    return None


def processes_of(
    trainer: Trainer, config: MonitorConfig, withheld: str | None
) -> tuple[Processes | None, str | None]:
    """The processes whose samples are gathered; all of them have to call it.

    Args:
        trainer: The Trainer.
        config: The configuration.
        withheld: Why samples cannot be captured, if that is so.

    Returns:
        The processes, if there are several and samples are wanted and can be had; and why samples
        cannot be captured.
    """
    asked = {name for rule in config.layers for name in rule.quantities or ()}
    wanted = any(map(is_per_sample, {*config.quantities, *asked}))
    if trainer.world_size == 1 or withheld is not None or not wanted:
        return None, withheld
    subject = "letting processes exchange samples"
    faults = Faults(config.on_error, is_quiet=not trainer.is_global_zero)
    with faults.contain(subject):
        return Processes(), None
    return None, faults.reasons[subject]


def loss_scale(trainer: Trainer) -> Tensor | None:
    """The factor that the loss carries into the backward, on its device, or ``None`` for 1."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    scale = getattr(scaler, "_scale", None)  # get_scale() would wait for the device
    return scale if isinstance(scale, Tensor) else None


def gradient_info(trainer: Trainer, module: LightningModule, batch_idx: int) -> GradientInfo:
    """Which gradient ``on_before_optimizer_step`` sees.

    Args:
        trainer: The Trainer.
        module: The model being trained.
        batch_idx: Index of the window's last batch in its epoch.
    """
    window = trainer.accumulate_grad_batches
    reduction = "gradient of the loss that training_step returned"
    if window > 1:
        reduction += f", summed over the window's batches and divided by {window}"
    if trainer.world_size > 1:
        reduction += ", mean over processes"
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return GradientInfo(
        scaling="unscaled" if scaler is None else "unscaled (the AMP scale is divided out)",
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
        root = Path(trainer.default_root_dir) / "jacoscope"
        taken = [p.name.removeprefix("version_") for p in root.glob("version_*")]
        version = max((int(name) for name in taken if name.isdigit()), default=-1) + 1
        return str(root / f"version_{version}")
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


def _is(logger: Any, name: str) -> bool:
    """Whether a logger is of this class, whichever of the two packages it is from."""
    return any(cls.__name__ == name for cls in type(logger).__mro__)
