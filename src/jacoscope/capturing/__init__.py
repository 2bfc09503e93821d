"""Capture: tensors of the optimiser's step, and Jacobians from the graph of the loss."""

from jacoscope.capturing._api import capture, capture_with
from jacoscope.capturing._arguments import samples_of
from jacoscope.capturing._calibration import Calibrations
from jacoscope.capturing._capture import JacobianCapture
from jacoscope.capturing._closure import Closure, tolerance
from jacoscope.capturing._eager import EagerForward
from jacoscope.capturing._jacobians import Jacobians, ParameterJacobian
from jacoscope.capturing._losses import sample_losses
from jacoscope.capturing._optimizer_step import OptimizerStepCapture, Wanted
from jacoscope.capturing._parameters import chosen_parameters, first_names, watched_parameters
from jacoscope.capturing._tensors import ParameterTensors
from jacoscope.capturing._verify import Verdict, Verification, verify
from jacoscope.capturing._versions import Versions

__all__ = [
    "Calibrations",
    "Closure",
    "EagerForward",
    "JacobianCapture",
    "Jacobians",
    "OptimizerStepCapture",
    "ParameterJacobian",
    "ParameterTensors",
    "Verdict",
    "Verification",
    "Versions",
    "Wanted",
    "capture",
    "capture_with",
    "chosen_parameters",
    "first_names",
    "sample_losses",
    "samples_of",
    "tolerance",
    "verify",
    "watched_parameters",
]
