"""Probes: how a model's outputs and its loss move with parameters, inputs and layers."""

from jacoscope.probing._all_else_equal import (
    REST,
    AllElseEqual,
    LayerShare,
    WeightShare,
    all_else_equal,
    compare,
)
from jacoscope.probing._allocation import Allocation, allocate
from jacoscope.probing._api import (
    input_jacobian,
    layer_jacobian,
    neural_tangent_kernel,
    output_jacobian,
)
from jacoscope.probing._batch import arguments_of, call_of, first_samples, targets_of
from jacoscope.probing._cotangents import cotangents
from jacoscope.probing._errors import ProbeError, refuse_complex
from jacoscope.probing._function import ModelFunction
from jacoscope.probing._isolation import devices_of, isolated, replica
from jacoscope.probing._kernel import NeuralTangentKernel
from jacoscope.probing._loss import Loss
from jacoscope.probing._output_jacobian import OutputJacobian, spectral_norms
from jacoscope.probing._place_jacobian import PlaceJacobian, place_jacobian
from jacoscope.probing._products import products
from jacoscope.probing._rows import Rows
from jacoscope.probing._saliency import Saliency, saliency_of
from jacoscope.probing._trust import rows_of

__all__ = [
    "REST",
    "AllElseEqual",
    "Allocation",
    "LayerShare",
    "Loss",
    "ModelFunction",
    "NeuralTangentKernel",
    "OutputJacobian",
    "PlaceJacobian",
    "ProbeError",
    "Rows",
    "Saliency",
    "WeightShare",
    "all_else_equal",
    "allocate",
    "arguments_of",
    "call_of",
    "compare",
    "cotangents",
    "devices_of",
    "first_samples",
    "input_jacobian",
    "isolated",
    "layer_jacobian",
    "neural_tangent_kernel",
    "output_jacobian",
    "place_jacobian",
    "products",
    "refuse_complex",
    "replica",
    "rows_of",
    "saliency_of",
    "spectral_norms",
    "targets_of",
]
