"""Quantities: pure functions from tensors to additive statistics, and from those to values."""

from jacoscope.quantities._blocks import block_buffer_bytes
from jacoscope.quantities._measure import Held, Measured, Meter
from jacoscope.quantities._quantity import FloatArray, IntArray, Quantity
from jacoscope.quantities._running import RunningMeans
from jacoscope.quantities._sample_measure import (
    SampleNeeds,
    SampleTensors,
    measure_samples,
    sample_needs,
)
from jacoscope.quantities._sample_statistics import (
    SAMPLE_STATISTICS,
    SampleArrays,
    combine_statistics,
    group_of,
    sample_statistics,
    scaled,
)
from jacoscope.quantities._statistics import STATISTICS, Block, Statistic
from jacoscope.quantities._table import (
    FAMILIES,
    FAMILY_OF,
    PROBES,
    QUANTITIES,
    inputs_of,
    is_per_sample,
    is_probed,
    needs_all_samples,
    needs_labels,
    statistics_for,
)
from jacoscope.quantities.headline import (
    HEADLINES,
    OVERHEAD_FORMULA,
    OVERHEAD_READING,
    PROBE_HEADLINES,
    SAMPLE_HEADLINES,
    Headline,
    headline_title,
    headline_unit,
)
from jacoscope.quantities.histogram import HISTOGRAM_BINS, HISTOGRAM_EDGES
from jacoscope.quantities.noise import noise_parts

__all__ = [
    "FAMILIES",
    "FAMILY_OF",
    "HEADLINES",
    "HISTOGRAM_BINS",
    "HISTOGRAM_EDGES",
    "OVERHEAD_FORMULA",
    "OVERHEAD_READING",
    "PROBES",
    "PROBE_HEADLINES",
    "QUANTITIES",
    "SAMPLE_HEADLINES",
    "SAMPLE_STATISTICS",
    "STATISTICS",
    "Block",
    "FloatArray",
    "Headline",
    "Held",
    "IntArray",
    "Measured",
    "Meter",
    "Quantity",
    "RunningMeans",
    "SampleArrays",
    "SampleNeeds",
    "SampleTensors",
    "Statistic",
    "block_buffer_bytes",
    "combine_statistics",
    "group_of",
    "headline_title",
    "headline_unit",
    "inputs_of",
    "is_per_sample",
    "is_probed",
    "measure_samples",
    "needs_all_samples",
    "needs_labels",
    "noise_parts",
    "sample_needs",
    "sample_statistics",
    "scaled",
    "statistics_for",
]
