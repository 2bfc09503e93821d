"""The samples of one captured training step: one capture per backward, then statistics."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from jacoscope.capturing import Calibrations, EagerForward, JacobianCapture
from jacoscope.config import QuantityName, Samples
from jacoscope.extent import Extent
from jacoscope.faults import Faults
from jacoscope.groups import Group
from jacoscope.memory import SampleThrift, is_out_of_memory, release
from jacoscope.quantities import QUANTITIES, needs_all_samples, sample_needs
from jacoscope.ranges import Ranges
from jacoscope.reduction import Parcel
from jacoscope.sample_backward import Ids, SampleBackward, attach_samples
from jacoscope.sample_results import OpenedStep, SampleResults, Whole, open_step, results_of
from jacoscope.selection import Target

__all__ = ["CapturedSamples"]

_log = logging.getLogger("jacoscope")

_SUBJECT = "capturing per-sample gradients"
_SOME = "capturing some parameters' per-sample gradients"


class CapturedSamples:
    """Captures the samples of one training step, backward by backward.

    Args:
        step: The step, for the record.
        targets: The parameters whose samples are wanted.
        groups: What is measured as a whole.
        config: How samples are told apart.
        calibrations: Plans of earlier captures.
        ranges: What contributions are multiplied by before they are squared.
        faults: What to do when something fails.
        thrift: What to do without since memory has run out.
        wants_gram: Whether to record the Gram matrix, if it is measured.
        process: Which of several processes this is, if there are several: then what comes of the
            step is worked out together and given to :meth:`settle`.
        extent: How much of the step is measured.
    """

    def __init__(
        self,
        step: int,
        targets: Sequence[Target],
        groups: Sequence[Group],
        config: Samples,
        calibrations: Calibrations,
        ranges: Ranges,
        faults: Faults,
        thrift: SampleThrift,
        wants_gram: bool = False,
        process: int | None = None,
        extent: Extent = Extent(),
    ) -> None:
        self.extent = extent
        self._resting = extent.resting(targets)
        self._step = step
        self._process = process
        self._settled: SampleResults | None = None
        self._is_settled = False
        self._gram_samples = config.gram_samples if wants_gram else 0
        self._parameters = {
            target.name: target.info.parameter
            for target in targets
            if target.info.parameter.requires_grad and target.name not in thrift.lost
        }
        self._thrift = thrift
        self._missing = {
            target.name: thrift.lost.get(target.name, "it is frozen")
            for target in targets
            if target.name not in self._parameters
        }
        ranks = config.leaderboard > 0
        self._needs = {
            target.name: sample_needs(target.quantities).with_dots(ranks) for target in targets
        }
        self._needs_of_part = {
            target.name: sample_needs(
                name for name in target.quantities if not needs_all_samples(name)
            ).with_dots(ranks)
            for target in (targets if extent.halvings else ())
        }
        if thrift.gram_lost is not None:
            for needs in (self._needs, self._needs_of_part):
                needs.update({name: replace(need, gram=False) for name, need in needs.items()})
        self._gram_lost = thrift.gram_lost
        quantities = {name for target in targets for name in target.quantities}
        quantities = {name for name in quantities if self.reason_without(name) is None}
        self._statistics = {need for name in quantities for need in QUANTITIES[name].needs}
        # The noise's running means are made of these.
        self._statistics |= {"sample_count", "sample_sq_sum"}
        self._groups = groups
        self._config = config
        self._calibrations = calibrations
        self._ranges = ranges
        self._faults = faults
        self._batch: Any = None
        self._eager = EagerForward()
        self._ids: Ids | None = None
        self._batches = 0
        self._open: SampleBackward | None = None
        self._done: list[SampleBackward] = []
        self._window = 1
        self._grads: Parcel | None = None
        self._said = thrift.said
        self.withheld: str | None = None
        if thrift.lost and not self._parameters:
            self.withheld = next(iter(thrift.lost.values()))

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
        with self._faults.contain(_SUBJECT, self.abandon), self._thrifty():
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
                self._ranges,
                self._needs,
                batch_size=batch_size,
                scale=scale,
                ids=self._ids,
                position=f"step {self._step}{place}",
                seed=self._step * 1009,  # one direction for all, along which they add up
                memory_budget=self._thrift.budget,
                faults=self._faults,
                extent=self.extent,
                resting=self._resting,
                needs_of_part=self._needs_of_part,
            )
            if self._open is None:
                self.withheld = "the batch has no samples"
            return
        self.withheld = self.withheld or self._faults.reasons[_SUBJECT]

    def after_backward(self) -> None:
        """Detach, and send what was measured to the host."""
        backward, self._open = self._open, None
        if backward is None:
            return
        with self._faults.contain(_SUBJECT, backward.capture.detach), self._thrifty():
            backward.capture.detach()
            self._tell(backward.capture)
            backward.send()
            self._done.append(backward)
            return
        self.withheld = self.withheld or self._faults.reasons[_SUBJECT]

    def begin_window(self) -> None:
        """The gradients of earlier backwards have been set to zero."""
        self._done.clear()
        self._batches = 0

    def before_step(self, scale: Tensor | None = None) -> None:
        """Look at the gradients that the optimiser is about to use.

        Args:
            scale: A factor that they carry, without dimensions.
        """
        if self._grads is not None or not self._done or self.withheld is not None:
            return
        if len(self._done) == 1 and self._process is None:
            return  # its gradient was seen where it arrived
        with self._faults.contain(_SUBJECT), self._thrifty():
            capture = self._done[-1].capture
            along: dict[Hashable, Tensor] = {n: capture.along_grad(n) for n in self._parameters}
            if scale is not None:
                along["scale"] = scale
            self._grads = Parcel(along)
            return
        self.withheld = self.withheld or self._faults.reasons[_SUBJECT]

    def _tell(self, capture: JacobianCapture[Any]) -> None:
        """Some parameters were lost by an exception; the others stay."""
        fault = capture.fault
        if fault is not None and self._faults.policy == "raise":
            raise fault
        if capture.starved:
            why = self._reduce(_SOME, capture.culprits)
            capture.missing.update(dict.fromkeys(capture.starved, why))
            release()
        elif fault is not None:
            self._faults.note(_SOME, f"{type(fault).__name__}: {fault}")

    @contextmanager
    def _thrifty(self) -> Iterator[None]:
        """Withhold the step's samples where memory runs out, and do with less from then on."""
        try:
            yield
        except Exception as error:
            if self._faults.policy == "raise" or not is_out_of_memory(error):
                raise
            self.withheld = self._reduce(_SUBJECT, self._parameters)
            self.abandon()

    def _reduce(self, subject: str, culprits: Iterable[str]) -> str:
        takes_gram = any(need.gram for need in self._needs.values())
        why = self._thrift.reduce(culprits, takes_gram=takes_gram)
        self._calibrations.memory_budget = self._thrift.budget
        if subject in self._faults.reasons:
            _log.warning("%s: %s", subject, why)
        self._faults.note(subject, why)
        return why

    def reason_without(self, quantity: QuantityName) -> str | None:
        """Why a quantity of samples is not measured in this step, if that is so."""
        needs_gram = self._gram_lost is not None and sample_needs([quantity]).gram
        return self._gram_lost if needs_gram else None

    @property
    def hook_seconds(self) -> float:
        """Time on the host that the capture took within the backward under way."""
        return 0.0 if self._open is None else self._open.capture.seconds

    @property
    def once(self) -> float:
        """Seconds before the backward under way that later captures like it will not take."""
        return 0.0 if self._open is None else self._open.once

    @property
    def batch_samples(self) -> int:
        """The most samples that a backward has had so far."""
        return max((backward.samples for backward in self._done), default=0)

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
                "no backward was seen in this step: there was no loss; or, in a loop of your own, "
                "call before_backward and after_backward around it"
            )
        if self.withheld is not None:
            return None
        return open_step(self._done, self._missing, self._grads)

    def summary(self, opened: OpenedStep, whole: Whole) -> SampleResults:
        """The statistics of what was measured here.

        Args:
            opened: What was measured.
            whole: The step that it is a part of.
        """
        results = results_of(
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
            extent=self.extent,
            resting=self._resting & self._parameters.keys(),
        )
        if self._said is None:
            return results
        return replace(results, capture={**results.capture, "memory": self._said})

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
