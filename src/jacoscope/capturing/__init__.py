"""Capture: what is taken from a training step, before anything is computed from it."""

from jacoscope.capture._optimizer_step import OptimizerStepCapture, Wanted
from jacoscope.capture._tensors import ParameterTensors

__all__ = ["OptimizerStepCapture", "ParameterTensors", "Wanted"]
