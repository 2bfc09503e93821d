"""Elementwise arithmetic with broadcasting, and ``expand``."""

from __future__ import annotations

from jacoscope.capturing._terms import Term
from jacoscope.capturing.rules._call import Use

__all__ = [
    "add_rule",
    "dividend_rule",
    "divisor_rule",
    "expand_rule",
    "left_factor_rule",
    "minuend_rule",
    "right_factor_rule",
    "subtrahend_rule",
]


def left_factor_rule(use: Use) -> Term:
    """The left factor a of ``a · b``."""
    return use.summed(use.grad * use.saved("other"))


def right_factor_rule(use: Use) -> Term:
    """The right factor b of ``a · b``."""
    return use.summed(use.grad * use.saved("self"))


def minuend_rule(use: Use) -> Term:
    """The first operand a of ``a + α b`` and of ``a − α b``."""
    return use.summed(use.grad)


def add_rule(use: Use) -> Term:
    """The second operand b of ``a + α b``."""
    return use.summed(use.grad * use.node._saved_alpha)


def subtrahend_rule(use: Use) -> Term:
    """The second operand b of ``a − α b``."""
    return use.summed(use.grad * -use.node._saved_alpha)


def dividend_rule(use: Use) -> Term:
    """The dividend a of ``a / b``."""
    return use.summed(use.grad / use.saved("other"))


def divisor_rule(use: Use) -> Term:
    """The divisor b of ``a / b``."""
    other = use.saved("other")
    return use.summed(-use.grad * use.saved("self") / (other * other))


def expand_rule(use: Use) -> Term:
    """A tensor repeated without copying."""
    return use.summed(use.grad)
