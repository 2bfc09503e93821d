"""``/data/overview``: what a run says in plain words and a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.board.endpoint import Answer, Asked, Endpoint, Plan, states_of
from jacoscope.board.fields import integer, mapping, mappings, text
from jacoscope.board.findings import findings_of
from jacoscope.board.headline import Headline, headline_of
from jacoscope.board.missing import gaps_now, partly_now
from jacoscope.board.recording import Recording
from jacoscope.board.reductions import column_starts, extremes, last_finite

__all__ = ["OVERVIEW"]

_COLUMNS = 400


def _plan(asked: Asked) -> Plan:
    recording = asked.recording()
    return Plan(states_of(recording.group.tags), lambda: _answer(recording))


def _answer(recording: Recording) -> Answer:
    headline = headline_of(recording)
    described = recording.last_text(".run")
    status = recording.last_text(".status")
    probes = recording.texts_backwards(".probe")
    probed = (told for told in probes if _has_measured(told[1]))
    gaps = [*gaps_now(recording.texts_backwards(".status")), *gaps_now(probed)]
    partly = partly_now(recording.texts_backwards(".status"))
    starts_B = column_starts(len(headline.steps_S), _COLUMNS)
    reduced = extremes(headline.values_SL, starts_B, headline.present_SL)
    meta = {
        "run": recording.group.run,
        "group": recording.group.group,
        "card": _card(recording, described),
        "headline": _headline(headline),
        "steps_total": len(headline.steps_S),
        "findings": [finding.described() for finding in findings_of(recording, headline, gaps)],
        "missing": [gap.described() for gap in [*partly, *gaps]],
        "gradient": mapping(status, "gradient"),
    }
    arrays: dict[str, npt.NDArray[Any]] = {
        "step": headline.steps_S[starts_B].astype(np.float64),
        "values": last_finite(headline.values_SL, starts_B),
        "low": reduced.low_LB,
        "high": reduced.high_LB,
    }
    return Answer(meta, arrays)


def _has_measured(probe: Mapping[str, Any]) -> bool:
    """Whether a probe tried more than to conclude the allocation, as the last of a run does."""
    return any(probe.get(part) for part in ("notes", "all_else_equal", "missing", "withheld"))


def _headline(headline: Headline) -> list[dict[str, Any]]:
    described = []
    for name, title, unit in zip(headline.names, headline.titles, headline.units, strict=True):
        step, value = headline.last(name) or (None, None)
        described.append(
            {"name": name, "title": title, "unit": unit, "last": value, "last_step": step}
        )
    return described


def _card(recording: Recording, described: Mapping[str, Any]) -> dict[str, Any]:
    captured, probed = recording.captured, recording.probed
    parameters = mappings(described, "parameters")
    steps_S = np.concatenate([captured.steps_S, probed.steps_S])
    epochs = [np.ravel(clock.values_S) for clock in (captured, probed) if len(clock.steps_S)]
    last_epoch = max((float(epoch.max()) for epoch in epochs), default=None)
    return {
        "versions": mapping(described, "versions"),
        "captured": len(captured.steps_S),
        "probed": len(probed.steps_S),
        "first_step": int(steps_S.min()) if len(steps_S) else None,
        "last_step": int(steps_S.max()) if len(steps_S) else None,
        "epochs": None if last_epoch is None else int(last_epoch) + 1,
        "parameters": len(parameters),
        "scalars": sum(integer(item, "size") for item in parameters),
        "quantities": len(recording.group.quantities),
        "layers": len({text(item, "layer") for item in parameters}),
        "left_out": mappings(described, "left_out"),
    }


OVERVIEW = Endpoint(_plan, ("run", "group"), sends_arrays=True)
