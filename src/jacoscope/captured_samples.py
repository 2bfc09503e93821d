"""The samples of one captured training step: one capture per backward, then statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from jacoscope.capturing import Calibrations, EagerForward
from jacoscope.config import Samples
from jacoscope.faults import Faults
from jacoscope.groups import Group
from jacoscope.quantities import QUANTITIES, sample_needs
from jacoscope.sample_backward import Ids, SampleBackward, attach_samples
from jacoscope.sample_results import OpenedStep, SampleResults, Whole, open_step, results_of
from jacoscope.selection import Target

__all__ = ["CapturedSamples"]

_SUBJECT = "capturing per-sample gradients"


class CapturedSamples:
    """Captures the samples of one training step, backward by backward.

    Args:
        step: The step, for the record.
        targets: The parameters whose samples are wanted.
        groups: What is measured as a whole.
        config: How samples are told apart.
        calibrations: Plans of earlier captures.
        faults: What to do when something fails.
        wants_gram: Whether to record the Gram matrix, if it is measured.
        process: Which of several processes this is, if there are several: then what comes of the
            step is worked out together and given to :meth:`settle`.
    """

    def __init__(
        self,
        step: int,
        targets: Sequence[Target],
        groups: Sequence[Group],
        config: Samples,
        calibrations: Calibrations,
        faults: Faults,
        wants_gram: bool = False,
        process: int | None = None,
    ) -> None:
        self._step = step
        self._process = process
        self._settled: SampleResults | None = None
        self._is_settled = False
        self._gram_samples = config.gram_samples if wants_gram else 0
        self._parameters = {
            target.name: target.info.parameter
            for target in targets
            if target.info.parameter.requires_grad
        }
        self._frozen = [t.name for t in targets if t.name not in self._parameters]
        ranks = config.leaderboard > 0
        self._needs = {
            target.name: sample_needs(target.quantities).with_dots(ranks) for target in targets
        }
        quantities = {name for target in targets for name in target.quantities}
        self._statistics = {need for name in quantities for need in QUANTITIES[name].needs}
        # The noise's running means are made of these.
        self._statistics |= {"sample_count", "sample_sq_sum"}
        self._groups = groups
        self._config = config
        self._calibrations = calibrations
        self._faults = faults
        self._batch: Any = None
        self._eager = EagerForward()
        self._ids: Ids | None = None
        self._batches = 0
        self._open: SampleBackward | None = None
        self._done: list[SampleBackward] = []
        self._window = 1
        self.withheld: str | None = None

    def begin_batch(self, batch: Any, ids: Ids | None) -> None:
        """Take note of a batch whose backward is to come.

        Args:
            batch: The batch.
            ids: Where its samples' ids come from, and the ids.
        """
        self._batch, self._ids = batch, ids
        self._batches += 1
        if self._config.compiled == "eager" and self.withheld is None:
            with self._faults.contain("running a compiled model uncompiled"):
                self._eager.begin()

    def before_backward(
        self,
        loss: Tensor,
        scale: Tensor | None = None,
        batch_size: int | None = None,
        window: int = 1,
    ) -> None:
        """Attach to the graph of a loss whose backward is about to run.

        Args:
            loss: The loss.
            scale: A factor that it carries, without dimensions.
            batch_size: Number of samples, where it is known.
            window: Batches that it was divided by for accumulation.
        """
        self._window = window
        self.abandon()
        if self.withheld is not None:
            return
        with self._faults.contain(_SUBJECT, self.abandon):
            if len(self._done) >= max(self._batches, 1):
                self.withheld = (
                    "the loss of one batch went backward more than once in this step, so that "
                    "samples would count several times"
                )
                return
            place = f".{len(self._done)}" if self._done else ""
            if self._process is not None:
                place += f", process {self._process}"
            self._open = attach_samples(
                loss,
                self._parameters,
                self._batch,
                self._config,
                self._calibrations,
                self._needs,
                batch_size=batch_size,
                scale=scale,
                ids=self._ids,
                position=f"step {self._step}{place}",
                seed=self._step * 1009 + len(self._done),
            )
            return
        self.withheld = self._faults.reasons[_SUBJECT]

    def after_backward(self) -> None:
        """Detach, and send what was measured to the host."""
        backward, self._open = self._open, None
        if backward is None:
            return
        with self._faults.contain(_SUBJECT, backward.capture.detach):
            backward.capture.detach()
            self._tell(backward.capture.fault)
            backward.send()
            self._done.append(backward)
            return
        self.withheld = self._faults.reasons[_SUBJECT]

    def _tell(self, fault: Exception | None) -> None:
        """Some parameters were lost by an exception; the others stay."""
        if fault is None:
            return
        if self._faults.policy == "raise":
            raise fault
        self._faults.note(
            "capturing some parameters' per-sample gradients", f"{type(fault).__name__}: {fault}"
        )

    def forward_is_over(self) -> None:
        """Let compiled modules run compiled again, whether a backward came or not."""
        self._eager.end()

    def abandon(self) -> None:
        """Remove all that is attached; safe at any time."""
        self.forward_is_over()
        if self._open is not None:
            self._open.capture.detach()
        self._open = None
        self._batch = None if self.withheld else self._batch

    def give_up(self, reason: str) -> None:
        """Remove all that is attached; nothing more will come of the step."""
        self.withheld = self.withheld or reason
        self.abandon()

    @property
    def is_done(self) -> bool:
        """Whether :meth:`results` would not have to wait."""
        return not self.awaits_others and all(backward.is_done for backward in self._done)

    @property
    def awaits_others(self) -> bool:
        """Whether :meth:`results` are still to be worked out together with other processes."""
        return self._process is not None and not self._is_settled

    def results(self) -> SampleResults | None:
        """The statistics of the step, waiting for the device if need be; ``None`` if withheld."""
        if self._process is not None:
            assert self._is_settled, "the processes work it out together"
            return self._settled
        opened = self.open()
        return None if opened is None else self.summary(opened, opened.alone)

    def open(self) -> OpenedStep | None:
        """What was measured here, waiting for the device if need be; ``None`` if withheld."""
        self._batch = None
        if self.withheld is None and not self._done:
            self.withheld = (
                "no backward was seen; call before_backward and after_backward around it"
            )
        return None if self.withheld is not None else open_step(self._done, self._frozen)

    def summary(self, opened: OpenedStep, whole: Whole) -> SampleResults:
        """The statistics of what was measured here.

        Args:
            opened: What was measured.
            whole: The step that it is a part of.
        """
        return results_of(
            opened,
            whole,
            self._parameters,
            self._groups,
            self._statistics,
            step=self._step,
            window=self._window,
            is_mean=self._config.loss_reduction == "mean",
            ranks=bool(self._config.leaderboard),
            gram_samples=self._gram_samples,
        )

    def settle(self, results: SampleResults | None, withheld: str | None) -> None:
        """Take what the processes have worked out together.

        Args:
            results: The statistics of the whole step, if there are any.
            withheld: Why there are none.
        """
        self._settled, self._is_settled = results, True
        self.withheld = withheld
        self._batch = None
        self._done = []
