"""Per-sample quantities from the callback, against one-sample-at-a-time autograd."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from helpers import adversaries, classifier, data, trainer
from jacoscope import ConfigError, MonitorWarning, SensitivityMonitor, read_run
from jacoscope.config import LayerRule
from jacoscope.quantities import SAMPLE_HEADLINES
from jacoscope.sinks import MemorySink
from sample_training import (
    EVERY,
    PER_SAMPLE,
    Expected,
    Learner,
    Witness,
    alone,
    compare,
    cross_entropies,
    fit,
    into_memory,
    loader_of,
    perceptron,
    rows_of_pairs,
    together,
    values_of,
    watching,
)

Array = Any
RULES = (
    LayerRule(kind="bias", group="biases"),
    LayerRule(match="network.2.*", group="head"),
    LayerRule(),
)
NAMES = ("network.0.weight", "network.0.bias", "network.2.weight", "network.2.bias")
MEMBERS = {
    **{name: (name,) for name in NAMES},
    "(all)": NAMES,
    "group biases": (NAMES[1], NAMES[3]),
    "group head": (NAMES[2],),
    "layer network.0": NAMES[:2],
    "layer network.2": NAMES[2:],
}
ROOT = Path(__file__).parents[1]


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> MemorySink:
    return into_memory(monkeypatch)


def labels_of_step(step: list[Any]) -> list[Array]:
    return [batch[1].numpy() for _, batch, _ in step]


def check_steps(
    sink: MemorySink,
    witness: Witness,
    module: Any,
    *,
    window: int = 1,
    rtol: float = 1e-9,
    atol: float = 1e-12,
    reduction: str = "mean",
    dtype: torch.dtype = torch.float64,
    skip: tuple[str, ...] = (),
) -> None:
    """Every value of every record equals that of samples run through the network alone."""
    expected = Expected(MEMBERS, reduction)
    assert [record.step for record in sink.records] == sorted(witness.seen)
    for record in sink.records:
        parts = []
        for state, batch, _ in witness.seen[record.step]:
            network = copy.deepcopy(module.network)
            network.load_state_dict(state)
            features, labels = batch
            samples = len(features)
            share = 1 / window / (samples if reduction == "mean" else 1)
            given = (features.to(dtype), labels)
            parts.append(alone(network.to(dtype), cross_entropies, given, samples, share))
        found = expected.of_step(parts, labels_of_step(witness.seen[record.step]))
        compare(values_of(record), found, rtol, atol, skip)
        assert not record.withheld
        assert not record.missing


def test_every_value_in_double_precision(sink: MemorySink, tmp_path: Path) -> None:
    """28 samples in batches of 8: the last batch of each epoch has 4."""
    witness, module = Witness(), Learner(perceptron(torch.float64))
    loader = loader_of(rows_of_pairs(28, torch.float64), shuffle=True)
    torch.manual_seed(0)
    fit(
        tmp_path,
        module,
        loader,
        watching(layers=RULES),
        witness,
        max_epochs=2,
        precision="64-true",
    )
    assert len(sink.records) == 8
    check_steps(sink, witness, module)
    rows = values_of(sink.records[0])
    assert set(rows) == set(MEMBERS)


def test_every_value_in_single_precision(sink: MemorySink, tmp_path: Path) -> None:
    witness, module = Witness(), Learner(perceptron())
    loader = loader_of(rows_of_pairs(20))
    fit(tmp_path, module, loader, watching(layers=RULES), witness)
    assert len(sink.records) == 3
    check_steps(sink, witness, module, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("window", [2, 3])
def test_accumulated_batches_are_one_step(window: int, sink: MemorySink, tmp_path: Path) -> None:
    """36 samples in batches of 8, the last one of 4: the last window is shorter in both ways."""
    witness, module = Witness(), Learner(perceptron(torch.float64))
    loader = loader_of(rows_of_pairs(36, torch.float64))
    fit(
        tmp_path,
        module,
        loader,
        watching(layers=RULES),
        witness,
        precision="64-true",
        accumulate_grad_batches=window,
    )
    assert [len(batches) for batches in witness.seen.values()] == {2: [2, 2, 1], 3: [3, 2]}[window]
    check_steps(sink, witness, module, window=window)
    last = sink.records[-1]
    assert last.gradient.full_window == window
    assert last.headline["sample_coverage"] == 1.0


def test_the_sum_over_samples_as_loss(sink: MemorySink, tmp_path: Path) -> None:
    witness = Witness()
    module = Learner(perceptron(torch.float64), reduction="sum")
    loader = loader_of(rows_of_pairs(20, torch.float64))
    monitor = watching(layers=RULES, loss_reduction="sum")
    fit(tmp_path, module, loader, monitor, witness, precision="64-true")
    check_steps(sink, witness, module, reduction="sum")


@pytest.mark.parametrize("window", [1, 2])
def test_values_do_not_depend_on_the_reduction(
    window: int, sink: MemorySink, tmp_path: Path
) -> None:
    """A sample's own gradient is the same whether the loss adds samples up or averages them."""
    for reduction in ("mean", "sum"):
        module = Learner(perceptron(torch.float64), reduction=reduction)
        monitor = watching(loss_reduction=reduction)
        loader = loader_of(rows_of_pairs(8 * window, torch.float64))
        options: dict[str, Any] = {"precision": "64-true", "accumulate_grad_batches": window}
        fit(tmp_path, module, loader, monitor, **options)
    mean, total = (values_of(record) for record in sink.records)
    for row in mean:
        for name in PER_SAMPLE:
            assert total[row][name] == pytest.approx(mean[row][name], rel=1e-9), (row, name)


def test_mixed_precision(sink: MemorySink, tmp_path: Path) -> None:
    """Single samples under the same autocast; what a rounding can turn is left out."""
    witness, module = Witness(), Learner(perceptron())
    loader = loader_of(rows_of_pairs(16))
    fit(tmp_path, module, loader, watching(layers=RULES), witness, precision="bf16-mixed")
    expected = Expected(MEMBERS)
    for record in sink.records:
        ((state, batch, _),) = witness.seen[record.step]
        network = copy.deepcopy(module.network)
        network.load_state_dict(state)
        autocast = torch.autocast("cpu", torch.bfloat16)
        part = alone(network, cross_entropies, batch, len(batch[0]), 1 / len(batch[0]), autocast)
        found = expected.of_step([part], [batch[1].numpy()])
        loose = ("noise_scale", "gsnr", "sample_opposed", "pair_negative")
        compare(values_of(record), found, 5e-2, 2e-2, loose)
        assert record.headline["sample_closure"] < 5e-2
        assert record.headline["sample_coverage"] == 1.0


def test_dropout(sink: MemorySink, tmp_path: Path) -> None:
    """The masks are those of the batch's own forward, replayed from the state it began with."""
    witness = Witness()
    module = Learner(perceptron(torch.float64, dropout=0.4))
    monitor = watching()
    loader = loader_of(rows_of_pairs(16, torch.float64))
    fit(tmp_path, module, loader, monitor, witness, precision="64-true")
    names = [name for name, _ in module.named_parameters()]
    expected = Expected({**{name: (name,) for name in names}, "(all)": tuple(names)})
    assert len(sink.records) == 2
    for record in sink.records:
        ((state, batch, random),) = witness.seen[record.step]
        network = copy.deepcopy(module.network).train()
        network.load_state_dict(state)
        torch.set_rng_state(random)
        part = together(network, cross_entropies, batch, 1 / len(batch[0]))
        compare(values_of(record), expected.of_step([part], [batch[1].numpy()]), 1e-9, 1e-12)
        assert record.headline["sample_closure"] < 1e-9
        assert record.headline["sample_coverage"] == 1.0


def test_samples_add_up_to_the_gradient_that_was_recorded(sink: MemorySink, tmp_path: Path) -> None:
    """coherence and grad_diversity tie single samples to the optimiser's own gradient."""
    module = Learner(perceptron(torch.float64, dropout=0.4))
    monitor = watching(quantities=("grad_norm", "grad_diversity", "fisher_trace", "coherence"))
    loader = loader_of(rows_of_pairs(16, torch.float64))
    fit(tmp_path, module, loader, monitor, precision="64-true")
    for record in sink.records:
        for name, row in values_of(record).items():
            if "grad_norm" in row:
                squares = row["fisher_trace"] / 8
                assert row["grad_diversity"] == pytest.approx(squares / row["grad_norm"] ** 2)
                cross = row["grad_norm"] ** 2 - squares
                assert row["coherence"] == pytest.approx(cross / 7 / squares), name


def test_headline_scalars(sink: MemorySink, tmp_path: Path) -> None:
    fit(tmp_path, Learner(perceptron()), loader_of(rows_of_pairs(16)), watching())
    for record in sink.records:
        rows = values_of(record)["(all)"]
        for name in SAMPLE_HEADLINES:
            assert record.headline[name] == rows[name]
        assert 0 <= record.headline["sample_closure"] < 1e-4
        assert record.headline["sample_coverage"] == 1.0


def test_one_quantity_alone(sink: MemorySink, tmp_path: Path) -> None:
    """Whatever is asked for, with nothing else to help it, is the same as among all others."""
    fit(tmp_path, Learner(perceptron()), loader_of(rows_of_pairs(8)), watching())
    whole = values_of(sink.records[0])
    for name in PER_SAMPLE:
        sink.records.clear()
        monitor = watching(quantities=(name,), on_error="warn")
        fit(tmp_path, Learner(perceptron()), loader_of(rows_of_pairs(8)), monitor)
        (record,) = sink.records
        assert not record.withheld, name
        for row, quantities in values_of(record).items():
            assert quantities[name] == pytest.approx(whole[row][name], rel=1e-5), (row, name)


def test_layers_with_quantities_and_schedules_of_their_own(
    sink: MemorySink, tmp_path: Path
) -> None:
    rules = (
        LayerRule(match="network.0.*", quantities=("grad_norm",)),
        LayerRule(quantities=("coherence",)),
    )
    fit(tmp_path, Learner(perceptron()), loader_of(rows_of_pairs(16)), watching(layers=rules))
    for record in sink.records:
        rows = values_of(record)
        assert set(rows[NAMES[0]]) == {"grad_norm"}
        assert {name for name in rows if "coherence" in rows[name]} == {
            *NAMES[2:],
            "(all)",
            "layer network.2",
        }
        share = (3 * 5 + 3) / (6 * 5 + 5 + 3 * 5 + 3)
        assert record.headline["sample_coverage"] == pytest.approx(share)


def test_the_shipped_configuration(tmp_path: Path) -> None:
    """Through TensorBoard and back, with leaderboards by dataset index."""
    monitor = SensitivityMonitor(str(ROOT / "configs/monitor/samples.yaml"))
    loader = loader_of(rows_of_pairs(80), shuffle=True)
    fit(tmp_path, Learner(perceptron()), loader, monitor)
    run = read_run(str(monitor.run_dir))
    assert len(run["sample_grad_norm"]) > 0
    for row in ("(all)", "layer network.0", "layer network.2", *NAMES):
        assert run["sample_grad_norm"][row].notna().all(), row
    tags = EventAccumulator(str(monitor.run_dir)).Reload().Tags()["scalars"]
    assert {f"sensitivity/{name}" for name in ("noise_scale", "sample_coverage")} <= set(tags)
    assert not run.samples.empty
    assert not run.leaderboards.empty


# What batches look like.


@dataclass
class Pair:
    features: Tensor
    label: Tensor


class Nested(NamedTuple):
    inputs: tuple[Tensor, Tensor]
    answer: Tensor


def as_dict(pairs: list[Any]) -> dict[str, Any]:
    features, labels = zip(*pairs, strict=True)
    names = [f"sample {100 + place}" for place in range(len(pairs))]
    return {
        "inputs": {"features": torch.stack(features)},
        "label": torch.stack(labels),
        "uid": torch.arange(len(pairs)) + 100,
        "name": names,
    }


def as_dataclass(pairs: list[Any]) -> Pair:
    features, labels = zip(*pairs, strict=True)
    return Pair(torch.stack(features), torch.stack(labels))


def as_tuples(pairs: list[Any]) -> Nested:
    features, labels = zip(*pairs, strict=True)
    stacked = torch.stack(features)
    return Nested((stacked[:, :3], stacked[:, 3:]), torch.stack(labels))


def from_dict(network: nn.Module, batch: Any) -> Tensor:
    return cross_entropies(network, (batch["inputs"]["features"], batch["label"]))


def from_dataclass(network: nn.Module, batch: Any) -> Tensor:
    return cross_entropies(network, (batch.features, batch.label))


def from_tuples(network: nn.Module, batch: Any) -> Tensor:
    return cross_entropies(network, (torch.cat(batch.inputs, dim=1), batch.answer))


SHAPES: dict[str, tuple[Callable[..., Any], Callable[..., Any], str]] = {
    "dict": (as_dict, from_dict, "label"),
    "dataclass": (as_dataclass, from_dataclass, "label"),
    "nested tuples": (as_tuples, from_tuples, "answer"),
}


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, float]]:
    """The values of the first batch of eight, in the plainest form."""
    sink = into_memory(monkeypatch)
    fit(tmp_path, Learner(perceptron()), loader_of(rows_of_pairs(8)), watching())
    return values_of(sink.records[0])


def same(record: Any, plain: dict[str, dict[str, float]], skip: tuple[str, ...] = ()) -> None:
    assert not record.withheld
    rows = values_of(record)
    assert set(rows) == set(plain)
    for row, quantities in plain.items():
        for name, value in quantities.items():
            if name not in skip:
                same_value = pytest.approx(value, rel=1e-5, abs=1e-6, nan_ok=True)
                assert rows[row][name] == same_value, (row, name)


@pytest.mark.parametrize("shape", SHAPES)
def test_batches_of_any_make(
    shape: str,
    plain: dict[str, dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collate, losses, label = SHAPES[shape]
    sink = into_memory(monkeypatch)
    loader = loader_of(rows_of_pairs(8), collate_fn=collate)
    fit(tmp_path, Learner(perceptron(), losses), loader, watching(label=label))
    same(sink.records[0], plain)


def test_the_configured_batch_size(
    plain: dict[str, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch's first tensor is a table that has nothing to do with the samples."""

    def collate(pairs: list[Any]) -> Any:
        features, labels = zip(*pairs, strict=True)
        return torch.zeros(3, 2), torch.stack(features), torch.stack(labels)

    def losses(network: nn.Module, batch: Any) -> Tensor:
        return cross_entropies(network, batch[1:])

    sink = into_memory(monkeypatch)
    loader = loader_of(rows_of_pairs(8), collate_fn=collate)
    fit(tmp_path, Learner(perceptron(), losses), loader, watching(batch_size=8))
    same(sink.records[0], plain)


SIZES = (3, 1, 4, 2)
"""Rows of each sample of a batch of graphs."""


def graphs(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(sum(SIZES), 6, generator=generator, dtype=dtype)
    owners = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    return {"nodes": rows, "owner": owners, "label": torch.tensor([0, 2, 1, 2])}


class GraphNetwork(nn.Module):
    """Each sample's rows are averaged between two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first = nn.Linear(6, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = self.first(batch["nodes"]).tanh()
        count = len(batch["label"])
        pooled = hidden.new_zeros(count, 5).index_add(0, batch["owner"], hidden)
        return self.last(pooled / torch.bincount(batch["owner"], minlength=count).unsqueeze(1))


def graph_losses(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(network(batch), batch["label"], reduction="none")


def one_graph(batch: dict[str, Tensor], sample: int) -> dict[str, Tensor]:
    mine = batch["owner"] == sample
    return {
        "nodes": batch["nodes"][mine],
        "owner": torch.zeros(int(mine.sum()), dtype=torch.long),
        "label": batch["label"][sample : sample + 1],
    }


def test_rows_that_are_not_one_per_sample(sink: MemorySink, tmp_path: Path) -> None:
    network = GraphNetwork().double()
    expected = alone(network, graph_losses, graphs(), 4, 1 / 4, pick=one_graph)
    names = tuple(expected)
    loader: Any = DataLoader([graphs()], batch_size=None)
    monitor = watching(rows="owner", label="label")
    fit(tmp_path, Learner(network, graph_losses), loader, monitor, precision="64-true")
    (record,) = sink.records
    members = {**{name: (name,) for name in names}, "(all)": names}
    found = Expected(members).of_step([expected], [graphs()["label"].numpy()])
    compare(values_of(record), found, 1e-9, 1e-12)
    assert record.headline["sample_coverage"] == 1.0


def test_ids_from_the_batch(sink: MemorySink, tmp_path: Path) -> None:
    loader = loader_of(rows_of_pairs(8), collate_fn=as_dict)
    for path, first in (("uid", 100), ("name", "sample 100")):
        monitor = watching(id=path, label="label")
        fit(tmp_path, Learner(perceptron(), from_dict), loader, monitor)
        (boards,) = sink.boards
        assert boards.id_source == f"batch key {path!r}"
        assert first in boards.columns.ids
        sink.boards.clear()


def test_labels_from_the_batch(sink: MemorySink, tmp_path: Path) -> None:
    """The key decides which of two whole numbers per sample is the class."""
    dataset = rows_of_pairs(8)
    loader = loader_of(dataset, collate_fn=as_dict)
    for path, expected in (("label", [int(y) for _, y in dataset]), ("uid", range(100, 108))):
        monitor = watching(id="uid", label=path)
        fit(tmp_path, Learner(perceptron(), from_dict), loader, monitor)
        columns = sink.boards[-1].columns
        by_id = dict(zip(columns.ids, columns.labels, strict=True))
        assert [by_id[100 + place] for place in range(8)] == list(expected)
    assert math.isnan(values_of(sink.records[-1])["(all)"]["stiffness_within"])
    assert not math.isnan(values_of(sink.records[0])["(all)"]["stiffness_within"])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_losses_and_norms_on_the_board_are_the_samples_own(
    window: int, reduction: str, sink: MemorySink, tmp_path: Path
) -> None:
    """Samples of different batches compare: 8, 8 and 4 of them, in windows full and not.

    The learning rate is zero, so that all of them meet the same weights.
    """
    network = perceptron(torch.float64)
    dataset = rows_of_pairs(20, torch.float64)
    batch = next(iter(loader_of(dataset, batch_size=20)))
    losses = cross_entropies(network, batch).tolist()
    rows = alone(network, cross_entropies, batch, 20, 1.0)
    norms = np.linalg.norm(np.concatenate(list(rows.values()), axis=1), axis=1)
    module = Learner(network, reduction=reduction)
    module.configure_optimizers = lambda: torch.optim.SGD(  # type: ignore[method-assign]
        network.parameters(), lr=0.0
    )
    options: dict[str, Any] = {"precision": "64-true", "accumulate_grad_batches": window}
    fit(tmp_path, module, loader_of(dataset), watching(loss_reduction=reduction), **options)
    (boards,) = sink.boards
    columns = boards.columns
    assert sorted(map(str, columns.ids)) == sorted(map(str, range(20)))
    for place, name in enumerate(columns.ids):
        assert isinstance(name, int)
        assert columns.losses[place] == pytest.approx(losses[name], rel=1e-9)
        assert columns.norms[place] == pytest.approx(norms[name], rel=1e-9)


WRONG = {
    "label": ({"label": "lable"}, "did you mean 'label'?"),
    "id": ({"id": "inputs.uid"}, "valid names are features"),
    "rows": ({"rows": "owners"}, "samples.rows"),
    "thing": ({"thing": "image"}, "samples.thing"),
}


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_path_gets_one_sentence_and_training_goes_on(
    key: str, sink: MemorySink, tmp_path: Path
) -> None:
    options, hint = WRONG[key]
    loader = loader_of(rows_of_pairs(24), collate_fn=as_dict)
    monitor = watching(**options, quantities=("grad_norm", "coherence"), on_error="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, Learner(perceptron(), from_dict), loader, monitor)
    said = [str(each.message) for each in caught if each.category is MonitorWarning]
    assert len(said) == 1, said
    assert f"samples.{key}: {next(iter(options.values()))!r} is not in the batch" in said[0]
    assert hint in said[0]
    assert len(said[0].splitlines()) == 1
    assert len(sink.records) == 3
    if key == "label":  # all but what needs labels is there
        assert [record.headline["sample_coverage"] for record in sink.records] == [1.0] * 3
        return
    for record in sink.records:
        assert f"samples.{key}" in record.withheld["coherence"]
        assert {each.quantity for each in record.records} == {"grad_norm"}
        assert record.headline["sample_coverage"] == 0.0


def test_losses_that_are_not_known_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Weighted(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            each = nn.functional.cross_entropy(self.network(batch[0]), batch[1], reduction="none")
            return (each * each.detach() * torch.linspace(1, 2, len(each))).mean()

    assert quietly(tmp_path, Weighted(perceptron()), loader_of(rows_of_pairs(24)), watching()) == []
    why = "the loss weights its samples, or their terms"
    told = [each for each in caplog.messages if "no losses of samples" in each]
    assert told == [f"no losses of samples, nor a leaderboard of them: {why}"]
    run = read_run(tmp_path)
    assert run.samples_missing == {"loss": why}
    assert run.samples["loss"].isna().all()
    assert "largest_mean_loss" not in set(run.leaderboards["board"])
    accumulator = EventAccumulator(str(run.path)).Reload()
    tag = "sensitivity_samples/largest_gradient/text_summary"
    (table,) = accumulator.Tensors(tag)[-1].tensor_proto.string_val
    assert f"The loss of samples is not known: {why}." in table.decode()


def test_losses_with_label_smoothing_are_on_the_board(tmp_path: Path) -> None:
    class Smoothed(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(
                self.network(batch[0]), batch[1], label_smoothing=0.1
            )

    fit(tmp_path, Smoothed(perceptron()), loader_of(rows_of_pairs(24)), watching())
    run = read_run(tmp_path)
    assert run.samples_missing == {}
    assert run.samples["loss"].notna().all()
    assert "largest_mean_loss" in set(run.leaderboards["board"])


def test_with_a_wrong_path_to_labels_only_they_are_missing(tmp_path: Path) -> None:
    loader = loader_of(rows_of_pairs(24), collate_fn=as_dict)
    monitor = watching(label="lable", quantities=("coherence", "stiffness_within"), on_error="warn")
    said = quietly(tmp_path, Learner(perceptron(), from_dict), loader, monitor)
    assert len(said) == 1, said
    run = read_run(tmp_path)
    assert run["coherence"].shape == (3, 4 + 3)
    assert run["coherence"].notna().all(axis=None)
    with pytest.raises(
        KeyError, match=r"no 'stiffness_within', which was withheld: samples\.label:"
    ):
        run["stiffness_within"]
    assert run.samples_missing["label"].startswith("samples.label: 'lable' is not in the batch")
    assert run.samples["label"].isna().all()
    assert run.samples["norm"].notna().all()
    with pytest.raises(ConfigError, match=r"samples\.label"):
        fit(tmp_path, Learner(perceptron(), from_dict), loader, watching(label="lable"))


@pytest.mark.parametrize("key", ["id", "label"])
def test_a_size_that_does_not_fit_the_last_batch_is_blamed_itself(
    key: str, sink: MemorySink, tmp_path: Path
) -> None:
    loader = loader_of(rows_of_pairs(20), collate_fn=as_dict)
    monitor = watching(**{key: "label", "batch_size": 8}, on_error="warn")
    said = quietly(tmp_path, Learner(perceptron(), from_dict), loader, monitor)
    assert len(said) == 1, said
    assert (
        "samples.batch_size: 8 is not the number of samples in this batch, in which 'label' has "
        "4 entries"
    ) in said[0]
    assert [record.headline["sample_coverage"] for record in sink.records] == [1, 1, 0]


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
@pytest.mark.parametrize("key", ["id", "label"])
def test_a_path_to_something_else_than_samples_is_said(
    key: str, sink: MemorySink, tmp_path: Path
) -> None:
    """What the user asked for is not replaced by something else without a word."""

    def collate(pairs: list[Any]) -> dict[str, Any]:
        return {**as_dict(pairs), "source": torch.arange(3)}

    loader = loader_of(rows_of_pairs(16), collate_fn=collate)
    monitor = watching(**{"label": "label", key: "source"}, on_error="warn")
    said = quietly(tmp_path, Learner(perceptron(), from_dict), loader, monitor)
    assert len(said) == 1, said
    assert f"samples.{key}: 'source'" in said[0]
    assert "3" in said[0]
    assert "8" in said[0]


def test_a_last_batch_other_than_the_configured_size(sink: MemorySink, tmp_path: Path) -> None:
    loader = loader_of(rows_of_pairs(20))
    monitor = watching(batch_size=8, on_error="warn")
    assert quietly(tmp_path, Learner(perceptron()), loader, monitor) == []
    assert [record.headline["sample_coverage"] for record in sink.records] == [1, 1, 0]
    for record in sink.records[:2]:
        assert not record.missing
    reasons = sink.records[2].missing["coherence"]
    assert set(reasons) >= {*NAMES, "(all)"}
    assert all("dimension of 8 samples" in reason for reason in reasons.values())
    assert all("samples.batch_size: 8 says so" in reason for reason in reasons.values())


def test_where_the_number_of_samples_is_from_is_said(sink: MemorySink, tmp_path: Path) -> None:
    """The nodes of all graphs come first in the batch, without a word on whose they are."""
    loader: Any = DataLoader([graphs(torch.float32)], batch_size=None)
    monitor = watching(on_error="warn", quantities=("coherence",))
    assert quietly(tmp_path, Learner(GraphNetwork(), graph_losses), loader, monitor) == []
    (record,) = sink.records
    reason = record.missing["coherence"]["network.last.weight"]
    assert "no tensor between it and the loss has a dimension of 10 samples; 10 is the first " in (
        reason
    )
    assert "dimension of the batch's first tensor, 'nodes'" in reason
    assert "samples.batch_size" in reason
    assert "samples.rows" in reason


# What cannot be captured.


def quietly(
    folder: Path, module: Any, loader: Any, monitor: SensitivityMonitor, **options: Any
) -> list[str]:
    """Train, and return what the monitor warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(folder, module, loader, monitor, **options)
    return [str(each.message) for each in caught if each.category is MonitorWarning]


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = perceptron()

    def forward(self, features: Tensor) -> Tensor:
        return checkpoint(self.inner, features.requires_grad_(), use_reentrant=True)


def compiled() -> nn.Module:
    return torch.compile(perceptron(), backend="aot_eager")  # type: ignore[return-value]


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("network", "options", "reason"),
    [
        (compiled, {}, "torch.compile makes one node"),
        (Checkpointed, {}, "a reentrant activation checkpoint, which hides its graph"),
        (perceptron, {"batch_size": 7}, "dimension of 7 samples"),
    ],
    ids=["compiled", "checkpointed", "wrong batch size"],
)
def test_what_cannot_be_captured_trains_on(
    network: Any, options: Any, reason: str, sink: MemorySink, tmp_path: Path
) -> None:
    monitor = watching(
        quantities=("grad_norm", "coherence", "noise_scale"), on_error="warn", **options
    )
    said = quietly(tmp_path, Learner(network()), loader_of(rows_of_pairs(24)), monitor)
    assert len(said) <= 1, said
    assert len(sink.records) == 3
    for record in sink.records:
        reasons = record.missing["coherence"]
        assert reason in " ".join(reasons.values())
        assert "(all)" in reasons
        assert set(record.missing["noise_scale"]) == set(reasons)
        assert all(math.isfinite(row.get("grad_norm", 0)) for row in values_of(record).values())
        assert record.headline["sample_coverage"] == 0.0
        assert "coherence" not in record.headline
        assert "sample_closure" not in record.headline, "nothing was checked"


def test_part_of_a_model_that_cannot_be_captured(sink: MemorySink, tmp_path: Path) -> None:
    """A parameter in no optimiser, one that the loss does not see, and one that is frozen."""
    module = Learner(perceptron())
    module.network.unused = nn.Linear(2, 2)
    module.network.unused.forward = lambda given: given  # type: ignore[method-assign]
    module.network[0].bias.requires_grad_(False)
    module.configure_optimizers = lambda: torch.optim.SGD(  # type: ignore[method-assign]
        [module.network[0].weight, module.network[2].bias], lr=0.1
    )
    said = quietly(tmp_path, module, loader_of(rows_of_pairs(16)), watching(on_error="warn"))
    assert said == []
    for record in sink.records:
        assert not record.withheld
        rows = values_of(record)
        assert math.isfinite(rows["network.0.weight"]["noise_scale"])
        assert math.isfinite(rows["network.2.weight"]["sample_grad_norm"])
        assert math.isfinite(rows["(all)"]["coherence"])
        assert "frozen" in record.missing["coherence"]["network.0.bias"]
        assert "frozen" in record.missing["coherence"]["layer network.0"]
        assert "loss does not depend on it" in record.missing["coherence"]["network.unused.weight"]


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
def test_manual_optimisation_is_withheld(sink: MemorySink, tmp_path: Path) -> None:
    monitor = watching(quantities=("grad_norm", "coherence"), on_error="warn")
    assert quietly(tmp_path, adversaries(), data(16), monitor) == []
    assert sink.records
    for record in sink.records:
        assert "manual optimisation" in record.withheld["coherence"]
        assert {each.quantity for each in record.records} == {"grad_norm"}


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (adversaries, "under manual optimisation a batch may go backward more than once"),
        (lambda: classifier(optimizer="lbfgs"), "the loss of one batch went backward more than"),
    ],
    ids=["manual optimisation", "LBFGS"],
)
def test_samples_that_are_withheld_altogether_are_told_of_once(
    module: Callable[[], Any], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = watching(quantities=("grad_norm", "coherence"), on_error="warn")
    assert quietly(tmp_path, module(), data(16), monitor) == []
    told = [each for each in caplog.messages if "no per-sample gradients" in each]
    assert len(told) == 1
    assert told[0].startswith(f"no per-sample gradients: {reason}")
    with pytest.raises(KeyError, match=f"has no 'coherence', which was withheld: {reason}"):
        read_run(tmp_path)["coherence"]
    with pytest.raises(KeyError, match="did you mean 'grad_norm'"):
        read_run(tmp_path)["grad_nrom"]


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
def test_an_optimiser_that_evaluates_again_is_withheld(sink: MemorySink, tmp_path: Path) -> None:
    monitor = watching(quantities=("grad_norm", "coherence"), on_error="warn")
    assert quietly(tmp_path, classifier(optimizer="lbfgs"), data(16), monitor) == []
    assert sink.records
    for record in sink.records:
        assert "backward more than once" in record.withheld["coherence"]
        assert {each.quantity for each in record.records} == {"grad_norm"}


def test_steps_without_a_loss_are_withheld(sink: MemorySink, tmp_path: Path) -> None:
    """A training_step may skip a batch of a window; the others still count."""
    module = Learner(perceptron())
    given = module.training_step
    module.training_step = (  # type: ignore[method-assign]
        lambda batch, batch_idx: None if batch_idx == 1 else given(batch, batch_idx)
    )
    loader = loader_of(rows_of_pairs(32))
    fit(tmp_path, module, loader, watching(), accumulate_grad_batches=2)
    assert [record.step for record in sink.records] == [0, 1]
    assert all(not record.withheld for record in sink.records)
    assert all(record.headline["sample_coverage"] == 1.0 for record in sink.records)


def test_samples_that_are_coupled_are_named(sink: MemorySink, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    fit(tmp_path, Learner(network), loader_of(rows_of_pairs(16)), watching())
    for record in sink.records:
        assert record.capture["coupled"] == ["network.1"]
        assert set(record.capture["rules"]) == {n for n, _ in Learner(network).named_parameters()}


def test_a_batch_of_one_sample(sink: MemorySink, tmp_path: Path) -> None:
    fit(tmp_path, Learner(perceptron()), loader_of(rows_of_pairs(9)), watching())
    rows = values_of(sink.records[-1])["(all)"]
    assert rows["sample_alignment"] == pytest.approx(1)
    assert math.isnan(rows["coherence"])
    assert math.isnan(rows["grad_variance"])
    assert "coherence" not in sink.records[-1].headline


def test_running_means_go_on_from_a_checkpoint(sink: MemorySink, tmp_path: Path) -> None:
    def module() -> Any:
        return Learner(perceptron(torch.float64))

    options: dict[str, Any] = {"logger": False, "precision": "64-true"}
    loader = loader_of(rows_of_pairs(24, torch.float64))
    fit(tmp_path, module(), loader, watching(), max_epochs=2, precision="64-true")
    whole = [values_of(record)["(all)"]["noise_scale"] for record in sink.records]
    first = trainer(pl, tmp_path, callbacks=[watching()], max_epochs=1, **options)
    first.fit(module(), loader)
    first.save_checkpoint(tmp_path / "half.ckpt")
    sink.records.clear()
    second = trainer(pl, tmp_path, callbacks=[watching()], max_epochs=2, **options)
    second.fit(module(), loader, ckpt_path=tmp_path / "half.ckpt")
    resumed = [values_of(record)["(all)"]["noise_scale"] for record in sink.records]
    assert resumed == pytest.approx(whole[3:], rel=1e-12)


def test_off_the_captured_steps_nothing_is_read(
    sink: MemorySink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured: list[Any] = []
    walk = __import__("jacoscope.capturing._capture", fromlist=["walk"]).walk

    def counting(*arguments: Any) -> Any:
        captured.append(1)
        return walk(*arguments)

    monkeypatch.setattr("jacoscope.capturing._capture.walk", counting)
    schedule = type(EVERY)(every=3, first=0)
    fit(tmp_path, Learner(perceptron()), loader_of(rows_of_pairs(56)), watching(schedule=schedule))
    assert [record.step for record in sink.records] == [0, 3, 6]
    assert len(captured) == 3


def test_an_exception_in_training_leaves_nothing_attached(sink: MemorySink, tmp_path: Path) -> None:
    """The backward itself fails, with the graph's hooks in place."""
    module = Learner(perceptron())
    monitor = watching()

    def fail(grad: Tensor) -> Tensor:
        raise ZeroDivisionError("planted")

    module.network[0].weight.register_hook(fail)  # type: ignore[no-untyped-call]
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, module, loader_of(rows_of_pairs(24)), monitor)
    assert monitor._session is None
