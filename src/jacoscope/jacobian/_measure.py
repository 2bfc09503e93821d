"""Several things wanted of one Jacobian, in one go."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from torch import Tensor

from jacoscope.jacobian._arithmetic import computed
from jacoscope.jacobian._jacobian import Jacobian
from jacoscope.jacobian._rowwise import OF_ROWS

__all__ = ["WANTS", "measure"]

WANTS = tuple(OF_ROWS)


@computed
def measure(jacobian: Jacobian, wants: Iterable[str]) -> dict[str, Tensor]:
    """What is wanted of a Jacobian; rows that several wants need are made once.

    Args:
        jacobian: The Jacobian.
        wants: Names out of :data:`WANTS`, the Jacobian's methods.

    Returns:
        By name, what the method of that name gives.

    Raises:
        ValueError: If a name is unknown.
    """
    wants = tuple(dict.fromkeys(wants))
    for want in wants:
        if want not in WANTS:
            near = difflib.get_close_matches(want, WANTS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"nothing is called {want!r}, wants are out of {WANTS}{hint}")
    return jacobian._evaluate(wants)
