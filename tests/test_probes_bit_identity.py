"""Training with and without probes ends the same, to the last bit, and leaves nothing behind."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from helpers import adversaries, classifier, data, fingerprint, trainer
from jacoscope.config import Output
from probe_training import Learner, into_memory, learner_class, watching
from sample_training import loader_of, perceptron, rows_of_pairs


def normalised(dropout: float = 0.3) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)
    )


def shuffled(**options: Any) -> DataLoader[Any]:
    return loader_of(rows_of_pairs(44), shuffle=True, **options)


class Busy(Learner):
    """It logs, measures, counts, collects, draws and writes in its training step."""

    def __init__(self) -> None:
        super().__init__(normalised())
        self.accuracy = MulticlassAccuracy(num_classes=3)
        self.by_class = MulticlassAccuracy(num_classes=3, average=None)
        self.calls = 0
        self.losses: list[float] = []
        self.seen: dict[str, Any] = {"epochs": set()}
        self.hidden: Tensor | None = None
        self.register_buffer("mean", torch.zeros(6))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        features, labels = batch
        self.calls += 1
        self.logger.log_metrics({"mine": self.calls}, step=self.global_step)
        self.logger.experiment.log_metrics({"mine/too": self.calls}, step=self.global_step)
        self.trainer.logger.log_hyperparams({"calls": self.calls})
        self.seen["epochs"].add(self.trainer.current_epoch)
        self.mean.mul_(0.9).add_(0.1 * features.mean(0))
        noise = torch.randn_like(features) + float(np.random.rand()) + random.random()
        self.hidden = self.network[0](features + 0.1 * noise - self.mean)
        scores = self.network[1:](self.hidden)
        loss = nn.functional.cross_entropy(scores, labels)
        self.losses.append(float(loss.detach()))
        self.accuracy(scores, labels)
        self.by_class.update(scores, labels)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log_dict({"train/accuracy": self.accuracy}, on_step=False, on_epoch=True)
        self.print("a line for the user")
        return {"loss": loss, "scores": scores.detach()}


class Drawing(Learner):
    """It draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__(normalised())
        self.generator = torch.Generator().manual_seed(3)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        noise = torch.randn(batch[0].shape, generator=self.generator)
        return super().training_step([batch[0] + noise, batch[1]], batch_idx)


class Setting(Learner):
    """It sets what belongs to the Trainer: learning rates, schedulers, a flag."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        for group in self.optimizers().param_groups:
            group["lr"] *= 0.97
            group["momentum"] = 0.5 + 0.1 * random.random()
        self.lr_schedulers().step()
        self.log("rate", self.optimizers().param_groups[0]["lr"])
        self.trainer.should_stop = self.global_step > 9
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.5)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.4, total_steps=500)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle}}


class Teaching(Learner):
    """A teacher that follows the network, moved in place in the training step."""

    def __init__(self) -> None:
        super().__init__(normalised(0.1))
        self.teacher = copy.deepcopy(self.network).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        with torch.no_grad():
            for mine, theirs in zip(
                self.teacher.parameters(), self.network.parameters(), strict=True
            ):
                mine.mul_(0.9).add_(theirs, alpha=0.1)
        return loss + (self.network(batch[0]) - self.teacher(batch[0])).square().mean()


class InPlace(Learner):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch[0].mul_(0.5).add_(torch.randn_like(batch[0]))
        batch.append("more")
        return super().training_step(batch[:2], batch_idx)


class Sparing(Learner):
    """It skips a batch, and keeps activations by computing them twice."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 1:
            return None
        hidden = checkpoint(self.network[:4], batch[0], use_reentrant=False)
        return nn.functional.cross_entropy(self.network[4](hidden), batch[1])


class Spectral(Learner):
    """Normalised weights move buffers of their own whenever they are used."""

    def __init__(self) -> None:
        super().__init__(normalised())
        nn.utils.parametrizations.spectral_norm(self.network[0])
        nn.utils.parametrizations.weight_norm(self.network[4])


class Plain(Learner):
    """It logs nothing, as dynamo does not get on with Lightning's logging."""


class Telling(nn.Module):
    """A part of a network that was given the module's own way of logging."""

    def __init__(self, log: Callable[..., Any]) -> None:
        super().__init__()
        self.tell = log

    def forward(self, inputs: Tensor) -> Tensor:
        self.tell("within", inputs.mean(), on_step=True, on_epoch=True)
        return inputs


class HandingOn(Learner):
    """It hands its way of logging on, bound to itself and enclosed in a function."""

    def __init__(self) -> None:
        super().__init__(normalised())
        log = self.log
        self.network.append(Telling(log))
        self.network[0].register_forward_hook(lambda m, a, out: log("first", out.std()))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        super().log("above", batch[0].mean())
        return super().training_step(batch, batch_idx)


class Hooked(Learner):
    """A hook hands a layer's output on by way of the module that it encloses."""

    def __init__(self) -> None:
        super().__init__(normalised())
        self.kept: list[float] = []
        self.network[0].register_forward_hook(lambda m, a, out: self.keep(out))

    def keep(self, output: Tensor) -> None:
        self.kept.append(float(output.detach().sum()))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss + 0.001 * self.kept[-1]


def replaced() -> Any:
    """Its training step is a function that encloses the module's own."""
    module = Learner(normalised())
    own = module.training_step

    def logged(batch: Any, batch_idx: int) -> Any:
        loss = own(batch, batch_idx)
        module.log("loss", loss)
        return loss

    module.training_step = logged
    return module


def in_part() -> Any:
    module = Learner(normalised())
    module.network = torch.compile(module.network, backend="eager")  # type: ignore[assignment]
    return module


def criticising() -> Any:
    module = adversaries()
    type(module).probe_loss = lambda self, batch: self.critic(batch[0].flatten(1)).mean()
    return module


class Holder:
    """A batch of a kind of its own, changed by the training step."""

    def __init__(self, rows: list[Any]) -> None:
        self.features = torch.stack([row for row, _ in rows])
        self.labels = torch.tensor([label for _, label in rows])

    def to(self, device: Any) -> Holder:
        return self


class Holding(Learner):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch.features *= 0.9
        return nn.functional.cross_entropy(self.network(batch.features), batch.labels)


def same_batch() -> DataLoader[Any]:
    batch = Holder(rows_of_pairs(8))
    return DataLoader(range(5), batch_size=1, collate_fn=lambda _: batch)  # type: ignore[arg-type]


Loader = Callable[[], DataLoader[Any]]
CASES: dict[str, tuple[Callable[[], Any], Loader, dict[str, Any]]] = {
    "sgd": (lambda: Learner(perceptron()), shuffled, {}),
    "adamw": (lambda: Learner(perceptron(dropout=0.4), torch.optim.AdamW), shuffled, {}),
    "lbfgs": (lambda: Learner(perceptron(), torch.optim.LBFGS), shuffled, {}),
    "normalisation and dropout": (lambda: Learner(normalised()), shuffled, {}),
    "convolutions": (classifier, lambda: data(40), {}),
    "busy": (Busy, shuffled, {}),
    "busy, accumulating": (Busy, shuffled, {"accumulate_grad_batches": 2}),
    "a generator of its own": (Drawing, shuffled, {}),
    "settings of the Trainer": (lambda: Setting(normalised()), shuffled, {}),
    "a teacher": (Teaching, shuffled, {}),
    "batches changed in place": (lambda: InPlace(normalised()), shuffled, {}),
    "skipping, checkpointing": (lambda: Sparing(normalised()), shuffled, {}),
    "spectral norm": (Spectral, shuffled, {}),
    "accumulation": (lambda: Learner(normalised()), shuffled, {"accumulate_grad_batches": 4}),
    "clipping": (lambda: Learner(normalised()), shuffled, {"gradient_clip_val": 0.01}),
    "bf16-mixed": (lambda: Learner(normalised()), shuffled, {"precision": "bf16-mixed"}),
    "bf16-true": (lambda: Learner(normalised()), shuffled, {"precision": "bf16-true"}),
    "64-true": (lambda: Learner(normalised()), shuffled, {"precision": "64-true"}),
    "two optimisers by hand": (adversaries, lambda: data(40), {}),
    "by hand, with probe_loss": (criticising, lambda: data(40), {}),
    "two workers": (lambda: Learner(normalised()), lambda: shuffled(num_workers=2), {}),
    "the loader's own generator": (
        lambda: Learner(normalised()),
        lambda: shuffled(generator=torch.Generator().manual_seed(5)),
        {},
    ),
    "validation in between": (lambda: Learner(normalised()), shuffled, {"val_check_interval": 2}),
    "a part compiled": (in_part, shuffled, {}),
    "compiled": (
        lambda: torch.compile(Plain(normalised()), backend="eager"),
        shuffled,
        {},
    ),
    "logging that is handed on": (HandingOn, shuffled, {}),
    "a hook that encloses the module": (Hooked, shuffled, {}),
    "a training step that encloses the module": (replaced, shuffled, {}),
    "batches of another kind": (lambda: Holding(perceptron()), same_batch, {}),
}


_FORMLESS = "forward is not implemented"
WITHHELD = {
    "convolutions": (_FORMLESS,),
    "two optimisers by hand": (_FORMLESS, "manual optimisation"),
    "by hand, with probe_loss": (_FORMLESS,),
    "skipping, checkpointing": ("without a loss",),
    "spectral norm": ("torch._weight_norm",),
    "batches of another kind": ("how many samples it has",),
}
"""Why some quantities are not there; in the other cases all are."""


class Digests(pl.Callback):
    """Fingerprints of everything at the end of every batch, not of the last one alone."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        states = [optimizer.state_dict() for optimizer in trainer.optimizers]
        schedulers = [each.scheduler.state_dict() for each in trainer.lr_scheduler_configs]
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.seen.append(
            fingerprint(
                pl_module.state_dict(), states, schedulers, gradients, metrics, kept(pl_module)
            )
        )


def kept(module: nn.Module) -> dict[str, Any]:
    """What the parts of a module keep besides parameters and buffers."""
    plain = (bool, int, float, str, list, dict, set, Tensor, torch.Generator)
    found = {}
    for path, each in module.named_modules():
        for name, value in vars(each).items():
            if name.startswith("_") and not name.startswith("_computed"):
                continue
            if isinstance(value, plain):
                shown = value.get_state() if isinstance(value, torch.Generator) else value
                shown = sorted(shown) if isinstance(shown, set) else shown
                found[f"{path}.{name}"] = shown
    return found


def attached(module: nn.Module, optimizers: list[Any]) -> dict[str, int]:
    """How many hooks and attributes there are."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    on_steps = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    return {
        **{n: sum(len(getattr(each, n)) for each in module.modules()) for n in hooks},
        **{n: sum(len(getattr(each, n)) for each in optimizers) for n in on_steps},
        "attributes": sum(len(vars(each)) for each in module.modules()),
        "on parameters": sum(len(p._backward_hooks or ()) for p in module.parameters()),
        "training": sum(each.training for each in module.modules()),
        "requires grad": sum(p.requires_grad for p in module.parameters()),
    }


def run(folder: Path, case: str, *, watch: bool, package: Any = pl) -> list[Any]:
    make, loader, options = CASES[case]
    pl.seed_everything(7, verbose=False)
    digests = Digests()
    chain = ("network.0", "network.4") if case == "busy" else ()
    shown = Output() if case == "busy" else Output(pictures=())
    monitor = watching(chain=chain, seed=3, on_error="warn", shown=shown)
    callbacks = [monitor, digests] if watch else [digests]
    logger = CSVLogger(folder, name="csv", version=int(watch))
    fitting = trainer(package, folder, callbacks=callbacks, logger=logger, **options)
    module = make()
    given = module
    if "val_check_interval" in options:
        type(module).validation_step = lambda self, batch, batch_idx: None
    fitting.fit(given, loader(), shuffled() if "val_check_interval" in options else None)
    module = fitting.lightning_module
    states = [optimizer.state_dict() for optimizer in fitting.optimizers]
    logged = folder / "csv" / f"version_{int(watch)}" / "metrics.csv"
    assert module._trainer is fitting
    assert "log" not in vars(module)
    assert monitor._session is None
    return [
        *digests.seen,
        fingerprint(module.state_dict(), states),
        {name: float(value) for name, value in fitting.callback_metrics.items()},
        {name: float(value) for name, value in fitting.logged_metrics.items()},
        logged.read_text() if logged.exists() else "",
        attached(module, fitting.optimizers),
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("error::jacoscope.faults.MonitorWarning")
@pytest.mark.parametrize("case", list(CASES))
def test_training_is_bit_identical(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = into_memory(monkeypatch)
    plain = run(tmp_path, case, watch=False)
    watched = run(tmp_path, case, watch=True)
    assert watched == plain
    assert len(sink.probes) >= 2
    withheld = {why for record in sink.probes for why in record.withheld.values()}
    assert all(any(part in why for part in WITHHELD.get(case, ())) for why in withheld), withheld


class Charting(Learner):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.logger.experiment.add_scalar("by hand", loss.detach(), self.global_step)
        self.logger.experiment.add_histogram("weights", self.network[0].weight, self.global_step)
        return loss


def test_what_else_is_in_tensorboard_stays_as_it_is(tmp_path: Path) -> None:
    """With the monitor's own records beside it, in the same event file."""

    def charts(watch: bool) -> tuple[str, dict[str, list[Any]]]:
        pl.seed_everything(7, verbose=False)
        logger = TensorBoardLogger(tmp_path, name="watched" if watch else "plain", version=0)
        callbacks = [watching(on_error="warn")] if watch else []
        module = Charting(normalised())
        fitting = trainer(pl, tmp_path, callbacks=callbacks, logger=logger, log_every_n_steps=2)
        fitting.fit(module, shuffled())
        events = EventAccumulator(logger.log_dir).Reload()
        scalars = [tag for tag in events.Tags()["scalars"] if not tag.startswith("sensitivity")]
        found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in scalars}
        histograms = events.Histograms("weights")
        found["weights"] = [(e.step, e.histogram_value) for e in histograms]
        return fingerprint(module.state_dict()), found

    plain = charts(watch=False)
    assert charts(watch=True) == plain
    assert set(plain[1]) == {"loss_step", "loss_epoch", "epoch", "by hand", "weights"}
    assert len(plain[1]["by hand"]) == 12


def test_of_the_other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into_memory(monkeypatch)
    kind = learner_class(pytorch_lightning)
    monkeypatch.setitem(CASES, "other", (lambda: kind(normalised()), shuffled, {}))
    one = run(tmp_path, "other", watch=False, package=pytorch_lightning)
    assert run(tmp_path, "other", watch=True, package=pytorch_lightning) == one


def test_the_comparison_sees_a_single_random_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the test above: a prober that draws one number is found out."""
    into_memory(monkeypatch)
    plain = run(tmp_path, "adamw", watch=False)
    monkeypatch.setattr("jacoscope.prober.Prober.finish", lambda *_: (torch.rand(1), None)[1])
    assert run(tmp_path, "adamw", watch=True) != plain


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_comparison_sees_what_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    into_memory(monkeypatch)
    plain = run(tmp_path, "busy", watch=False)
    silence = "jacoscope._training_loss.TrainingLoss.silence"
    monkeypatch.setattr(silence, lambda self, module: vars(module).update(_trainer=self._trainer))
    assert run(tmp_path, "busy", watch=True) != plain
