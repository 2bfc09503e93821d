"""``/data/agreement`` and ``/data/gram``: whether the samples of a batch ask for the same step.

Shape suffixes: S steps, N samples, K eigenvalues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.board.endpoint import Answer, Asked, Endpoint, Plan, states_of
from jacoscope.board.fields import integer, listing, number, text
from jacoscope.board.mistakes import NotRecordedError
from jacoscope.board.nearest import nearest_step
from jacoscope.board.recording import Recording
from jacoscope.board.reductions import to_float32

__all__ = ["AGREEMENT", "GRAM", "class_order", "effective_rank"]

_EIGENVALUES = 64

Array = npt.NDArray[Any]


def _plan_agreement(asked: Asked) -> Plan:
    recording = asked.recording()
    return Plan(states_of(recording.tags(".gram_spectrum")), lambda: _agreement(recording))


def _agreement(recording: Recording) -> Answer:
    by_step: dict[int, Array] = {}
    for _, track in recording.tracks(".gram_spectrum"):
        for step, value in zip(track.steps_S.tolist(), track.values_S, strict=True):
            if getattr(value, "ndim", 0) == 1 and len(value):
                by_step[step] = np.asarray(value, np.float64)
    steps = sorted(by_step)
    width = min(_EIGENVALUES, max((len(by_step[step]) for step in steps), default=0))
    spectra_SK = np.full((len(steps), width), np.nan)
    for place, step in enumerate(steps):
        spectrum = by_step[step][:width]
        spectra_SK[place, : len(spectrum)] = spectrum
    traces = np.array([_trace(by_step[step]) for step in steps])
    tops = np.array([by_step[step][0] for step in steps])
    ranks = np.array([effective_rank(by_step[step]) for step in steps])
    with np.errstate(all="ignore"):
        shares = np.where(traces > 0, tops / traces, np.nan)
    arrays: dict[str, Array] = {
        "step": np.array(steps, np.float64),
        "spectra": to_float32(spectra_SK),
        "trace": to_float32(traces),
        "effective_rank": to_float32(ranks),
        "top_share": to_float32(shares),
    }
    counts = [len(by_step[step]) for step in steps]
    return Answer({"steps": steps, "n": counts, "unit": _unit(recording)}, arrays)


def _unit(recording: Recording) -> str:
    return next((text(tag.schema, "unit") for tag in recording.group.of(".gram_spectrum")), "")


def _trace(spectrum_N: Array) -> float:
    """Σλ, without what rounding has made negative; ``nan`` if the matrix was not finite."""
    return float(np.maximum(spectrum_N, 0).sum())


def effective_rank(spectrum_N: Array) -> float:
    """exp(−Σ p ln p), p = λ / Σλ: how many directions the samples pull in.

    Roy and Vetterli, The effective rank, EUSIPCO 2007, definition 1, of the Gram matrix.

    Args:
        spectrum_N: Eigenvalues; those that rounding has made negative count as zero.
    """
    trace = _trace(spectrum_N)
    if not np.isfinite(trace) or trace <= 0:
        return float("nan")
    shares = np.maximum(spectrum_N, 0) / trace
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _plan_gram(asked: Asked) -> Plan:
    step = asked.query.integer("step")
    recording = asked.recording()
    tags = recording.tags(".gram", ".gram_batch")
    return Plan(states_of(tags), lambda: _gram(recording, step))


def _gram(recording: Recording, asked: int | None) -> Answer:
    matrices = {
        step: np.asarray(value)
        for _, track in recording.tracks(".gram")
        for step, value in zip(track.steps_S.tolist(), track.values_S, strict=True)
        if getattr(value, "ndim", 0) == 2 and value.shape[0] == value.shape[1]
    }
    if not matrices:
        raise NotRecordedError("this run has no Gram matrix of a batch")
    step = nearest_step(sorted(matrices), asked)
    gram_NN = matrices[step]
    batch = dict(recording.texts(".gram_batch")).get(step, {})
    labels = _labels(batch, len(gram_NN))
    meta = {
        "step": step,
        "steps": sorted(matrices),
        "epoch": batch.get("epoch"),
        "n": len(gram_NN),
        "samples": integer(batch, "samples", len(gram_NN)),
        "ids": listing(batch, "ids"),
        "labels": labels,
        "losses": [_loss(loss) for loss in listing(batch, "losses")],
        "id_source": text(batch, "id_source"),
        "row": text(batch, "row"),
        "classes": _classes(labels),
        "unit": next((text(tag.schema, "unit") for tag in recording.group.of(".gram")), ""),
    }
    order = class_order(gram_NN, labels)
    return Answer(meta, {"gram": to_float32(gram_NN), "order": order.astype(np.int32)})


def _loss(value: Any) -> float | str | None:
    loss = number(value) + 0.0  # no minus before a zero
    return loss if np.isfinite(loss) else None if np.isnan(loss) else str(loss)


def _labels(batch: Mapping[str, Any], samples: int) -> list[Any] | None:
    found = listing(batch, "labels")
    plain = all(isinstance(label, str | int | float) for label in found)
    return found if len(found) == samples and plain else None


def _classes(labels: Sequence[Any] | None) -> list[Any]:
    return sorted(set(labels or ()), key=_class_key)


def _class_key(label: Any) -> tuple[bool, Any]:
    """Numbers in order, then texts in order."""
    return isinstance(label, str), label


def class_order(gram_NN: Array, labels: Sequence[Any] | None) -> npt.NDArray[np.intp]:
    """An order in which samples that ask for similar steps are neighbours.

    By class, and within a class by the component along the matrix's first eigenvector: samples that
    pull along the batch's main direction come first, those that pull against it last.

    Args:
        gram_NN: gᵢ·gₖ.
        labels: The class of each sample, if it is known.
    """
    along = -_first_eigenvector(gram_NN)
    if labels is None:
        return np.argsort(along, kind="stable")
    places = {label: place for place, label in enumerate(_classes(labels))}
    return np.lexsort((along, np.array([places[label] for label in labels])))


def _first_eigenvector(gram_NN: Array) -> Array:
    """Of unit length, pointing where the samples' sum does; zero if the matrix is not finite."""
    if not np.isfinite(gram_NN).all() or not len(gram_NN):
        return np.zeros(len(gram_NN))
    matrix = np.asarray(gram_NN, np.float64)
    vector = np.linalg.eigh((matrix + matrix.T) / 2)[1][:, -1]
    return vector if vector.sum() >= 0 else -vector


AGREEMENT = Endpoint(_plan_agreement, ("run", "group"), sends_arrays=True)
GRAM = Endpoint(_plan_gram, ("run", "group", "step"), sends_arrays=True)
