"""Samples over an epoch: who stands on which board, against a ranking of everything at once."""

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jacoscope.leaderboard import EpochBoards, Leaderboard, SampleBatch, SampleId, Thing
from jacoscope.leaderboard._means import RunningMeans

_NAN, _INF = math.nan, math.inf


def _batch(
    norms: dict[SampleId, float] | list[tuple[SampleId, float]],
    *,
    step: int = 0,
    thing: Callable[[int], Thing | None] = lambda index: None,
    layers: dict[str, list[float]] | None = None,
    **columns: Any,
) -> SampleBatch:
    """A batch of samples with these norms."""
    pairs = list(norms.items()) if isinstance(norms, dict) else norms
    layers = layers or {}
    rows = [[norm for _, norm in pairs], *layers.values()]
    alignments = columns.pop("alignments", [0.5] * len(pairs))
    class_alignments = columns.pop("class_alignments", None)
    losses = columns.pop("losses", None)
    return SampleBatch(
        ids=[name for name, _ in pairs],
        id_source=columns.pop("id_source", "dataset index"),
        step=step,
        labels=columns.pop("labels", None),
        losses=None if losses is None else np.array(losses),
        rows=("all", *layers),
        norms_RN=np.array(rows, dtype=np.float64).reshape(len(rows), len(pairs)),
        alignments_RN=np.array([alignments] * len(rows), dtype=np.float64),
        class_alignments_N=None if class_alignments is None else np.array(class_alignments),
        thing=thing,
    )


def _close(leaderboard: Leaderboard, epoch: int = 0, step: int = 0) -> EpochBoards:
    boards = leaderboard.close_epoch(epoch, step)
    assert boards is not None
    return boards


def _ids(boards: EpochBoards, name: str) -> list[SampleId]:
    (board,) = [board for board in boards.boards if board.name == name]
    assert [entry.rank for entry in board.entries] == list(range(1, len(board.entries) + 1))
    return [entry.id for entry in board.entries]


def _names(boards: EpochBoards) -> list[str]:
    return [board.name for board in boards.boards]


def test_nothing_added_is_no_boards() -> None:
    leaderboard = Leaderboard()
    assert leaderboard.close_epoch(0, 5) is None
    leaderboard.add(_batch({}))
    assert leaderboard.close_epoch(0, 5) is None


def test_an_epoch_says_where_it_stands_and_the_next_starts_anew() -> None:
    leaderboard = Leaderboard()
    leaderboard.add(_batch({7: 1.0, 8: 2.0}))
    leaderboard.add(_batch({8: 3.0, 9: 0.5}, step=1))
    boards = _close(leaderboard, epoch=4, step=11)
    assert (boards.epoch, boards.step, boards.seen) == (4, 11, 3)
    assert (boards.id_source, boards.omitted, boards.last_layer) == ("dataset index", 0, None)
    assert leaderboard.close_epoch(5, 12) is None


def test_samples_are_ranked_and_described() -> None:
    leaderboard = Leaderboard(size=2)
    columns: dict[str, Any] = {
        "labels": ["cat", "dog", "cat"],
        "losses": [0.1, _NAN, 0.3],
        "alignments": [0.9, -0.2, 0.1],
        "class_alignments": [0.4, _NAN, -0.5],
    }
    leaderboard.add(_batch({"a": 1.0, "b": 3.0, "c": 2.0}, step=6, **columns))
    boards = _close(leaderboard)
    assert _ids(boards, "largest_gradient") == ["b", "c"]
    assert _ids(boards, "largest_mean_gradient") == ["b", "c"]
    assert _ids(boards, "largest_mean_loss") == ["c", "a"]
    assert _ids(boards, "worst_alignment") == ["b", "c"]
    assert _ids(boards, "worst_class_alignment") == ["c", "a"]
    assert _ids(boards, "worst_mean_class_alignment") == ["c", "a"]
    entry = boards.boards[-1].entries[0]
    assert (entry.label, entry.loss, entry.step, entry.layer) == ("cat", 0.3, 6, None)
    assert (entry.norm, entry.mean_norm, entry.mean_loss, entry.alignment) == (2.0, 2.0, 0.3, 0.1)
    assert (entry.class_alignment, entry.mean_class_alignment) == (-0.5, -0.5)
    assert all(board.title and board.explanation for board in boards.boards)


def test_without_classes_or_losses_there_is_no_board_of_them() -> None:
    leaderboard = Leaderboard()
    leaderboard.add(_batch({1: 1.0}))
    assert _names(_close(leaderboard)) == [
        *("largest_gradient", "worst_alignment", "largest_mean_gradient"),
    ]


def test_the_last_values_count() -> None:
    leaderboard = Leaderboard(size=1)
    leaderboard.add(_batch({1: 9.0, 2: 5.0}, labels=[1, 2], losses=[1.0, 1.0]))
    leaderboard.add(_batch([(1, 4.0), (3, 1.0), (3, 2.0)], step=3, alignments=[-1, 0, 0.25]))
    boards = _close(leaderboard)
    assert boards.seen == 3
    assert _ids(boards, "largest_gradient") == [2]
    assert _ids(boards, "worst_alignment") == [1]
    columns = boards.columns
    assert columns.ids == (2, 1, 3)
    assert columns.labels == (2, 1, None)
    assert columns.steps == (0, 3, 3)
    np.testing.assert_array_equal(columns.norms, [5.0, 4.0, 2.0])
    np.testing.assert_array_equal(columns.alignments, [0.5, -1.0, 0.25])
    np.testing.assert_array_equal(columns.losses, [1.0, _NAN, _NAN])


def test_ties_break_by_id_numbers_first() -> None:
    leaderboard = Leaderboard(size=4)
    for name in ("b", 10, "a", 9):
        leaderboard.add(_batch({name: 1.0}, layers={"head": [1.0]}))
    boards = _close(leaderboard)
    for name in ("largest_gradient", "worst_alignment", "largest_gradient/head"):
        assert _ids(boards, name) == [9, 10, "a", "b"]


def test_infinity_leads_and_nan_has_no_place() -> None:
    leaderboard = Leaderboard()
    values: dict[SampleId, float] = {1: _NAN, 2: 1.0, 3: _INF}
    head = [_NAN, _INF, 1.0]
    leaderboard.add(_batch(values, alignments=[_NAN] * 3, layers={"head": head}))
    boards = _close(leaderboard)
    assert _names(boards) == [
        *("largest_gradient", "largest_mean_gradient", "largest_gradient/head"),
    ]
    assert _ids(boards, "largest_gradient") == [3, 2]
    assert _ids(boards, "largest_mean_gradient") == [2]
    assert _ids(boards, "largest_gradient/head") == [2, 3]
    assert boards.columns.ids == (3, 2, 1)


# Layers


def test_layers_have_boards_of_their_own() -> None:
    leaderboard = Leaderboard(layers_size=2)
    layers = {"conv": [1.0, 2.0, 3.0], "head": [6.0, 5.0, 4.0]}
    asked: list[int] = []
    batch = _batch(
        {"a": 1.0, "b": 2.0, "c": 3.0}, step=2, layers=layers, labels=[0, 1, 2], thing=asked.append
    )
    leaderboard.add(batch)
    boards = _close(leaderboard)
    assert _ids(boards, "largest_gradient/conv") == ["c", "b"]
    assert _ids(boards, "largest_gradient/head") == ["a", "b"]
    entry = boards.boards[-1].entries[0]
    assert (entry.layer, entry.norm, entry.alignment, entry.label) == ("head", 6.0, 0.5, 0)
    assert entry.thing is None
    assert math.isnan(entry.mean_norm)
    assert math.isnan(entry.mean_loss)
    assert boards.last_layer == "head"
    assert boards.columns.ids == ("c", "b", "a")
    np.testing.assert_array_equal(boards.columns.last_layer_norms, [4.0, 5.0, 6.0])


def test_a_layer_may_be_missing_from_a_batch() -> None:
    leaderboard = Leaderboard()
    leaderboard.add(_batch({1: 1.0}, layers={"conv": [1.0], "head": [2.0]}))
    leaderboard.add(_batch({2: 3.0}, layers={"conv": [7.0]}))
    boards = _close(leaderboard)
    assert _ids(boards, "largest_gradient/conv") == [2, 1]
    assert _ids(boards, "largest_gradient/head") == [1]
    np.testing.assert_array_equal(boards.columns.last_layer_norms, [_NAN, 2.0])


def test_no_layer_boards_where_none_are_wanted() -> None:
    leaderboard = Leaderboard(layers_size=0)
    leaderboard.add(_batch({1: 1.0}, layers={"head": [2.0]}))
    assert "largest_gradient/head" not in _names(_close(leaderboard))


# Means


def test_means_run_over_epochs() -> None:
    leaderboard = Leaderboard(epochs_decay=0.5)
    leaderboard.add(_batch({1: 8.0, 2: 1.0}))
    assert _ids(_close(leaderboard), "largest_mean_gradient") == [1, 2]
    leaderboard.add(_batch({1: 2.0, 2: 3.0, 3: 2.5}))
    boards = _close(leaderboard)
    assert _ids(boards, "largest_gradient") == [2, 3, 1]
    assert _ids(boards, "largest_mean_gradient") == [1, 3, 2]
    means = dict(zip(boards.columns.ids, boards.columns.mean_norms, strict=True))
    assert means == pytest.approx({1: (4 + 2) / 1.5, 2: (0.5 + 3) / 1.5, 3: 2.5})


def test_losses_and_alignments_with_the_class_have_means_too() -> None:
    leaderboard = Leaderboard(epochs_decay=0.5)
    leaderboard.add(_batch({1: 1.0, 2: 1.0}, losses=[4.0, 1.0], class_alignments=[-0.5, 0.5]))
    _close(leaderboard)
    leaderboard.add(_batch({1: 1.0, 2: 1.0}, losses=[1.0, 2.0], class_alignments=[0.25, 0.0]))
    boards = _close(leaderboard)
    assert _ids(boards, "largest_mean_loss") == [1, 2]
    assert _ids(boards, "worst_class_alignment") == [2, 1]
    assert _ids(boards, "worst_mean_class_alignment") == [1, 2]
    columns = boards.columns
    assert columns.ids == (1, 2)
    assert columns.mean_losses.tolist() == pytest.approx([(2 + 1) / 1.5, (0.5 + 2) / 1.5])
    assert columns.mean_class_alignments.tolist() == pytest.approx([0.0, 0.25 / 1.5])
    (board,) = [board for board in boards.boards if board.name == "largest_mean_loss"]
    assert [entry.mean_loss for entry in board.entries] == columns.mean_losses.tolist()
    assert [entry.loss for entry in board.entries] == [1.0, 2.0]


def test_later_epochs_weigh_little_more_than_earlier_ones_unless_told() -> None:
    leaderboard = Leaderboard()
    leaderboard.add(_batch({1: 1.0}))
    _close(leaderboard)
    leaderboard.add(_batch({1: 2.0}))
    assert _close(leaderboard).columns.mean_norms.item() == pytest.approx((0.9 + 2) / 1.9)


def test_means_count_once_per_epoch_and_skip_what_is_not_finite() -> None:
    leaderboard = Leaderboard(epochs_decay=0.5)
    for norm, alignment in ((100.0, 0.0), (4.0, -1.0)):
        leaderboard.add(_batch({1: norm}, class_alignments=[alignment]))
    leaderboard.close_epoch(0, 0)
    leaderboard.add(_batch({1: _INF}, class_alignments=[_NAN]))
    columns = _close(leaderboard).columns
    assert (columns.mean_norms.item(), columns.mean_class_alignments.item()) == (4.0, -1.0)


@pytest.mark.parametrize("name", ["a", 7, -(2**63) - 1])
def test_means_survive_a_checkpoint(name: str | int) -> None:
    first, second = Leaderboard(), Leaderboard()
    first.add(_batch({name: 8.0, 2: 1.0}, losses=[1.0, 2.0], class_alignments=[0.5, _NAN]))
    first.close_epoch(0, 0)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for leaderboard in (first, second):
        columns = {"losses": [1.0, 2.0, 3.0], "class_alignments": [0.1, 0.2, 0.3]}
        leaderboard.add(_batch({2: 3.0, name: 1.0, 5: 2.0}, **columns))
    columns_1, columns_2 = _close(first).columns, _close(second).columns
    assert columns_1.ids == columns_2.ids
    np.testing.assert_array_equal(columns_1.mean_norms, columns_2.mean_norms)
    np.testing.assert_array_equal(columns_1.mean_losses, columns_2.mean_losses)
    np.testing.assert_array_equal(columns_1.mean_class_alignments, columns_2.mean_class_alignments)
    assert first.state_dict() == second.state_dict()


def test_a_checkpoint_without_a_state_is_a_fresh_start() -> None:
    leaderboard = Leaderboard()
    leaderboard.load_state_dict({})
    leaderboard.add(_batch({1: 2.0}))
    assert _close(leaderboard).columns.mean_norms.item() == 2.0


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_a_checkpoint_with_other_means_is_a_fresh_start(samples: int) -> None:
    old = RunningMeans(0.7, means=2)
    old.update(list(range(samples)), np.ones((samples, 2)))
    leaderboard = Leaderboard()
    leaderboard.add(_batch({0: 5.0}))
    _close(leaderboard)
    leaderboard.load_state_dict({"means": old.state_dict()})
    assert leaderboard.state_dict() == Leaderboard().state_dict()
    leaderboard.add(_batch({0: 2.0}))
    assert _close(leaderboard).columns.mean_norms.item() == 2.0


def test_those_not_updated_for_longest_are_forgotten() -> None:
    means = RunningMeans(0.5, means=1, limit=3)
    means.update([1, 2], np.array([[8.0], [8.0]]))
    means.update([3, 1], np.array([[8.0], [8.0]]))
    means.update([4], np.array([[8.0]]))
    assert len(means) == 3
    found = means.preview([1, 2, 3, 4], np.zeros((4, 1)))
    assert found[:, 0].tolist() == pytest.approx([6 / 1.75, 0.0, 4 / 1.5, 4 / 1.5])
    means.update([2, 1], np.zeros((2, 1)))
    nothing = means.preview(list(range(5)), np.full((5, 1), _NAN))
    assert np.flatnonzero(~np.isnan(nothing[:, 0])).tolist() == [1, 2, 4]


# Things


def test_only_samples_on_a_board_are_asked_for() -> None:
    leaderboard = Leaderboard(size=1)
    asked: list[int] = []

    def thing(index: int) -> str:
        asked.append(index)
        return f"sample {index}"

    leaderboard.add(_batch({1: 1.0, 2: 5.0, 3: 2.0}, alignments=[0.5, 0.6, 0.1], thing=thing))
    assert asked == [1, 2]  # the largest gradient, and the worst alignment
    leaderboard.add(_batch({4: 4.0, 5: 0.1}, step=1, thing=thing))
    assert asked == [1, 2]
    largest, worst = _close(leaderboard).boards[:2]
    assert (largest.entries[0].thing, worst.entries[0].thing) == ("sample 1", "sample 2")


def test_a_thing_is_that_of_the_last_values() -> None:
    leaderboard = Leaderboard(size=1)
    leaderboard.add(_batch([(1, 1.0), (1, 2.0)], thing=lambda index: f"first {index}"))
    assert leaderboard._things == {1: "first 1"}
    leaderboard.add(_batch({1: 3.0}, thing=lambda index: f"second {index}"))
    assert _close(leaderboard).boards[0].entries[0].thing == "second 0"


def test_images_are_copied_so_that_the_batch_is_let_go() -> None:
    images = np.zeros((2, 3, 3, 1), dtype=np.uint8)
    leaderboard = Leaderboard()
    leaderboard.add(_batch({1: 1.0}, thing=lambda index: images[index]))
    thing = _close(leaderboard).boards[0].entries[0].thing
    assert isinstance(thing, np.ndarray)
    assert not np.shares_memory(thing, images)
    assert thing.base is None


def test_things_of_samples_far_from_a_board_are_let_go() -> None:
    leaderboard = Leaderboard(size=2)
    for step in range(100):
        leaderboard.add(_batch({step: float(step)}, step=step, thing=lambda index: "text"))
    assert len(leaderboard._things) <= 2 * 2 * 4


def test_a_thing_that_fails_costs_no_numbers() -> None:
    def fail(index: int) -> Thing:
        raise OSError("no such file")

    leaderboard = Leaderboard()
    with pytest.raises(OSError, match="no such file"):
        leaderboard.add(_batch({1: 1.0}, thing=fail, layers={"head": [1.0]}))
    assert _ids(_close(leaderboard), "largest_gradient/head") == [1]


# Alignment with the class


def test_alignment_with_the_class_is_a_mean_of_cosines() -> None:
    from jacoscope.sample_results import _class_alignments

    rng = np.random.default_rng(0)
    gradients_NP = rng.normal(size=(7, 5)) * rng.gamma(1, 100, (7, 1))
    gradients_NP[2] = 0
    classes = np.array([0, 1, 0, 0, 1, 2, 0])
    found = _class_alignments(gradients_NP @ gradients_NP.T, classes)
    assert found is not None

    def cosine(i: int, k: int) -> float:
        a, b = gradients_NP[i], gradients_NP[k]
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    assert np.isnan(found).tolist() == [i in (2, 5) for i in range(7)]
    assert found[1] == pytest.approx(cosine(1, 4))
    assert found[0] == pytest.approx((cosine(0, 3) + cosine(0, 6)) / 2)
    # A few large gradients do not outweigh the rest.
    gradients_NP[3] *= 1e6
    again = _class_alignments(gradients_NP @ gradients_NP.T, classes)
    np.testing.assert_allclose(again, found)


def test_gradients_without_a_direction_have_no_part_in_their_class() -> None:
    from jacoscope.sample_results import _class_alignments

    gram_NN = np.array(
        [[1.0, 0.5, _NAN, 2.0], [0.5, 1.0, _NAN, 3.0], [_NAN] * 4, [2, 3, _NAN, _INF]]
    )
    found = _class_alignments(gram_NN, np.zeros(4, dtype=np.int64))
    np.testing.assert_array_equal(found, [0.5, 0.5, _NAN, _NAN])
    alone = _class_alignments(np.ones((1, 1)), np.zeros(1, dtype=np.int64))
    np.testing.assert_array_equal(alone, [_NAN])
    assert _class_alignments(None, np.zeros(4, dtype=np.int64)) is None
    assert _class_alignments(gram_NN, None) is None


# The rest


def test_columns_are_capped_by_the_largest_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jacoscope.leaderboard._leaderboard._COLUMNS_LIMIT", 3)
    leaderboard = Leaderboard()
    leaderboard.add(_batch({name: float(name % 4) for name in range(8)}))
    boards = _close(leaderboard)
    assert (boards.seen, boards.omitted) == (8, 5)
    assert boards.columns.ids == (3, 7, 2)
    assert len(boards.columns.norms) == len(boards.columns.steps) == 3


def test_ids_and_labels_are_plain() -> None:
    batch = _batch({1: 1.0, 2: 2.0})
    object.__setattr__(batch, "ids", np.array([1, 2]))
    object.__setattr__(batch, "labels", np.array(["x", "y"]))
    leaderboard = Leaderboard()
    leaderboard.add(batch)
    columns = _close(leaderboard).columns
    assert [type(name) for name in columns.ids] == [int, int]
    assert [type(label) for label in columns.labels] == [str, str]


def test_several_sources_of_ids_are_all_named() -> None:
    leaderboard = Leaderboard()
    for source in ("dataset index", "batch key 'uid'", "dataset index"):
        leaderboard.add(_batch({1: 1.0}, id_source=source))
    assert _close(leaderboard).id_source == "dataset index or batch key 'uid'"


def test_a_batch_of_wrong_shape_is_refused() -> None:
    with pytest.raises(AssertionError, match="losses"):
        _batch({1: 1.0}, losses=[1.0, 2.0])
    with pytest.raises(AssertionError, match="a row comes twice"):
        _batch({1: 1.0}, layers={"all": [1.0]})


_SAMPLES = st.tuples(
    st.integers(0, 12) | st.sampled_from("abc"),
    st.floats(0, 10) | st.sampled_from([_NAN, _INF, 1.0]),
    st.floats(-1, 1) | st.just(_NAN),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(_SAMPLES, min_size=1, max_size=6), min_size=1, max_size=6))
def test_boards_are_those_of_ranking_everything_at_once(batches: list[Any]) -> None:
    leaderboard = Leaderboard(size=3)
    last: dict[SampleId, tuple[float, float]] = {}
    for batch in batches:
        pairs = [(name, norm) for name, norm, _ in batch]
        leaderboard.add(_batch(pairs, alignments=[alignment for _, _, alignment in batch]))
        last.update({name: (norm, alignment) for name, norm, alignment in batch})
    boards = _close(leaderboard)
    ranked = sorted(last, key=lambda name: (isinstance(name, str), name))
    largest = sorted(ranked, key=lambda name: -last[name][0])
    for board, column, order in (("largest_gradient", 0, -1), ("worst_alignment", 1, 1)):
        known = [name for name in ranked if not math.isnan(last[name][column])]
        expected = sorted(known, key=lambda name: order * last[name][column])[:3]
        assert (_ids(boards, board) if expected else []) == expected
    assert boards.seen == len(largest) == len(boards.columns.ids)


# Pushes


def test_pushes_are_the_largest_shares_of_the_last_values() -> None:
    layers = {f"layer{place}": [float(place), 1.0] for place in range(7)}
    norms = {"a": sum(place**2 for place in range(7)) ** 0.5, "b": 7**0.5}
    leaderboard = Leaderboard()
    leaderboard.add(_batch(norms, layers={name: [1.0, 1.0] for name in layers}))
    leaderboard.add(_batch(norms, layers=layers, step=1))
    pushes = _close(leaderboard).pushes
    assert [layer for layer, _ in pushes["a"]] == [f"layer{place}" for place in (6, 5, 4, 3, 2)]
    assert [share for _, share in pushes["a"]] == pytest.approx(
        [k / 91 for k in (36, 25, 16, 9, 4)]
    )
    assert [share for _, share in pushes["b"]] == pytest.approx([1 / 7] * 5)


def test_only_samples_on_a_board_have_pushes() -> None:
    leaderboard = Leaderboard(size=1)
    layers = {"conv": [1.0, 5.0, 2.0]}
    leaderboard.add(_batch({1: 1.0, 2: 5.0, 3: 2.0}, alignments=[0.5, 0.6, 0.1], layers=layers))
    assert set(_close(leaderboard).pushes) == {2, 3}
    assert not leaderboard._pushes
