"""Samples and leaderboards come back as frames."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from jacoscope import Monitor, read_run
from jacoscope.config import Output
from jacoscope.leaderboard import EpochBoards, Leaderboard, SampleBatch
from jacoscope.sinks import TensorBoardSink

_SAMPLES = [
    *("epoch", "id", "label", "loss", "mean_loss", "norm", "mean_norm", "alignment"),
    *("class_alignment", "mean_class_alignment", "last_layer_norm", "step"),
]
_BOARDS = [
    *("epoch", "board", "layer", "rank", "id", "label", "loss", "mean_loss", "norm"),
    *("mean_norm", "alignment", "class_alignment", "mean_class_alignment", "step"),
]


def _epochs(count: int, ids: list[Any], seed: int = 0, **columns: Any) -> list[EpochBoards]:
    """The boards of some epochs of random numbers."""
    rng = np.random.default_rng(seed)
    leaderboard = Leaderboard(size=3, layers_size=2)
    epochs = []
    for epoch in range(count):
        given: dict[str, Any] = {
            "labels": [index % 2 for index in range(len(ids))],
            "losses": rng.gamma(1, 1, len(ids)),
            "norms_RN": rng.gamma(1, 1, (2, len(ids))),
            "class_alignments_N": rng.uniform(-1, 1, len(ids)),
            **columns,
        }
        batch = SampleBatch(
            ids=ids,
            id_source="dataset index",
            step=epoch * 10,
            rows=("all", "head"),
            alignments_RN=rng.uniform(-1, 1, (2, len(ids))),
            thing=lambda index: None,
            **given,
        )
        leaderboard.add(batch)
        boards = leaderboard.close_epoch(epoch, epoch * 10 + 9)
        assert boards is not None
        epochs.append(boards)
    return epochs


def _write(folder: Path, epochs: list[EpochBoards], **output: Any) -> None:
    writer = SummaryWriter(str(folder))
    sink = TensorBoardSink(writer, Output(pictures=(), **output), owns_writer=True)
    for boards in epochs:
        sink.write_boards(boards)
    sink.close()


def test_samples_come_back(tmp_path: Path) -> None:
    epochs = _epochs(2, [5, 6, 7, 8])
    _write(tmp_path, epochs)
    frame = read_run(tmp_path).samples
    assert list(frame) == _SAMPLES
    assert len(frame) == 2 * 4
    for boards in epochs:
        part, columns = frame[frame["epoch"] == boards.epoch], boards.columns
        assert tuple(part["id"]) == columns.ids
        assert tuple(part["label"]) == columns.labels
        assert tuple(part["step"]) == columns.steps
        for name, values in {
            "loss": columns.losses,
            "mean_loss": columns.mean_losses,
            "norm": columns.norms,
            "mean_norm": columns.mean_norms,
            "alignment": columns.alignments,
            "class_alignment": columns.class_alignments,
            "mean_class_alignment": columns.mean_class_alignments,
            "last_layer_norm": columns.last_layer_norms,
        }.items():
            assert part[name].dtype == np.float64
            np.testing.assert_allclose(part[name], values, rtol=1e-8)


def test_leaderboards_come_back(tmp_path: Path) -> None:
    epochs = _epochs(2, ["a", "b", "c", "d"])
    _write(tmp_path, epochs)
    frame = read_run(tmp_path).leaderboards
    assert list(frame) == _BOARDS
    expected = [
        (boards.epoch, board.name, board.layer, entry.rank, entry.id, entry.label, entry.step)
        for boards in epochs
        for board in boards.boards
        for entry in board.entries
    ]
    columns = ["epoch", "board", "layer", "rank", "id", "label", "step"]
    assert [*frame[columns].itertuples(index=False, name=None)] == expected
    norms = [e.norm for boards in epochs for board in boards.boards for e in board.entries]
    np.testing.assert_allclose(frame["norm"], norms, rtol=1e-8)
    of_layer = frame[frame["board"] == "largest_gradient/head"]
    assert of_layer[["mean_norm", "mean_loss"]].isna().all(axis=None)
    assert set(of_layer["layer"]) == {"head"}


def test_what_is_not_known_comes_back_as_such(tmp_path: Path) -> None:
    norms = np.array([[math.inf, math.nan], [1.0, 1.0]])
    given = {"labels": None, "losses": None, "norms_RN": norms, "class_alignments_N": None}
    _write(tmp_path, _epochs(1, [1, "x"], **given))
    frame = read_run(tmp_path).samples
    assert list(frame["id"]) == [1, "x"]
    assert list(frame["label"]) == [None, None]
    assert frame["norm"].tolist()[0] == math.inf
    assert frame["norm"].isna().tolist() == [False, True]
    assert (
        frame[["loss", "mean_loss", "class_alignment", "mean_class_alignment"]]
        .isna()
        .all(axis=None)
    )


def test_after_resuming_the_last_write_wins(tmp_path: Path) -> None:
    first, second = _epochs(3, [1, 2, 3]), _epochs(3, [2, 3, 4, 5], seed=1)
    _write(tmp_path, first)
    _write(tmp_path, second[1:2])
    run = read_run(tmp_path)
    assert run.samples.groupby("epoch").size().to_dict() == {0: 3, 1: 4, 2: 3}
    again = run.samples[run.samples["epoch"] == 1]
    assert tuple(again["id"]) == second[1].columns.ids
    boards = run.leaderboards[run.leaderboards["epoch"] == 1]
    assert 1 not in set(boards["id"])


def test_a_run_without_samples_has_empty_frames(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sink = TensorBoardSink(SummaryWriter(str(tmp_path)), Output(pictures=()), owns_writer=True)
    config = {"on_error": "raise", "quantities": ["grad_norm"]}
    with Monitor(model, config, sinks=[sink]) as monitor:
        monitor.begin_step(0, 0)
        model(torch.randn(3, 2)).square().mean().backward()
        monitor.before_optimizer_step(optimizer)
        optimizer.step()
        monitor.end_step()
    run = read_run(tmp_path)
    for frame, columns in ((run.samples, _SAMPLES), (run.leaderboards, _BOARDS)):
        assert isinstance(frame, pd.DataFrame)
        assert list(frame) == columns
        assert frame.empty


def test_a_record_that_cannot_be_understood_is_passed_over(tmp_path: Path) -> None:
    from jacoscope.sinks._events import add_values, text_value

    _write(tmp_path, _epochs(1, [1, 2]))
    with SummaryWriter(str(tmp_path)) as writer:
        add_values(writer, [text_value("jacoscope/sensitivity/.samples", "no JSON", b"{}")], 9)
    assert len(read_run(tmp_path).samples) == 2


@pytest.mark.parametrize("group", ["sensitivity", "other"])
def test_groups_are_kept_apart(group: str, tmp_path: Path) -> None:
    for name, ids in (("sensitivity", [1]), ("other", [2])):
        _write(tmp_path, _epochs(1, ids), group=name)
    expected = [1] if group == "sensitivity" else [2]
    assert list(read_run(tmp_path, group).samples["id"]) == expected
