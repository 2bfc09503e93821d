"""What a run recorded of single batches' samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Gram", "grams_of", "quantile_frame"]


@dataclass(frozen=True, eq=False)
class Gram:
    """The Gram matrix of a captured batch.

    Attributes:
        step: Optimiser steps before it.
        epoch: Epochs completed.
        ids: What each sample is called, N of them.
        labels: The class of each, if known.
        losses: Loss of each, shape (N,), ``nan`` where not known.
        samples: Number of samples of the whole batch, of which these are the first that were
            measured.
        values: g_i·g_k of the per-sample gradients over all watched parameters, shape (N, N), in
            (loss per unit of parameter)².
        eigenvalues: Its eigenvalues, largest first, shape (N,).
    """

    step: int
    epoch: int
    ids: tuple[str | int, ...]
    labels: tuple[str | int, ...] | None
    losses: npt.NDArray[np.float64]
    samples: int
    values: npt.NDArray[Any]
    eigenvalues: npt.NDArray[Any]

    @property
    def cosines(self) -> npt.NDArray[Any]:
        """cos(g_i, g_k), shape (N, N); ``nan`` where a gradient has no direction."""
        norms_N = np.sqrt(np.diag(self.values))
        with np.errstate(all="ignore"):
            return self.values / np.multiply.outer(norms_N, norms_N)


def grams_of(
    batches: Mapping[int, Mapping[str, Any]],
    tensors: Mapping[str, Mapping[int, tuple[tuple[str, ...], npt.NDArray[Any]]]],
) -> dict[int, Gram]:
    """By step, the Gram matrices that were recorded whole.

    Args:
        batches: By step, what the record says of the batch.
        tensors: By name and step, the tensors.
    """
    values, spectra = tensors.get(".gram", {}), tensors.get(".gram_spectrum", {})
    found = {}
    for step in sorted(values.keys() & spectra.keys() & batches.keys()):
        batch = batches[step]
        labels, losses = batch["labels"], batch["losses"]
        found[step] = Gram(
            step,
            batch["epoch"],
            tuple(batch["ids"]),
            None if labels is None else tuple(labels),
            np.array(losses or [np.nan] * batch["shown"], dtype=np.float64),
            batch["samples"],
            values[step][1],
            spectra[step][1],
        )
    return found


def quantile_frame(
    steps: Mapping[int, tuple[tuple[str, ...], npt.NDArray[Any]]],
    quantiles: tuple[float, ...],
    row: str,
) -> pd.DataFrame:
    """A row's quantiles: one row per captured step, one column per quantile.

    Args:
        steps: By step, the names of the rows and their quantiles, shape (R, Q).
        quantiles: Which quantiles.
        row: The row.
    """
    import pandas as pd

    found = {
        step: values[names.index(row)] for step, (names, values) in steps.items() if row in names
    }
    frame = pd.DataFrame.from_dict(found, orient="index", columns=list(quantiles)).sort_index()
    frame.index.name = "step"
    return frame
