"""What a captured step's record holds besides its quantities, as tensors and a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jacoscope.quantities import headline_title, headline_unit
from jacoscope.record import NORM_QUANTILES, BatchGram, StepSamples

__all__ = ["RecordedTensor", "describe_gram", "gram_tensors", "headline_tensor", "sample_tensors"]


class RecordedTensor(NamedTuple):
    """A tensor and what its tag's metadata say of it.

    Args:
        name: The last part of its tag, before the digest of its rows.
        rows: What its first dimension runs over, where that has names.
        values: The tensor.
        schema: What there is to say besides.
    """

    name: str
    rows: tuple[str, ...]
    values: npt.NDArray[Any]
    schema: dict[str, Any]


def headline_tensor(
    scalars: Mapping[str, float], samples: StepSamples | None = None
) -> RecordedTensor | None:
    """The headline scalars of a step, with the number of its samples; ``None`` without any."""
    if not scalars:
        return None
    named = dict(scalars)
    if samples is not None:
        named["sample_count"] = float(samples.samples)
    names = tuple(named)
    schema = {
        "titles": [headline_title(name) for name in names],
        "units": [headline_unit(name) for name in names],
    }
    return RecordedTensor(".headline", names, np.array(list(named.values())), schema)


def sample_tensors(samples: StepSamples) -> Iterator[RecordedTensor]:
    """How per-sample gradients are distributed, and the Gram matrix where it is recorded."""
    axis = samples.axis
    schema = {
        "layers": axis.layers,
        "kinds": axis.kinds,
        "quantiles": NORM_QUANTILES,
        "unit": "loss per unit of parameter",
    }
    yield RecordedTensor(".sample_quantiles", axis.names, samples.quantiles_RQ, schema)
    if samples.gram is not None:
        yield from gram_tensors(samples.gram)


def gram_tensors(gram: BatchGram) -> Iterator[RecordedTensor]:
    """The Gram matrix of a batch and its eigenvalues."""
    schema = {"unit": "(loss per unit of parameter)²"}
    yield RecordedTensor(".gram", (), gram.values_NN, schema)
    yield RecordedTensor(".gram_spectrum", (), gram.eigenvalues_N, schema)


def describe_gram(gram: BatchGram, epoch: int) -> dict[str, Any]:
    """Which samples a Gram matrix is of, as plain values that JSON knows."""
    losses = None if gram.losses is None else gram.losses.tolist()
    return {
        "epoch": epoch,
        "row": gram.row,
        "samples": gram.samples,
        "shown": len(gram.values_NN),
        "id_source": gram.id_source,
        "ids": [_plain(each) for each in gram.ids],
        "labels": None if gram.labels is None else [_plain(each) for each in gram.labels],
        "losses": None if losses is None else [x if isfinite(x) else str(x) for x in losses],
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
