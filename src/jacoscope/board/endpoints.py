"""Every kind of data that the page can ask for."""

from __future__ import annotations

from collections.abc import Mapping

from jacoscope.board.agreement import AGREEMENT, GRAM
from jacoscope.board.distributions import DISTRIBUTION, QUANTILES
from jacoscope.board.endpoint import Endpoint
from jacoscope.board.missing import MISSING
from jacoscope.board.outputs import OUTPUTS, SPECTRA
from jacoscope.board.overview import OVERVIEW
from jacoscope.board.probes import ALLOCATION, PROBE, PROBES
from jacoscope.board.runs import RUNS
from jacoscope.board.samples import SAMPLES
from jacoscope.board.series import SERIES

__all__ = ["ENDPOINTS"]

ENDPOINTS: Mapping[str, Endpoint] = {
    "runs": RUNS,
    "overview": OVERVIEW,
    "series": SERIES,
    "missing": MISSING,
    "distribution": DISTRIBUTION,
    "quantiles": QUANTILES,
    "samples": SAMPLES,
    "agreement": AGREEMENT,
    "gram": GRAM,
    "outputs": OUTPUTS,
    "spectra": SPECTRA,
    "probes": PROBES,
    "probe": PROBE,
    "allocation": ALLOCATION,
}
"""By the last part of the route."""
