"""What is missing from probes in a loop of one's own, and why; modes, steps, wrapped models."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import fingerprint
from jacoscope import Monitor, MonitorWarning
from jacoscope.sinks import MemorySink
from probe_expected import compare, expected_outputs, expected_step, kernels, members_of, twin
from probe_loop import CHAIN, LAYERS, NAMES, Trained, batches, rows_of
from probe_training import EACH, OF_LOSS, OF_OUTPUTS, PROBED, cross_entropy, values_of
from sample_training import perceptron

# What is estimated, and what is missing.


def test_many_outputs_are_sketched() -> None:
    """Estimates come with their standard errors, and what needs every row is withheld."""
    options = {**EACH, "max_outputs": 2, "sketches": 64}
    trained = Trained(perceptron(torch.float64), {"probes": options}, count=1)
    exact = Trained(perceptron(torch.float64), count=1)
    record, true = trained.probes[0], values_of(exact.probes[0])
    withheld = [name for name, why in record.withheld.items() if "max_outputs: 2" in why]
    assert (
        set(withheld)
        == set(record.withheld)
        == {
            *("output_jacobian_spectral_norm", "ntk_top_eigenvalue", "ntk_condition"),
            *("ntk_effective_rank", "input_jacobian_spectral_norm", "input_jacobian_condition"),
        }
    )
    estimated = 0
    for item in record.records:
        if item.quantity in OF_LOSS:
            assert item.errors is None
            continue
        if item.errors is None:
            continue
        for row, value, error in zip(item.axis.names, item.values, item.errors, strict=True):
            if math.isnan(true[item.quantity][row]):
                assert math.isnan(value)
                continue
            assert abs(value - true[item.quantity][row]) <= 5 * error + 1e-9, (item.quantity, row)
            estimated += error > 0
    assert estimated > 10


def test_the_batch_must_be_known() -> None:
    record = Trained(perceptron(torch.float64), count=1, begin=False).probes[0]
    assert set(record.withheld) == set(PROBED)
    assert all("give it to begin_batch" in why for why in record.withheld.values())


def test_the_loss_must_be_known(caplog: pytest.LogCaptureFixture) -> None:
    trained = Trained(perceptron(torch.float64), given=None)
    for record in trained.probes:
        assert set(record.withheld) == set(OF_LOSS)
        assert all("give Monitor a function" in why for why in record.withheld.values())
        assert set(values_of(record)) == set(OF_OUTPUTS)
    assert len([each for each in caplog.messages if "all else equal is left out" in each]) == 1


def test_a_loss_of_another_model_is_withheld() -> None:
    model = perceptron(torch.float64)
    trained = Trained(model, given=lambda _, batch: cross_entropy(model, batch), count=1)
    assert set(trained.probes[0].withheld) == set(OF_LOSS)
    for why in trained.probes[0].withheld.values():
        assert "does not depend on the model that it is given" in why


def test_a_loss_that_is_not_the_same_twice_is_withheld() -> None:
    noise = torch.Generator().manual_seed(0)

    def noisy(model: nn.Module, batch: Any) -> Tensor:
        return cross_entropy(model, batch) + torch.rand((), generator=noise)

    trained = Trained(perceptron(torch.float64), given=noisy)
    for record in trained.probes:
        assert set(record.withheld) == set(OF_LOSS)
        assert all("the next time" in why for why in record.withheld.values())


def test_targets_of_regression() -> None:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(2, 8, 6, generator=generator, dtype=torch.float64)
    data = [(each, each[:, :3].sin()) for each in inputs]

    def squared(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    trained = Trained(perceptron(torch.float64), data=data, loss=squared, given=squared)
    now = trained.at(trained.ends[1])
    members = members_of(NAMES)
    then = kernels(trained.at(trained.ends[0]), inputs[0], members)
    wanted = expected_outputs(now, inputs[0], data[0][1], members, then, CHAIN)
    wanted |= expected_step(
        trained.model,
        lambda model: squared(model, data[1]),
        trained.starts[1],
        trained.ends[1],
        LAYERS,
    )
    compare(values_of(trained.probes[1]), wanted, 1e-9, atol=1e-11)


def test_without_labels_alignment_is_withheld() -> None:
    data = [(inputs,) for inputs, _ in batches(1)]
    loss = lambda model, batch: model(batch[0]).square().mean()  # noqa: E731
    trained = Trained(perceptron(torch.float64), data=data, loss=loss, given=loss)  # type: ignore[arg-type]
    assert set(trained.probes[0].withheld) == {"ntk_alignment"}
    assert "no labels" in trained.probes[0].withheld["ntk_alignment"]


# Modes, state and steps.


def test_layers_that_act_otherwise_in_training() -> None:
    """Outputs are probed in evaluation mode; the loss as in training, the same units dropped."""
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.4), nn.Tanh(), nn.Linear(5, 3)
    ).double()
    torch.manual_seed(5)
    trained = Trained(network, count=2)
    record = trained.probes[1]
    assert not record.withheld
    inputs, labels = trained.batches[0]
    members = members_of([name for name, _ in network.named_parameters()])
    now = trained.at(trained.ends[1]).eval()
    chain = ("0", "4")
    wanted = expected_outputs(now, inputs, labels, members, {}, chain)
    del wanted["ntk_drift"]
    compare(values_of(record), wanted, 1e-9, atol=1e-11)
    torch.manual_seed(0)  # probes.seed
    layers = {"layer 0": ["0.weight", "0.bias"], "layer 1": ["1.weight", "1.bias"]}
    layers["layer 4"] = ["4.weight", "4.bias"]
    wanted = expected_step(
        twin(network, trained.starts[1]).train(),
        lambda model: cross_entropy(model, trained.batches[1]),
        trained.starts[1],
        trained.ends[1],
        layers,
    )
    compare(values_of(record), wanted, 1e-9, atol=1e-12)


def test_the_end_is_allocated_in_the_mode_of_training() -> None:
    """A model is often put into evaluation mode before a loop's monitor is closed."""
    options = {**EACH, "schedule": {"every": 2}}

    def trained(after: Callable[[nn.Module], Any]) -> Trained:
        torch.manual_seed(6)
        model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3)).double()
        return Trained(model, {"probes": options}, count=4, after=after)

    plain, evaluated = trained(lambda model: None), trained(nn.Module.eval)
    assert [record.step for record in plain.probes] == [0, 2, 3]
    last, other = plain.probes[-1], evaluated.probes[-1]
    assert values_of(last) == values_of(other)
    assert set(values_of(last)) == {"allocated_change", "allocation_gap"}
    assert not evaluated.model.training


def test_the_end_of_a_run_that_was_probed_is_not_recorded_twice() -> None:
    model = perceptron(torch.float64)
    trained = Trained(model, count=2, after=lambda model: nn.init.ones_(model[0].bias))
    assert [record.step for record in trained.probes] == [0, 1]


def test_frozen_parameters_have_outputs_and_do_not_move() -> None:
    model = perceptron(torch.float64)
    model[0].weight.requires_grad_(False)
    trained = Trained(model, count=2)
    trained.check()
    trained.model[0].bias.requires_grad_(False)
    frozen = Trained(model, count=1).probes[0]
    assert values_of(frozen)["predicted_change"]["layer 0"] == 0.0
    assert values_of(frozen)["actual_change"]["layer 0"] == 0.0
    assert not frozen.withheld


class Tied(nn.Module):
    """The second map is the first one's transpose."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.first = nn.Linear(6, 3, bias=False).double()
        self.second = nn.Linear(6, 3, bias=False).double()
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs).tanh() @ self.first.weight)


def test_tied_weights_are_one_parameter() -> None:
    trained = Trained(Tied(), count=2)
    inputs, labels = trained.batches[0]
    members = {
        "first.weight": ("first.weight",),
        "(all)": ("first.weight",),
        "layer first": ("first.weight",),
    }
    then = kernels(trained.at(trained.ends[0]), inputs, members)
    wanted = expected_outputs(trained.at(trained.ends[1]), inputs, labels, members, then)
    wanted |= expected_step(
        trained.model,
        lambda model: cross_entropy(model, trained.batches[1]),
        trained.starts[1],
        trained.ends[1],
        {"layer first": ["first.weight"]},
    )
    compare(values_of(trained.probes[1]), wanted, 1e-9, atol=1e-11)


def test_steps_that_are_not_probed_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from jacoscope import probe_copies, prober

    called: list[str] = []
    modules = {"replica": probe_copies, "first_samples": prober, "points_of": prober}
    for name, module in modules.items():
        function = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, n=name, f=function, **k: (called.append(n), f(*a, **k))[1]
        )
    options = {"schedule": {"every": None, "first": 0, "steps": [2]}}
    names = [name for name in PROBED if not name.startswith("allocat")]
    trained = Trained(perceptron(torch.float64), {"quantities": names, "probes": options}, count=2)
    assert not trained.probes
    assert not called
    trained = Trained(perceptron(torch.float64), {"quantities": names, "probes": options}, count=3)
    assert [record.step for record in trained.probes] == [2]
    assert set(called) == set(modules)


def test_captures_and_probes_keep_their_own_schedules() -> None:
    config = {
        "quantities": ["grad_norm", "ntk_trace"],
        "schedule": {"every": 3, "first": 0},
        "probes": {"schedule": {"every": 2}},
    }
    trained = Trained(perceptron(torch.float64), config, count=7)
    assert [record.step for record in trained.sink.records] == [0, 3, 6]
    assert [record.step for record in trained.probes] == [0, 2, 4, 6]


def test_a_step_without_an_optimiser_is_not_probed() -> None:
    model, sink = perceptron(torch.float64), MemorySink()
    config = {"quantities": ["ntk_trace"], "probes": EACH}
    with Monitor(model, config, sinks=[sink]) as monitor:
        for step, batch in enumerate(batches(2)):
            monitor.begin_step(step)
            monitor.begin_batch(batch)
            cross_entropy(model, batch).backward()
            monitor.end_step()
        assert monitor.has_seen_no_optimizer
    assert not sink.probes


# Models that are wrapped, or that change.


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "a part"])
def test_a_compiled_model_is_probed_as_it_was_written(whole: bool) -> None:
    """Names are without what the wrapper adds; numbers are those of the model as it is."""
    plain = Trained(perceptron(torch.float64), count=2)
    inner = perceptron(torch.float64)
    wrapped: Any
    if whole:
        wrapped = torch.compile(inner, backend="eager")
    else:
        inner[0] = torch.compile(inner[0], backend="eager")
        wrapped = inner
    compiled = Trained(wrapped, count=2)
    for mine, record in zip(compiled.probes, plain.probes, strict=True):
        assert not mine.withheld
        compare(values_of(mine), values_of(record), 1e-12, atol=1e-14)
        assert rows_of(mine) == rows_of(record)


def test_a_lazy_model_is_probed_once_it_has_a_shape() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.LazyLinear(3)).double()
    sink = MemorySink()
    config = {"quantities": ["ntk_trace", "actual_change"], "probes": EACH, "on_error": "raise"}
    with Monitor(model, config, sinks=[sink], loss=cross_entropy) as monitor:
        for step, batch in enumerate(batches(2)):
            monitor.begin_step(step)
            monitor.begin_batch(batch)
            loss = cross_entropy(model, batch)
            if not step:
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            loss.backward()
            monitor.before_optimizer_step(optimizer)
            optimizer.step()
            monitor.end_step()
    assert len(sink.probes) == 2
    assert "2.weight" in rows_of(sink.probes[1])["ntk_trace"]
    assert "layer 2" in rows_of(sink.probes[1])["actual_change"]


def test_layers_added_while_training_join() -> None:
    model, sink = perceptron(torch.float64), MemorySink()
    config = {"quantities": PROBED, "probes": EACH, "on_error": "warn"}
    with Monitor(model, config, sinks=[sink], loss=cross_entropy) as monitor:
        for step, batch in enumerate(batches(4)):
            if step == 2:
                model.append(nn.Linear(3, 3).double())
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            monitor.begin_step(step)
            monitor.begin_batch(batch)
            cross_entropy(model, batch).backward()
            monitor.before_optimizer_step(optimizer)
            optimizer.step()
            monitor.end_step()
    for record in sink.probes[2:]:
        assert "layer 3" in rows_of(record)["actual_change"]
        assert "3.weight" in rows_of(record)["ntk_trace"]
        assert all(math.isfinite(v) for v in values_of(record)["actual_change"].values())


# Nothing of the training changes.


def test_training_is_bit_identical() -> None:
    def network() -> nn.Module:
        torch.manual_seed(9)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))

    data = [(inputs.float(), labels) for inputs, labels in batches(4)]
    plain, watched = network(), network()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.3)
    torch.manual_seed(1)
    for batch in data:
        optimizer.zero_grad()
        cross_entropy(plain, batch).backward()
        optimizer.step()
    expected = fingerprint(plain.state_dict())
    torch.manual_seed(1)
    trained = Trained(watched, data=data)
    assert len(trained.probes) == 4
    assert fingerprint(watched.state_dict()) == expected
    assert all(not module._forward_hooks for module in watched.modules())
    assert all(module.training for module in watched.modules())


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
def test_a_model_that_cannot_be_copied_is_said_so() -> None:
    model = perceptron(torch.float64)
    model.held = (each for each in ())  # a generator
    before = copy.deepcopy(model.state_dict())
    trained = Trained(model, {"on_error": "warn"}, count=1)
    record = trained.probes[0]
    assert set(record.withheld) == set(PROBED)
    assert all("cannot be copied" in why for why in record.withheld.values())
    assert not torch.equal(before["0.weight"], model[0].weight), "training went on"
    with pytest.warns(MonitorWarning, match="no parameter is watched"):
        Monitor(nn.ReLU(), {"quantities": ["ntk_trace"]}).close()


# On another device.


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_and_keeps_its_random_numbers() -> None:
    here = Trained(perceptron(torch.float64), count=2)
    data = [(inputs.cuda(), labels.cuda()) for inputs, labels in batches(2)]
    model = perceptron(torch.float64).cuda()
    state = torch.cuda.get_rng_state()
    there = Trained(model, data=data)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    for mine, record in zip(there.probes, here.probes, strict=True):
        assert not mine.withheld
        compare(values_of(mine), values_of(record), 1e-8, atol=1e-11)
