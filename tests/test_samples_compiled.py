"""Compiled models: per-sample quantities from captured steps that run uncompiled, where asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jacoscope.sinks import MemorySink
from sample_training import (
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
    values_of,
    watching,
)


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> MemorySink:
    return into_memory(monkeypatch)


@pytest.fixture(autouse=True)
def as_before() -> Any:
    """No test leaves the compiler in another stance."""
    from torch._dynamo.eval_frame import _stance

    before = _stance.stance
    yield
    from torch._dynamo import eval_frame

    assert eval_frame._stance.stance == before
    torch._dynamo.reset()


class Counting:
    """A backend that counts how often what it has compiled runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        def run(*arguments: Any) -> Any:
            self.runs += 1
            return graph(*arguments)

        return run


def _compiled(backend: Any = "aot_eager") -> Learner:
    module = Learner(perceptron(torch.float64))
    module.network = torch.compile(module.network, backend=backend)  # type: ignore[assignment]
    return module


def _members(prefix: str) -> dict[str, tuple[str, ...]]:
    names = tuple(f"{prefix}{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias"))
    return {**{name: (name,) for name in names}, "(all)": names}


def test_captured_steps_run_uncompiled_and_exact(sink: MemorySink, tmp_path: Path) -> None:
    witness, module = Witness(), _compiled()
    loader = loader_of(rows_of_pairs(20, torch.float64))
    fit(tmp_path, module, loader, watching(compiled="eager"), witness, precision="64-true")
    assert [record.step for record in sink.records] == [0, 1, 2]
    rows = values_of(sink.records[0])
    members = {name: each for name, each in _members("network.").items() if name in rows}
    assert set(_members("network.")) <= set(rows)
    expected = Expected(members)
    for record in sink.records:
        ((state, batch, _),) = witness.seen[record.step]
        network = perceptron(torch.float64)
        network.load_state_dict({k.removeprefix("_orig_mod."): v for k, v in state.items()})
        parts = alone(network, cross_entropies, batch, len(batch[0]), 1 / len(batch[0]))
        found = expected.of_step([parts], [batch[1].numpy()])
        compare(values_of(record), found, rtol=1e-9, atol=1e-12)
        assert not record.missing


def test_other_steps_run_compiled(sink: MemorySink, tmp_path: Path) -> None:
    from jacoscope import Schedule

    backend = Counting()
    module = _compiled(backend)
    monitor = watching(compiled="eager", schedule=Schedule(every=3, first=0))
    fit(tmp_path, module, loader_of(rows_of_pairs(48, torch.float64)), monitor, precision="64-true")
    assert [record.step for record in sink.records] == [0, 3]
    assert backend.runs == 4  # of six batches


@pytest.mark.filterwarnings("default::jacoscope.faults.MonitorWarning")
def test_by_default_they_stay_compiled_and_samples_are_withheld(
    sink: MemorySink, tmp_path: Path
) -> None:
    backend = Counting()
    monitor = watching(on_error="warn")
    loader = loader_of(rows_of_pairs(16, torch.float64))
    fit(tmp_path, _compiled(backend), loader, monitor, precision="64-true")
    assert backend.runs == 2
    module = _compiled()
    fit(tmp_path, module, loader, watching(on_error="warn"), precision="64-true")
    reasons = {
        why for r in sink.records[2:] for each in r.missing.values() for why in each.values()
    }
    assert any("samples.compiled: eager" in why for why in reasons), reasons


def test_the_compiler_s_stance_is_put_back_when_training_fails(
    sink: MemorySink, tmp_path: Path
) -> None:
    class Failing(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 1:
                raise RuntimeError("the training's own")
            return super().training_step(batch, batch_idx)

    module = Failing(perceptron(torch.float64))
    module.network = torch.compile(module.network, backend="aot_eager")  # type: ignore[assignment]
    loader = loader_of(rows_of_pairs(24, torch.float64))
    with pytest.raises(RuntimeError, match="the training's own"):
        fit(tmp_path, module, loader, watching(compiled="eager"), precision="64-true")


def test_the_compiler_s_stance_is_put_back_after_a_step_without_a_loss(
    sink: MemorySink, tmp_path: Path
) -> None:
    class Skipping(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx == 1 else loss

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            from torch._dynamo import eval_frame

            stances.append(eval_frame._stance.stance)

    stances: list[str] = []
    module = Skipping(perceptron(torch.float64))
    module.network = torch.compile(module.network, backend="aot_eager")  # type: ignore[assignment]
    loader = loader_of(rows_of_pairs(24, torch.float64))
    fit(tmp_path, module, loader, watching(compiled="eager"), precision="64-true")
    assert stances == ["default"] * 3


def test_a_model_that_is_not_compiled_trains_bit_identically(
    sink: MemorySink, tmp_path: Path
) -> None:
    def weights(monitor: Any) -> list[Any]:
        module = Learner(perceptron(dropout=0.5))
        torch.manual_seed(3)
        fit(tmp_path, module, loader_of(rows_of_pairs(24)), monitor)
        return [p.detach().numpy() for p in module.network.parameters()]

    for mine, plain in zip(weights(watching(compiled="eager")), weights(None), strict=True):
        np.testing.assert_array_equal(mine, plain)


def test_parameter_quantities_of_a_compiled_model_are_exact(
    sink: MemorySink, tmp_path: Path
) -> None:
    fit(
        tmp_path,
        _compiled(),
        loader_of(rows_of_pairs(16, torch.float64)),
        watching(quantities=["grad_norm", "update_norm"]),
        precision="64-true",
    )
    compiled = [values_of(record) for record in sink.records]
    sink.records.clear()
    fit(
        tmp_path,
        Learner(perceptron(torch.float64)),
        loader_of(rows_of_pairs(16, torch.float64)),
        watching(quantities=["grad_norm", "update_norm"]),
        precision="64-true",
    )
    plain = [values_of(record) for record in sink.records]
    for mine, theirs in zip(compiled, plain, strict=True):
        for (_, a), (_, b) in zip(mine.items(), theirs.items(), strict=True):
            assert a == pytest.approx(b, rel=1e-12)
