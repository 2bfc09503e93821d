"""Memory that runs out inside the monitor: how to tell, and what is then done with less."""

from __future__ import annotations

from collections.abc import Iterable

import torch

__all__ = ["FLOOR", "Allowance", "ProbeThrift", "SampleThrift", "is_out_of_memory", "release"]

_MB = 2**20
FLOOR = 16 * _MB
"""Bytes below which a memory budget is not cut: chunks would be too small to be worth it."""
_SAID = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whichever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _SAID)


def release() -> None:
    """Give back what the allocator keeps for later, once nothing of it is held any more."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


class Allowance:
    """An amount that is halved each time that memory runs out, down to a floor.

    Args:
        amount: The amount.
        floor: The least that it may be.
    """

    def __init__(self, amount: int, floor: int) -> None:
        self.amount = amount
        self._floor = min(amount, floor)

    def halve(self) -> bool:
        """Halve it; ``False`` where it is at its floor already."""
        before, self.amount = self.amount, max(self.amount // 2, self._floor)
        return self.amount < before


class ProbeThrift:
    """What probes do without, where memory runs out.

    Probes of outputs take fewer rows at a time, which changes no number, those of the loss fewer
    samples; at the floor they are no longer run.

    Args:
        budget: Bytes that rows of Jacobians may take.
        samples: How many samples the loss is taken on.

    Attributes:
        said: By subject, what is done without by now, in words.
        lost: By subject that is no longer probed, why.
    """

    def __init__(self, budget: int, samples: int) -> None:
        self._budget = Allowance(budget, FLOOR)
        self._samples = Allowance(samples, 1)
        self.said: dict[str, str] = {}
        self.lost: dict[str, str] = {}

    @property
    def budget(self) -> int:
        """Megabytes that rows of Jacobians may take now."""
        return self._budget.amount // _MB

    @property
    def samples(self) -> int:
        """How many samples the loss is taken on now."""
        return self._samples.amount

    def fewer_rows(self, subject: str) -> str:
        """Memory has run out on rows of Jacobians; what is done from then on, in words."""
        before = self.budget
        if not self._budget.halve():
            return self.lose(subject, f"within {before} MB")
        return self._say(
            subject,
            f"out of memory; from the next probe on within {self.budget} MB instead of {before} MB "
            "(probes.memory_budget)",
        )

    def fewer_samples(self, subject: str) -> str:
        """Memory has run out on the loss of a batch; what is done from then on, in words."""
        before = self.samples
        if not self._samples.halve():
            return self.lose(subject, "on a single sample")
        return self._say(
            subject,
            f"out of memory; from the next probe on with {self.samples} samples at most instead "
            f"of {before} (probes.loss_samples)",
        )

    def lose(self, subject: str, least: str) -> str:
        """Memory has run out and nothing can be done with less."""
        why = f"out of memory {least}; no longer probed in this run"
        self.lost[subject] = why
        return self._say(subject, why)

    def _say(self, subject: str, what: str) -> str:
        self.said[subject] = what
        return what


class SampleThrift:
    """What capturing samples does without, step by step, where memory runs out.

    First the memory budget is halved, down to a floor, which changes no number; then Gram matrices
    are dropped; then the parameters at which it still runs out.

    Args:
        budget: Bytes that temporary tensors may take.
        keeps_gram: Whether Gram matrices have to stay, as where several processes must measure the
            same.

    Attributes:
        said: What is done without by now, in words; ``None`` where nothing is.
        gram_lost: Why Gram matrices are not taken, if that is so.
        lost: By parameter, why it is not captured.
    """

    def __init__(self, budget: int, *, keeps_gram: bool = False) -> None:
        self._allowance = Allowance(budget, FLOOR)
        self._keeps_gram = keeps_gram
        self.said: str | None = None
        self.gram_lost: str | None = None
        self.lost: dict[str, str] = {}

    @property
    def budget(self) -> int:
        """Bytes that temporary tensors may take now."""
        return self._allowance.amount

    def reduce(self, culprits: Iterable[str], *, takes_gram: bool) -> str:
        """Memory has run out: do with less from the next capture on.

        Args:
            culprits: The parameters at which it ran out.
            takes_gram: Whether Gram matrices were being taken.

        Returns:
            What that is, in words.
        """
        before = self.budget
        if self._allowance.halve():
            self.said = (
                f"out of memory; from the next capture on within {self.budget // _MB} MB instead "
                f"of {before // _MB} MB (samples.memory_budget)"
            )
        elif takes_gram and not self._keeps_gram:
            self.said = self.gram_lost = (
                f"out of memory within {before // _MB} MB; from the next capture on without Gram "
                "matrices"
            )
        else:
            self.said = f"out of memory within {before // _MB} MB; no longer captured in this run"
            self.lost.update(dict.fromkeys(culprits, self.said))
        return self.said
