"""Probes under DDP with two gloo processes: by rank zero alone, no hang, nothing changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jacoscope import read_run
from jacoscope._training_loss import TrainingLoss, loss_withheld_reason
from jacoscope.probing import ProbeError
from probe_training import OF_LOSS, OF_OUTPUTS, PROBED, Learner
from sample_training import perceptron
from test_callback_ddp import launch

SCRIPT = Path(__file__).with_name("probes_ddp_script.py")


@pytest.mark.slow
def test_rank_zero_probes_and_training_is_bit_identical(tmp_path: Path) -> None:
    done = launch(SCRIPT, str(tmp_path))
    assert done.stdout.count("DONE") == 6
    assert "MonitorWarning" not in done.stderr
    for rank in (0, 1):
        plain = (tmp_path / f"plain-{rank}").read_text()
        for kind in ("probed", "evaluated"):
            assert (tmp_path / f"{kind}-{rank}").read_text() == plain
    run = read_run(tmp_path / "probed")
    assert run.probes.steps == [0, 2]
    assert set(run.quantities) == {"grad_norm", *OF_OUTPUTS}
    assert not run["ntk_trace"].isna().any(axis=None)
    assert set(run.missing["quantity"]) == set(OF_LOSS)
    (why,) = set(run.missing["reason"])
    assert why.startswith("of several processes one alone would run training_step again; give")
    run = read_run(tmp_path / "evaluated")
    assert set(run.quantities) == {"grad_norm", *PROBED}
    assert run.probes.steps == [0, 2, 3]
    assert run.missing.empty


class Together(Learner):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(6, 4), nn.SyncBatchNorm(4)))

    def probe_loss(self, batch: Any) -> Tensor:
        return pytest.fail("it would wait for the other processes")


def several(processes: int) -> Any:
    return SimpleNamespace(
        world_size=processes, optimizers=[], lr_scheduler_configs=[], precision="32-true",
        precision_plugin=SimpleNamespace(forward_context=lambda: torch.no_grad()),
    )  # fmt: skip


def test_what_waits_for_the_other_processes_is_withheld() -> None:
    module = Together()
    loss = TrainingLoss(several(2))
    with pytest.raises(ProbeError, match="SyncBatchNorm waits for the other processes"):
        loss(module, (torch.zeros(2, 6),))


def test_it_is_let_through_where_nothing_waits() -> None:
    module = Together().eval()
    vars(module)["probe_loss"] = lambda batch: batch[0].sum()
    loss = TrainingLoss(several(2))
    assert float(loss(module, (torch.ones(2, 6),))) == 12


@pytest.mark.parametrize(
    ("processes", "module", "told"),
    [
        (1, lambda: Learner(perceptron()), None),
        (2, lambda: Learner(perceptron()), "of several processes"),
        (2, Together, None),
    ],
)
def test_when_the_loss_is_withheld(processes: int, module: Any, told: str | None) -> None:
    reason = loss_withheld_reason(several(processes), module())
    assert (reason is None) if told is None else reason is not None and told in reason


def test_a_step_that_takes_the_loader_s_iterator_is_withheld() -> None:
    class Iterating(Learner):
        def training_step(self, dataloader_iter: Any) -> Any:
            return None

    reason = loss_withheld_reason(several(1), Iterating(perceptron()))
    assert reason is not None
    assert "takes the loader's iterator" in reason
    assert "probe_loss(batch)" in reason
