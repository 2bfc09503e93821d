"""Reading a run back: every recorded number, as pandas frames."""

from jacoscope.reader._read_run import read_run
from jacoscope.reader._run import Run

__all__ = ["Run", "read_run"]
