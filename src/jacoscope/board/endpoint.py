"""What a request for data goes through: a plan of what to read, then the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from jacoscope.board.catalogue import Catalogue, Tag
from jacoscope.board.query import Query
from jacoscope.board.recording import Recording
from jacoscope.board.store import Place, Store

__all__ = ["Answer", "Asked", "Endpoint", "Plan", "states_of"]


@dataclass(frozen=True)
class Answer:
    """What is sent.

    Args:
        meta: As JSON; the header where there are arrays.
        arrays: By name, or ``None`` for an answer in JSON alone.
    """

    meta: Mapping[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]] | None = None


@dataclass(frozen=True)
class Plan:
    """How to answer.

    Args:
        states: What the answer is made of; the same states give the same answer.
        answer: Reads and answers.
    """

    states: Iterable[Any]
    answer: Callable[[], Answer]


@dataclass(frozen=True)
class Asked:
    """A request for data.

    Args:
        query: Its parameters.
        store: Where to read.
        place: Whose request it is.
    """

    query: Query
    store: Store
    place: Place

    def catalogue(self) -> Catalogue:
        """What is recorded."""
        return self.store.catalogue(self.place)

    def recording(self) -> Recording:
        """What the monitor that the query names recorded in the run that it names."""
        run, group = self.query.text("run"), self.query.text("group")
        return Recording(self.catalogue().find(run, group), self.store, self.place)


class Planner(Protocol):
    """From a request to a plan; raises a :class:`RequestError` where there is none."""

    def __call__(self, asked: Asked) -> Plan: ...


@dataclass(frozen=True)
class Endpoint:
    """A kind of request.

    Args:
        plan: How it is answered.
        parameters: The names that its query takes.
        sends_arrays: Whether it is answered with arrays.
    """

    plan: Planner
    parameters: tuple[str, ...] = ()
    sends_arrays: bool = False


def states_of(tags: Iterable[Tag]) -> list[Any]:
    """What an answer made of these tags depends on."""
    return [tag.state for tag in tags]
