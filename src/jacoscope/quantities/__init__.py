"""Quantities: pure functions from tensors to additive statistics, and from those to values."""

from jacoscope.quantities._blocks import block_buffer_bytes
from jacoscope.quantities._measure import Measured, Meter
from jacoscope.quantities._quantity import FloatArray, Quantity
from jacoscope.quantities._statistics import STATISTICS, Block, Statistic
from jacoscope.quantities._table import QUANTITIES, inputs_of, statistics_for
from jacoscope.quantities.headline import HEADLINES, Headline
from jacoscope.quantities.histogram import HISTOGRAM_BINS, HISTOGRAM_EDGES

__all__ = [
    "HEADLINES",
    "HISTOGRAM_BINS",
    "HISTOGRAM_EDGES",
    "QUANTITIES",
    "STATISTICS",
    "Block",
    "FloatArray",
    "Headline",
    "Measured",
    "Meter",
    "Quantity",
    "Statistic",
    "block_buffer_bytes",
    "inputs_of",
    "statistics_for",
]
