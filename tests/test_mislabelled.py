"""Digits, of which 5 % get a wrong label on purpose: a leaderboard finds them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BEST = "largest_mean_loss"


def script() -> Any:
    path = ROOT / "scripts" / "mislabelled_digits.py"
    spec = importlib.util.spec_from_file_location("mislabelled_digits", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_first_5_percent_hold_four_in_five_wrong_labels(tmp_path: Path) -> None:
    mislabelled = script()
    trial = mislabelled.train(0, mislabelled.Options(epochs=6), tmp_path)
    samples = trial.run.samples
    assert len(trial.wrong) == round(0.05 * samples.id.nunique())
    by_board = mislabelled.board_shares(trial.run, trial.wrong)
    assert by_board[BEST] >= 0.8, by_board
    by_column = mislabelled.column_shares(trial.run, trial.wrong)
    assert by_board[BEST] >= by_column["loss, last epoch"], by_column
    # Columns and boards are the same numbers.
    for name, board in {
        "gradient norm": "largest_gradient",
        "alignment, lowest first": "worst_alignment",
        "alignment with class, lowest first": "worst_class_alignment",
        "running mean of the loss": "largest_mean_loss",
        "running mean of the gradient norm": "largest_mean_gradient",
        "running mean of the alignment with class, lowest first": "worst_mean_class_alignment",
    }.items():
        assert by_column[name] == by_board[board], name
