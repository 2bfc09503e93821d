"""The name that a monitor's state has in a checkpoint, until a Trainer has set the monitor up."""

from __future__ import annotations

__all__ = ["UnsettledKey"]


class UnsettledKey(str):
    """Text that equals the same plain text, and no other text that is unsettled.

    A Trainer refuses callbacks whose states have the same name as soon as it is made, before any
    hook, and cannot say which option makes them differ. With this it goes on to ``setup``, where
    the monitor refuses them with the option's name.
    """

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return not isinstance(other, UnsettledKey) and str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other
