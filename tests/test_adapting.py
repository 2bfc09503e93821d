"""Under a budget: captures on fewer samples, then on fewer layers, and what is said of it.

No test here sleeps: clocks are told what time it is.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers import OneOfTwo, classifier, data, fingerprint, trainer
from jacoscope import Monitor, SensitivityMonitor
from jacoscope._lightning import steps_of
from jacoscope.config import MonitorConfig, Output, Schedule
from jacoscope.extent import Extent, extents_of
from jacoscope.gathering import SampleGathering
from jacoscope.pacing import Overhead
from jacoscope.quantities import measure_samples
from jacoscope.record import Record, StepRecord
from jacoscope.sinks import MemorySink, RunInfo, TensorBoardSink
from sample_training import (
    Learner,
    Witness,
    cross_entropies,
    into_memory,
    loader_of,
    perceptron,
    rows_of_pairs,
    together,
)
from sample_training import fit as fit_lightning
from test_pacing import Clock

SAMPLES = 64
WIDTHS = (6, 5, 5, 5, 3)
QUANTITIES = ("grad_norm", "sample_grad_norm", "noise_scale", "effective_rank", "pair_cosine")
Cost = Callable[[Extent, int], float]


def network() -> nn.Sequential:
    torch.manual_seed(3)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(WIDTHS):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers).double()


def batch_of(step: int, samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    features = torch.randn(samples, WIDTHS[0], generator=generator, dtype=torch.float64)
    return features, features[:, 0].gt(0).long()


def losses_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


@dataclass
class Fit:
    """A training whose steps take 0.1 s, and captures as long as ``cost`` says, by extent and step.

    Args:
        cost: Seconds of a capture.
        overhead: The budget.
        every: The schedule.
        samples: Of a batch.
        end: The number of steps that the monitor is told.
        batches: To a step.
    """

    cost: Cost
    overhead: float | None = 0.02
    every: int = 5
    samples: int = SAMPLES
    end: float | None = None
    batches: int = 1
    quantities: Sequence[str] = QUANTITIES

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.sink = MemorySink()
        self.model = network()
        self.extents: dict[int, Extent] = {}
        self.weights: dict[int, dict[str, Tensor]] = {}
        self.batches_seen: list[Any] = []
        told = {
            "quantities": list(self.quantities),
            "schedule": {"every": self.every, "first": 0},
            "overhead": self.overhead,
            "on_error": "raise",
        }
        self.monitor = Monitor(self.model, told, sinks=[self.sink])
        overhead = self.monitor._overhead
        overhead._clock = self.clock
        overhead.add = overhead.once = lambda seconds: None  # type: ignore[method-assign]
        if self.end is not None:
            self.monitor.expect_end(self.end)

    def train(self, steps: int, first: int = 0) -> Fit:
        monitor = self.monitor
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        wake = float(first)
        for step in range(first, first + steps):
            is_captured = step >= wake and monitor.begin_step(step)
            if step >= wake:
                wake = step + 1 if is_captured else monitor.next_due(step + 1)
            self.clock.wait(0.1)
            if not is_captured:
                continue  # the weights stand still, which is all the same here
            self.extents[step] = extent = monitor._agenda.extent
            self.weights[step] = {n: p.detach().clone() for n, p in self.model.named_parameters()}
            optimizer.zero_grad()
            for place in range(self.batches):
                batch = batch_of(step + 1000 * place, self.samples)
                monitor.begin_batch(batch, ("place", range(self.samples)))
                loss = losses_of(self.model, batch).mean() / self.batches
                monitor.before_backward(loss, window=self.batches)
                loss.backward()
                monitor.after_backward()
            monitor.before_optimizer_step(optimizer)
            optimizer.step()
            with monitor._overhead:
                self.clock.wait(self.cost(extent, step))
            monitor.end_step()
        monitor.note_last_step(first + steps - 1, 0)
        monitor.pause(first + steps)
        return self

    def train_on(self, extents: Sequence[Extent], first: int = 0) -> Fit:
        """Capture a step on each of these, whatever the budget says."""
        adaptation, budget = self.monitor._agenda.adaptation, self.monitor._agenda.budget
        assert adaptation is not None
        assert budget is not None
        adaptation.adapt = lambda *_: None  # type: ignore[method-assign]
        budget.allows = lambda *_: True  # type: ignore[method-assign]
        for step, extent in enumerate(extents, first):
            adaptation.extent = extent
            self.train(1, first=step)
        return self

    @property
    def records(self) -> dict[int, StepRecord]:
        return {record.step: record for record in self.sink.records}

    def rows_of(self, step: int) -> dict[str, Tensor]:
        """By parameter, each sample's gradient of its own loss by plain autograd, (N, ...)."""
        model = network()
        model.load_state_dict(self.weights[step])
        losses = losses_of(model, batch_of(step, self.samples))
        names, parameters = zip(*model.named_parameters(), strict=True)
        rows = [torch.autograd.grad(each, parameters, retain_graph=True) for each in losses]
        return {name: torch.stack([row[k] for row in rows]) for k, name in enumerate(names)}


def record_of(record: StepRecord, quantity: str, row: str) -> Record:
    return next(r for r in record.records if r.quantity == quantity and row in r.axis.names)


def value(record: StepRecord, quantity: str, row: str) -> float:
    found = record_of(record, quantity, row)
    return float(found.values[found.axis.names.index(row)])


def in_proportion(seconds: float) -> Cost:
    return lambda extent, step: seconds * extent.share(SAMPLES)


@pytest.fixture(scope="module")
def reduced() -> Fit:
    """A run in which 0.3 s, 150 steps of the budget's, are too much for a capture each 5 steps."""
    quantities = (*QUANTITIES, "sample_alignment")
    fit = Fit(in_proportion(0.3), quantities=quantities)
    rank = fit.monitor._recorder.rank

    def ranked(batches: Sequence[Any], step: int, epoch: int) -> None:
        fit.batches_seen.extend(batches)
        rank(batches, step, epoch)

    fit.monitor._recorder.rank = ranked  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jacoscope.sample_backward.things_of", lambda *_: str)
        return fit.train(2001)


def test_extents_go_down_by_halves_to_sixteen_samples_and_single_layers() -> None:
    shares = [extent.share(64) for extent in extents_of(64, 5, fewer_samples=True)]
    assert shares == [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16]
    assert [e.parts for e in extents_of(64, 5, fewer_samples=False)] == [1, 2, 4]
    assert [e.size(100) for e in extents_of(100, 1, fewer_samples=True)] == [100, 50, 25]
    assert extents_of(31, 1, fewer_samples=True) == extents_of(0, 0, fewer_samples=True)
    assert [Extent(1).size(n) for n in (0, 3, 16, 17, 40)] == [0, 3, 16, 16, 20]


def test_every_sample_is_drawn_as_often_and_the_training_draws_as_before() -> None:
    state = torch.get_rng_state()
    draws = [Extent(2).drawn(64, f"step {step}") for step in range(4000)]
    assert draws[5] == Extent(2).drawn(64, "step 5")
    assert all(chosen == tuple(sorted(set(chosen))) and len(chosen) == 16 for chosen in draws)  # type: ignore[arg-type]
    counts = np.bincount(np.ravel(draws), minlength=64)
    assert np.abs(counts / 1000 - 1).max() < 0.15  # five standard deviations
    assert Extent(2).drawn(16, "step 5") is None
    assert torch.equal(torch.get_rng_state(), state)


def test_too_costly_captures_are_made_on_fewer_samples(reduced: Fit) -> None:
    sizes = [extent.size(SAMPLES) for extent in reduced.extents.values()]
    assert sizes == [64] * sizes.count(64) + [16] * sizes.count(16), "150 / 4 are less than 50"
    assert sizes.count(64) == 3, "the first is not typical, and one alone may not be"
    assert sizes.count(16) > 20
    assert all(extent.parts == 1 for extent in reduced.extents.values())
    last = reduced.records[max(reduced.records)]
    assert 0.018 < last.headline["monitor_overhead"] <= 0.02 * 1.01


def test_what_some_samples_say_is_exact(reduced: Fit) -> None:
    some = {step: r for step, r in reduced.records.items() if reduced.extents[step].halvings}
    for step, record in [*some.items()][::6]:
        chosen = reduced.extents[step].drawn(SAMPLES, f"step {step}")
        assert chosen is not None
        rows = {name: each.flatten(1)[list(chosen)] for name, each in reduced.rows_of(step).items()}
        for name, of_row in {**rows, "(all)": torch.cat(list(rows.values()), 1)}.items():
            norm = float(of_row.norm(dim=1).mean())
            assert value(record, "sample_grad_norm", name) == pytest.approx(norm, rel=1e-9)
            cosine = _cosine(of_row)
            assert value(record, "pair_cosine", name) == pytest.approx(cosine, rel=1e-9)
        assert record.samples is not None
        assert record.samples.samples == SAMPLES
        assert record.headline["sample_closure"] < 1e-9
        assert record.headline["sample_coverage"] == 1.0
        said = "measured on 16 of 64 samples, to stay within overhead: 0.02"
        assert record.capture["extent"] == said
        assert record.withheld == {"effective_rank": said}
    assert "extent" not in reduced.records[0].capture
    assert not reduced.records[0].withheld


def test_noise_is_that_of_some_samples_and_the_gradient_of_all(reduced: Fit) -> None:
    """The running means are of noise parts, by their definition in each captured step."""
    trace = signal = weight = 0.0
    for step in reduced.records:
        rows = torch.cat([each.flatten(1) for each in reduced.rows_of(step).values()], 1)
        chosen = reduced.extents[step].drawn(SAMPLES, f"step {step}") or range(SAMPLES)
        whole_sq = float(rows.mean(0).square().sum())
        squares = float(rows[list(chosen)].square().sum(1).mean())
        found = SAMPLES * (squares - whole_sq) / (SAMPLES - 1)
        trace, signal = 0.9 * trace + found, 0.9 * signal + whole_sq - found / SAMPLES
        weight = 0.9 * weight + 1
        expected = trace / signal
        assert value(reduced.records[step], "noise_scale", "(all)") == pytest.approx(expected)


def _cosine(rows: Tensor) -> float:
    unit = rows / rows.norm(dim=1, keepdim=True)
    count = len(unit)
    return float(((unit @ unit.T).sum() - count) / (count * (count - 1)))


def test_samples_are_named_as_they_are(reduced: Fit) -> None:
    some = [batch for batch in reduced.batches_seen if len(batch.ids) < SAMPLES]
    assert len(some) > 20
    for batch in some[::6]:
        chosen = reduced.extents[batch.step].drawn(SAMPLES, f"step {batch.step}")
        assert tuple(batch.ids) == chosen
        assert [batch.thing(place) for place in range(16)] == [*map(str, chosen)]
        rows = reduced.rows_of(batch.step)
        every = torch.cat([each.flatten(1) for each in rows.values()], 1)
        whole, of_some = every.mean(0), every[list(chosen)]
        np.testing.assert_allclose(batch.norms_RN[0], of_some.norm(dim=1), rtol=1e-9)
        cosines = of_some @ whole / of_some.norm(dim=1) / whole.norm()
        np.testing.assert_allclose(batch.alignments_RN[0], cosines, rtol=1e-8)
        model = network()
        model.load_state_dict(reduced.weights[batch.step])
        features, labels = batch_of(batch.step)
        losses = losses_of(model, (features, labels)).detach()
        np.testing.assert_allclose(batch.losses, losses[list(chosen)], rtol=1e-9)
        assert batch.labels == labels[list(chosen)].tolist()


def test_after_samples_layers_take_turns() -> None:
    fit = Fit(in_proportion(8.0), overhead=0.1).train(5000)
    last = [step for step in fit.records if fit.extents[step].parts == 4][-8:]
    assert len(last) == 8
    names = [name for name, _ in fit.model.named_parameters()]
    had: list[str] = []
    for step in last:
        record, rows = fit.records[step], fit.rows_of(step)
        found = record_of(record, "sample_grad_norm", names[0])
        resting = set(found.missing)
        assert 0 < len(resting) < len(names)
        chosen = fit.extents[step].drawn(SAMPLES, f"step {step}")
        assert chosen is not None
        for name in set(names) - resting:
            norm = float(rows[name].flatten(1)[list(chosen)].norm(dim=1).mean())
            assert value(record, "sample_grad_norm", name) == pytest.approx(norm, rel=1e-9)
            had.append(name)
        assert set(found.missing.values()) == {
            "its turn comes at another step, to stay within overhead: 0.1"
        }
        whole = record_of(record, "sample_grad_norm", "(all)").missing
        assert whole["(all)"].startswith("the turn of a part of it comes at another step")
        assert "sample_grad_norm" not in record.headline
        assert "noise_scale" not in record.headline
        assert "sample_coverage" not in record.headline
        assert record.headline["sample_closure"] < 1e-9, "all parameters are checked"
        assert not record_of(record, "grad_norm", names[0]).missing, "others are as they were"
        assert "on 16 of 64 samples and one of 4 parts of the layers" in record.capture["extent"]
    assert sorted(had) == sorted(2 * names), "each in its turn"


def test_what_is_left_out_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bool]] = []

    def measure(jacobian: Any, grad: Tensor, needs: Any, **options: Any) -> Any:
        asked.append((jacobian.samples, needs.gram))
        return measure_samples(jacobian, grad, needs, **options)

    monkeypatch.setattr("jacoscope.sample_backward.measure_samples", measure)
    fit = Fit(in_proportion(0.1), every=1, quantities=("sample_grad_norm", "effective_rank"))
    fit.train_on([Extent(), Extent(1), Extent(2, 4, 1)])
    assert asked[:8] == [(64, True)] * 8
    assert asked[8:16] == [(32, False)] * 8
    assert asked[16:] == [(16, False)] * 2, "a layer's weight and bias"


def test_parameters_whose_turn_it_is_not_are_checked_all_the_same() -> None:
    fit = Fit(in_proportion(0.1), every=1)
    fit.train_on([Extent(1, 2, 0)])
    dict(fit.model.named_parameters())["2.weight"].register_hook(lambda grad: 2 * grad)
    fit.train_on([Extent(1, 2, 0), Extent(1, 2, 1)], first=1)
    missing = [record_of(r, "sample_grad_norm", "0.weight").missing for r in fit.sink.records]
    resting = [{n for n, why in each.items() if "another step" in why} for each in missing]
    assert resting[0] - resting[1] <= {"2.weight"}
    assert not resting[1] & resting[2]
    assert len(resting[1] | resting[2]) == 7, "all but the one that is not what it should be"
    assert all("hook" in each["2.weight"] for each in missing[1:])


def test_what_less_costs_is_forgotten_once_it_was_seen() -> None:
    clock = Clock()
    overhead = Overhead(clock)
    overhead.load_state_dict({"costs": {"0": [3.0, 4.0, 5.0]}})
    assert overhead.remembered("0") == 3
    overhead.rescale("0", 0.5)
    assert overhead.expected("0") == 2.0
    assert overhead.remembered("0") == 0
    for step in range(30):
        overhead.begin_step(step, is_idle=True)
        if step in (10, 20):
            with overhead:
                overhead.begin_capture("0")
                overhead.once(3.0)
                clock.wait(10.0)
        clock.wait(0.1)
    assert overhead.expected("0") == pytest.approx(7.0), "without what will not recur"
    assert overhead.remembered("0") == 2
    assert overhead.spent == pytest.approx(20.0)


def test_layers_alone_where_fewer_samples_would_say_nothing() -> None:
    fit = Fit(in_proportion(8.0), quantities=("effective_rank",), overhead=0.05).train(20_000)
    last = fit.extents[max(fit.extents)]
    assert (last.halvings, last.parts > 1) == (0, True)


def test_layers_of_all_turns_are_all_layers() -> None:
    targets = Fit(in_proportion(1)).monitor.selection.targets
    for parts in (1, 2, 4):
        resting = [Extent(parts=parts, turn=turn).resting(targets) for turn in range(parts)]
        awake = [{t.name for t in targets} - each for each in resting]
        assert sorted(name for each in awake for name in each) == sorted(t.name for t in targets)
        layers = [{name.rpartition(".")[0] for name in each} for each in awake]
        assert sum(map(len, layers)) == len(set.union(*layers)), "layers stay whole"


def test_more_is_measured_again_where_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    def cost(extent: Extent, step: int) -> float:
        return (0.3 if step < 600 else 0.02) * extent.share(SAMPLES)

    with caplog.at_level(logging.INFO, "jacoscope"):
        fit = Fit(cost).train(1000)
    extents = [extent.halvings for extent in fit.extents.values()]
    rises = [extents[0], *(b for a, b in itertools.pairwise(extents) if a != b)]
    assert rises == [0, 2, 1, 0]
    said = [r for r in caplog.records if "per-sample quantities are" in r.getMessage()]
    assert [r.levelno for r in said] == [logging.WARNING, logging.INFO, logging.INFO]
    lower, *_, upper = (r.getMessage() for r in said)
    assert lower.startswith("a capture takes 3.0 times as long as a step, too much for overhead")
    assert "per-sample quantities are measured on 16 of 64 samples, to capture more often" in lower
    assert upper.startswith("overhead: 0.02 leaves room for more; from step ")
    assert upper.endswith("per-sample quantities are measured on all samples")
    assert "extent" not in fit.records[max(fit.records)].capture


def test_captures_that_are_rare_by_schedule_stay_whole() -> None:
    fit = Fit(in_proportion(0.3), every=50).train(2000)
    assert all(extent.is_all for extent in fit.extents.values())


def test_where_less_costs_as_much_nothing_swings() -> None:
    fit = Fit(lambda extent, step: 0.3).train(4000)
    extents = [e.share(SAMPLES) for e in fit.extents.values()]
    assert all(a >= b for a, b in itertools.pairwise(extents))
    assert fit.records[max(fit.records)].headline["monitor_overhead"] <= 0.02 * 1.01


@pytest.mark.parametrize("end", [None, 900.0])
def test_a_run_that_would_end_before_the_next_capture(end: float | None) -> None:
    # 0.02 of 900 steps of 0.1 s are 1.8 s; after the first capture, not enough for another.
    fit = Fit(in_proportion(1.1), end=end).train(900)
    others = [extent for step, extent in fit.extents.items() if step]
    if end is None:
        assert not others
    else:
        assert len(others) >= 1
        assert others[0] == Extent(2, overhead=0.02), "as little less as is surely enough"


def test_the_last_captures_of_a_run_are_as_the_others() -> None:
    fit = Fit(in_proportion(0.05), end=500).train(500)
    assert all(extent.is_all for extent in fit.extents.values())


def _closing(caplog: pytest.LogCaptureFixture, fit: Fit) -> logging.LogRecord:
    with caplog.at_level(logging.INFO, "jacoscope"):
        fit.monitor.close()
        fit.monitor.close()
    (found,) = [r for r in caplog.records if "captures were made" in r.getMessage()]
    return found


def test_the_log_tells_at_the_end_what_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    fit = Fit(in_proportion(0.3)).train(1001)
    told = _closing(caplog, fit)
    first = next(step for step, extent in fit.extents.items() if extent.halvings)
    assert told.levelno == logging.WARNING, "which a script shows without being told to"
    text = told.getMessage()
    assert text.startswith(
        f"overhead: 0.02: {len(fit.records)} of 201 captures were made, on 16 of"
    )
    assert 0 < int(text.split("64 samples from step ")[1].split()[0]) <= first
    assert text.endswith(" on; the monitor took 2.0% of the training time")


def test_the_log_tells_what_the_end_of_the_run_took(caplog: pytest.LogCaptureFixture) -> None:
    fit = Fit(in_proportion(0.3)).train(201)
    fit.sink.close = lambda: fit.clock.wait(2.5)  # type: ignore[method-assign]
    text = _closing(caplog, fit).getMessage()
    assert "% of the training time, and 2.5 s before and after it, for the last pictures" in text


def test_where_nothing_was_left_out_the_last_word_is_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = _closing(caplog, Fit(in_proportion(0.001), overhead=0.5, every=10).train(101))
    assert told.levelno == logging.INFO
    assert "11 of 11 captures were made;" in told.getMessage()


def test_the_card_tells_on_how_much_of_a_step_it_is_measured(reduced: Fit) -> None:
    quiet = {"headline": False, "records": False, "pictures": (), "histograms": False}
    writer = MagicMock()
    sink = TensorBoardSink(writer, Output(**quiet))  # type: ignore[arg-type]
    told = MonitorConfig(overhead=0.02)
    sink.open(RunInfo(told, reduced.monitor.selection, {}, ()))
    for record in [*reduced.records.values()][:8]:
        sink.write(record)
    cards = [(call.args[1], call.args[2]) for call in writer.add_text.call_args_list]
    first = next(step for step, extent in reduced.extents.items() if extent.halvings)
    assert [step for _, step in cards] == [0, first], "it is written anew when that changes"
    said = "per-sample quantities are measured on 16 of 64 samples, to stay within overhead: 0.02."
    assert [said in text for text, _ in cards] == [False, True]


def test_a_run_with_too_few_captures_is_told_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    told = _closing(caplog, Fit(lambda extent, step: 30.0).train(100))
    assert told.levelno == logging.WARNING
    assert told.getMessage() == (
        "overhead: 0.02: 1 of 20 captures were made; the monitor took 75.0% of the training time; "
        "a larger overhead, a longer run or fewer quantities would allow more"
    )


def test_without_a_budget_there_is_nothing_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    fit = Fit(in_proportion(0.8), overhead=None).train(50)
    with caplog.at_level(logging.INFO, "jacoscope"):
        fit.monitor.close()
    assert not caplog.records
    assert all("extent" not in record.capture for record in fit.records.values())


def test_a_resumed_run_goes_on_with_as_much() -> None:
    fit = Fit(in_proportion(0.3)).train(803)
    state = json.loads(json.dumps(fit.monitor.state_dict()))
    resumed = Fit(in_proportion(0.3))
    resumed.monitor.load_state_dict(state)
    assert resumed.monitor._agenda.adaptation is not None
    assert resumed.monitor._agenda.adaptation.samples == SAMPLES
    resumed.train(203, first=803)
    assert resumed.extents
    resumed.monitor.close()
    assert {e.size(SAMPLES) for e in resumed.extents.values()} == {16}
    adaptation = resumed.monitor._agenda.adaptation
    assert adaptation is not None
    assert adaptation.made + adaptation.left_out == 202, "as if it had not stopped"


@pytest.mark.parametrize("before", [None, 0.01])
def test_a_budget_begins_when_it_is_set(before: float | None) -> None:
    fit = Fit(in_proportion(3.0), overhead=before).train(100)
    state = json.loads(json.dumps(fit.monitor.state_dict()))
    resumed = Fit(in_proportion(0.01), overhead=0.1)
    resumed.monitor.load_state_dict(state)
    resumed.train(100, first=100)
    # At 105 too few other steps were seen for the first to be judged.
    assert [*resumed.extents] == [100, *range(110, 200, 5)], "what was taken before is not owed"
    assert all(extent.is_all for extent in resumed.extents.values())


def test_samples_come_before_layers_even_where_none_were_seen() -> None:
    fit = Fit(in_proportion(1.5))
    fit.monitor._overhead.load_state_dict({"costs": {"0": [1.5, 1.5, 1.5]}})
    fit.train(2001)
    assert any(extent.halvings for extent in fit.extents.values())
    assert all(extent.halvings == 2 for extent in fit.extents.values() if extent.parts > 1)


def test_training_is_bit_identical_on_every_extent() -> None:
    prints = set()
    for overhead in (None, 0.02):
        fit = Fit(in_proportion(0.8), overhead=overhead, every=1)
        state = torch.get_rng_state()
        extents = [Extent(), Extent(1), Extent(2), Extent(2, 2), Extent(2, 4, 3)]
        if overhead is None:
            fit.train(10)
        else:
            fit.train_on([*extents, *extents])
        assert len(fit.records) == 10
        prints.add(fingerprint(fit.model.state_dict()))
        assert torch.equal(torch.get_rng_state(), state)
    assert len(prints) == 1


def test_each_batch_of_a_window_has_samples_of_its_own() -> None:
    fit = Fit(in_proportion(0.3), batches=2).train(600)
    step = max(fit.records)
    record, extent = fit.records[step], fit.extents[step]
    assert extent.halvings
    model = network()
    model.load_state_dict(fit.weights[step])
    norms = []
    for place, name in enumerate((f"step {step}", f"step {step}.1")):
        chosen = extent.drawn(SAMPLES, name)
        assert chosen is not None
        losses = losses_of(model, batch_of(step + 1000 * place))[list(chosen)]
        for each in losses:
            rows = torch.autograd.grad(each, list(model.parameters()), retain_graph=True)
            norms.append(float(torch.cat([row.flatten() for row in rows]).norm()))
    assert value(record, "sample_grad_norm", "(all)") == pytest.approx(np.mean(norms), rel=1e-9)
    assert record.capture["extent"].startswith(f"measured on {len(norms)} of 128 samples")


@pytest.mark.parametrize(
    ("batches", "accumulated", "epochs", "most", "expected"),
    [
        (10, 1, 3, -1, 30),
        (10, 4, 3, -1, 9),
        (10, 4, 3, 5, 5),
        (10, 1, -1, 70, 70),
        (10, 1, None, 70, 70),
        (10, 1, -1, -1, math.inf),
        (math.inf, 1, 3, 70, 70),
        (math.inf, 1, 3, -1, math.inf),
    ],
)
def test_how_long_a_run_is(
    batches: float, accumulated: int, epochs: int | None, most: int, expected: float
) -> None:
    trainer: Any = SimpleNamespace(
        num_training_batches=batches,
        accumulate_grad_batches=accumulated,
        max_epochs=epochs,
        max_steps=most,
    )
    assert steps_of(trainer) == expected


def test_processes_measure_as_much_as_rank_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(self: SampleGathering, before: float = float("inf")) -> None:
        while self._expected and self._expected[0].step < before:
            samples = self._expected.popleft().samples
            assert samples is not None
            samples.settle(None, "nothing is exchanged here")

    monkeypatch.setattr(SampleGathering, "gather", gather)
    clock, said = Clock(), []  # type: ignore[var-annotated]
    monkeypatch.setattr("jacoscope.monitor.Overhead", lambda: Overhead(clock))
    told = {
        "quantities": ["sample_grad_norm"],
        "schedule": {"every": 1},
        "overhead": 0.02,
        "on_error": "raise",
    }
    model = network()
    ranks = [Monitor(model, told, processes=OneOfTwo(rank, said)) for rank in (0, 1)]  # type: ignore[arg-type]
    ranks[1]._overhead._clock = Clock()  # which stands still, and would decide otherwise
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    extents = set()
    for step in range(6000):
        is_captured = ranks[0].begin_step(step)
        assert ranks[1].begin_step(step) is is_captured
        clock.wait(0.1)
        if not is_captured:
            continue
        first, second = (rank._agenda.extent for rank in ranks)
        assert first == second
        extents.add(first)
        names = [rank._samples._resting for rank in ranks]  # type: ignore[union-attr]
        assert names[0] == names[1]
        for monitor in ranks:
            monitor.begin_batch(batch_of(step), None)
            loss = losses_of(model, batch_of(step)).mean()
            monitor.before_backward(loss)
            loss.backward()
            monitor.after_backward()
            monitor.before_optimizer_step(optimizer)
        with ranks[0]._overhead if step else nullcontext():
            clock.wait(4 * first.share(SAMPLES))
        for monitor in ranks:
            monitor.end_step()
    assert len({extent.parts for extent in extents}) > 1
    assert len({extent.turn for extent in extents}) > 1


@pytest.mark.parametrize("how", ["new", "resumed", "continued"])
def test_another_fit_counts_anew_unless_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    import lightning.pytorch

    clock = Clock()
    monkeypatch.setattr("jacoscope.monitor.Overhead", lambda: Overhead(clock))
    schedule = Schedule(every=1, first=0)
    callback = SensitivityMonitor(quantities=("grad_norm",), schedule=schedule, overhead=0.5)
    counts: list[tuple[int, float]] = []

    class Passing(lightning.pytorch.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            clock.wait(0.1)

        def on_train_end(self, *_: Any) -> None:
            assert callback._session is not None
            monitor = callback._session.monitor
            adaptation = monitor._agenda.adaptation
            assert adaptation is not None
            adaptation.catch_up(monitor._last[0] + 1, None, monitor._agenda._next_regular)
            counts.append((adaptation.made + adaptation.left_out, monitor._overhead.training))

    def fit(most: int, **options: Any) -> lightning.pytorch.Trainer:
        made = trainer(
            lightning.pytorch,
            tmp_path,
            callbacks=[Passing(), callback],
            max_steps=most,
            max_epochs=-1,
        )
        made.fit(classifier(), data(), **options)
        return made

    first = fit(20)
    if how == "new":
        fit(30)
    elif how == "resumed":
        first.save_checkpoint(tmp_path / "20.ckpt")
        fit(30, ckpt_path=tmp_path / "20.ckpt")
    else:
        first.fit_loop.epoch_loop.max_steps = 30
        first.fit(classifier(), data())
    (before, shorter), (after, longer) = counts
    assert before == 20
    assert after == 30, "of steps 0 to 29"
    assert (shorter, longer) == (pytest.approx(2.0, abs=0.11), pytest.approx(3.0, abs=0.21))


def test_a_run_of_lightning_measures_less_and_trains_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch import Callback

    clock, sink = Clock(), into_memory(monkeypatch)
    monkeypatch.setattr("jacoscope.monitor.Overhead", lambda: Overhead(clock))
    callback = SensitivityMonitor(
        quantities=("sample_grad_norm", "sample_grad_norm_max"),
        schedule=Schedule(every=1, first=0),
        overhead=0.02,
        on_error="raise",
    )
    extents: dict[int, Extent] = {}
    ends = set()

    class Passing(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            session = callback._session
            assert session is not None
            agenda = session.monitor._agenda
            clock.wait(0.1)
            with session.monitor._overhead:
                clock.wait(0.06 * agenda.extent.share(SAMPLES) * session.is_capturing)
            assert agenda.adaptation is not None
            ends.add(agenda.adaptation._end)

        def on_before_zero_grad(self, trainer: Any, *_: Any) -> None:
            session = callback._session
            if session is not None and session.is_capturing:
                extents[trainer.global_step] = session.monitor._agenda.extent

    witness, prints = Witness(), set()
    for ours, others in ((None, ()), (callback, (Passing(), witness))):
        torch.manual_seed(5)
        module = Learner(perceptron(torch.float64))
        loader = loader_of(rows_of_pairs(4 * SAMPLES, torch.float64), SAMPLES, shuffle=True)
        fit_lightning(tmp_path, module, loader, ours, *others, max_epochs=40)
        prints.add((fingerprint(module.state_dict()), fingerprint({"": torch.get_rng_state()})))
    assert len(prints) == 1
    assert ends == {160}
    some = {r.step: r for r in sink.records if "extent" in r.capture}
    assert len(some) > 5
    for step, record in some.items():
        ((state, batch, _),) = witness.seen[step]
        model = perceptron(torch.float64)
        model.load_state_dict(state)
        chosen = extents[step].drawn(SAMPLES, f"step {step}")
        assert chosen is not None
        rows = together(model, cross_entropies, batch, 1.0)
        norms = np.linalg.norm(np.concatenate([*rows.values()], 1), axis=1)[list(chosen)]
        assert value(record, "sample_grad_norm", "(all)") == pytest.approx(norms.mean(), rel=1e-9)
        largest = value(record, "sample_grad_norm_max", "(all)")
        assert largest == pytest.approx(norms.max(), rel=1e-9)
