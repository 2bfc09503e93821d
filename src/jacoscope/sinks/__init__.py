"""Sinks: where records go."""

from jacoscope.sinks._events import PLUGIN_NAME
from jacoscope.sinks._sink import MemorySink, RunInfo, Sink
from jacoscope.sinks.scalars import ScalarSink
from jacoscope.sinks.tensorboard import TensorBoardSink

__all__ = ["PLUGIN_NAME", "MemorySink", "RunInfo", "ScalarSink", "Sink", "TensorBoardSink"]
