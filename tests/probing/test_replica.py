"""Copies of models: all that a forward may change, and nothing of the data."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import CatMetric, MeanMetric

from jacoscope.probing import ProbeError, all_else_equal
from jacoscope.probing._isolation import replica
from probing.probe_traces import Busy, made_busy, traces


def test_a_copy_shares_no_tensor() -> None:
    busy = made_busy()
    copied = replica(busy)
    assert isinstance(copied, Busy)
    trace = traces(busy)
    with torch.no_grad():
        for tensor in (*copied.parameters(), *copied.buffers(), *copied.kept):
            tensor.zero_()
    copied.kept.clear()
    copied.cache.clear()
    copied.calls = 7
    assert traces(busy) == trace


def test_tensors_in_a_graph_are_copied_without_it() -> None:
    model, leaf = nn.Linear(2, 2), torch.ones(3, requires_grad=True)
    made = leaf * 2
    model.plain, model.listed, model.nested = made, [made, (made, 1)], {"a": {"b": [leaf * 3]}}
    model.register_buffer("held", leaf * 4)
    copied: Any = replica(model)
    assert copied.plain.tolist() == [2.0, 2.0, 2.0]
    assert copied.held.tolist() == [4.0, 4.0, 4.0]
    assert copied.nested["a"]["b"][0].tolist() == [3.0, 3.0, 3.0]
    assert copied.plain is copied.listed[0] is copied.listed[1][0]
    assert not any(each.requires_grad for each in (copied.plain, copied.held))
    assert model.plain is made
    assert made.requires_grad


def test_weights_that_were_one_are_one() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    copied: Any = replica(model)
    assert copied[1].weight is copied[0].weight
    assert copied[0].weight is not model[0].weight


def test_a_generator_goes_on_from_where_it_was() -> None:
    model: Any = nn.Linear(2, 2)
    model.generator = torch.Generator().manual_seed(4)
    torch.rand(3, generator=model.generator)
    copied: Any = replica(model)
    drawn = torch.rand(5, generator=copied.generator)
    assert torch.equal(torch.rand(5, generator=model.generator), drawn)


def test_metrics_keep_what_they_have_seen() -> None:
    model: Any = nn.Linear(2, 2)
    model.mean, model.all = MeanMetric(), CatMetric()
    model.mean.update(3.0)
    model.all.update(torch.ones(2, requires_grad=True) * 2)
    copied: Any = replica(model)
    copied.mean.update(5.0)
    copied.all.update(torch.ones(1))
    assert (float(copied.mean.compute()), float(model.mean.compute())) == (4.0, 3.0)
    assert copied.all.compute().tolist() == [2.0, 2.0, 1.0]
    assert model.all.compute().tolist() == [2.0, 2.0]


class Training(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.data = TensorDataset(torch.ones(4, 3))
        self.held: list[Any] = []

    def training_step(self, batch: Any, index: int = 0) -> Tensor:
        self.last = self.layer(batch[0]).square().mean()
        self.log("loss", self.last)
        return self.last

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=2)


def test_a_lightning_module_in_the_middle_of_a_fit(tmp_path: Path) -> None:
    """The trainer stays behind, data and loggers are shared, and the fit goes on."""
    model, copies = Training(), []

    class Copying(pl.Callback):
        def on_after_backward(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            copies.append(replica(module))
            with pytest.raises(RuntimeError):
                _ = copies[-1].trainer

    model.held = [model.train_dataloader(), CSVLogger(tmp_path)]
    model.plain_logger = model.held[1]
    trainer = pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        callbacks=[Copying()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model)
    assert trainer.global_step == len(copies) == 2
    assert model.trainer is trainer
    for copied in copies:
        assert copied.data is model.data
        assert copied.held[0] is model.held[0]
        assert copied.held[1] is copied.plain_logger is model.held[1]
        assert not copied.last.requires_grad
        assert copied.layer.weight.data_ptr() != model.layer.weight.data_ptr()
    assert not torch.equal(copies[0].layer.weight, copies[1].layer.weight)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    with (tmp_path / "log").open("w") as file:
        yield file


def test_what_cannot_be_copied_is_said(opened: Any) -> None:
    for held in (opened, threading.Lock(), [{"deep": threading.Lock()}]):
        model: Any = nn.Linear(2, 2)
        model.held = held
        with pytest.raises(ProbeError, match=r"^the model cannot be copied.*\(TypeError: cannot"):
            replica(model)
        with pytest.raises(ProbeError, match="cannot be copied"):
            all_else_equal(model, lambda m: m(torch.ones(1, 2)).sum(), {})
