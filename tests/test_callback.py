"""The callback through its life: loggers, stages, steps, resuming, copies, exceptions."""

from __future__ import annotations

import copy
import csv
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from helpers import adversaries, classifier, data, trainer
from jacoscope import ConfigError, MonitorConfig, MonitorWarning, SensitivityMonitor, read_run

BOTH = pytest.mark.parametrize(
    "pl", [lightning.pytorch, pytorch_lightning], ids=lambda pl: pl.__name__
)
EVERY: Any = {"every": 1, "first": 0}


def event_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*tfevents*"))


def fit(folder: Path, monitor: SensitivityMonitor, module: Any = None, **options: Any) -> Any:
    fitting = trainer(lightning.pytorch, folder, callbacks=[monitor], **options)
    torch.manual_seed(0)
    fitting.fit(module or classifier(), data())
    return fitting


@BOTH
def test_no_argument_is_needed(pl: ModuleType, tmp_path: Path) -> None:
    monitor = SensitivityMonitor()
    fitting = trainer(pl, tmp_path, callbacks=[monitor])
    fitting.fit(classifier(pl), data(), data(16))
    assert len(event_files(tmp_path)) == 1, "everything goes through the Trainer's own logger"
    assert monitor.run_dir is not None
    run = read_run(monitor.run_dir)
    assert list(run.steps.index) == list(range(10))
    assert run.config == MonitorConfig().to_dict()
    assert len(run.parameters) == len(list(network_parameters()))


def network_parameters() -> list[str]:
    return [name for name, _ in classifier().named_parameters()]


@pytest.mark.parametrize("form", ["dataclass", "path", "str", "arguments", "mapping"])
def test_every_form_of_configuration(form: str, tmp_path: Path) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_text("quantities: [grad_norm]\nschedule: {every: 7}\n")
    arguments: dict[str, Any] = {"quantities": ("grad_norm",), "schedule": {"every": 7}}
    forms: dict[str, Any] = {
        "dataclass": lambda: SensitivityMonitor(MonitorConfig(**arguments)),
        "path": lambda: SensitivityMonitor(path),  # type: ignore[arg-type]
        "str": lambda: SensitivityMonitor(str(path)),
        "arguments": lambda: SensitivityMonitor(**arguments),
        "mapping": lambda: SensitivityMonitor(arguments),  # type: ignore[arg-type]
    }
    assert forms[form]().config == MonitorConfig(**arguments)


def test_configuration_and_arguments_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^schedule: is given beside config"):
        SensitivityMonitor(MonitorConfig(), schedule={"every": 3})  # type: ignore[arg-type]


def test_a_pattern_that_matches_nothing_stops_before_training(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(layers=[{"match": "netwrk.0.*"}])
    module = classifier()
    module.training_step = lambda *_: pytest.fail("training has begun")
    with pytest.raises(
        ConfigError, match=r"layers\[0\].match: 'netwrk.0.\*' matches no .*network.0"
    ):
        fit(tmp_path, monitor, module)


class Witness(lightning.pytorch.Callback):
    """Notes gradients and weights by itself, after the monitor's own hook and before clipping."""

    def __init__(self) -> None:
        self.gradients: dict[int, dict[str, Any]] = {}
        self.before: dict[int, dict[str, Any]] = {}
        self.after: dict[int, dict[str, Any]] = {}
        self.step = 0

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        if step in self.gradients:
            return  # LBFGS evaluates again
        named = list(pl_module.named_parameters())
        self.step = step
        self.gradients[step] = {n: p.grad.double().numpy().copy() for n, p in named}
        self.before[step] = {n: p.detach().double().numpy().copy() for n, p in named}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if self.step in self.before and self.step not in self.after:
            named = pl_module.named_parameters()
            self.after[self.step] = {n: p.detach().double().numpy().copy() for n, p in named}


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("sgd", {}),
        ("sgd", {"gradient_clip_val": 0.01}),
        ("adamw", {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}),
        ("sgd", {"accumulate_grad_batches": 5}),
        ("lbfgs", {}),
    ],
)
def test_numbers_are_those_the_optimiser_got(
    optimizer: str, options: dict[str, Any], tmp_path: Path
) -> None:
    witness = Witness()
    monitor = SensitivityMonitor(schedule=EVERY, on_error="raise")
    module = classifier(optimizer=optimizer).double()
    fitting = trainer(
        lightning.pytorch, tmp_path, callbacks=[monitor, witness], precision="64-true", **options
    )
    fitting.fit(module, data())
    run = read_run(str(monitor.run_dir))
    assert list(run.steps.index) == sorted(witness.gradients)
    for step, gradients in witness.gradients.items():
        for name, g in gradients.items():
            before, after = witness.before[step][name], witness.after[step][name]
            update = np.linalg.norm(after - before)
            assert run["grad_norm"].loc[step, name] == pytest.approx(np.linalg.norm(g), rel=1e-12)
            assert run["update_norm"].loc[step, name] == pytest.approx(update, rel=1e-12)
            expected = np.abs(before * g).sum()
            assert run["saliency"].loc[step, name] == pytest.approx(expected, rel=1e-12)


def test_every_record_says_which_gradient_it_is(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(schedule=EVERY)
    fit(tmp_path, monitor, accumulate_grad_batches=5, gradient_clip_val=0.5, max_epochs=1)
    steps = read_run(str(monitor.run_dir)).steps
    assert steps["window"].tolist() == [5, 5, 2], "the last window of the epoch is shorter"
    assert set(steps["full_window"]) == {5}
    assert set(steps["clipping"]) == {"before clipping by norm to 0.5"}
    assert set(steps["scaling"]) == {"unscaled"}
    assert "divided by 5" in steps["reduction"].iloc[0]


def test_several_optimisers_share_a_step(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(schedule=EVERY, on_error="raise")
    fit(tmp_path, monitor, adversaries(), max_epochs=1)
    run = read_run(str(monitor.run_dir))
    assert list(run.steps.index) == list(range(12))
    assert run["update_norm"].notna().all(axis=None)
    assert run.missing.empty
    assert set(run.steps["clipping"]) == {
        "as handed to the optimiser, after any clipping that training_step does itself"
    }
    assert set(run.steps["reduction"]) == {
        "sum over all that training_step sent backward since it last zeroed gradients"
    }
    assert (run["grad_norm"].filter(like="critic") ** 2).sum(axis=1).max() <= 0.5**2 * (1 + 1e-5)


class Seldom(lightning.pytorch.LightningModule):
    """An optimiser that steps in every fourth batch, beside one that steps in all or in none."""

    def __init__(self, is_alone: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.is_alone = is_alone
        self.seldom, self.often = nn.Linear(36, 3), nn.Linear(36, 3)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        features = batch[0].flatten(1)
        seldom, often = self.optimizers()
        scores = (
            self.seldom(features) if self.is_alone else self.seldom(features) + self.often(features)
        )
        self.manual_backward(nn.functional.cross_entropy(scores, batch[1]))
        for optimizer, steps in ((seldom, batch_idx % 4 == 3), (often, not self.is_alone)):
            if steps:
                optimizer.step()
                optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(each.parameters(), lr=0.1) for each in (self.seldom, self.often)]


def test_the_step_after_one_that_is_due_is_recorded_where_none_steps(tmp_path: Path) -> None:
    schedule: Any = {"every": 5, "first": 0}
    monitor = SensitivityMonitor(schedule=schedule, on_error="raise")
    fit(tmp_path, monitor, Seldom(is_alone=True), max_epochs=1)
    run = read_run(str(monitor.run_dir))
    assert list(run.steps.index) == [3, 7, 11]
    assert run["update_norm"]["seldom.weight"].gt(0).all()


def test_beside_others_an_optimiser_is_recorded_where_it_steps_with_them(tmp_path: Path) -> None:
    schedule: Any = {"steps": [0, 3, 5, 7], "every": None, "first": 0}
    monitor = SensitivityMonitor(schedule=schedule, on_error="raise")
    fit(tmp_path, monitor, Seldom(is_alone=False), max_epochs=1)
    update = read_run(str(monitor.run_dir))["update_norm"]
    assert list(update.index) == [0, 3, 5, 7]
    assert update["often.weight"].gt(0).all()
    assert list(update["seldom.weight"].gt(0)) == [False, True, False, True]


def test_steps_are_those_of_the_loggers_own_charts(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(schedule={"every": 4, "first": 0})  # type: ignore[arg-type]
    fit(tmp_path, monitor, accumulate_grad_batches=2, log_every_n_steps=4)
    accumulator = EventAccumulator(monitor.run_dir).Reload()
    own = [event.step for event in accumulator.Scalars("sensitivity/grad_norm")]
    assert own == [0, 4, 8]
    assert {event.step for event in accumulator.Scalars("train/loss")} == {3, 7, 11}


def test_headline_and_record_agree(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(schedule=EVERY)
    fit(tmp_path, monitor, max_epochs=1)
    run = read_run(str(monitor.run_dir))
    accumulator = EventAccumulator(monitor.run_dir).Reload()
    whole = [event.value for event in accumulator.Scalars("sensitivity/grad_norm")]
    np.testing.assert_allclose(np.sqrt((run["grad_norm"] ** 2).sum(axis=1)), whole, rtol=1e-6)
    assert {event.value for event in accumulator.Scalars("sensitivity/coverage")} == {1.0}
    names = [tag for tag in accumulator.Tags()["scalars"] if tag.startswith("sensitivity/")]
    assert 9 <= len(names) <= 12


def test_csv_logger_gets_the_headline_and_a_file_of_our_own_the_rest(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="run")
    monitor = SensitivityMonitor(schedule=EVERY)
    fit(tmp_path, monitor, logger=logger)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["sensitivity/grad_norm"]]
    assert len(rows) == 24
    assert monitor.run_dir == str(Path(logger.log_dir) / "jacoscope")
    assert len(read_run(logger.log_dir).steps) == 24


class Foreign(Logger):
    """A logger of somebody else's, as Weights & Biases' is to us."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.logged: list[tuple[int, dict[str, float]]] = []

    name = "project"
    version = "run7"

    @property
    def save_dir(self) -> str:
        return str(self._folder)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.logged.append((step, metrics))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


def test_other_loggers_and_several_at_once(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path / "foreign")
    monitor = SensitivityMonitor(schedule=EVERY)
    fit(tmp_path, monitor, logger=foreign, max_epochs=1)
    assert monitor.run_dir == str(tmp_path / "foreign" / "project" / "run7" / "jacoscope")
    ours = [step for step, metrics in foreign.logged if "sensitivity/grad_norm" in metrics]
    assert ours == list(range(12))

    foreign, board = Foreign(tmp_path / "second"), TensorBoardLogger(tmp_path, name="board")
    monitor = SensitivityMonitor(schedule=EVERY)
    fit(tmp_path, monitor, logger=[foreign, board], max_epochs=1)
    assert monitor.run_dir == board.log_dir
    assert any("sensitivity/grad_norm" in metrics for _, metrics in foreign.logged)
    assert not event_files(tmp_path / "second")


def test_without_a_logger_a_run_folder_is_made(tmp_path: Path) -> None:
    for version in range(2):
        monitor = SensitivityMonitor()
        fit(tmp_path, monitor, logger=False)
        assert monitor.run_dir == str(tmp_path / "jacoscope" / f"version_{version}")
        run = read_run(monitor.run_dir)
        assert len(run.steps) == 10
        tags = EventAccumulator(monitor.run_dir).Reload().Tags()["scalars"]
        assert "sensitivity/grad_norm" in tags


def test_output_directory_overrides_the_logger(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(output={"directory": str(tmp_path / "here")})  # type: ignore[arg-type]
    fit(tmp_path, monitor)
    assert len(read_run(tmp_path / "here").steps) == 10


def test_two_monitors_with_groups_of_their_own(tmp_path: Path) -> None:
    first = SensitivityMonitor(schedule=EVERY)
    second = SensitivityMonitor(output={"group": "other"}, quantities=("grad_max",))  # type: ignore[arg-type]
    fitting = trainer(lightning.pytorch, tmp_path, callbacks=[first, second])
    fitting.fit(classifier(), data())
    assert len(read_run(str(first.run_dir), group="sensitivity").steps) == 24
    assert read_run(str(first.run_dir), group="other").quantities == ["grad_max"]
    with pytest.raises(ValueError, match="several records"):
        read_run(str(first.run_dir))


@BOTH
@pytest.mark.parametrize("place", ["trainer", "module", "later"])
def test_two_monitors_of_one_group_are_refused(pl: ModuleType, place: str, tmp_path: Path) -> None:
    first, second = SensitivityMonitor(schedule=EVERY), SensitivityMonitor()
    given = {"trainer": [first, second], "module": [], "later": [first]}[place]
    fitting, module = trainer(pl, tmp_path, callbacks=given), classifier(pl)
    module.training_step = lambda *_: pytest.fail("training has begun")
    if place == "module":
        module.configure_callbacks = lambda: [first, second]
    elif place == "later":
        fitting.callbacks.append(second)
    said = "^output.group: two monitors have the group 'sensitivity'; give each its own$"
    with pytest.raises(ConfigError, match=said):
        fitting.fit(module, data())


@BOTH
def test_one_monitor_given_twice_is_refused(pl: ModuleType, tmp_path: Path) -> None:
    monitor = SensitivityMonitor()
    fitting = trainer(pl, tmp_path, callbacks=[monitor, monitor])
    with pytest.raises(ConfigError, match="same SensitivityMonitor twice; give it once"):
        fitting.fit(classifier(pl), data())


def test_the_state_is_found_by_its_name_at_any_time(tmp_path: Path) -> None:
    monitor, name = SensitivityMonitor(), "jacoscope.SensitivityMonitor[sensitivity]"
    assert {name: 3}[monitor.state_key] == 3
    assert monitor.state_key == name == str(monitor.state_key)
    fit(tmp_path, monitor, max_epochs=1)
    assert type(monitor.state_key) is str, "as it stands in checkpoints"
    assert monitor.state_key == name


@BOTH
def test_other_stages_write_nothing(pl: ModuleType, tmp_path: Path) -> None:
    monitor = SensitivityMonitor()
    fitting = trainer(pl, tmp_path, callbacks=[monitor], logger=False)
    module = classifier(pl)
    fitting.validate(module, data(16), verbose=False)
    fitting.test(module, data(16), verbose=False)
    fitting.predict(module, data(16))
    assert not event_files(tmp_path)
    assert monitor.state_dict().get("captures", 0) == 0


@pytest.mark.parametrize(
    "options",
    [{"fast_dev_run": True}, {"fast_dev_run": 3}, {"barebones": True}, {"overfit_batches": 2}],
    ids=str,
)
def test_unusual_trainers(options: dict[str, Any], tmp_path: Path) -> None:
    monitor = SensitivityMonitor(schedule=EVERY, on_error="raise")
    defaults = {
        "barebones": {
            "logger": None,
            "log_every_n_steps": None,
            "enable_checkpointing": None,
            "enable_progress_bar": None,
            "enable_model_summary": None,
        }
    }
    extra = next((defaults[key] for key in options if key in defaults), {})
    fit(tmp_path, monitor, **{**options, **extra})
    assert monitor.state_dict()["captures"] > 0
    if "fast_dev_run" in options:
        assert not event_files(tmp_path), "a dry run leaves no files"


def test_fit_twice_continues_in_the_same_run(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(schedule={"every": 6, "first": 0})  # type: ignore[arg-type]
    module = classifier()
    fitting = fit(tmp_path, monitor, module, max_epochs=1)
    fitting.fit_loop.max_epochs = 2
    fitting.fit(module, data())
    run = read_run(str(monitor.run_dir))
    assert list(run.steps.index) == [0, 6, 12, 18]
    assert monitor.state_dict()["captures"] == 4


def test_another_model_starts_with_a_clean_history(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(schedule=EVERY)
    fit(tmp_path, monitor, adversaries(), max_epochs=1)
    first = set(monitor.state_dict()["sinks"]["TensorBoardSink"]["pictures"])
    fit(tmp_path, monitor, classifier(), max_epochs=1)
    second = set(monitor.state_dict()["sinks"]["TensorBoardSink"]["pictures"])
    assert first
    assert second
    assert not first & second


def test_resuming_keeps_counters_and_picture_histories(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(schedule=EVERY)
    fitting = fit(tmp_path, monitor, max_epochs=1)
    path = tmp_path / "last.ckpt"
    fitting.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)["callbacks"][monitor.state_key]
    assert saved["captures"] == 12

    resumed = SensitivityMonitor(schedule=EVERY)
    again = trainer(lightning.pytorch, tmp_path, callbacks=[resumed], max_epochs=2)
    again.fit(classifier(), data(), ckpt_path=path)
    state = resumed.state_dict()
    assert state["captures"] == 24
    histories = state["sinks"]["TensorBoardSink"]["pictures"]
    assert all(history["steps"] == list(range(24)) for history in histories.values())
    assert list(read_run(str(resumed.run_dir)).steps.index) == list(range(12, 24))


def test_checkpoints_in_the_middle_carry_the_state(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(schedule=EVERY)
    saving = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path, every_n_train_steps=5, save_top_k=-1
    )
    fitting = trainer(
        lightning.pytorch, tmp_path, callbacks=[saving, monitor], enable_checkpointing=True
    )
    fitting.fit(classifier(), data())
    for path in tmp_path.glob("*.ckpt"):
        loaded = torch.load(path, weights_only=True)
        assert loaded["callbacks"][monitor.state_key]["captures"] == loaded["global_step"]


def test_copies_and_pickles_leave_files_behind(tmp_path: Path) -> None:
    class Copying(lightning.pytorch.Callback):
        copies: list[SensitivityMonitor] = []  # noqa: RUF012

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 5:
                original = next(c for c in trainer.callbacks if isinstance(c, SensitivityMonitor))
                self.copies.append(copy.deepcopy(original))
                self.copies.append(pickle.loads(pickle.dumps(original)))

    monitor = SensitivityMonitor(schedule=EVERY)
    trainer(lightning.pytorch, tmp_path, callbacks=[monitor, Copying()]).fit(classifier(), data())
    assert len(Copying.copies) == 2
    for other in Copying.copies:
        assert other.config == monitor.config
        assert other.state_dict()["captures"] == 5
        fit(tmp_path / "again", other)


def hooks(optimizer: Any) -> int:
    return len(optimizer._optimizer_step_post_hooks) + len(optimizer._optimizer_step_pre_hooks)


def test_nothing_stays_attached(tmp_path: Path) -> None:
    class Watcher(lightning.pytorch.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            assert hooks(trainer.optimizers[0]) == 0
            assert not any(m._forward_hooks or m._backward_hooks for m in pl_module.modules())
            assert not any(p._backward_hooks for p in pl_module.parameters())

    monitor = SensitivityMonitor(schedule=EVERY)
    trainer(lightning.pytorch, tmp_path, callbacks=[monitor, Watcher()]).fit(classifier(), data())


@pytest.mark.parametrize("where", ["training_step", "optimizer"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_training_leaves_a_readable_record(
    where: str, error: type[BaseException], tmp_path: Path
) -> None:
    monitor = SensitivityMonitor(schedule=EVERY)
    module = classifier()
    fitting = trainer(lightning.pytorch, tmp_path, callbacks=[monitor])

    def fail(*_: Any, **__: Any) -> Any:
        if fitting.global_step == 5:
            raise error("planted")

    if where == "training_step":
        module.register_forward_pre_hook(fail)
        module.network[0].register_forward_pre_hook(fail)
    else:
        module.on_before_optimizer_step = fail
    with pytest.raises((error, SystemExit)):
        fitting.fit(module, data())
    assert hooks(fitting.optimizers[0]) == 0
    assert monitor._session is None
    assert list(read_run(str(monitor.run_dir)).steps.index) == list(range(5))


def test_unused_and_frozen_parameters_are_missing_with_their_reason(tmp_path: Path) -> None:
    module = classifier()
    module.unused = nn.Linear(3, 3)
    module.network[0].weight.requires_grad_(False)
    module.stranger = nn.Linear(2, 2)
    module.configure_optimizers = lambda: torch.optim.SGD(
        [p for name, p in module.named_parameters() if not name.startswith("stranger")], lr=0.1
    )
    monitor = SensitivityMonitor(schedule=EVERY)
    fit(tmp_path, monitor, module, max_epochs=1)
    run = read_run(str(monitor.run_dir))
    reasons = run.missing[run.missing["quantity"] == "grad_norm"].drop_duplicates("parameter")
    by_name = dict(zip(reasons["parameter"], reasons["reason"], strict=True))
    assert "loss does not depend on it" in by_name["unused.weight"]
    assert "frozen" in by_name["network.0.weight"]
    assert "no optimiser" in by_name["stranger.bias"]
    assert run["grad_norm"]["unused.weight"].isna().all()
    assert run["weight_norm"]["unused.weight"].notna().all(), "weights need no gradient"
    accumulator = EventAccumulator(monitor.run_dir).Reload()
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    measured = trainable - sum(
        p.numel() for n, p in module.named_parameters() if n[:6] in ("unused", "strang")
    )
    assert accumulator.Scalars("sensitivity/coverage")[0].value == pytest.approx(
        measured / trainable
    )


def test_lazy_parameters_join_when_they_have_a_shape(tmp_path: Path) -> None:
    module = classifier()
    module.network[5] = nn.LazyLinear(8)
    monitor = SensitivityMonitor(schedule=EVERY, on_error="raise")
    with torch.no_grad():
        module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.01)
    fit(tmp_path, monitor, module, max_epochs=1)
    run = read_run(str(monitor.run_dir))
    assert run["grad_norm"]["network.5.weight"].iloc[1:].notna().all()
    assert run.left_out.empty


def test_layers_added_and_replaced_while_training_are_followed(tmp_path: Path) -> None:
    class Growing(lightning.pytorch.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                pl_module.network[7] = nn.Linear(8, 2)
                pl_module.network.append(nn.Linear(2, 2))
                added = [*pl_module.network[7].parameters(), *pl_module.network[8].parameters()]
                trainer.optimizers[0].add_param_group({"params": added})

    monitor = SensitivityMonitor(schedule=EVERY, on_error="raise")
    fitting = trainer(lightning.pytorch, tmp_path, callbacks=[monitor, Growing()])
    fitting.fit(classifier(), data())
    run = read_run(str(monitor.run_dir))
    assert run["grad_norm"]["network.7.weight"].notna().all()
    assert run["grad_norm"]["network.8.weight"].notna().tolist() == [False] * 12 + [True] * 12


def test_a_lazy_parameter_that_never_gets_a_shape_costs_nothing_else(tmp_path: Path) -> None:
    module = classifier()
    module.never = nn.LazyLinear(3)
    module.configure_optimizers = lambda: torch.optim.SGD(module.network.parameters(), lr=0.01)
    monitor = SensitivityMonitor(schedule=EVERY, on_error="raise")
    fit(tmp_path, monitor, module, max_epochs=1)
    run = read_run(str(monitor.run_dir))
    assert run["grad_norm"].notna().all(axis=None)
    assert set(run.left_out["parameter"]) == {"never.weight", "never.bias"}
    events = EventAccumulator(monitor.run_dir, {"tensors": 0}).Reload()
    assert len(events.Tensors("jacoscope/sensitivity/.run")) == 1, "what is watched is said once"


def test_rules_may_name_layers_that_configure_model_makes(tmp_path: Path) -> None:
    module = classifier()

    def configure_model() -> None:
        module.late = nn.Linear(2, 2)

    module.configure_model = configure_model
    monitor = SensitivityMonitor(layers=[{"match": "late"}, {}], on_error="raise")
    fit(tmp_path, monitor, module, max_epochs=1)
    assert "late.weight" in read_run(str(monitor.run_dir))["weight_norm"]


def test_rules_with_schedules_of_their_own(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(
        schedule={"every": 6, "first": 0},  # type: ignore[arg-type]
        layers=[
            {
                "match": "network.0.*",
                "quantities": ["grad_norm"],
                "schedule": {"steps": [1, 2], "every": None, "first": 0},
            },
            {"kind": "norm", "exclude": True},
            {},
        ],
        on_error="raise",
    )
    fit(tmp_path, monitor)
    run = read_run(str(monitor.run_dir))
    assert list(run["grad_norm"]["network.0.weight"].dropna().index) == [1, 2]
    assert list(run["grad_norm"]["network.5.weight"].dropna().index) == [0, 6, 12, 18]
    assert "network.0.weight" not in run["update_norm"]
    assert set(run.left_out["reason"]) == {"excluded by rule layers[1]"}
    accumulator = EventAccumulator(monitor.run_dir).Reload()
    assert [e.step for e in accumulator.Scalars("sensitivity/grad_norm")] == [0, 6, 12, 18]


def test_per_epoch_schedule_and_hook(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(schedule={"every": None, "first": 0, "per_epoch": 2})  # type: ignore[arg-type]
    fit(tmp_path, monitor)
    assert list(read_run(str(monitor.run_dir)).steps.index) == [0, 1, 12, 13]
    assert read_run(str(monitor.run_dir)).steps["epoch"].tolist() == [0, 0, 1, 1]
    asked: list[tuple[int, int]] = []

    def should_capture(step: int, epoch: int) -> bool | None:
        asked.append((step, epoch))
        return step == 7 or None

    monitor = SensitivityMonitor(schedule={"every": None, "first": 1, "hook": should_capture})  # type: ignore[arg-type]
    fit(tmp_path, monitor, accumulate_grad_batches=2)
    assert list(read_run(str(monitor.run_dir)).steps.index) == [0, 7]
    assert asked == [(step, step // 6) for step in range(12)], "asked once for every step"


def test_a_hook_that_cannot_be_imported_stops_before_training(tmp_path: Path) -> None:
    hook: Any = {"hook": "no.such.thing"}
    module = classifier()
    module.training_step = lambda *_: pytest.fail("training has begun")
    with pytest.raises(ConfigError, match=r"^schedule.hook: 'no.such.thing' cannot be imported"):
        fit(tmp_path, SensitivityMonitor(schedule=hook), module)
    rules = [{"kind": "bias"}, {"schedule": hook}]
    with pytest.raises(ConfigError, match=r"^layers\[1\].schedule.hook: "):
        fit(tmp_path, SensitivityMonitor(layers=rules), module)


def test_log_names_are_left_to_lightning() -> None:
    """Lightning overwrites attributes of these names on every callback."""
    monitor = SensitivityMonitor()
    assert not {"log", "log_dict"} & set(vars(monitor))
    assert "log" not in vars(SensitivityMonitor)


def test_optimisers_that_bypass_the_trainer_are_pointed_out(tmp_path: Path) -> None:
    module = adversaries()
    first = torch.optim.SGD(module.generator.parameters(), lr=0.1)

    def training_step(batch: Any, batch_idx: int) -> None:
        first.zero_grad()
        module.generator(torch.randn(4, 3)).sum().backward()
        first.step()

    module.training_step = training_step
    with pytest.warns(MonitorWarning, match="no optimiser stepped through the Trainer"):
        fit(tmp_path, SensitivityMonitor(), module, max_epochs=1)


def test_a_crash_in_the_first_step_is_not_blamed_on_the_optimiser(tmp_path: Path) -> None:
    module = classifier()
    module.network[0].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a MonitorWarning would be an error of its own here
        fit(tmp_path, SensitivityMonitor(), module)


def test_a_writer_that_fails_leaves_no_run_folder(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(output={"directory": "/proc/nowhere"})  # type: ignore[arg-type]
    with pytest.warns(MonitorWarning, match="writing to TensorBoard failed") as told:
        fit(tmp_path, monitor, max_epochs=1)
    assert {each.filename for each in told if each.category is MonitorWarning} == {__file__}
    assert monitor.run_dir is None


NEVER: Any = {"every": None, "first": 0, "steps": [1000, 2000]}


def test_a_schedule_that_asks_for_no_step_is_pointed_out(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(
        layers=[{"match": "network.0"}, {"schedule": {**NEVER, "hook": lambda *_: None}}],
        schedule=NEVER,
    )
    with pytest.warns(MonitorWarning) as told:
        fit(tmp_path, monitor, max_epochs=1, limit_train_batches=5)
    ours = [each for each in told if each.category is MonitorWarning]
    assert [str(each.message).partition(" (")[0] for each in ours] == [
        "jacoscope: no step was captured, so nothing was recorded: the run ended after 5 steps, "
        "none of which schedule"
    ]
    assert "schedule (steps: [1000, 2000]) or layers[1].schedule (steps" in str(ours[0].message)
    assert str(ours[0].message).endswith("asked for; ask for earlier ones, such as first: 10")
    assert ours[0].filename == __file__


def test_a_probes_schedule_that_asks_for_no_step_is_pointed_out(tmp_path: Path) -> None:
    probes: Any = {"schedule": NEVER}
    monitor = SensitivityMonitor(quantities=("actual_change",), probes=probes)
    with pytest.warns(MonitorWarning, match=r"5 steps, none of which probes.schedule \(steps"):
        fit(tmp_path, monitor, max_epochs=1, limit_train_batches=5)


def test_what_a_schedule_misses_is_told_of_no_dry_run_and_once_per_cause(tmp_path: Path) -> None:
    fit(tmp_path, SensitivityMonitor(schedule=NEVER), fast_dev_run=True)

    def hook(step: int, epoch: int) -> bool:
        raise RuntimeError("planted")

    failing: Any = {**NEVER, "hook": hook}
    with pytest.warns(MonitorWarning) as told:
        fit(tmp_path, SensitivityMonitor(schedule=failing), max_epochs=1)
    ours = [str(each.message) for each in told if each.category is MonitorWarning]
    assert len(ours) == 1
    assert "planted" in ours[0]


def test_a_run_that_goes_on_is_not_told_of_steps_that_it_does_not_reach(tmp_path: Path) -> None:
    monitor = SensitivityMonitor(schedule={"every": 1000, "first": 0})  # type: ignore[arg-type]
    fitting = fit(tmp_path, monitor, max_epochs=1)
    fitting.fit_loop.max_epochs = 2
    fitting.fit(classifier(), data())  # a MonitorWarning would be an error of its own here
    assert monitor.run_dir is not None
    assert len(read_run(monitor.run_dir).steps) == 1
