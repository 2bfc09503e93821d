"""Memory that runs out inside the monitor: less is done and it is said; training never knows."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import fingerprint
from jacoscope import Monitor, MonitorWarning
from jacoscope.capturing._backward import BackwardCapture
from jacoscope.capturing._capture import JacobianCapture
from jacoscope.capturing._straight import Straight
from jacoscope.capturing.rules import RULES
from jacoscope.faults import Faults
from jacoscope.memory import Allowance, SampleThrift, is_out_of_memory
from jacoscope.sinks import MemorySink

Patch = pytest.MonkeyPatch
SAMPLES = ("sample_grad_norm", "pair_cosine", "noise_scale")
OUTPUTS = ("output_jacobian_norm", "input_jacobian_norm")
LOSSES = ("actual_change", "allocated_change")
STEPS = 8


class Planted:
    """Raises as an allocator does, and keeps a weak eye on a tensor that its frame had."""

    def __init__(self, error: Callable[[], Exception] | None = None) -> None:
        self._error = error or (lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to …"))
        self.is_armed = False
        self.held: list[weakref.ref[Any]] = []

    def __call__(self, *_: Any, **__: Any) -> Any:
        large = torch.empty(1000)
        self.held.append(weakref.ref(large))
        raise self._error()

    def before(self, function: Any) -> Any:
        """The function, preceded by the error while it is armed."""

        def planted(*arguments: Any, **options: Any) -> Any:
            return self() if self.is_armed else function(*arguments, **options)

        return planted

    @property
    def alive(self) -> int:
        return sum(each() is not None for each in self.held)


def really() -> Exception:
    """What an allocator says of more than there is."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**46, dtype=torch.uint8)
    return raised.value


def network() -> nn.Sequential:
    torch.manual_seed(3)
    layers = nn.Linear(5, 4), nn.Dropout(0.2), nn.Tanh(), nn.Linear(4, 3)
    return nn.Sequential(*layers).double()


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def batches(count: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 5, generator=generator).double(), torch.arange(8) % 3) for _ in range(count)
    ]


class Trained:
    """A training by hand, watched or not."""

    def __init__(
        self,
        quantities: tuple[str, ...] = (),
        arm: Callable[[int], None] = lambda step: None,
        *,
        on_error: str = "warn",
        steps: int = STEPS,
        **options: Any,
    ) -> None:
        model = network()
        self.sink = MemorySink()
        config = {
            "quantities": ["grad_norm", *quantities],
            "schedule": {"every": 1},
            "on_error": on_error,
            "alerts": [],
            **options,
        }
        stepping = torch.optim.Adam(model.parameters(), lr=0.1)
        torch.manual_seed(5)
        sinks = [self.sink]
        monitor = Monitor(model, config, sinks=sinks, loss=loss_of) if quantities else None
        for step, batch in enumerate(batches(steps)):
            arm(step)
            stepping.zero_grad()
            if monitor is not None:
                monitor.begin_step(step)
                monitor.begin_batch(batch)
            loss = loss_of(model, batch)
            if monitor is None:
                loss.backward()
                stepping.step()
                continue
            monitor.before_backward(loss)
            loss.backward()
            monitor.after_backward()
            monitor.before_optimizer_step(stepping)
            stepping.step()
            monitor.end_step()
        if monitor is not None:
            monitor.close()
        state = [model.state_dict(), stepping.state_dict(), torch.get_rng_state()]
        self.fingerprint = fingerprint(*state)


@contextmanager
def warned_once(subject: str) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = [str(each.message) for each in caught if each.category is MonitorWarning]
    assert len(said) == 1, said
    assert subject in said[0]
    assert "out of memory" in said[0]


def reasons(record: Any, name: str) -> dict[str, str]:
    """Why a quantity has no value, by row; a quantity withheld as a whole has the row ``*``."""
    if name in record.withheld:
        return {"*": record.withheld[name]}
    found = [each for each in record.records if each.quantity == name]
    return {row: why for each in found for row, why in each.missing.items()}


def norms_of(record: Any) -> dict[str, float]:
    found = [each for each in record.records if each.quantity == "sample_grad_norm"]
    return {
        row: float(value)
        for each in found
        for row, value in zip(each.axis.names, each.values, strict=True)
    }


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (really(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
    ids=repr,
)
def test_it_is_told_apart(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_an_allowance_is_halved_down_to_its_floor() -> None:
    allowance = Allowance(100, 30)
    assert [allowance.halve() for _ in range(3)] == [True, True, False]
    assert allowance.amount == 30
    assert not Allowance(5, 30).halve()


def test_several_processes_keep_measuring_the_same() -> None:
    thrift = SampleThrift(2**20, keeps_gram=True)
    assert "no longer captured" in thrift.reduce(["a"], takes_gram=True)
    assert (thrift.gram_lost, set(thrift.lost)) == (None, {"a"})


def every_rule(patch: Patch, planted: Planted) -> None:
    for key, rule in RULES.items():
        patch.setitem(RULES, key, planted.before(rule))  # type: ignore[misc]
    patch.setattr(Straight, "taken", planted.before(Straight.taken))


def at(path: str) -> Callable[[Patch, Planted], None]:
    owner, _, name = path.rpartition(".")

    def plant(patch: Patch, planted: Planted) -> None:
        from pkgutil import resolve_name

        original = getattr(resolve_name(owner), name)
        patch.setattr(path, planted.before(original))

    return plant


CAPTURING = "jacoscope.capturing"


def the_long_way(patch: Patch, planted: Planted) -> None:
    patch.setattr(f"{CAPTURING}._straight._MATRIX", {})
    at(f"{CAPTURING}._backward.combine")(patch, planted)


POINTS: dict[str, Callable[[Patch, Planted], None]] = {
    "walking": at(f"{CAPTURING}._capture.walk"),
    "attaching": at(f"{CAPTURING}._capture.JacobianCapture.attach"),
    "losses": at("jacoscope.sample_backward.sample_losses"),
    "every rule": every_rule,
    "the operator": at(f"{CAPTURING}._straight.Taken.jacobian"),
    "the long way's operator": the_long_way,
    "checking": at(f"{CAPTURING}._capture.Check.of"),
    "measuring": at("jacoscope.sample_backward.measure_samples"),
    "the parcel": at("jacoscope.sample_backward.Parcel"),
}
FIRST: dict[str, Callable[[Patch, Planted], None]] = {
    "planning": at(f"{CAPTURING}._calibration.make_plan"),
    "rehearsing": every_rule,
    "verifying": at(f"{CAPTURING}._calibration._Verification._masked"),
    "checking the rehearsal": at(f"{CAPTURING}._calibration.Check.of"),
}


@pytest.mark.parametrize(
    ("point", "when"), [*((p, 2) for p in POINTS), *((p, 0) for p in FIRST)], ids=str
)
def test_one_step_is_lost_and_the_next_does_with_less(
    point: str, when: int, monkeypatch: Patch
) -> None:
    plain = Trained(steps=5)
    planted = Planted()
    {**POINTS, **FIRST}[point](monkeypatch, planted)

    def arm(step: int) -> None:
        planted.is_armed = step == when
        if step == when + 1:
            assert planted.held
            assert not planted.alive  # and nothing was collected

    gc.disable()
    try:
        with warned_once("per-sample gradients"):
            watched = Trained(SAMPLES, arm, steps=5)
    finally:
        gc.enable()
    assert watched.fingerprint == plain.fingerprint
    for record in watched.sink.records:
        found = reasons(record, "sample_grad_norm")
        if record.step != when:
            assert not found
            assert record.headline["sample_coverage"] == 1.0
        else:
            assert found
            expected = "within 128 MB instead of 256 MB (samples.memory_budget)"
            assert all("out of memory" in why for why in found.values())
            assert expected in " ".join(found.values())
    noted = [record.capture.get("memory") for record in watched.sink.records]
    assert [each is not None for each in noted] == [step > when for step in range(5)]


def test_a_window_of_several_backwards_keeps_the_reason(monkeypatch: Patch) -> None:
    """Where one of a step's batches was starved, the others do not add up to its gradient."""
    planted, sink, model = Planted(), MemorySink(), network()
    POINTS["measuring"](monkeypatch, planted)
    stepping = torch.optim.SGD(model.parameters(), lr=0.1)
    config = {"quantities": list(SAMPLES), "schedule": {"every": 1}, "alerts": []}
    with warned_once("per-sample gradients"), Monitor(model, config, sinks=[sink]) as monitor:
        for place, batch in enumerate(batches(4)):
            monitor.begin_step(place // 2)
            monitor.begin_batch(batch)
            loss = loss_of(model, batch) / 2
            planted.is_armed = place == 1
            monitor.before_backward(loss, window=2)
            loss.backward()
            monitor.after_backward()
            if place % 2:
                monitor.before_optimizer_step(stepping)
                stepping.step()
                stepping.zero_grad()
            monitor.end_step()
    starved, after = sink.records
    found = reasons(starved, "sample_grad_norm")
    assert found
    assert all("out of memory" in why for why in found.values()), found
    assert not reasons(after, "sample_grad_norm")


_OTHERS = ("3.weight", "3.bias", "layer 3")


def test_little_by_little_it_does_without(monkeypatch: Patch) -> None:
    """At one parameter memory always runs out; the other layer keeps its exact values."""
    consume = JacobianCapture._consume

    def starved(capture: Any, name: str, arrival: Any) -> None:
        if name == "0.weight":
            torch.empty(2**46, dtype=torch.uint8)
        consume(capture, name, arrival)

    plain, whole = Trained(), Trained(SAMPLES).sink
    monkeypatch.setattr(JacobianCapture, "_consume", starved)
    with warned_once("some parameters' per-sample gradients"):
        watched = Trained(SAMPLES, samples={"memory_budget": 64})
    assert watched.fingerprint == plain.fingerprint
    said = [reasons(record, "sample_grad_norm")["0.weight"] for record in watched.sink.records]
    assert [why.split("; ")[1].split(" (")[0] for why in said[:4]] == [
        "from the next capture on within 32 MB instead of 64 MB",
        "from the next capture on within 16 MB instead of 32 MB",
        "from the next capture on without Gram matrices",
        "no longer captured in this run",
    ]
    assert set(said[3:]) == {"out of memory within 16 MB; no longer captured in this run"}
    for step, (record, unharmed) in enumerate(
        zip(watched.sink.records, whole.records, strict=True)
    ):
        no_gram = reasons(record, "pair_cosine").get("*", "")
        assert ("without Gram matrices" in no_gram) == (step > 2)
        lost = set(reasons(record, "sample_grad_norm"))
        # Once the culprit is left alone, what was given up with it is back.
        given_up = {"0.bias"} if step <= 3 else set()
        assert {"0.weight", "layer 0"} <= lost <= {"0.weight", "layer 0"} | given_up
        mine, theirs = norms_of(record), norms_of(unharmed)
        # Norms are read off Gram matrices where there are any.
        assert all(mine[row] == pytest.approx(theirs[row], rel=1e-12) for row in _OTHERS)


def test_all_that_is_held_is_given_up_at_once(monkeypatch: Patch) -> None:
    """What waits for its leaf would take the room that the backward itself needs."""
    held: list[tuple[int, int]] = []
    lose, consume = BackwardCapture._lose, JacobianCapture._consume
    planted = Planted(really)

    def losing(capture: Any, names: Any, error: Any) -> None:
        before = len(capture._taken)
        lose(capture, names, error)
        held.append((before, sum(map(len, (capture._taken, capture._terms, capture._scales)))))

    monkeypatch.setattr(BackwardCapture, "_lose", losing)
    monkeypatch.setattr(JacobianCapture, "_consume", planted.before(consume))

    def arm(step: int) -> None:
        planted.is_armed = step == 1

    with warned_once("per-sample gradients"):
        Trained(SAMPLES, arm, steps=2)
    assert max(before for before, _ in held) > 0
    assert not any(after for _, after in held)
    assert len(planted.held) == 1  # the others are not even tried


def test_on_error_raise_lets_it_through(monkeypatch: Patch) -> None:
    planted = Planted()
    every_rule(monkeypatch, planted)

    def arm(step: int) -> None:
        planted.is_armed = step == 1

    with pytest.raises(torch.OutOfMemoryError):
        Trained(SAMPLES, arm, on_error="raise")


PROBES = {"schedule": {"every": 1}, "samples": 4, "weights": 0, "memory_budget": 32}


def test_probes_of_outputs_take_fewer_rows_at_a_time(monkeypatch: Patch) -> None:
    plain, planted = Trained(), Planted()
    at("jacoscope.output_probe.products")(monkeypatch, planted)
    planted.is_armed = True
    with warned_once("probing outputs by parameters"):
        watched = Trained(OUTPUTS, probes=PROBES)
    assert not planted.alive
    assert watched.fingerprint == plain.fingerprint
    said = [reasons(probe, "output_jacobian_norm")["*"] for probe in watched.sink.probes]
    assert said[0] == (
        "out of memory; from the next probe on within 16 MB instead of 32 MB (probes.memory_budget)"
    )
    assert set(said[1:]) == {"out of memory within 16 MB; no longer probed in this run"}
    assert len(planted.held) == 2
    for probe in watched.sink.probes:
        assert not reasons(probe, "input_jacobian_norm")
        assert "probing outputs by parameters: out of memory" in probe.notes["memory"]


def test_probes_that_ran_out_once_say_the_same_with_less(monkeypatch: Patch) -> None:
    whole, planted = Trained(OUTPUTS, probes=PROBES, steps=3), Planted()
    at("jacoscope.output_probe.products")(monkeypatch, planted)

    def arm(step: int) -> None:
        planted.is_armed = step == 1

    with warned_once("probing outputs by parameters"):
        watched = Trained(OUTPUTS, arm, probes=PROBES, steps=3)
    pairs = zip(whole.sink.probes, watched.sink.probes, strict=True)
    for step, (one, other) in enumerate(pairs):
        mine, theirs = (
            {r.quantity: r.values.tolist() for r in each.records} for each in (other, one)
        )
        assert ("output_jacobian_norm" in mine) == (step != 1)
        assert all(theirs[name] == values for name, values in mine.items())


def test_probes_of_the_loss_take_fewer_samples(monkeypatch: Patch) -> None:
    plain, planted = Trained(), Planted()
    at("jacoscope.prober.probe_step")(monkeypatch, planted)
    planted.is_armed = True
    with warned_once("probing all else equal"):
        watched = Trained(LOSSES, probes={**PROBES, "loss_samples": 4})
    assert watched.fingerprint == plain.fingerprint
    assert not planted.alive
    said = [reasons(probe, "actual_change")["*"] for probe in watched.sink.probes]
    assert [why.partition(" at most")[0][-9:] for why in said[:2]] == ["2 samples", "1 samples"]
    assert set(said[2:]) == {"out of memory on a single sample; no longer probed in this run"}
    assert not any(reasons(probe, "allocated_change") for probe in watched.sink.probes)


def test_the_run_s_allocation_cannot_do_with_less(monkeypatch: Patch) -> None:
    planted = Planted()
    at("jacoscope.loss_probe.allocate")(monkeypatch, planted)

    def arm(step: int) -> None:
        planted.is_armed = step == 2

    with warned_once("allocating the change of the loss"):
        watched = Trained(LOSSES, arm, probes=PROBES, steps=5)
    assert not planted.alive
    found = [reasons(probe, "allocated_change") for probe in watched.sink.probes]
    assert [bool(each) for each in found] == [False, False, True, True, True]
    assert "no longer probed" in found[-1]["*"]


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
def test_a_fault_that_is_contained_holds_no_tensor() -> None:
    """Its traceback has the frames it went through, and these have the tensors."""
    faults, planted = Faults("warn"), Planted(lambda: ValueError("boom"))

    def deep() -> None:
        local = torch.empty(10)
        planted.held.append(weakref.ref(local))
        planted()

    gc.disable()
    try:
        with pytest.warns(MonitorWarning, match="boom"), faults.contain("the headline"):
            deep()
        assert len(planted.held) == 2
        assert not planted.alive
    finally:
        gc.enable()
