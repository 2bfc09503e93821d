"""The distribution of per-sample gradient norms and the Gram matrix in the record.

The reference runs each sample through the network by itself.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jacoscope import SensitivityMonitor, read_run
from jacoscope.config import LayerRule, MonitorConfig, Output, Samples, Schedule
from jacoscope.record import NORM_QUANTILES
from jacoscope.sinks import MemorySink
from sample_training import (
    Learner,
    Witness,
    alone,
    cross_entropies,
    fit,
    into_memory,
    loader_of,
    perceptron,
    rows_of_pairs,
    watching,
)

NAMES = ("network.0.weight", "network.0.bias", "network.2.weight", "network.2.bias")
ROWS = {
    **{name: (name,) for name in NAMES},
    "(all)": NAMES,
    "layer network.0": NAMES[:2],
    "layer network.2": NAMES[2:],
}


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> MemorySink:
    return into_memory(monkeypatch)


def own_gradients(witness: Witness, step: int, name: tuple[str, ...]) -> Any:
    """g_i of a step's samples over these parameters, shape (N, P)."""
    parts = []
    for state, batch, _ in witness.seen[step]:
        network = perceptron(torch.float64)
        network.load_state_dict(state)
        rows = alone(network, cross_entropies, batch, len(batch[0]), 1.0)
        parts.append(np.concatenate([rows[each] for each in name], axis=1))
    return np.concatenate(parts)


@pytest.mark.parametrize(("window", "reduction"), [(1, "mean"), (1, "sum"), (2, "mean")])
def test_quantiles_are_those_of_the_samples_own_norms(
    window: int, reduction: str, sink: MemorySink, tmp_path: Path
) -> None:
    witness, module = Witness(), Learner(perceptron(torch.float64), reduction=reduction)
    fit(
        tmp_path,
        module,
        loader_of(rows_of_pairs(20, torch.float64)),
        watching(loss_reduction=reduction),
        witness,
        precision="64-true",
        accumulate_grad_batches=window,
    )
    assert [record.samples.samples for record in sink.records] == (  # type: ignore[union-attr]
        [8, 8, 4] if window == 1 else [16, 4]
    )
    for record in sink.records:
        samples = record.samples
        assert samples is not None
        assert samples.axis.names == (*NAMES, "(all)", "layer network.0", "layer network.2")
        for row, quantiles_Q in zip(samples.axis.names, samples.quantiles_RQ, strict=True):
            # An incomplete window is divided by the full one, which its samples' own losses feel.
            norms = np.linalg.norm(own_gradients(witness, record.step, ROWS[row]), axis=1)
            expected = np.quantile(norms, NORM_QUANTILES)
            np.testing.assert_allclose(quantiles_Q, expected, rtol=1e-9)


def test_the_gram_matrix_is_that_of_the_samples_own_gradients(
    sink: MemorySink, tmp_path: Path
) -> None:
    witness, module = Witness(), Learner(perceptron(torch.float64))
    monitor = watching(gram_every=2, gram_samples=6)
    loader = loader_of(rows_of_pairs(40, torch.float64))
    fit(tmp_path, module, loader, monitor, witness, precision="64-true")
    grams = {r.step: r.samples.gram for r in sink.records if r.samples and r.samples.gram}
    assert list(grams) == [0, 2, 4]
    for step, gram in grams.items():
        rows = own_gradients(witness, step, NAMES)[:6]
        np.testing.assert_allclose(gram.values_NN, rows @ rows.T, rtol=1e-9)
        singular = np.linalg.svd(rows, compute_uv=False)
        np.testing.assert_allclose(gram.eigenvalues_N, singular**2, rtol=1e-7, atol=1e-12)
        ((_, (_, labels), _),) = witness.seen[step]
        assert list(gram.labels or ()) == labels[:6].tolist()
        assert gram.ids == tuple(range(8 * step, 8 * step + 6))
        assert gram.samples == 8


@pytest.mark.parametrize(
    "told", [{"quantities": ["sample_grad_norm"], "leaderboard": 0}, {"gram_every": None}]
)
def test_no_gram_matrix_is_measured_for_the_record_alone(
    told: dict[str, Any], sink: MemorySink, tmp_path: Path
) -> None:
    fit(tmp_path, Learner(perceptron()), loader_of(rows_of_pairs(16)), watching(**told))
    assert sink.records
    assert all(record.samples and record.samples.gram is None for record in sink.records)


def test_a_parameter_without_samples_has_no_row(sink: MemorySink, tmp_path: Path) -> None:
    rules = [
        LayerRule(match="network.0", quantities=("sample_grad_norm",)),
        LayerRule(match="network.2", quantities=("grad_norm",)),
    ]
    fit(tmp_path, Learner(perceptron()), loader_of(rows_of_pairs(16)), watching(layers=rules))
    for record in sink.records:
        assert record.samples is not None
        assert set(record.samples.axis.names) == {*NAMES[:2], "(all)", "layer network.0"}
        assert np.isfinite(record.samples.quantiles_RQ).all()


def test_it_comes_back_from_the_event_file(tmp_path: Path) -> None:
    witness, module = Witness(), Learner(perceptron(torch.float64))
    monitor = SensitivityMonitor(
        MonitorConfig(
            quantities=("grad_norm", "sample_grad_norm", "pair_cosine"),
            schedule=Schedule(every=1, first=0),
            samples=Samples(gram_every=3),
            output=Output(pictures=()),
        )
    )
    loader = loader_of(rows_of_pairs(40, torch.float64))
    fit(tmp_path, module, loader, monitor, witness, precision="64-true")
    run = read_run(str(monitor.run_dir))
    assert list(run.headline["sample_count"]) == [8.0] * 5
    whole = np.sqrt((run["grad_norm"] ** 2).sum(axis=1))
    np.testing.assert_allclose(run.headline["grad_norm"], whole, rtol=1e-6)
    for row in ("(all)", "layer network.0", NAMES[0]):
        frame = run.sample_norm_quantiles(row)
        assert list(frame.columns) == list(NORM_QUANTILES)
        for step in range(5):
            norms = np.linalg.norm(own_gradients(witness, step, ROWS[row]), axis=1)
            np.testing.assert_allclose(frame.loc[step], np.quantile(norms, NORM_QUANTILES))
    assert list(run.grams) == [0, 3]
    for step, gram in run.grams.items():
        rows = own_gradients(witness, step, NAMES)
        np.testing.assert_allclose(gram.values, rows @ rows.T, rtol=1e-9)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(gram.cosines, unit @ unit.T, rtol=1e-9, atol=1e-12)
        assert gram.losses.shape == (8,)
    with pytest.raises(KeyError, match=r"did you mean 'layer network\.0'"):
        run.sample_norm_quantiles("layer netwrk.0")


def test_steps_that_are_taken_again_replace_the_old_ones(tmp_path: Path) -> None:
    """The second run has no Gram matrices: those of the first go with their steps."""
    for gram_every in (1, None):
        monitor = SensitivityMonitor(
            MonitorConfig(
                quantities=("pair_cosine",),
                schedule=Schedule(every=1, first=0),
                samples=Samples(gram_every=gram_every),
                output=Output(pictures=(), directory=str(tmp_path / "run")),
            )
        )
        fit(tmp_path, Learner(perceptron()), loader_of(rows_of_pairs(16)), monitor)
    run = read_run(str(tmp_path / "run"))
    assert len(run.sample_norm_quantiles()) == 2
    assert run.grams == {}
