"""What becomes of a part of a probe that fails: it is withheld, or done with less memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager

from jacoscope.faults import Faults
from jacoscope.memory import ProbeThrift, is_out_of_memory, release
from jacoscope.probe_session import ProbeSession
from jacoscope.probing import ProbeError

__all__ = ["ProbeFaults"]

_log = logging.getLogger("jacoscope")


class ProbeFaults:
    """Withholds what a probe cannot measure, with the reason.

    Args:
        faults: What to do when something fails.
        thrift: What is no longer probed, since memory ran out.
    """

    def __init__(self, faults: Faults, thrift: ProbeThrift) -> None:
        self._faults = faults
        self._thrift = thrift
        self._said: set[str] = set()

    def is_lost(self, subject: str, names: Iterable[str], session: ProbeSession) -> bool:
        """Whether something is no longer probed; the session is told."""
        why = self._thrift.lost.get(subject)
        if why is not None:
            session.withhold(names, why)
        return why is not None

    @contextmanager
    def keep(self, subject: str, lost: MutableMapping[str, str]) -> Iterator[None]:
        """Keep something that the probe will need.

        Args:
            subject: What is within, in words.
            lost: Takes the reason, by subject, if it could not be kept.
        """
        why: str | None = None
        done = False
        with self._faults.contain(subject):
            try:
                yield
            except ProbeError as error:
                why = str(error)
            done = True
        if not done:
            why = self._faults.reasons[subject]
        if why is not None:
            lost[subject] = why

    @contextmanager
    def contain(
        self,
        subject: str,
        names: Iterable[str],
        session: ProbeSession,
        reduce: Callable[[str], str],
    ) -> Iterator[None]:
        """Withhold quantities, with the reason, if what is within cannot be done or fails.

        Args:
            subject: What is within, in words.
            names: The quantities.
            session: The probe.
            reduce: Called with the subject if memory runs out; says what is then done.
        """
        done = starved = False
        with self._faults.contain(subject):
            try:
                yield
            except Exception as error:
                starved = is_out_of_memory(error) or is_out_of_memory(error.__cause__ or error)
                if starved and self._faults.policy == "warn":
                    pass
                elif isinstance(error, ProbeError):
                    session.withhold(names, str(error))
                    self.say(subject, f"{subject} is left out: {error}")
                else:
                    raise
            done = True
        if starved:
            why = reduce(subject)
            session.withhold(names, why)
            if subject in self._faults.reasons:
                _log.warning("%s: %s", subject, why)
            self._faults.note(subject, why)
            release()
        elif not done:
            session.withhold(names, self._faults.reasons[subject])

    def say(self, subject: str, what: str) -> None:
        """Log something once; the records have all of it."""
        if subject not in self._said:
            self._said.add(subject)
            _log.warning("%s", what)
