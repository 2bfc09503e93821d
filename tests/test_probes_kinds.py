"""Kinds of modules, batches and training that probes meet: right, or withheld with the reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from helpers import adversaries, data
from jacoscope import SensitivityMonitor
from jacoscope.sinks import MemorySink
from probe_expected import compare, expected_outputs, expected_step, members_of, twin
from probe_training import (
    OF_LOSS,
    OF_OUTPUTS,
    PROBED,
    Learner,
    Witness,
    fit,
    into_memory,
    missing_of,
    quietly,
    values_of,
    watching,
)
from probing.reference import by_module, by_parameters
from sample_training import loader_of, perceptron, rows_of_pairs

DOUBLE: dict[str, Any] = {"precision": "64-true"}
NAMES = ("network.0.weight", "network.0.bias", "network.2.weight", "network.2.bias")
LAYERS = {"layer network.0": NAMES[:2], "layer network.2": NAMES[2:]}


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> MemorySink:
    return into_memory(monkeypatch)


def pairs(samples: int = 16, **options: Any) -> DataLoader[Any]:
    return loader_of(rows_of_pairs(samples, torch.float64), **options)


def reasons_of(record: Any, names: tuple[str, ...] = PROBED) -> set[str]:
    """Why values of these quantities are missing."""
    found = {why for name, why in record.withheld.items() if name in names}
    missing = missing_of(record)
    return found | {why for name in names for why in missing.get(name, {}).values()}


# What f is.


class Nested(pl.LightningModule):
    """A backbone and a head; its forward gives a mapping, embed the features."""

    def __init__(self) -> None:
        super().__init__()
        self.network = perceptron(torch.float64)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        hidden = self.network[:2](features)
        return {"hidden": hidden, "scores": self.network[2](hidden)}

    def embed(self, features: Tensor) -> Tensor:
        return self.network[:2](features)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inner = batch["deep"]
        return nn.functional.cross_entropy(self(inner["x"])["scores"], inner["y"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.2)


class OfItsOwn(Nested):
    def probe_forward(self, x: Tensor, y: Tensor) -> Tensor:
        return 2 * self(x)["scores"]


def deep(rows: list[Any]) -> dict[str, Any]:
    features = torch.stack([row for row, _ in rows])
    return {"deep": {"x": features, "y": torch.tensor([label for _, label in rows])}}


F_OF: dict[str, tuple[type[Nested], dict[str, Any], Any]] = {
    "a module": (Nested, {"module": "network"}, lambda m, x: m.network(x)),
    "a method": (Nested, {"method": "embed"}, lambda m, x: m.embed(x)),
    "an output": (Nested, {"output": "scores"}, lambda m, x: m(x)["scores"]),
    "the first output": (Nested, {}, lambda m, x: m(x)["hidden"]),
    "a module's method": (
        Nested,
        {"module": "network.0", "method": "forward"},
        lambda m, x: m.network[0](x),
    ),
    "probe_forward": (OfItsOwn, {"input": "deep"}, lambda m, x: 2 * m(x)["scores"]),
}


@pytest.mark.parametrize("name", F_OF)
def test_what_f_is(name: str, sink: MemorySink, tmp_path: Path) -> None:
    kind, options, function = F_OF[name]
    module, witness = kind(), Witness()
    monitor = watching(
        ("ntk_trace", "input_jacobian_norm", "ntk_alignment"), **{"input": "deep.x", **options}
    )
    fit(tmp_path, module, pairs(8, collate_fn=deep), monitor, witness, **DOUBLE)
    inputs = witness.batches[0]["deep"]["x"].clone().requires_grad_()
    now = twin(module, witness.after[0])
    leaves = [*now.parameters(), inputs]
    rows = [
        torch.autograd.grad(each, leaves, retain_graph=True, allow_unused=True)
        for each in function(now, inputs).flatten()
    ]
    trace = sum(float(g.square().sum()) for row in rows for g in row[:-1] if g is not None)
    squares = sum(float(row[-1].square().sum()) for row in rows)
    assert not sink.probes[0].withheld
    got = values_of(sink.probes[0])
    assert got["ntk_trace"]["(all)"] == pytest.approx(trace, rel=1e-10)
    norm = (squares / len(inputs)) ** 0.5
    assert got["input_jacobian_norm"]["(input)"] == pytest.approx(norm, rel=1e-10)


class Formless(pl.LightningModule):
    """It has no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.network = perceptron(torch.float64)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.2)


def test_without_a_forward_outputs_are_withheld(
    sink: MemorySink, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert quietly(tmp_path, Formless(), pairs(), watching(on_error="warn"), **DOUBLE) == []
    assert len(sink.probes) == 2
    for record in sink.probes:
        (why,) = reasons_of(record)
        assert "forward is not implemented; set probes.method or probes.module" in why
        assert set(values_of(record)) == set(OF_LOSS)
    assert len([each for each in caplog.messages if "outputs by the input" in each]) == 1


def test_without_a_forward_batches_by_name_are_refused_alike(
    sink: MemorySink, tmp_path: Path
) -> None:
    class Named(Formless):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(self.network(batch["x"]), batch["y"])

    named = DataLoader([{"x": x, "y": y} for x, y in rows_of_pairs(8, torch.float64)], 4)
    assert quietly(tmp_path, Named(), named, watching(on_error="warn"), **DOUBLE) == []
    for record in sink.probes:
        (why,) = reasons_of(record)
        assert "forward is not implemented; set probes.method or probes.module" in why


def test_an_input_that_is_not_there_is_said(sink: MemorySink, tmp_path: Path) -> None:
    monitor = watching(input="image", on_error="warn")
    assert quietly(tmp_path, Learner(perceptron(torch.float64)), pairs(), monitor, **DOUBLE) == []
    for record in sink.probes:
        (why,) = reasons_of(record)
        assert "probes.input: 'image' is not in the batch" in why
        assert set(values_of(record)) == set(OF_LOSS)


# What batches are like.


@dataclasses.dataclass
class Graph:
    """Nodes of several graphs, as libraries for them hand them out."""

    x: Tensor
    batch: Tensor
    y: Tensor
    num_graphs: int

    def to(self, device: Any) -> Graph:
        return self


class OnGraphs(Learner):
    def forward(self, graph: Graph) -> Tensor:
        out = self.network(graph.x)
        return torch.zeros(graph.num_graphs, 3).to(out).index_add(0, graph.batch, out)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self(batch), batch.y)


def test_rows_that_are_not_one_per_sample(sink: MemorySink, tmp_path: Path) -> None:
    """Outputs are withheld; all else equal is taken on the whole batch."""

    def collate(rows: list[Any]) -> Graph:
        nodes, owners = torch.stack([row for row, _ in rows]), torch.arange(8) // 2
        return Graph(nodes, owners, torch.arange(4) % 3, 4)

    module, witness = OnGraphs(perceptron(torch.float64)), Witness()
    loader = pairs(collate_fn=collate)
    monitor = watching(loss_samples=2, on_error="warn")
    assert quietly(tmp_path, module, loader, monitor, witness, **DOUBLE) == []
    assert len(sink.probes) == 2
    for record in sink.probes:
        assert reasons_of(record) == {
            "a batch whose rows are not one per sample has no sample to take"
        }
        assert set(values_of(record)) == set(OF_LOSS)
        start, end = witness.before[record.step], witness.after[record.step]
        batch = witness.batches[record.step]
        wanted = expected_step(
            twin(module, start),
            lambda m, batch=batch: nn.functional.cross_entropy(m(batch), batch.y),
            start,
            end,
            LAYERS,
        )
        compare(values_of(record), wanted, 1e-9)


def test_a_batch_without_a_size_is_said(sink: MemorySink, tmp_path: Path) -> None:
    class Whole(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.network[0].weight.square().sum() + self.network[2].weight.square().sum()

    loader = pairs(8, collate_fn=lambda rows: {"names": "text"})
    monitor = watching(on_error="warn")
    assert quietly(tmp_path, Whole(perceptron(torch.float64)), loader, monitor, **DOUBLE) == []
    (why,) = reasons_of(sink.probes[0])
    assert "set samples.batch_size" in why
    assert set(values_of(sink.probes[0])) == set(OF_LOSS)


def test_a_batch_changed_in_place(sink: MemorySink, tmp_path: Path) -> None:
    """The loss is that of the batch as it came, at each of its evaluations."""

    class Halving(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            batch[0].mul_(0.5)
            batch[1].add_(1).remainder_(3)
            return super().training_step(batch, batch_idx)

    module, witness = Halving(perceptron(torch.float64)), Witness()
    fit(tmp_path, module, pairs(), watching(), witness, **DOUBLE)
    for record in sink.probes:
        inputs, labels = witness.batches[record.step]
        start, end = witness.before[record.step], witness.after[record.step]
        given = inputs / 2, (labels + 1) % 3
        wanted = expected_step(
            twin(module, start),
            lambda m, given=given: nn.functional.cross_entropy(m(given[0]), given[1]),
            start,
            end,
            LAYERS,
        )
        inputs, labels = witness.batches[0]
        wanted |= expected_outputs(twin(module, end), inputs, labels, members_of(NAMES), {})
        del wanted["ntk_drift"]
        compare(values_of(record), wanted, 1e-9, atol=1e-11)


def test_ids_are_those_of_the_dataset(sink: MemorySink, tmp_path: Path) -> None:
    """The first feature of a sample is its place in the dataset."""
    module, witness = Learner(perceptron(torch.float64)), Witness()
    torch.manual_seed(4)
    fit(tmp_path, module, pairs(24, shuffle=True), watching(samples=5), witness, **DOUBLE)
    drawn = (witness.batches[0][0][:5, 0] * 24).round().long().tolist()
    assert drawn != sorted(drawn)
    for record in sink.probes:
        assert record.ids == tuple(map(str, drawn))


class Language(pl.LightningModule):
    """A small GPT-2, whose batches are mappings of tokens."""

    def __init__(self) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel

        super().__init__()
        torch.manual_seed(2)
        config = GPT2Config(
            vocab_size=11, n_positions=5, n_embd=4, n_layer=1, n_head=2, n_inner=4,
            bos_token_id=0, eos_token_id=0, use_cache=False,
        )  # fmt: skip
        self.model = GPT2LMHeadModel(config)

    def forward(self, **batch: Any) -> Any:
        return self.model(**batch)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(**batch).loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def sentences() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(11, (6, 4), generator=generator)
    rows = [{"input_ids": row, "attention_mask": torch.ones(4).long(), "labels": row}
            for row in tokens]  # fmt: skip
    return DataLoader(rows, batch_size=3)  # type: ignore[arg-type]


def test_a_language_model(sink: MemorySink, tmp_path: Path) -> None:
    """Weights are tied, dropout is on in training, and x is the tokens' embedding."""
    module, witness = Language(), Witness()
    monitor = watching(max_outputs=44, chain=("model.transformer.*.mlp", "model.lm_head"))
    torch.manual_seed(3)
    fit(tmp_path, module, sentences(), monitor, witness, **DOUBLE)
    record = sink.probes[1]
    assert set(record.withheld) == {"ntk_alignment"}, "tokens are not labels of samples"
    assert record.notes["input"] == "differentiated at the output of model.transformer.wte"
    batch = {k: v for k, v in witness.batches[0].items() if k != "labels"}
    now = twin(module, witness.after[1]).eval()
    jacobian = by_parameters(now, batch)
    got = values_of(record)
    for name, rows in jacobian.items():
        norm = float((rows.square().sum() / 3).sqrt())
        assert got["output_jacobian_norm"][name] == pytest.approx(norm, rel=1e-8), name
    by_tokens = by_module(now, batch, "model.transformer.wte").flatten(2)
    norm = float((by_tokens.square().sum() / 3).sqrt())
    assert got["input_jacobian_norm"]["(input)"] == pytest.approx(norm, rel=1e-8)
    row = "model.transformer.h.0.mlp → model.lm_head"
    between = by_module(now, batch, "model.transformer.h.0.mlp", "model.lm_head").flatten(2)
    mean = float(between.square().sum() / 3 / 44)
    assert got["layer_jacobian_mean_sq"][row] == pytest.approx(mean, rel=1e-8)
    layers: dict[str, list[str]] = {}
    for name, _ in module.named_parameters():
        layers.setdefault(f"layer {name.rpartition('.')[0]}", []).append(name)
    start, end, own = witness.before[1], witness.after[1], witness.batches[1]
    torch.manual_seed(0)  # probes.seed
    wanted = expected_step(twin(module, start), lambda m: m(**own).loss, start, end, layers)
    compare(got, wanted, 1e-8, atol=1e-12)


# What training is like.


@pytest.mark.parametrize("told", [False, True], ids=["as it is", "with probe_loss"])
def test_manual_optimisation(told: bool, sink: MemorySink, tmp_path: Path) -> None:
    module = adversaries().double()
    if told:
        kind = type(module)
        kind.probe_loss = lambda self, batch: self.critic(batch[0].flatten(1)).mean()
    monitor = watching(module="critic", input="0", on_error="warn")
    assert quietly(tmp_path, module, flat(), monitor, **DOUBLE) == []
    assert len(sink.probes) == 2
    for record in sink.probes:
        chained = [name for name in OF_OUTPUTS if name.startswith("layer_")]
        got = set(values_of(record)) - set(chained)
        assert got - set(OF_LOSS) == set(OF_OUTPUTS) - set(chained)
        if told:
            assert got >= set(OF_LOSS)
            assert values_of(record)["actual_change"]["layer generator.0"] == 0.0
            assert values_of(record)["actual_change"]["layer critic.0"] != 0.0
        else:
            assert set(record.withheld) == set(OF_LOSS)
            for why in record.withheld.values():
                assert "under manual optimisation" in why
                assert "give the module a method probe_loss(batch)" in why


def flat() -> DataLoader[Any]:
    """Images as rows in double precision, with a label."""
    rows = [(image.flatten().double(), label) for image, label in data(16).dataset]
    return DataLoader(rows, batch_size=8)  # type: ignore[arg-type]


class Plain(Learner):
    """Tensors that it makes are of torch's default precision, which the Trainer sets."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        scores = self.network(batch[0]) @ torch.eye(3)
        return nn.functional.cross_entropy(scores, batch[1])


class PlainThroughout(Plain):
    def forward(self, features: Tensor) -> Tensor:
        return self.network(features @ torch.eye(6))


def test_double_precision_is_that_of_tensors_made_on_the_way(
    sink: MemorySink, tmp_path: Path
) -> None:
    fit(tmp_path, Plain(perceptron(torch.float64)), pairs(), watching(), **DOUBLE)
    assert torch.get_default_dtype() is torch.float32
    for record in sink.probes:
        assert set(values_of(record)) == set(PROBED)


def test_double_precision_is_that_of_outputs_too(sink: MemorySink, tmp_path: Path) -> None:
    module = PlainThroughout(perceptron(torch.float64))
    fit(tmp_path, module, pairs(), watching(), **DOUBLE)
    for record in sink.probes:
        assert set(values_of(record)) == set(PROBED)


class Tapped(Learner):
    """The loss is of what a hook, which encloses the module, took down."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.hidden: Tensor | None = None
        self.network[0].register_forward_hook(lambda m, a, out: self.take(out))  # type: ignore[operator]

    def take(self, output: Tensor) -> None:
        self.hidden = output

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.network(batch[0])
        assert self.hidden is not None
        return nn.functional.cross_entropy(self.network[2](self.hidden.tanh()), batch[1])


def test_what_a_hook_takes_down_is_of_the_copy(sink: MemorySink, tmp_path: Path) -> None:
    module, witness = Tapped(perceptron(torch.float64)), Witness()
    fit(tmp_path, module, pairs(), watching(OF_LOSS), witness, **DOUBLE)
    plain = Learner(perceptron(torch.float64))
    for record in sink.probes:
        inputs, labels = witness.batches[record.step]
        start, end = witness.before[record.step], witness.after[record.step]
        wanted = expected_step(
            twin(plain, start),
            lambda m, x=inputs, y=labels: nn.functional.cross_entropy(m(x), y),
            start,
            end,
            LAYERS,
        )
        compare(values_of(record), wanted, 1e-9)


RETURNS: dict[str, tuple[Callable[[Tensor], Any], str | None]] = {
    "a mapping": (lambda loss: {"loss": loss, "more": 1}, None),
    "a sum of several": (lambda loss: {"loss": loss.reshape(1).sum()}, None),
    "nothing": (lambda loss: None, "training_step returned NoneType, without a loss"),
}


@pytest.mark.parametrize("name", RETURNS)
def test_what_training_step_returns(name: str, sink: MemorySink, tmp_path: Path) -> None:
    returned, reason = RETURNS[name]

    class Returning(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return returned(super().training_step(batch, batch_idx))

    monitor = watching(on_error="warn")
    module = Returning(perceptron(torch.float64))
    assert quietly(tmp_path, module, pairs(), monitor, **DOUBLE) == []
    assert len(sink.probes) == 2
    for record in sink.probes:
        assert reasons_of(record) == ({reason} if reason else set())
        assert set(values_of(record)) == set(OF_OUTPUTS if reason else PROBED)


def test_a_training_step_that_takes_no_index(sink: MemorySink, tmp_path: Path) -> None:
    class Brief(Learner):
        def training_step(self, batch: Any) -> Any:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

    fit(tmp_path, Brief(perceptron(torch.float64)), pairs(), watching(), **DOUBLE)
    assert [set(values_of(record)) for record in sink.probes] == [set(PROBED)] * 2


def test_a_training_step_is_told_the_index_of_its_batch(sink: MemorySink, tmp_path: Path) -> None:
    told: list[int] = []

    class Telling(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            told.append(batch_idx)
            return super().training_step(batch, batch_idx)

    fit(tmp_path, Telling(perceptron(torch.float64)), pairs(), watching(("actual_change",)))
    assert set(told) == {0, 1}
    first_of_second_step = told.index(1)
    assert set(told[:first_of_second_step]) == {0}
    assert set(told[first_of_second_step:]) == {1}
    assert len(told) > 6, "it was evaluated for the probes"


def test_a_parameter_that_the_loss_does_not_see(sink: MemorySink, tmp_path: Path) -> None:
    module = Learner(perceptron(torch.float64))
    module.network.add_module("idle", nn.Linear(3, 3).double())
    module.network.idle.forward = nn.Identity().forward  # type: ignore[union-attr]
    fit(tmp_path, module, pairs(), watching(), **DOUBLE)
    for record in sink.probes:
        got = values_of(record)
        assert got["output_jacobian_norm"]["network.idle.weight"] == 0.0
        assert got["predicted_change"]["layer network.idle"] == 0.0
        assert got["actual_change"]["layer network.idle"] == 0.0
        assert got["output_jacobian_norm"]["(all)"] > 0


def test_two_monitors_probe_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sinks = [MemorySink(), MemorySink()]
    made = iter(sinks)
    monkeypatch.setattr("jacoscope.callback.make_sinks", lambda *_: ([next(made)], None))
    other = SensitivityMonitor(
        quantities=PROBED,
        probes={"schedule": {"every": 1}},  # type: ignore[arg-type]
        output={"group": "other"},  # type: ignore[arg-type]
        on_error="raise",
    )
    fit(tmp_path, Learner(perceptron(torch.float64)), pairs(), watching(), other, **DOUBLE)
    for one, two in zip(sinks[0].probes, sinks[1].probes, strict=True):
        compare(values_of(one), values_of(two), 1e-12, atol=1e-15)
