"""Every condition of the compatibility table is as the table says."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from conditions.condition import Condition, Verdict
from conditions.expected import (
    PARAMETERS,
    PROBES,
    SAMPLES,
    Values,
    expected_parameters,
    expected_probes,
    expected_samples,
    names_of,
)
from conditions.table import CONDITIONS
from conditions.witness import Witness
from helpers import fingerprint, trainer
from jacoscope import SensitivityMonitor
from jacoscope.sinks import MemorySink
from sample_training import into_memory

ROOT = Path(__file__).parents[2]
TRAINED = [condition for condition in CONDITIONS if not condition.shown_by]
CONFIG: dict[str, Any] = {
    "quantities": [*PARAMETERS, *SAMPLES, *PROBES],
    "schedule": {"every": 1, "first": 0},
    "alerts": [],
}
ENOUGH: dict[str, Any] = {"samples": 64}


def train(condition: Condition, folder: Path, monitor: SensitivityMonitor | None) -> Witness:
    """Train once, with or without the monitor."""
    pl.seed_everything(7, verbose=False)
    witness, module = Witness(), condition.module()
    ours = [monitor] if monitor is not None else []
    options = {"logger": False, "max_epochs": 1, **condition.options}
    options["plugins"] = condition.plugins()
    callbacks = [*ours, witness, *condition.callbacks()]
    with condition.within():
        fitting = trainer(pl, folder, callbacks=callbacks, **options)
        pl.seed_everything(7, verbose=False)
        fitting.fit(module, condition.loader())
    states = [optimizer.state_dict() for optimizer in fitting.optimizers]
    witness.digests.append(fingerprint(module.state_dict(), states))
    return witness


def watching(condition: Condition) -> SensitivityMonitor:
    given = {**CONFIG, **condition.config}
    given["probes"] = {"schedule": {"every": 1}, **ENOUGH, **given.get("probes", {})}
    return SensitivityMonitor(**given)


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> MemorySink:
    return into_memory(monkeypatch)


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
@pytest.mark.parametrize("condition", TRAINED, ids=lambda condition: condition.id)
def test_a_condition_is_as_the_table_says(
    condition: Condition, sink: MemorySink, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        witness = train(condition, tmp_path, watching(condition))
        plain = train(condition, tmp_path, None)
    if condition.is_identical:
        assert witness.digests == plain.digests, "the monitor has changed the training"
    found, reasons = recorded(sink), why_missing(sink)
    seen = sorted(step for step in found if step >= condition.first)
    assert len(seen) >= condition.steps or condition.parameters.word == "withheld"
    families = {
        "parameters": (condition.parameters, PARAMETERS, expected_parameters),
        "samples": (condition.samples, SAMPLES, expected_samples),
        "probes": (condition.probes, PROBES, expected_probes),
    }
    for family, (verdict, quantities, expected) in families.items():
        if verdict.word == "not run here":
            continue
        if verdict.word == "withheld":
            check_withheld(condition, verdict, quantities, found, reasons, family)
        if verdict.is_partly_exact:
            for number in seen:
                wanted = expected(condition, witness.step(number), witness.step(min(found)))
                compare(condition, verdict, found[number], wanted, family, number)


def recorded(sink: MemorySink) -> dict[int, Values]:
    """By step, the values of its records and its probes that are there."""
    found: dict[int, Values] = {}
    for record in [*sink.records, *sink.probes]:
        values = found.setdefault(record.step, {})
        for each in record.records:
            rows = values.setdefault(each.quantity, {})
            for name, value in zip(each.axis.names, each.values.tolist(), strict=True):
                if name not in each.missing:
                    rows[name] = value
    return found


def why_missing(sink: MemorySink) -> list[tuple[int, str, str, str]]:
    """Step, quantity, row and reason of what is missing; a whole quantity's row is empty."""
    found = []
    for record in [*sink.records, *sink.probes]:
        for quantity, reason in record.withheld.items():
            found.append((record.step, quantity, "", reason))
        for each in record.records:
            for row, reason in each.missing.items():
                found.append((record.step, each.quantity, row, reason))
    return found


def check_withheld(
    condition: Condition,
    verdict: Verdict,
    quantities: tuple[str, ...],
    found: Mapping[int, Values],
    reasons: Sequence[tuple[int, str, str, str]],
    family: str,
) -> None:
    """None of the rows has a value, and each says why, in the words of the table."""
    rows = verdict.rows or tuple(names_of(condition))
    for step, values in found.items():
        for quantity in quantities:
            there = set(values.get(quantity, {})) & set(rows)
            is_right = not (there and verdict.withholds(step, quantity))
            assert is_right, f"{quantity} of {there} is there, and should be withheld"
    said = {
        reason
        for step, quantity, row, reason in reasons
        if quantity in quantities and verdict.withholds(step, quantity)
        if not row or row in rows or not verdict.rows
    }
    assert said or not found, f"no reason is given for {family}"
    assert all(verdict.reason in reason for reason in said), said


def compare(
    condition: Condition,
    verdict: Verdict,
    found: Values,
    wanted: Values,
    family: str,
    step: int,
) -> None:
    """Every value that is wanted is there, and as wanted; what is withheld is not compared."""
    what = f"{family} of step {step}"
    for quantity, rows in wanted.items():
        is_withheld = verdict.withholds(step, quantity)
        if is_withheld and not verdict.rows:
            continue
        scale = max((abs(value) for value in rows.values() if np.isfinite(value)), default=0.0)
        for row, value in rows.items():
            if is_withheld and (row in verdict.rows or row.startswith(("(all)", "layer "))):
                continue
            assert row in found.get(quantity, {}), f"{quantity} of {row} is missing in {what}"
            np.testing.assert_allclose(
                found[quantity][row],
                value,
                rtol=condition.tolerance,
                atol=condition.tolerance * scale,
                err_msg=f"{quantity} of {row}, {what}",
            )


@pytest.mark.parametrize(
    "condition", [each for each in CONDITIONS if each.shown_by], ids=lambda each: each.id
)
def test_what_is_shown_elsewhere_is_there(condition: Condition) -> None:
    for test in condition.shown_by:
        file, _, name = test.partition("::")
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"def {name}\b", text), f"{file} has no test {name}"


def test_no_two_conditions_have_one_name() -> None:
    names = [condition.id for condition in CONDITIONS]
    assert len(set(names)) == len(names)


def test_a_wrong_number_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards the tests above: they must be able to fail."""
    sink = into_memory(monkeypatch)
    witness = train(CONDITIONS[0], tmp_path, watching(CONDITIONS[0]))
    found = recorded(sink)[0]
    for family in (expected_parameters, expected_samples, expected_probes):
        wanted = family(CONDITIONS[0], witness.step(0), witness.step(0))
        compare(CONDITIONS[0], CONDITIONS[0].parameters, found, wanted, "all", 0)
        for quantity, rows in wanted.items():
            row = next(iter(rows))
            wrong = {quantity: {**rows, row: rows[row] * (1 + 1e-6)}}
            with pytest.raises(AssertionError, match=quantity):
                compare(CONDITIONS[0], CONDITIONS[0].parameters, found, wrong, "all", 0)
    assert torch.is_grad_enabled()
