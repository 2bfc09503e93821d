"""Sinks: where records go."""

from jacoscope.sinks._folders import new_folder
from jacoscope.sinks._sink import MemorySink, RunInfo, Sink
from jacoscope.sinks.scalars import ScalarSink
from jacoscope.sinks.tensorboard import TensorBoardSink

__all__ = ["MemorySink", "RunInfo", "ScalarSink", "Sink", "TensorBoardSink", "new_folder"]
