"""Findings: what a run's numbers say in plain words, each from numbers that are there."""

from jacoscope.board.findings._finding import Finding
from jacoscope.board.findings._gathered import findings_of

__all__ = ["Finding", "findings_of"]
