"""The callback for the ``Trainer`` of Hugging Face's transformers: a thin adapter to a Monitor."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter
from transformers import Trainer, TrainerCallback

from jacoscope.config import MonitorConfig, resolve_config
from jacoscope.faults import Faults
from jacoscope.loss_probe import LossFunction
from jacoscope.monitor import Monitor
from jacoscope.record import GradientInfo
from jacoscope.sinks import Sink, TensorBoardSink, new_folder

__all__ = ["SensitivityCallback"]

_log = logging.getLogger("jacoscope")

_SHARDED = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM", "XLA": "XLA"}


class SensitivityCallback(TrainerCallback):
    """Shows how sensitive the loss is to each parameter while a Hugging Face ``Trainer`` trains.

    What it writes is what :class:`jacoscope.SensitivityMonitor` writes: an event file of rank
    zero, under ``output.directory`` or ``output_dir/jacoscope/version_N`` of the Trainer.

    On captured steps alone, ``trainer.training_step`` and ``trainer.accelerator.backward`` are
    wrapped on these two objects: there the batch, the loss and the gradients before clipping are
    to be had, for which the Trainer has no hooks. They are put back at the end of the step.

    Args:
        trainer: The Trainer, to which it is then added.
        config: A ``MonitorConfig``, a mapping, the path of a YAML file, or ``None``.
        loss: From a copy of the model and a batch to the batch's loss, for all else equal; by
            default the Trainer's ``compute_loss``, unless that is the project's own.

    Attributes:
        run_dir: The folder of the event file, once training has begun.

    Raises:
        ConfigError: If the configuration cannot be used.

    Example:
        >>> from transformers import Trainer  # doctest: +SKIP
        >>> from jacoscope.huggingface import SensitivityCallback  # doctest: +SKIP
        >>> trainer = Trainer(model, arguments, train_dataset=data)  # doctest: +SKIP
        >>> trainer.add_callback(SensitivityCallback(trainer))  # doctest: +SKIP
    """

    def __init__(
        self,
        trainer: Trainer,
        config: MonitorConfig | Mapping[str, Any] | str | Path | None = None,
        *,
        loss: LossFunction | None = None,
    ) -> None:
        self.config = resolve_config(config)
        self.run_dir: str | None = None
        self._trainer = trainer
        self._loss = loss
        self._session: _Session | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin a session: what is watched is decided, and files are opened on rank zero."""
        self._end_session()
        if not state.is_world_process_zero:
            return
        trainer = self._trainer
        model = kwargs["model"]
        withheld = _withheld_reason(trainer, model)
        loss, loss_withheld = self._loss, None
        if loss is None:
            loss, loss_withheld = _training_loss(trainer)
        faults = Faults(self.config.on_error)
        sinks: list[Sink] = []
        with faults.contain(TensorBoardSink.subject):
            self.run_dir = self.config.output.directory or new_folder(args.output_dir)
            writer = SummaryWriter(self.run_dir)
            sinks.append(
                TensorBoardSink(writer, self.config.output, owns_writer=True, faults=faults)
            )
        monitor = Monitor(
            model,
            self.config,
            sinks=sinks,
            withheld=withheld,
            loss=loss,
            loss_withheld=loss_withheld,
            prepare=_without_autocast,
        )
        monitor.expect_end(state.max_steps)
        self._session = _Session(monitor, trainer)
        # The Trainer tells no callback of an exception; then this writes what there is.
        self._session.at_the_latest = weakref.finalize(self, monitor.close)
        _log.info("recording %s", self.run_dir)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask the schedule again, since it may count from here."""
        session = self._session
        if session is not None:
            session.wake = 0
            fraction, epoch = math.modf(state.epoch or 0.0)
            session.epoch = int(epoch)
            # Where the run resumed in the middle of an epoch, that began some steps ago.
            done = fraction and fraction * state.max_steps / max(state.num_train_epochs, 1)
            session.epoch_start = state.global_step - round(done)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Decide whether the step is captured; off the capture steps, one comparison."""
        session = self._session
        if session is None or state.global_step < session.wake:
            return
        step, monitor = state.global_step, session.monitor
        session.is_capturing = monitor.begin_step(step, session.epoch, session.epoch_start)
        if session.is_capturing:
            session.watch()
        else:
            session.wake = monitor.next_due(step + 1, session.epoch_start)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close a captured step."""
        session = self._session
        if session is not None and session.is_capturing:
            session.is_capturing = False
            session.wrapped.close()
            session.monitor.end_step()
            if args.world_size == 1 and session.monitor.stop_reason is not None:
                _log.warning("asking the Trainer to stop: %s", session.monitor.stop_reason)
                control.should_training_stop = True
        if control.should_evaluate or control.should_save:
            self._pause(state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What comes before the next epoch is no training."""
        self._pause(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the session: everything is detached and written."""
        if self._session is not None:
            self._session.monitor.note_last_step(state.global_step - 1, self._session.epoch)
            self._session.monitor.warn_of_missed_schedules(state.global_step)
        self._end_session()

    def _pause(self, step: int) -> None:
        """What comes before the next step is no training."""
        if self._session is not None:
            self._session.monitor.pause(step)
            self._session.wake = 0  # to be told when training goes on

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.wrapped.close()
            if session.at_the_latest is not None:
                session.at_the_latest.detach()
            session.monitor.close()


class _Session:
    """One ``train``: the monitor, when it has to be asked next, and what is wrapped."""

    def __init__(self, monitor: Monitor, trainer: Trainer) -> None:
        self.monitor = monitor
        self.wake: float = -math.inf
        self.epoch = 0
        self.epoch_start = 0
        self.is_capturing = False
        self.wrapped = ExitStack()
        self.at_the_latest: Any = None
        self._trainer = trainer
        self._scale: Tensor | None = None
        self._samples_withheld = _samples_withheld_reason(trainer)

    def watch(self) -> None:
        """Wrap what the captured step goes through."""
        self.wrapped.close()
        with self.monitor.faults.contain("watching the Trainer", self.monitor.abandon_step):
            self._wrap(self._trainer, "training_step", self._training_step)
            self._wrap(self._trainer.accelerator, "backward", self._backward)
        if self._samples_withheld is not None:
            self.monitor.withhold_samples(self._samples_withheld)

    def _wrap(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        own = vars(owner)
        original, had = getattr(owner, name), own.get(name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not self.is_capturing:
                return original(*args, **kwargs)
            return around(original, *args, **kwargs)

        def put_back() -> None:
            if own.get(name) is not wrapper:
                return  # someone has wrapped it since
            if had is None:
                del own[name]
            else:
                own[name] = had

        own[name] = wrapper
        self.wrapped.callback(put_back)

    def _training_step(self, original: Any, model: Any, inputs: Any, *rest: Any, **kw: Any) -> Any:
        self.monitor.begin_batch(inputs)
        result = original(model, inputs, *rest, **kw)
        if self._trainer.accelerator.sync_gradients:  # the window's last batch
            items = rest[0] if rest else kw.get("num_items_in_batch")
            with self.monitor.faults.contain(
                "telling which gradient it is", self.monitor.abandon_step
            ):
                info = _gradient_info(self._trainer, items is not None)
                optimizer = _inner(self._trainer.optimizer)
                self.monitor.before_optimizer_step(optimizer, info, self._scale)
        return result

    def _backward(self, original: Any, loss: Any, *args: Any, **kwargs: Any) -> Any:
        with self.monitor.faults.contain("watching a backward", self.monitor.abandon_step):
            scaler = self._trainer.accelerator.scaler
            # The scale as a tensor on its device; get_scale() would wait for that.
            one = torch.ones((), device=loss.device)
            self._scale = None if scaler is None else scaler.scale(one)
            self.monitor.before_backward(loss, scale=self._scale, window=_window(self._trainer))
        try:
            return original(loss, *args, **kwargs)
        except BaseException:
            self.monitor.abandon_step()
            raise
        finally:
            self.monitor.after_backward()


def _withheld_reason(trainer: Trainer, model: nn.Module) -> str | None:
    """Why no parameter can be measured under this Trainer, or ``None`` if they can."""
    how = _SHARDED.get(trainer.accelerator.distributed_type.value)
    if how is None and any(type(p).__name__ == "DTensor" for p in model.parameters()):
        how = "tensor parallelism"
    if how is not None:
        return f"{how} splits parameters over processes, which is not supported here"
    return None


def _samples_withheld_reason(trainer: Trainer) -> str | None:
    """Why samples cannot be captured under this Trainer, or ``None`` if they can."""
    if trainer.args.world_size > 1:
        return "under the Hugging Face Trainer, samples of several processes are not gathered"
    if trainer.args.n_gpu > 1:
        return "DataParallel deals the batch out to several devices within one graph"
    return None


def _training_loss(trainer: Trainer) -> tuple[LossFunction | None, str | None]:
    """The loss of a batch on a copy of the model, or why it cannot be evaluated again."""
    if trainer.args.world_size > 1 or trainer.args.n_gpu > 1:
        return None, "of several devices one alone would evaluate the loss again"
    if type(trainer).compute_loss is not Trainer.compute_loss:
        return None, (
            "the Trainer's compute_loss is the project's own and may do more than return the "
            "loss; give SensitivityCallback loss=, a function of model and batch"
        )
    known = weakref.ref(trainer)  # the monitor may outlive the Trainer

    def loss(model: nn.Module, batch: Any) -> Tensor:
        alive = known()
        assert alive is not None
        value = alive.compute_loss(model, dict(batch))
        assert isinstance(value, Tensor)
        return value

    return loss, None


def _gradient_info(trainer: Trainer, counts_items: bool) -> GradientInfo:
    """Which gradient it is when the window's last backward is done."""
    args, accelerator, window = trainer.args, trainer.accelerator, _window(trainer)
    normalised = getattr(trainer, "loss_is_scaled_for_ga", None)
    if normalised is None:
        normalised = trainer.compute_loss_func is not None or (
            trainer.model_accepts_loss_kwargs and counts_items
        )
    reduction = "gradient of the loss that compute_loss returned"
    if normalised:
        reduction += ", summed over the window's batches, each normalised over all of the window"
    elif window > 1:
        reduction += f", summed over the window's batches and divided by {window}"
    if args.world_size > 1:
        reduction += ", mean over processes"
    clips = args.max_grad_norm is not None and args.max_grad_norm > 0
    clipping = f"by norm to {args.max_grad_norm}" if clips else "by the Trainer, which does none"
    scaled = accelerator.scaler is not None
    return GradientInfo(
        scaling="unscaled (the AMP scale is divided out)" if scaled else "unscaled",
        clipping=f"before clipping {clipping}",
        window=window,
        full_window=args.gradient_accumulation_steps,
        ranks=args.world_size,
        reduction=reduction,
        precision=f"{accelerator.mixed_precision} mixed" if accelerator.native_amp else "as stored",
    )


def _window(trainer: Trainer) -> int:
    """Batches of the accumulation window under way; an epoch's last may have fewer."""
    return int(trainer.current_gradient_accumulation_steps)


def _inner(optimizer: Any) -> Optimizer:
    """The optimiser within Accelerate's wrappers."""
    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    found: Optimizer = optimizer
    return found


def _without_autocast(model: nn.Module) -> None:
    """Give a copy of the model its own forward back, which Accelerate wraps in autocast."""
    for each in model.modules():
        if vars(each).pop("_original_forward", None) is not None:
            vars(each).pop("forward", None)
