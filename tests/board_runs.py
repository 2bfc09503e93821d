"""Log folders for the tests of the TensorBoard tab: real trainings, and what else may lie there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from helpers import trainer
from jacoscope import Monitor, SensitivityMonitor
from jacoscope.config import Output, QuantityName
from jacoscope.demos import MLP, Classifier, ConvNet, Digits
from jacoscope.schema import PLUGIN_NAME, SCHEMA_VERSION
from jacoscope.sinks import TensorBoardSink

HOSTILE = "<img src=x onerror=alert(1)>"
UNICODE = "prüfung 日本 🙂"
_OF_GRADIENTS: tuple[QuantityName, ...] = ("grad_norm", "grad_rms", "weight_norm", "update_ratio")
_ALL: tuple[QuantityName, ...] = (
    *_OF_GRADIENTS,
    *("grad_max", "grad_histogram", "sample_grad_norm", "sample_alignment", "noise_scale"),
    *("coherence", "pair_cosine", "stiffness_within", "stiffness_between"),
    *("ntk_effective_rank", "ntk_alignment", "input_jacobian_norm"),
    *("predicted_change", "second_order_change", "actual_change", "interaction_change"),
    *("allocated_change", "allocation_gap"),
)


def convolutional(folder: Path, name: str = "cnn") -> None:
    """Two epochs of a small CNN with every kind of quantity at every step, probes at each fifth."""
    network = ConvNet(width=4, hidden=16)
    _fit(
        network,
        folder,
        name,
        quantities=_ALL,
        schedule={"every": 1},
        samples={"leaderboard": 8, "gram_every": 5},
        probes={"schedule": {"every": 5}, "samples": 4, "loss_samples": 16},
    )


def perceptron(folder: Path, name: str = "mlp") -> None:
    """Other layers, and nothing per sample and no probes."""
    _fit(
        MLP(inputs=64, hidden=[12, 8], outputs=10),
        folder,
        name,
        quantities=_OF_GRADIENTS,
        schedule={"every": 2},
    )


def _fit(network: nn.Module, folder: Path, name: str, **monitor: Any) -> None:
    pl.seed_everything(0, verbose=False)
    trainer(
        pl,
        folder,
        logger=TensorBoardLogger(folder, name=name, version=""),
        callbacks=[SensitivityMonitor(**monitor, output={"pictures": [], "card": False})],
        max_epochs=2,
        limit_train_batches=10,
        limit_val_batches=0,
    ).fit(Classifier(network, classes=10), datamodule=Digits(batch_size=16))


class Loop:
    """A training loop of one's own, watched, that goes on step by step.

    Args:
        folder: The run's folder.
        layers: How wide each linear layer is; the first is what comes in.
        first: The first step's number.
    """

    def __init__(self, folder: Path, layers: Iterable[int] = (3, 4, 2), first: int = 0) -> None:
        torch.manual_seed(first)
        widths = list(layers)
        self.model = nn.Sequential(*(nn.Linear(i, o) for i, o in pairwise(widths)))
        self._inputs = widths[0]
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self._writer = SummaryWriter(str(folder))
        config: dict[str, Any] = {"quantities": _OF_GRADIENTS, "schedule": {"every": 1}}
        output = Output(pictures=[], card=False)
        self._monitor = Monitor(
            self.model, {**config, "output": output}, sinks=[TensorBoardSink(self._writer, output)]
        )
        self.step = first

    def go(self, steps: int, scale: float = 1.0) -> None:
        """Train some steps, the inputs multiplied by ``scale``, and flush what was recorded."""
        for _ in range(steps):
            self._monitor.begin_step(self.step, epoch=0)
            self._optimizer.zero_grad()
            (scale * self.model(torch.randn(8, self._inputs)).square().mean()).backward()
            self._monitor.before_optimizer_step(self._optimizer)
            self._optimizer.step()
            self._monitor.end_step()
            self.step += 1
        self._writer.flush()

    def close(self) -> None:
        self._monitor.close()
        self._writer.close()


def resumed(folder: Path, name: str = "resumed") -> None:
    """Steps 0 to 9, and then 6 to 14 again, as after a crash: the second writing counts."""
    for first, steps in ((0, 10), (6, 9)):
        loop = Loop(folder / name, first=first)
        loop.go(steps, scale=1.0 if first == 0 else 3.0)
        loop.close()


def diverged(folder: Path, name: str = "diverged") -> None:
    """Gradients that grow until they are infinite and then not numbers."""
    loop = Loop(folder / name)
    loop.go(14, scale=300.0)
    loop.close()


class _Tagged(torch.utils.data.Dataset[dict[str, Any]]):
    """Samples whose ids and texts are markup."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        return {
            "x": torch.randn(4, generator=generator),
            "y": index % 3,
            "id": f"{HOSTILE}{index}",
            "text": f"</script><script>alert({index})</script>",
        }


class _Named(pl.LightningModule):
    """A network whose layers have markup for names."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential()
        self.network.add_module(HOSTILE, nn.Linear(4, 5))
        self.network.add_module(UNICODE, nn.Linear(5, 3))
        self.network.add_module("x" * 300, nn.Linear(3, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch["x"]), batch["y"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def hostile(folder: Path) -> None:
    """Everything that may lie in a log folder and must neither run, nor break, nor be lost."""
    pl.seed_everything(0, verbose=False)
    for name in (HOSTILE, UNICODE):
        monitor = SensitivityMonitor(
            quantities=[*_OF_GRADIENTS, "sample_grad_norm", "sample_alignment"],
            schedule={"every": 1},
            samples={"id": "id", "label": "y", "thing": "text"},
            output={"pictures": [], "card": False},
        )
        trainer(
            pl,
            folder,
            logger=TensorBoardLogger(folder, name=name, version=""),
            callbacks=[monitor],
        ).fit(_Named(), DataLoader(_Tagged(), batch_size=8))
    _scalars_alone(folder / "scalars alone")
    _truncated(next((folder / UNICODE).glob("*tfevents*")), folder / "truncated")
    (folder / "rubbish").mkdir()
    (folder / "rubbish" / "events.out.tfevents.1.rubbish").write_bytes(b"no events at all" * 64)
    (folder / "empty file").mkdir()
    (folder / "empty file" / "events.out.tfevents.1.empty").touch()
    _foreign(folder / "foreign")
    _newer(folder / "newer")


def _scalars_alone(folder: Path) -> None:
    writer = SummaryWriter(str(folder))
    for step in range(5):
        writer.add_scalar("loss", 1 / (step + 1), step)
    writer.close()


def _truncated(source: Path, folder: Path) -> None:
    """A run whose writer died within an event."""
    folder.mkdir()
    content = source.read_bytes()
    (folder / source.name).write_bytes(content[: len(content) // 2])


def _foreign(folder: Path) -> None:
    """Tensors that carry the plugin's name and that no monitor wrote."""
    numbers = np.arange(3, dtype=np.float32)
    tensors = {
        "no description": b"",
        "no JSON": b"\xff{",
        "another JSON": b"[1, 2]",
        "no version": b'{"quantity": "grad_norm"}',
        "jacoscope/g/grad_norm/1": b'{"version": 1, "quantity": "grad_norm", "names": "abc"}',
        "jacoscope/../..": b'{"version": 1, "quantity": ".steps"}',
    }
    _write(folder, {tag: (numbers, content) for tag, content in tensors.items()})


def _newer(folder: Path) -> None:
    """A record as a later release might write it."""
    names = ["a.weight", "b.weight"]
    described = {
        "version": SCHEMA_VERSION + 98,
        "quantity": "grad_norm",
        "names": names,
        "shape_of_things_to_come": {"a": [1]},
    }
    steps = {"version": SCHEMA_VERSION + 98, "quantity": ".steps"}
    tensors = {
        "jacoscope/sensitivity/grad_norm/abc": (np.ones(2, np.float32), described),
        "jacoscope/sensitivity/.steps": (np.zeros(1, np.float32), steps),
    }
    _write(
        folder, {tag: (a, json.dumps(content).encode()) for tag, (a, content) in tensors.items()}
    )


def _write(folder: Path, tensors: dict[str, tuple[Any, bytes]]) -> None:
    """Write one step of tensors under the plugin's name."""
    values = []
    for tag, (array, content) in tensors.items():
        metadata = SummaryMetadata(data_class=DATA_CLASS_TENSOR)
        metadata.plugin_data.plugin_name = PLUGIN_NAME
        metadata.plugin_data.content = content
        values.append(Summary.Value(tag=tag, tensor=make_tensor_proto(array), metadata=metadata))
    writer = EventFileWriter(str(folder))
    writer.add_event(Event(step=1, wall_time=1.0, summary=Summary(value=values)))
    writer.close()
