"""Parameters split over four gloo processes: the numbers of the whole, no hang, no change.

The reference trains the same network in one process on the samples of all, by plain autograd.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jacoscope.quantities import HISTOGRAM_EDGES
from jacoscope.record import StepRecord
from sharded_loops_script import (
    FAULTS,
    OF_PARAMETERS,
    STEPS,
    WORLD,
    Even,
    Network,
    inputs_of,
    loss_of,
    optimizer_of,
)
from test_callback_ddp import launch

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("sharded_loops_script.py")
UNUSED = "it has no gradient in this training step (the loss does not depend on it, or is None)"
FROZEN = "it is frozen (requires_grad is False)"
UNALIKE = "its gradient or its weights differ between processes that each have a copy of it"
Values = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    done = launch(SCRIPT, str(folder), timeout=150)
    assert done.stdout.count("DONE") == WORLD
    return folder


class Outcome:
    """What a situation came to."""

    def __init__(self, folder: Path, name: str, world: int = WORLD) -> None:
        files = [folder / f"{name}-{rank}.pkl" for rank in range(world)]
        kept = [pickle.loads(file.read_bytes()) for file in files]
        self.records: list[StepRecord] = kept[0]["records"]
        self.probes = kept[0].get("probes", [])
        self.warnings: list[str] = kept[0]["warnings"]
        self.warned = [each["warnings"] for each in kept]
        for rank, each in enumerate(kept):
            assert each["plain"] == each["monitored"], "the training is changed"
            assert not (rank and each["records"]), "rank zero alone records"


def of_tensors(gradient: Any, weight: Any, update: Any) -> dict[str, Any]:
    """The definitions, in NumPy; without a gradient those of the weights alone."""
    w = weight.numpy().ravel()
    found: dict[str, Any] = {"weight_norm": np.linalg.norm(w)}
    if update is None:
        return found
    u = update.numpy().ravel()
    found["update_norm"] = np.linalg.norm(u)
    with np.errstate(divide="ignore"):
        found["update_ratio"] = np.linalg.norm(u) / np.linalg.norm(w)
    if gradient is None:
        return found
    g = gradient.numpy().ravel()
    return {
        **found,
        "grad_norm": np.linalg.norm(g),
        "grad_rms": math.sqrt((g**2).mean()),
        "grad_max": abs(g).max(),
        "grad_mean": g.mean(),
        "grad_zero_fraction": (g == 0).mean(),
        "grad_nonfinite": np.count_nonzero(~np.isfinite(g)),
        "grad_histogram": np.histogram(g.astype(np.float32), HISTOGRAM_EDGES)[0],
        "update_cosine": -(u @ g) / (np.linalg.norm(u) * np.linalg.norm(g)) if g.any() else np.nan,
        "saliency": abs(w * g).sum(),
        "taylor_importance": ((w * g) ** 2).sum(),
    }


def reference(
    make: Callable[[], nn.Module], shape: tuple[int, ...], *, zeros: bool, clip: float | None
) -> list[Values]:
    """By step and parameter, every quantity.

    Args:
        make: Makes the network.
        shape: Of a sample.
        zeros: Whether a parameter that the loss does not depend on has a gradient of zeros.
        clip: The norm that gradients are clipped to before the optimiser has them.
    """
    network = make()
    optimizer = optimizer_of(network)
    steps = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(network, inputs_of(step, shape)).backward()
        named = dict(network.named_parameters())
        for parameter in named.values():
            if zeros and parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        before = {name: p.detach().clone() for name, p in named.items()}
        kept = {n: None if p.grad is None else p.grad.clone() for n, p in named.items()}
        if clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        moves = {name: named[name].detach() - before[name] for name in named}
        steps.append(
            {
                name: of_tensors(g, before[name], None if g is None else moves[name])
                for name, g in kept.items()
            }
        )
    return steps


def values_of(record: StepRecord) -> Values:
    found: Values = {}
    for each in record.records:
        for name, value in zip(each.axis.names, each.values, strict=True):
            if name not in each.missing:
                found.setdefault(name, {})[each.quantity] = value
    return found


def check(
    outcome: Outcome,
    make: Callable[[], nn.Module] = Network,
    *,
    shape: tuple[int, ...] = (6,),
    zeros: bool = False,
    clip: float | None = None,
    lost: Mapping[str, Set[str]] | None = None,
    prefix: str = "",
    tolerance: tuple[float, float] = (1e-8, 1e-12),
    counted: bool = True,
) -> None:
    """Every value of every record, and no more.

    Args:
        outcome: The records.
        make: Makes the network.
        shape: Of a sample.
        zeros: Whether a parameter that the loss does not depend on has a gradient of zeros.
        clip: The norm that gradients are clipped to before the optimiser has them.
        lost: By parameter, the quantities that are missing.
        prefix: What parameters' names begin with.
        tolerance: Relative and absolute.
        counted: Whether the histogram is compared, which takes the same rounding errors.
    """
    expected = reference(make, shape, zeros=zeros, clip=clip)
    for record, by_name in zip(outcome.records, expected, strict=True):
        found = values_of(record)
        assert not record.withheld
        for name, values in by_name.items():
            mine = found.get(prefix + name, {})
            assert set(mine) == set(values) - (lost or {}).get(name, set()), name
            for quantity, value in mine.items():
                if counted or quantity != "grad_histogram":
                    said = f"{name} {quantity}"
                    np.testing.assert_allclose(value, values[quantity], *tolerance, err_msg=said)


def reasons_of(record: StepRecord) -> dict[str, set[str]]:
    """By parameter, why something of it is missing."""
    found: dict[str, set[str]] = {}
    for by_name in record.missing.values():
        for name, reason in by_name.items():
            found.setdefault(name, set()).add(reason)
    return found


FSDP = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "inner")


@pytest.mark.parametrize("name", ["fully_shard", "kept whole", "replicated", *FSDP])
def test_split_parameters_have_the_numbers_of_the_whole(name: str, folder: Path) -> None:
    outcome = Outcome(folder, name)
    check(outcome, zeros=name in FSDP)
    assert outcome.warnings == []
    sizes = {n: p.numel() for n, p in Network().named_parameters()}
    for record in outcome.records:
        assert reasons_of(record) == {
            "frozen": {FROZEN},
            **({} if name in FSDP else {"unused": {UNUSED}}),
        }
        trained = sum(sizes.values()) - sizes["frozen"]
        share = 1 if name in FSDP else 1 - sizes["unused"] / trained
        assert record.headline["coverage"] == pytest.approx(share)
        axis = record.records[0].axis
        assert dict(zip(axis.names, axis.sizes, strict=True)) == sizes
        assert axis.kinds[axis.names.index("a.weight")] == "weight"


@pytest.mark.parametrize("name", ["tensor", "both"])
def test_tensor_parallelism_has_the_numbers_of_the_whole(name: str, folder: Path) -> None:
    outcome = Outcome(folder, name)
    check(outcome, Even)
    assert outcome.warnings == []
    assert all(record.headline["coverage"] == 1.0 for record in outcome.records)


def test_a_gradient_whose_parts_are_terms_of_a_sum_is_withheld(folder: Path) -> None:
    """As those of norms under sequence parallelism; their weights are known all the same."""
    outcome = Outcome(folder, "sequence")
    names = ("norm.weight", "norm.bias")
    lost = set(OF_PARAMETERS) - {"weight_norm", "update_norm", "update_ratio"}
    check(outcome, Even, shape=(4, 6), lost=dict.fromkeys(names, lost))
    said = "its gradient is placed over processes as Partial(sum), but it itself as Replicate()"
    for record in outcome.records:
        assert reasons_of(record) == {name: {said} for name in names}


@pytest.mark.parametrize(
    ("name", "whole"),
    [("half", {"a.weight", "a.bias", "b.weight", "b.bias"}), ("in part", set[str]())],
)
def test_copies_that_nothing_averages_are_withheld(
    name: str, whole: set[str], folder: Path
) -> None:
    outcome = Outcome(folder, name)
    assert len(outcome.records) == STEPS
    for record in outcome.records:
        reasons = reasons_of(record)
        differing = {n for n, said in reasons.items() if UNALIKE in next(iter(said))}
        watched = set(record.records[0].axis.names) - {"unused", "frozen"}
        assert differing == watched - whole


def test_one_flat_parameter_is_withheld(folder: Path) -> None:
    outcome = Outcome(folder, "flat")
    assert not outcome.records
    (said,) = outcome.warnings
    assert "FSDP has made one flat parameter of its module's; pass use_orig_params=True" in said


def test_one_process_alone_does_not_know_the_whole(folder: Path) -> None:
    outcome = Outcome(folder, "alone")
    assert not outcome.records
    assert "processes=jacoscope.processes.Processes()" in outcome.warnings[0]


def test_samples_and_probes_are_withheld_with_reasons(folder: Path) -> None:
    outcome = Outcome(folder, "samples")
    split = "a model that is split over processes (FSDP, tensor parallel)"
    for record in outcome.records:
        (reason,) = record.withheld.values()
        assert reason == f"of {split} per-sample gradients cannot be captured"
        assert {each.quantity for each in record.records} == {"grad_norm"}
    for probe in outcome.probes:
        (reason,) = probe.withheld.values()
        assert reason.startswith(f"{split} runs in all of them together")
    assert outcome.probes


BROKEN = ("exchange 0", "exchange 1", "joining 0")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_one_process_hangs_none(name: str, folder: Path) -> None:
    outcome = Outcome(folder, f"fault {name}")
    said, *elsewhere = outcome.warned
    assert not any(elsewhere), "rank zero alone warns"
    (warning,) = said
    if name == "exchange 1":
        assert "timed out" not in warning.lower(), "the other process has closed its end"
    else:
        rank = name[-1]
        assert ("Planted" if rank == "0" else f"process {rank}: Planted") in warning
    steps = [0, 2] if name == "before 0" else [0, 1, 2]
    assert [record.step for record in outcome.records] == steps
    lost = {1, 2} if name in BROKEN else {1}
    for record in outcome.records:
        if name == "measuring 1":
            # Of what has but one row the first process has it all.
            whole = set(record.records[0].axis.names) - set(record.missing["grad_histogram"])
            assert whole == {"head.weight", "head.bias"}
            assert record.headline["coverage"] > 0.9
            continue
        found = values_of(record)
        assert bool(found) == (record.step not in lost)
        for reasons in reasons_of(record).values() if not found else ():
            (reason,) = reasons
            broken = "the processes could no longer bring their shards together"
            assert broken in reason if name in BROKEN else "Planted: planted" in reason
