"""Samples of two gloo processes on loopback: the numbers of the whole step, no hang, no change.

The reference runs every sample of both processes through the network by itself, by plain autograd.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
    allreduce_hook,
    fp16_compress_hook,
    fp16_compress_wrapper,
)

from jacoscope import Run, read_run
from jacoscope._lightning import samples_withheld_reason
from jacoscope.record import NORM_QUANTILES, StepRecord
from sample_training import (
    PER_SAMPLE,
    Expected,
    alone,
    compare,
    cross_entropies,
    perceptron,
    places,
    rows_of_pairs,
    values_of,
)
from samples_ddp_script import FAULTS, OF_GRADIENTS, Images
from test_callback_ddp import launch
from test_samples_callback import MEMBERS

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("samples_ddp_script.py")
PROCESSES = (0, 1)
WITHOUT_SPARE = {
    "unused": "process 1: the loss does not depend on it",
    "unused by all": "the loss does not depend on it",
}
OF_BOTH = ("noise_scale", "gsnr", "grad_diversity", "grad_variance", "sample_alignment")
"""Made of samples and of the gradient that the processes share, with its rounding errors."""


class Outcome:
    """What a situation came to.

    Attributes:
        seen: By process and step, the weights and batches of each backward.
        whole: By step, those of all processes.
    """

    def __init__(self, folder: Path, name: str) -> None:
        kept = [pickle.loads((folder / f"{name}-{rank}.pkl").read_bytes()) for rank in PROCESSES]
        self.records: list[StepRecord] = kept[0]["records"]
        self.boards = kept[0].get("boards", [])
        self.seen = [each["seen"] for each in kept]
        self.whole = {step: [*part, *self.seen[1][step]] for step, part in self.seen[0].items()}
        self.fingerprints = [each.get("fingerprint") for each in kept]
        self.warnings = [each.get("warnings") for each in kept]
        assert not kept[1]["records"], "rank zero alone records"

    @property
    def withheld(self) -> list[set[str]]:
        """By record, the reasons why samples are withheld."""
        return [set(record.withheld.values()) for record in self.records]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("situations")
    done = launch(SCRIPT, str(folder), timeout=180)
    assert done.stdout.count("DONE") == 2
    return folder


def contributions(
    step: Sequence[Any], window: int, reduction: str = "mean"
) -> list[dict[str, Any]]:
    """Of each backward, the part that each sample has in the gradient that all processes share."""
    parts = []
    for state, (features, labels), _ in step:
        network = perceptron(torch.float64)
        network.load_state_dict(state)
        # Of a sum, the sample's own gradient; the definitions divide it by the number of samples.
        share = 1 / (len(labels) * window * len(PROCESSES)) if reduction == "mean" else 1.0
        parts.append(alone(network, cross_entropies, (features, labels), len(labels), share))
    return parts


def check(
    outcome: Outcome,
    *,
    window: int = 1,
    reduction: str = "mean",
    members: Mapping[str, tuple[str, ...]] = MEMBERS,
    rounding: float = 0.0,
) -> None:
    """Every value of every record; ``rounding`` is what gradients lost on their way."""
    expected = Expected(dict(members), reduction)
    assert [record.step for record in outcome.records] == sorted(outcome.whole)
    for record in outcome.records:
        step = outcome.whole[record.step]
        parts = contributions(step, window, reduction)
        labels = [batch[1].numpy() for _, batch, _ in step]
        skip = OF_BOTH if rounding else ()
        compare(values_of(record), expected.of_step(parts, labels), 1e-9, 1e-12, skip)
        assert record.headline["sample_closure"] < 1e-9
        if reduction == "mean":
            check_gradients(record, parts, rounding)
        assert record.samples is not None
        assert record.samples.samples == sum(map(len, labels))
        check_quantiles(record, parts, window, reduction, members)


def check_gradients(
    record: StepRecord, parts: Sequence[Mapping[str, Any]], rounding: float
) -> None:
    """The gradient that all processes share is the sum of all contributions."""
    values = values_of(record)
    for name in parts[0]:
        whole = sum(part[name].sum(0) for part in parts)
        expected = (np.linalg.norm(whole), abs(whole).max(), whole.mean())
        found = [values[name][quantity] for quantity in OF_GRADIENTS]
        scale = abs(whole).max()
        np.testing.assert_allclose(
            found, expected, rtol=max(rounding, 1e-9), atol=scale * max(rounding, 1e-12)
        )


def check_quantiles(
    record: StepRecord,
    parts: Sequence[Mapping[str, Any]],
    window: int,
    reduction: str,
    members: Mapping[str, tuple[str, ...]],
) -> None:
    assert record.samples is not None
    rows = dict(zip(record.samples.axis.names, record.samples.quantiles_RQ, strict=True))
    for row, names in members.items():
        own = []
        for part in parts:
            whole = np.concatenate([part[name] for name in names], axis=1)
            scale = len(whole) * window * len(PROCESSES) if reduction == "mean" else 1
            own += np.linalg.norm(whole * scale, axis=1).tolist()
        np.testing.assert_allclose(rows[row], np.quantile(own, NORM_QUANTILES), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "sizes", "options"),
    [
        ("uneven", [{16}, {16}, {11}] * 2, {}),
        ("accumulated", [{48}, {5}], {"window": 3}),
        ("summed", [{32}, {11}], {"window": 2, "reduction": "sum"}),
        ("unused", [{16}, {16}, {8}], {}),
        ("unused by all", [{16}, {16}, {8}], {}),
        ("static", [{16}, {16}, {8}], {}),
        ("validated", [{32}, {32}], {"window": 2}),
    ],
)
def test_every_number_is_that_of_the_whole_step(
    name: str, sizes: Any, options: Any, folder: Path
) -> None:
    outcome = Outcome(folder, name)
    counts = [{sum(len(b[1]) for _, b, _ in outcome.whole[s])} for s in sorted(outcome.whole)]
    assert counts == sizes
    check(outcome, **options)
    assert outcome.warnings == [[], []]
    # Of 56 scalars the spare parameter has three.
    everything = 53 / 56 if name.startswith("unused") else 1.0
    for record in outcome.records:
        assert record.headline["sample_coverage"] == pytest.approx(everything)
        spare = record.missing.get("sample_grad_norm", {}).get("spare")
        assert spare == WITHOUT_SPARE.get(name)


def test_the_gram_matrix_is_of_the_first_backward(folder: Path) -> None:
    outcome = Outcome(folder, "accumulated")
    first, second = outcome.records
    assert first.samples is not None
    assert second.samples is not None
    assert second.samples.gram is None
    gram = first.samples.gram
    assert gram is not None
    part = contributions(outcome.whole[0], 3)[0]
    rows = np.concatenate(list(part.values()), axis=1) * 8 * 3 * 2
    np.testing.assert_allclose(gram.values_NN, rows @ rows.T, rtol=1e-9, atol=1e-12)
    assert gram.samples == 8
    assert list(gram.ids) == places(outcome.whole[0][0][1], 53)


def expected_of_epoch(steps: Sequence[Any], samples: int) -> dict[int, tuple[float, ...]]:
    """By place in the dataset: gradient norm, alignment with its batch, loss."""
    expected: dict[int, tuple[float, ...]] = {}
    for step in steps:
        for (state, batch, _), part in zip(step, contributions(step, 1), strict=True):
            rows = np.concatenate(list(part.values()), axis=1) * len(batch[1]) * len(PROCESSES)
            norms, total = np.linalg.norm(rows, axis=1), rows.sum(0)
            cosines = rows @ total / norms / np.linalg.norm(total)
            network = perceptron(torch.float64)
            network.load_state_dict(state)
            losses = cross_entropies(network, batch).tolist()
            numbers = zip(norms.tolist(), cosines.tolist(), losses, strict=True)
            expected.update(zip(places(batch, samples), numbers, strict=True))
    return expected


@pytest.mark.parametrize(
    ("name", "samples", "epochs"),
    [("uneven", 43, [[0, 1, 2], [3, 4, 5]]), ("accumulated", 53, [[0, 1]])],
)
def test_leaderboards_are_of_all_samples(
    name: str, samples: int, epochs: Any, folder: Path
) -> None:
    outcome = Outcome(folder, name)
    for boards, steps in zip(outcome.boards, epochs, strict=True):
        expected = expected_of_epoch([outcome.whole[step] for step in steps], samples)
        columns = boards.columns
        assert boards.seen == len(expected) == samples
        assert boards.id_source == "dataset index"
        found = zip(columns.norms, columns.alignments, columns.losses, strict=True)
        for sample, numbers in zip(columns.ids, found, strict=True):
            np.testing.assert_allclose(numbers, expected[int(sample)], rtol=1e-9)
        largest = sorted(expected, key=lambda sample: -expected[sample][0])
        (board,) = [each for each in boards.boards if each.name == "largest_gradient"]
        assert [entry.id for entry in board.entries] == largest[:32]


def test_ids_are_those_of_all_processes(folder: Path) -> None:
    """In the first epoch, too, whose indices workers draw before it begins."""
    dataset = rows_of_pairs(42)
    outcome = Outcome(folder, "workers")
    assert len(outcome.boards) == 2
    for boards in outcome.boards:
        assert boards.id_source == "dataset index"
        assert sorted(boards.columns.ids) == list(range(42))
        for index, label in zip(boards.columns.ids, boards.columns.labels, strict=True):
            assert label == int(dataset[int(index)][1])


def test_indices_into_datasets_of_their_own_are_told_apart(folder: Path) -> None:
    (boards,) = Outcome(folder, "separate").boards
    assert boards.id_source == "dataset index and process"
    dataset = rows_of_pairs(32)
    for name, label in zip(boards.columns.ids, boards.columns.labels, strict=True):
        index, process = str(name).split(", process ")
        assert label == int(dataset[2 * int(index) + int(process)][1])
    assert boards.seen == 32


def test_positions_are_told_apart(folder: Path) -> None:
    (boards,) = Outcome(folder, "unnamed").boards
    assert boards.seen == 16
    assert {str(name).partition(" #")[0] for name in boards.columns.ids} == {
        "step 0, process 0",
        "step 0, process 1",
    }


def test_leaders_of_all_processes_are_shown(folder: Path) -> None:
    outcome = Outcome(folder, "pictures")
    (boards,) = outcome.boards
    images = Images()
    shown = set()
    for board in boards.boards:
        if board.layer is not None:
            continue
        assert len(board.entries) == 4
        for entry in board.entries:
            image = images[int(entry.id)][0]
            scaled = (image - image.min()) / (image.max() - image.min()) * 255
            assert entry.thing is not None, board.name
            expected = scaled.float().round().to(torch.uint8).permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(entry.thing, expected)
            shown.add(int(entry.id))
    for part in outcome.seen:
        backwards = [backward for step in part.values() for backward in step]
        own = {image.numpy().tobytes() for _, batch, _ in backwards for image in batch[0]}
        assert any(images[index][0].numpy().tobytes() in own for index in shown)


def test_a_hook_of_rank_zero_decides(folder: Path) -> None:
    outcome = Outcome(folder, "hook")
    assert [record.step for record in outcome.records] == [1]
    outcome.whole = {1: outcome.whole[1]}
    check(outcome, window=2)
    assert outcome.warnings == [[], []]


def test_a_hook_that_fails_costs_its_step(folder: Path) -> None:
    outcome = Outcome(folder, "failing hook")
    assert [record.step for record in outcome.records] == [0, 2]
    assert outcome.withheld == [set(), set()]
    (said,), nothing = outcome.warnings
    assert "deciding what to capture failed" in said
    assert not nothing


@pytest.mark.parametrize(
    ("watched", "plain"),
    [("with", "without"), ("static", "static alone"), ("communicating", "communicating alone")],
)
def test_training_is_bit_identical(watched: str, plain: str, folder: Path) -> None:
    with_monitor, without = Outcome(folder, watched), Outcome(folder, plain)
    assert with_monitor.records
    assert not without.records
    assert with_monitor.fingerprints == without.fingerprints
    assert len(set(without.fingerprints)) == (2 if watched == "with" else 1), "dropout differs"


def test_nothing_is_missing_where_training_is_unchanged(folder: Path) -> None:
    for record in Outcome(folder, "with").records:
        assert not record.withheld
        assert not record.missing
        assert record.headline["sample_coverage"] == 1.0


def test_what_waits_for_other_processes_is_run_once(folder: Path) -> None:
    """Even where a user says that autograd functions may be run again."""
    for record in Outcome(folder, "communicating").records:
        missing = record.missing["sample_grad_norm"]
        below = {name for name in missing if name.startswith("network.0.")}
        assert below == {"network.0.weight", "network.0.bias"}
        for name in below:
            assert "_AllReduce, whose backward waits for the other processes" in missing[name]
        assert not np.isnan(values_of(record)["network.2.weight"]["sample_grad_norm"])


HARMLESS = ("sampler 1", "things 1")
BROKEN = {"exchange 1": 2, "exchange 0": 1}
"""By fault of the exchange itself, the steps before it."""


WORDS = {"memory 1": "out of memory"}
"""What is said of a fault, where that is not what was raised."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_one_process_hangs_none(name: str, folder: Path) -> None:
    plain, outcome = Outcome(folder, "fault free"), Outcome(folder, f"fault {name}")
    assert outcome.fingerprints == plain.fingerprints
    said, elsewhere = outcome.warnings
    assert not elsewhere, "rank zero alone warns"
    assert said
    assert len(said) == len(set(said)) <= 2, said
    if name in BROKEN:
        assert "gathering the samples of all processes failed" in said[0], said
        assert "timed out" not in said[0].lower(), "the other process has closed its end"
    else:
        assert all(WORDS.get(name, "planted") in each for each in said), said
        assert any("process 1: " in each for each in said) == name.endswith("1"), said
    if name == "optimiser 0":
        assert not outcome.records
        return
    assert [record.step for record in outcome.records] == [0, 1, 2, 3]
    for record in outcome.records:
        assert "grad_norm" in {each.quantity for each in record.records}
    check_withheld(name, outcome)


def check_withheld(name: str, outcome: Outcome) -> None:
    """What a fault has cost is withheld with its reason, and no more."""
    lost = [0, 1, 2, 3]
    if name in HARMLESS:
        lost = []
    elif name == "once 1":
        lost = [1]
    lost = lost[BROKEN.get(name, 0) :]
    for record in outcome.records:
        reasons = set(record.withheld.values())
        if name == "memory 1":  # parameter by parameter
            reasons = set(record.missing["sample_grad_norm"].values())
        assert bool(reasons) == (record.step in lost), reasons
        for reason in reasons:
            if name in BROKEN:
                assert reason.startswith("the processes could no longer exchange them (")
            else:
                assert WORDS.get(name, "planted") in reason
                assert ("process 1: " in reason) == name.endswith("1")


def test_an_exception_in_the_training_waits_for_no_one(folder: Path) -> None:
    outcome = Outcome(folder, "stopped")
    assert [record.step for record in outcome.records] == [0, 1, 2]
    ended = {"the run ended before its processes had exchanged their samples"}
    assert outcome.withheld == [set(), ended, ended]
    for record in outcome.records:
        assert "grad_norm" in {each.quantity for each in record.records}


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(folder: Path) -> None:
    straight, second = Outcome(folder, "straight"), Outcome(folder, "second half")
    assert [record.step for record in straight.records] == list(range(6))
    assert [record.step for record in second.records] == [3, 4, 5]
    for one, other in zip(straight.records[3:], second.records, strict=True):
        np.testing.assert_allclose(
            values_of(other)["(all)"]["noise_scale"], values_of(one)["(all)"]["noise_scale"], 1e-12
        )


def test_a_loop_of_plain_pytorch(folder: Path) -> None:
    members = {name: names for name, names in MEMBERS.items() if not name.startswith("group")}
    check(Outcome(folder, "loop"), members=members)
    check(Outcome(folder, "loop with windows"), members=members, window=2)
    # Compressed on their way, as the optimiser has them; samples' own gradients stay exact.
    check(Outcome(folder, "loop compressed"), members=members, rounding=2e-3)


def test_a_fault_in_a_loop_hangs_none(folder: Path) -> None:
    outcome = Outcome(folder, "loop with faults")
    assert [record.step for record in outcome.records] == [0, 1]
    assert outcome.withheld == [{"process 1: Planted: planted"}] * 2


def test_a_step_that_one_process_drops_is_withheld(folder: Path) -> None:
    """Though it has had the first batch of it."""
    outcome = Outcome(folder, "loop with a step dropped")
    given_up = "process 1: the capture of its step was given up"
    assert outcome.withheld == [{given_up}, set()]


def test_steps_that_move_on_without_their_optimiser_are_withheld(folder: Path) -> None:
    """Some of their batches would come too late to be gathered."""
    outcome = Outcome(folder, "loop that counts batches")
    assert [record.step for record in outcome.records] == [3]
    assert outcome.withheld == [{"the step's number moved on before an optimiser stepped"}]


def test_one_process_alone_knows_too_little(folder: Path) -> None:
    kept = pickle.loads((folder / "loop alone-1.pkl").read_bytes())
    assert len(kept["records"]) == 4
    for record in kept["records"]:
        (reason,) = set(record.withheld.values())
        assert "processes=jacoscope.processes.Processes()" in reason


def frames(run: Run) -> dict[str, Any]:
    return {**{name: run[name] for name in run}, "samples": run.samples.set_index("id")["norm"]}


def test_one_event_file_has_it_all(folder: Path, tmp_path: Path) -> None:
    """Also where processes are spawned."""
    assert len(list((folder / "ddp").rglob("*tfevents*"))) == 1
    run = read_run(folder / "ddp")
    assert set(run.quantities) == {"grad_norm", *PER_SAMPLE}
    assert run.missing.empty
    assert list(run.headline["sample_count"]) == [16, 16, 8]
    assert set(run.steps["ranks"]) == {2}
    assert list(run.grams) == [0]
    assert len(run.sample_norm_quantiles("layer network.0")) == 3
    launch(SCRIPT, str(tmp_path), "ddp_spawn", timeout=120)
    spawned = read_run(tmp_path / "ddp_spawn")
    for name, frame in frames(run).items():
        np.testing.assert_allclose(frames(spawned)[name], frame, rtol=1e-12, err_msg=name)


class FSDPStrategy:
    pass


class DDPStrategy:
    _ddp_comm_hook: Any = None
    _ddp_comm_wrapper: Any = None


def compressed(*_: Any) -> None:
    pass


def changed(_: Any) -> Any:
    pass


@pytest.mark.parametrize(
    ("processes", "strategy", "hooks", "is_automatic", "told"),
    [
        (1, FSDPStrategy, (None, None), True, None),
        (2, DDPStrategy, (None, None), True, None),
        (2, DDPStrategy, (None, None), False, "manual optimisation"),
        (2, DDPStrategy, (fp16_compress_hook, None), True, None),
        (2, DDPStrategy, (allreduce_hook, fp16_compress_wrapper), True, None),
        (2, DDPStrategy, (compressed, None), True, "may combine gradients otherwise"),
        (2, DDPStrategy, (allreduce_hook, changed), True, "may combine gradients otherwise"),
        (2, FSDPStrategy, (None, None), True, "under DDP only, not under FSDPStrategy"),
    ],
)
def test_when_samples_are_withheld(
    processes: int, strategy: Any, hooks: Any, is_automatic: bool, told: str | None
) -> None:
    made = strategy()
    made._ddp_comm_hook, made._ddp_comm_wrapper = hooks
    trainer: Any = SimpleNamespace(world_size=processes, strategy=made)
    module: Any = SimpleNamespace(automatic_optimization=is_automatic)
    reason = samples_withheld_reason(trainer, module)
    assert (reason is None) if told is None else reason is not None and told in reason
