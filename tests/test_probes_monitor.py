"""Probes in a loop of one's own, against plain autograd in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jacoscope import Monitor
from jacoscope.quantities import PROBE_HEADLINES, PROBES
from jacoscope.sinks import MemorySink
from probe_expected import compare, expected_outputs, expected_step, members_of
from probe_loop import CHAIN, LAYERS, NAMES, Trained, batches, rows_of
from probe_training import EACH, PROBED, cross_entropy, values_of
from sample_training import perceptron


def test_every_value() -> None:
    trained = Trained(perceptron(torch.float64))
    assert [record.step for record in trained.probes] == [0, 1, 2]
    assert all(not record.withheld for record in trained.probes)
    trained.check()


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "LBFGS"])
def test_whatever_the_optimiser(name: str) -> None:
    def small(parameters: Any, lr: float) -> Any:
        options = {"weight_decay": 0.1} if "Adam" in name else {}
        return getattr(torch.optim, name)(parameters, lr=lr / 10, **options)

    Trained(perceptron(torch.float64), optimizer=small, closure=name == "LBFGS").check()


def test_rules_name_groups() -> None:
    groups = {"0.bias": "biases", "2.bias": "biases", "2.weight": "head"}
    layers = [
        {"kind": "bias", "group": "biases"},
        {"match": "2.*", "group": "head"},
        {},
    ]
    Trained(perceptron(torch.float64), {"layers": layers}).check(groups=groups)


def test_of_each_batch_its_own() -> None:
    trained = Trained(perceptron(torch.float64), {"probes": {**EACH, "batch": "each"}})
    for record in trained.probes:
        assert set(record.withheld) == {"ntk_drift"}
        assert "probes.batch is each" in record.withheld["ntk_drift"]
    trained.check(each=True)


def test_several_batches_make_one_step() -> None:
    """All else equal is of the last batch of the window, outputs of the first one's samples."""
    trained = Trained(perceptron(torch.float64), window=2)
    assert [record.step for record in trained.probes] == [0, 1, 2]
    for step, record in enumerate(trained.probes):
        batch = trained.batches[2 * step + 1]
        wanted = expected_step(
            trained.model,
            lambda model, batch=batch: cross_entropy(model, batch),
            trained.starts[step],
            trained.ends[step],
            LAYERS,
        )
        compare(values_of(record), wanted, 1e-9)


def test_only_some_of_the_samples() -> None:
    """Rows beyond samples have no part in outputs, those beyond loss_samples none in the loss."""
    options = {**EACH, "samples": 3, "loss_samples": 5}
    trained = Trained(perceptron(torch.float64), {"probes": options}, count=1)
    inputs, labels = trained.batches[0]
    members = members_of(NAMES)
    now = trained.at(trained.ends[0])
    wanted = expected_outputs(now, inputs[:3], labels[:3], members, {}, CHAIN)
    wanted |= expected_step(
        trained.model,
        lambda model: cross_entropy(model, (inputs[:5], labels[:5])),
        trained.starts[0],
        trained.ends[0],
        LAYERS,
    )
    compare(values_of(trained.probes[0]), wanted, 1e-9, atol=1e-11)


def test_single_precision() -> None:
    data = [(inputs.float(), labels) for inputs, labels in batches(2)]
    trained = Trained(perceptron(), data=data, count=2)
    trained.batches = batches(2)
    names = ["output_jacobian_norm", "input_jacobian_norm", "layer_jacobian_mean_sq", "ntk_trace"]
    for step, record in enumerate(trained.probes):
        inputs, labels = batches(2)[0]
        now = trained.at(trained.ends[step])
        wanted = expected_outputs(now, inputs, labels, members_of(NAMES), {}, CHAIN)
        compare(values_of(record), {name: wanted[name] for name in names}, 1e-5)
        assert record.dtype is np.float32


# Which rows there are.


def test_rules_decide_which_rows_there_are() -> None:
    layers = [
        {"match": "0", "quantities": ["ntk_trace", "grad_norm"]},
        {"match": "2.weight", "quantities": ["predicted_change", "actual_change"]},
    ]
    trained = Trained(perceptron(torch.float64), {"layers": layers}, count=1)
    assert rows_of(trained.probes[0]) == {
        "ntk_trace": ["0.weight", "0.bias", "(all)", "layer 0"],
        "predicted_change": ["(all)", "layer 2", "(not watched)"],
        "actual_change": ["(all)", "layer 2", "(not watched)"],
    }
    rest = {"layer 2": ["2.weight"], "(not watched)": ["0.weight", "0.bias", "2.bias"]}
    wanted = expected_step(
        trained.model,
        lambda model: cross_entropy(model, trained.batches[0]),
        trained.starts[0],
        trained.ends[0],
        rest,
    )
    named = ("predicted_change", "actual_change")
    compare(values_of(trained.probes[0]), {name: wanted[name] for name in named}, 1e-9)
    assert [item.axis.names for item in trained.sink.records[0].records] == [("0.weight", "0.bias")]


@pytest.mark.parametrize("name", PROBED)
def test_each_quantity_by_itself(name: str) -> None:
    """Nothing that is not asked for is recorded, and nothing else is needed."""
    alone = Trained(perceptron(torch.float64), {"quantities": [name]}, count=2)
    together = Trained(perceptron(torch.float64), count=2)
    assert not alone.sink.records, "no quantity is captured"
    for mine, record in zip(alone.probes, together.probes, strict=True):
        assert not mine.withheld
        assert {item.quantity for item in mine.records} == {name}
        compare(values_of(mine), {name: values_of(record)[name]}, 1e-9, atol=1e-12)


def test_the_axis_says_what_rows_are() -> None:
    trained = Trained(perceptron(torch.float64), count=1)
    kinds = {
        name: (item.axis.kinds, item.axis.sizes)
        for item in trained.probes[0].records
        for name in [(item.quantity, item.axis.is_of_groups)]
    }
    assert kinds["ntk_trace", False] == (("weight", "bias", "weight", "bias"), (30, 5, 15, 3))
    assert kinds["ntk_trace", True] == (("all", "layer", "layer"), (53, 35, 18))
    assert kinds["actual_change", True] == (("all", "layer", "layer"), (53, 35, 18))
    assert kinds["interaction_change", True] == (("all",), (53,))
    assert kinds["input_jacobian_norm", False] == (("input",), (1,))
    assert kinds["layer_jacobian_mean_sq", False] == (("between",), (1,))


def test_headlines_are_of_the_whole_model() -> None:
    record = Trained(perceptron(torch.float64), count=1).probes[0]
    values = values_of(record)
    assert set(record.headline) == {*PROBE_HEADLINES, "probe_seconds"}
    for name in PROBE_HEADLINES:
        row = "(input)" if name in PROBES["Input Jacobian"] else "(all)"
        assert record.headline[name] == values[name][row]
    assert record.headline["probe_seconds"] > 0


def test_time_first_is_not_taken_for_samples() -> None:
    """Five steps in time of four samples, whose outputs have a row per step as well."""
    model, sink = nn.Linear(3, 2), MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = {"quantities": ["ntk_trace"], "samples": {"batch_size": 4}}
    with Monitor(model, config, sinks=[sink]) as monitor:
        monitor.begin_step(0)
        monitor.begin_batch((torch.randn(5, 4, 3), torch.zeros(4)))
        model(torch.randn(5, 4, 3)).sum().backward()
        monitor.before_optimizer_step(optimizer)
        optimizer.step()
        monitor.end_step()
    why = "the first dimension of the model's input is 5, but there are 4 samples"
    assert sink.probes[0].withheld["ntk_trace"].startswith(why)
