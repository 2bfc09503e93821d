"""How work is counted, to choose the way that does least of it.

The unit is one multiplication within a matrix product. Whatever passes over memory without being a
matrix product does far less per second, so each of its elements counts :data:`PASS` units. The
ratio is coarse and alike on processors and accelerators; ways differ by more than it is off by.
"""

from __future__ import annotations

__all__ = ["PASS"]

PASS = 16.0
