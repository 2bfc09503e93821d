"""The Lightning callback: a thin adapter between a Trainer and a :class:`~jacoscope.Monitor`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from jacoscope._lightning import (
    gradient_info,
    gradient_scale,
    loss_scale,
    make_sinks,
    processes_of,
    samples_withheld_reason,
    steps_of,
    withheld_reason,
)
from jacoscope._sampler import SampledIndices
from jacoscope._state_key import UnsettledKey
from jacoscope._training_loss import TrainingLoss, loss_withheld_reason
from jacoscope.alerts import check_alerts
from jacoscope.config import (
    DEFAULT_QUANTITIES,
    AlertRule,
    LayerRule,
    MonitorConfig,
    Output,
    Probes,
    QuantityName,
    Samples,
    Schedule,
    resolve_config,
)
from jacoscope.errors import ConfigError
from jacoscope.faults import warn
from jacoscope.monitor import Monitor
from jacoscope.plan import lanes_of
from jacoscope.processes import Processes
from jacoscope.record import GradientInfo
from jacoscope.selection import select
from jacoscope.sharding import Sharding
from jacoscope.sinks import Sink

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    class _OtherCallback:
        pass
else:
    # Published projects import either of the two packages, whose classes are strangers to one
    # another; a LightningCLI of either accepts only its own.
    try:
        from pytorch_lightning.callbacks import Callback as _OtherCallback
    except ImportError:

        class _OtherCallback:
            pass


__all__ = ["SensitivityMonitor"]

_log = logging.getLogger("jacoscope")


class SensitivityMonitor(Callback, _OtherCallback):
    """Shows how sensitive the loss is to each parameter while a model trains.

    Add it to any Trainer of ``lightning.pytorch`` or ``pytorch_lightning``; it changes neither the
    model nor the training, whose weights end bit-identical with and without it.

    What it writes to TensorBoard, where GROUP is ``output.group``:

    - ``GROUP/NAME``: about ten scalars on the whole model: ``grad_norm``, ``grad_max``,
      ``grad_rms_spread``, ``grad_zero_fraction``, ``grad_nonfinite``, ``weight_norm``,
      ``update_norm``, ``update_ratio``, ``update_cosine``, ``saliency``, ``coverage``,
      ``monitor_overhead``.
    - ``GROUP_layers_by_step/QUANTITY``: layer × step pictures.
    - ``GROUP_gradients/PARAMETER``: histograms, where ``grad_histogram`` is watched.
    - ``GROUP_parameters_QUANTITY/PARAMETER``: scalars per parameter, where asked for.
    - ``GROUP/alerts``: a table of what went beyond its bounds.
    - ``GROUP/about``: a text card that explains all of it, with units and definitions.
    - the full record, which :func:`jacoscope.read_run` returns as pandas frames.

    Args:
        config: Path of a YAML file with these same options, or in Python a ``MonitorConfig``; then
            the options below must be left out.
        quantities: What to measure on the parameters that are watched.
        layers: Rules on which parameters are watched; the first that matches a parameter decides.
            With no rules every parameter is watched; with some, a parameter that none matches is
            not.
        schedule: When to capture.
        overhead: The largest share of the training time that the monitor may take, such as 0.03,
            and at least 0.0001: what schedules ask for is then left out where it would take more.
            Where captures would come less than a tenth as often, or hardly at all in a run of known
            length, per-sample quantities are measured on fewer samples (a half, a quarter, …, at
            least 16), and after that on a part of the layers at a time; nothing is approximated
            without the record saying so. It bounds neither the first capture nor what comes before
            the first step and after the last, such as drawing the last pictures; the log tells what
            that took. What is captured depends on how fast the machine is; with ``null`` on the
            schedules alone.
        output: What is written, and where.
        samples: How samples are told apart, where per-sample quantities are measured.
        probes: How probes are run, where quantities of outputs or of all else equal are asked for.
        alerts: What to be told of; by default (``null``) non-finite, exploding, vanishing and dead
            gradients, updates far too fast or slow, batches that are nearly all noise, and lost
            coverage.
        on_alert: Import path ``package.module.function``, or in Python a callable, called with a
            ``jacoscope.Alert`` (step, name, severity, rows, sentence) for each.
        on_error: What a fault inside the monitor does: ``warn`` warns once, drops what failed and
            goes on; ``raise`` stops the training.

    Raises:
        ConfigError: If the configuration cannot be used; before training starts.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from jacoscope import SensitivityMonitor
        >>> trainer = Trainer(callbacks=[SensitivityMonitor()])  # doctest: +SKIP
    """

    def __init__(
        self,
        config: MonitorConfig | str | None = None,
        quantities: tuple[QuantityName, ...] = DEFAULT_QUANTITIES,
        layers: tuple[LayerRule, ...] | list[dict[str, Any]] = (),
        schedule: Schedule = Schedule(),
        overhead: float | None = None,
        output: Output = Output(),
        samples: Samples = Samples(),
        probes: Probes = Probes(),
        alerts: tuple[AlertRule, ...] | list[dict[str, Any]] | None = None,
        on_alert: Callable[[Any], object] | str | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        super().__init__()
        separate = {
            "quantities": quantities,
            "layers": layers,
            "schedule": schedule,
            "overhead": overhead,
            "output": output,
            "samples": samples,
            "probes": probes,
            "alerts": alerts,
            "on_alert": on_alert,
            "on_error": on_error,
        }
        self.config = _one_config(config, separate)
        self._state_key = f"jacoscope.SensitivityMonitor[{self.config.output.group}]"
        self._is_set_up = False
        self.run_dir: str | None = None
        self._session: _Session | None = None
        self._state: Mapping[str, Any] = {}
        self._is_resumed = False

    @property
    def state_key(self) -> str:
        """The name that its state has in a checkpoint; it differs by group."""
        if self._is_set_up:
            return self._state_key  # the Trainer asks at every hook of every step
        return UnsettledKey(self._state_key)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and other processes get: the configuration and counters, no open files."""
        # Lightning puts the module's own log and log_dict on every callback; a copy would drag the
        # whole module along.
        kept = {key: value for key, value in vars(self).items() if key not in ("log", "log_dict")}
        return {**kept, "_session": None, "_state": self.state_dict()}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse two monitors whose output would be mixed up.

        Raises:
            ConfigError: If two monitors of the Trainer have the same group.
        """
        self._is_set_up = True
        group = self.config.output.group
        monitors = [each for each in trainer.callbacks if isinstance(each, SensitivityMonitor)]  # type: ignore[attr-defined]
        if monitors.count(self) > 1:
            raise ConfigError("the Trainer has the same SensitivityMonitor twice; give it once")
        if [monitor.config.output.group for monitor in monitors].count(group) > 1:
            raise ConfigError(
                f"two monitors have the group {group!r}; give each its own", key="output.group"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a session: what is watched is decided, and files are opened on rank zero.

        This is the first hook at which the model is whole (``configure_model`` has run), and still
        before anything is trained or validated.
        """
        self._end_session()
        withheld = withheld_reason(trainer)
        sharding = Sharding(trainer.strategy.model or pl_module)
        selection = select(pl_module, self.config, withheld=withheld, sharding=sharding)
        lanes_of(selection)
        check_alerts(selection, self.config)
        reason = samples_withheld_reason(trainer, pl_module)
        processes, reason = processes_of(trainer, self.config, reason)
        if not trainer.is_global_zero and processes is None:
            return
        try:
            self._begin_session(trainer, pl_module, withheld, processes)
        except BaseException:
            if processes is not None:
                processes.close()
            raise
        assert self._session is not None
        self._session.samples_withheld = reason

    def _begin_session(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        withheld: str | None,
        processes: Processes | None,
    ) -> None:
        sinks: list[Sink] = []
        if trainer.is_global_zero:
            sinks, self.run_dir = make_sinks(trainer, self.config)
        loss = TrainingLoss(trainer)
        monitor = Monitor(
            pl_module,
            self.config,
            sinks=sinks,
            withheld=withheld,
            loss=loss,
            loss_withheld=loss_withheld_reason(trainer, pl_module),
            prepare=loss.silence,
            context=loss.context,
            processes=processes,
            wrapper=trainer.strategy.model or pl_module,
        )
        # Times and counts are of one run; another fit from the start has its own.
        goes_on, self._is_resumed = self._is_resumed, False
        with monitor.faults.contain("following the Trainer"):
            goes_on = goes_on or _stepped(trainer) > 0
        of_a_run = () if goes_on else ("overhead", "budget", "adaptation")
        monitor.load_state_dict({k: v for k, v in self._state.items() if k not in of_a_run})
        self._session = _Session(monitor, loss, processes)
        if monitor.may_want_batches:
            with monitor.faults.contain("watching the sampler"):
                self._session.indices.expect(trainer, monitor.faults)
        if trainer.is_global_zero:
            _log.info("recording %s", self.run_dir or "nothing (fast_dev_run)")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask the schedule again, since it may count from here."""
        session = self._session
        if session is None:
            return
        session.wake = 0
        session.epoch = trainer.current_epoch
        session.first_batch = None
        faults = session.monitor.faults
        with faults.contain("telling how long the run is"):
            session.monitor.expect_end(steps_of(trainer))
        with faults.contain("watching the sampler"):
            if session.monitor.may_want_batches:
                session.indices.watch(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Decide whether the step is captured; off the capture steps, one comparison."""
        session = self._session
        if session is None:
            return
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        if step < session.wake:
            return
        with session.containing("following the Trainer"):
            self._begin_step(session, trainer, pl_module, batch, batch_idx)

    def _begin_step(
        self,
        session: _Session,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        if session.first_batch is None:  # not 0 where the run resumed in the middle of an epoch
            session.first_batch = batch_idx
        epoch_start = step - batch_idx // trainer.accumulate_grad_batches
        session.batch_idx = batch_idx
        monitor = session.monitor
        session.is_capturing = monitor.begin_step(step, trainer.current_epoch, epoch_start)
        session.wake = step if session.is_capturing else monitor.next_due(step + 1, epoch_start)
        is_first = batch_idx % trainer.accumulate_grad_batches == 0
        if session.is_capturing and is_first and pl_module.automatic_optimization:
            monitor.begin_window()
        if session.is_capturing and monitor.wants_batch:
            self._begin_batch(session, trainer, batch, batch_idx)

    def _begin_batch(self, session: _Session, trainer: Trainer, batch: Any, batch_idx: int) -> None:
        monitor = session.monitor
        session.loss.batch_idx = batch_idx
        if session.samples_withheld is not None:
            monitor.withhold_samples(session.samples_withheld)
        ids = None
        with monitor.faults.contain("reading the sampler's indices"):
            ids = session.indices.of_batch(batch_idx - (session.first_batch or 0))
        monitor.begin_batch(batch, ids)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Capture the samples of this loss during its backward, where they are wanted."""
        session = self._session
        if session is not None and session.is_capturing:
            with session.containing("following a backward"):
                window = trainer.accumulate_grad_batches
                session.monitor.before_backward(loss, scale=loss_scale(trainer), window=window)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the graph."""
        session = self._session
        if session is not None and session.is_capturing:
            session.monitor.after_backward()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Capture gradients, unscaled and before the Trainer clips them."""
        session = self._session
        if session is None or not session.is_capturing:
            return
        monitor = session.monitor
        info: GradientInfo | None = None
        scale: Tensor | None = None
        with monitor.faults.contain("telling which gradient it is", monitor.abandon_step):
            info = gradient_info(trainer, pl_module, session.batch_idx)
            scale = gradient_scale(trainer, optimizer)
        # Even where that has failed: the step is counted alike in all processes.
        monitor.before_optimizer_step(optimizer, info, scale)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Close a captured step; inside an accumulation window it stays open."""
        session = self._session
        if session is not None and session.is_capturing:
            session.monitor.end_step()
            with session.containing("asking the Trainer to stop"):
                if trainer.world_size == 1 and session.wants_to_stop:
                    trainer.should_stop = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring all processes' samples and shards together before checkpoints are written."""
        self._rest(trainer, _completed)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let all processes stop together where an alert asks for it."""
        self._rest(trainer, _stepped)
        if trainer.world_size > 1 and any(rule.stop for rule in self.config.alert_rules):
            wish = self._session is not None and self._session.wants_to_stop
            if trainer.strategy.reduce_boolean_decision(wish, all=False):
                trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the session while the logger can still be written to."""
        if self._session is not None and self._session.monitor.has_seen_no_optimizer:
            warn(
                "nothing was recorded, since no optimiser stepped through the Trainer; under "
                "manual optimisation, step those of self.optimizers()"
            )
        self._gather(trainer)
        session = self._session
        if session is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with session.containing("following the Trainer"):
                session.monitor.warn_of_missed_schedules(_stepped(trainer))
        self._end_session(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Detach everything and save what there is; the training's own exception goes on."""
        try:
            self._end_session(trainer)
        except Exception as error:  # only where faults are to be raised; the first one counts
            _log.warning("while the training failed, ending the monitor failed too: %r", error)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Detach everything, however the run ended."""
        self._end_session(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Counters and picture histories, for the checkpoint."""
        return self._session.monitor.state_dict() if self._session else dict(self._state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a checkpoint's counters and picture histories."""
        self._state = state_dict
        self._is_resumed = self._session is None
        if self._session is not None:
            self._session.monitor.load_state_dict(state_dict)

    def _rest(self, trainer: Trainer, steps: Callable[[Trainer], int]) -> None:
        """Training rests, and all processes come by; what comes before the next batch is none."""
        self._gather(trainer)
        session = self._session
        if session is not None:
            with session.containing("following the Trainer"):
                session.monitor.pause(steps(trainer))
            session.wake = 0  # to be told when training goes on

    def _gather(self, trainer: Trainer) -> None:
        """Gather what is finished; only where all processes come by."""
        session = self._session
        if session is not None and session.processes is not None and not trainer.sanity_checking:
            with session.containing("following the Trainer"):
                session.monitor.gather(_completed(trainer))

    def _end_session(self, trainer: Trainer | None = None) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        monitor, faults = session.monitor, session.monitor.faults
        # Each is done, whatever has become of the one before it.
        with ExitStack() as stack:
            if session.processes is not None:
                stack.enter_context(faults.contain("leaving the other processes"))
                stack.callback(session.processes.close)
            stack.callback(monitor.close)
            stack.enter_context(faults.contain("ending the run"))
            if trainer is not None:
                monitor.note_last_step(_stepped(trainer) - 1, session.epoch)
            with faults.contain("watching the sampler"):
                session.indices.forget()
            self._state = monitor.state_dict()


class _Session:
    """One ``fit``: the monitor, and when it has to be asked next."""

    def __init__(self, monitor: Monitor, loss: TrainingLoss, processes: Processes | None) -> None:
        self.monitor = monitor
        self.loss = loss
        self.processes = processes
        self.wake: float = -math.inf
        self.is_capturing = False
        self.batch_idx = 0
        self.epoch = 0
        self.first_batch: int | None = None
        self.samples_withheld: str | None = None
        self.indices = SampledIndices(None if processes is None else processes.rank)
        self._has_told = False

    def containing(self, subject: str) -> AbstractContextManager[None]:
        """Let no fault reach the training; the step under way is then dropped.

        Args:
            subject: What is lost, in the words of the warning.
        """
        return self.monitor.faults.contain(subject, self.monitor.abandon_step)

    @property
    def wants_to_stop(self) -> bool:
        """Whether an alert asks to stop; the log is told once."""
        reason = self.monitor.stop_reason
        if reason is not None and not self._has_told:
            self._has_told = True
            _log.warning("asking the Trainer to stop: %s", reason)
        return reason is not None


def _stepped(trainer: Trainer) -> int:
    """Optimiser steps so far, between batches."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def _completed(trainer: Trainer) -> int:
    """Optimiser steps so far, where a validation or an epoch's end follows on a batch."""
    loop = trainer.fit_loop.epoch_loop
    # Where validation comes, the step before it is not counted yet.
    return loop._batches_that_stepped + (0 if loop._should_accumulate() else 1)


def _one_config(
    config: MonitorConfig | str | Path | None, separate: Mapping[str, Any]
) -> MonitorConfig:
    if config is None:
        return resolve_config(separate)
    defaults = MonitorConfig()
    for key, value in separate.items():
        default = getattr(defaults, key)
        if (tuple(value) if isinstance(default, tuple) else value) != default:
            raise ConfigError(
                f"is given beside config={config!r}; write it there, or give all options "
                "separately",
                key=key,
            )
    return resolve_config(config)
