"""The N × P Jacobian of a parameter, kept as the structure that it has."""

from jacoscope.jacobian._convolution import ConvolutionJacobian
from jacoscope.jacobian._dense import DenseJacobian
from jacoscope.jacobian._factor import Factor
from jacoscope.jacobian._jacobian import DEFAULT_MEMORY_BUDGET, Jacobian
from jacoscope.jacobian._measure import WANTS, measure
from jacoscope.jacobian._outer import OuterJacobian
from jacoscope.jacobian._placed import PlacedJacobian
from jacoscope.jacobian._rank_one import RankOneJacobian
from jacoscope.jacobian._scatter import ScatterJacobian
from jacoscope.jacobian._sum import SumJacobian

__all__ = [
    "DEFAULT_MEMORY_BUDGET",
    "WANTS",
    "ConvolutionJacobian",
    "DenseJacobian",
    "Factor",
    "Jacobian",
    "OuterJacobian",
    "PlacedJacobian",
    "RankOneJacobian",
    "ScatterJacobian",
    "SumJacobian",
    "measure",
]
