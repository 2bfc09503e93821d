"""How probes are told what to do: defaults, coercion, partial schedules, mistakes."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from jacoscope import ConfigError, MonitorConfig, SensitivityMonitor
from jacoscope.cli import main
from jacoscope.config import Probes, Schedule, check_section, load_config, resolve_config
from jacoscope.quantities import QUANTITIES, is_probed

PROBED = tuple(name for name in QUANTITIES if is_probed(name))


# Defaults and coercion.


def test_defaults() -> None:
    assert MonitorConfig().probes == Probes()
    assert dataclasses.asdict(Probes()) == {
        "schedule": {"every": 200, "first": 1, "steps": (), "per_epoch": 0, "hook": None},
        "samples": 8,
        "batch": "first",
        "loss_samples": 64,
        "mode": "eval",
        "module": None,
        "method": None,
        "input": None,
        "output": None,
        "max_outputs": 32,
        "sketches": 16,
        "chain": (),
        "second_order": True,
        "weights": 5,
        "saliency": 4,
        "features": (),
        "seed": 0,
        "memory_budget": 256,
    }


def test_lists_become_tuples() -> None:
    probes = check_section({"probes": {"chain": ["a", "b*"], "features": ["age"]}}).probes
    assert probes.chain == ("a", "b*")
    assert probes.features == ("age",)
    assert hash(probes) == hash(Probes(chain=("a", "b*"), features=("age",)))


def test_plain_values_make_the_same_again() -> None:
    config = MonitorConfig(
        quantities=PROBED,
        probes=Probes(schedule={"steps": [3]}, module="network", mode="train", weights=0),  # type: ignore[arg-type]
    )
    plain = config.to_dict()
    assert check_section(yaml.safe_load(yaml.safe_dump(plain))) == config


# A schedule that leaves something out.


def partial(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "monitor.yaml").write_text("probes: {schedule: {every: 5}}")
    (tmp_path / "experiment.yaml").write_text(
        "trainer: {max_epochs: 1}\nmonitor: {probes: {schedule: {every: 5}}}"
    )
    given: dict[str, Any] = {"schedule": {"every": 5}}
    return {
        "Probes": lambda: Probes(**given),
        "MonitorConfig": lambda: MonitorConfig(probes=given).probes,  # type: ignore[arg-type]
        "a mapping": lambda: resolve_config({"probes": given}).probes,
        "a file": lambda: load_config(tmp_path / "monitor.yaml").probes,
        "an experiment's file": lambda: load_config(tmp_path / "experiment.yaml").probes,
        "the callback": lambda: SensitivityMonitor(probes=given).config.probes,  # type: ignore[arg-type]
        "the callback's file": lambda: (
            SensitivityMonitor(str(tmp_path / "monitor.yaml")).config.probes
        ),
    }


FORMS = [
    *("Probes", "MonitorConfig", "a mapping", "a file", "an experiment's file"),
    *("the callback", "the callback's file"),
]


@pytest.mark.parametrize("form", FORMS)
def test_what_a_schedule_leaves_out_is_as_the_default(form: str, tmp_path: Path) -> None:
    schedule = partial(tmp_path)[form]().schedule
    assert (schedule.every, schedule.first) == (5, 1)
    assert (schedule.steps, schedule.per_epoch, schedule.hook) == ((), 0, None)


def test_a_schedule_as_captures_have_is_taken_as_it_is() -> None:
    schedule = Probes(schedule=Schedule(every=5)).schedule  # type: ignore[arg-type,unused-ignore]
    assert (schedule.every, schedule.first) == (5, 10)


_EXPERIMENT: dict[str, Any] = {
    "trainer": {
        "accelerator": "cpu", "max_epochs": 1, "limit_train_batches": 4, "limit_val_batches": 0,
        "enable_progress_bar": False, "enable_model_summary": False, "logger": False,
        "enable_checkpointing": False,
    },
    "model": {"class_path": "lightning.pytorch.demos.boring_classes.BoringModel"},
    "data": {"class_path": "lightning.pytorch.demos.boring_classes.BoringDataModule"},
}  # fmt: skip
_SECTION: dict[str, Any] = {
    "quantities": ["ntk_trace", "actual_change"],
    "probes": {"schedule": {"every": 3}, "module": "layer", "samples": 2},
}


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[MonitorConfig]:
    """The configurations that callbacks were made with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["jacoscope"])  # LightningCLI warns of pytest's arguments
    made: list[MonitorConfig] = []
    start = SensitivityMonitor.on_fit_start

    def noting(self: SensitivityMonitor, *args: Any) -> None:
        made.append(self.config)
        start(self, *args)

    monkeypatch.setattr(SensitivityMonitor, "on_fit_start", noting)
    return made


def test_the_command_line(caught: list[MonitorConfig]) -> None:
    Path("file.yaml").write_text(yaml.safe_dump({**_EXPERIMENT, "monitor": _SECTION}))
    Path("plain.yaml").write_text(yaml.safe_dump(_EXPERIMENT))
    Path("monitor.yaml").write_text(yaml.safe_dump(_SECTION))
    options = ["--monitor.quantities=[ntk_trace,actual_change]", "--monitor.probes.module=layer"]
    options += ["--monitor.probes.schedule.every=3", "--monitor.probes.samples=2"]
    forms = {
        "a": ["--config", "file.yaml"],
        "b": ["--config", "plain.yaml", "--monitor", "monitor.yaml"],
        "c": ["--config", "plain.yaml", *options],
    }
    for folder, args in forms.items():
        assert main(["fit", *args, f"--trainer.default_root_dir={folder}"]) == 0
    assert caught == [check_section(_SECTION)] * 3
    schedule = caught[0].probes.schedule
    assert (schedule.every, schedule.first) == (3, 1)


def test_the_command_line_inspects_probes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["jacoscope"])
    Path("file.yaml").write_text(yaml.safe_dump({**_EXPERIMENT, "monitor": _SECTION}))
    assert main(["inspect", "--config", "file.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "ntk_trace, actual_change" in shown
    assert "layer.weight" in shown


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_a_command_line_of_a_project_s_own(package: str, caught: list[MonitorConfig]) -> None:
    cli = importlib.import_module(f"{package}.cli")
    boring = importlib.import_module(f"{package}.demos.boring_classes")
    callback = {"class_path": "jacoscope.SensitivityMonitor", "init_args": _SECTION}
    trainer = {**_EXPERIMENT["trainer"], "callbacks": [callback]}
    Path("foreign.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
    args = ["fit", "--config", "foreign.yaml"]
    cli.LightningCLI(boring.BoringModel, boring.BoringDataModule, args=args)
    (config,) = caught
    assert config == check_section(_SECTION)
    assert (config.probes.schedule.every, config.probes.schedule.first) == (3, 1)


# Mistakes.

_MISTAKES = [
    ("probes: {samples: 0}", "probes.samples", "got 0, must be 1 or more"),
    ("probes: {loss_samples: 0}", "probes.loss_samples", "got 0, must be 1 or more"),
    ("probes: {max_outputs: 0}", "probes.max_outputs", "got 0, must be 1 or more"),
    ("probes: {sketches: 1}", "probes.sketches", "got 1, must be 2 or more"),
    ("probes: {weights: -1}", "probes.weights", "got -1, must be 0 or more"),
    ("probes: {saliency: -1}", "probes.saliency", "got -1, must be 0 or more"),
    ("probes: {seed: -3}", "probes.seed", "got -3, must be 0 or more"),
    ("probes: {memory_budget: 0}", "probes.memory_budget", "got 0, must be 1 or more"),
    ("probes: {samples: few}", "probes.samples", "got 'few' (str), must be a whole number"),
    ("probes: {samples: 2.0}", "probes.samples", "got 2.0 (float), must be a whole number"),
    ("probes: {samples: true}", "probes.samples", "got True (bool), must be a whole number"),
    ("probes: {second_order: 1}", "probes.second_order", "got 1 (int), must be true or false"),
    (
        "probes: {batch: last}",
        "probes.batch",
        "'last' is not a name that batch takes; valid names are first, each",
    ),
    ("probes: {mode: evl}", "probes.mode", "did you mean 'eval'?"),
    ("probes: {module: ''}", "probes.module", "is empty; name one, or write null"),
    ("probes: {method: ''}", "probes.method", "is empty; name one, or write null"),
    ("probes: {input: ''}", "probes.input", "is empty; name one, or write null"),
    ("probes: {output: ''}", "probes.output", "is empty; name one, or write null"),
    ("probes: {input: 0}", "probes.input", "got 0 (int), must be text"),
    ("probes: {chain: [a, '']}", "probes.chain[1]", "is empty; name a module"),
    ("probes: {chain: a}", "probes.chain", "got 'a' (str), must be a list of text; write ['a']"),
    ("probes: {smaples: 3}", "probes.smaples", "no option 'smaples'; did you mean 'samples'?"),
    ("probes: {schedule: {evry: 3}}", "probes.schedule.evry", "did you mean 'every'?"),
    ("probes: {schedule: {every: 0}}", "probes.schedule.every", "got 0, must be at least 1"),
    ("probes: {schedule: 5}", "probes.schedule", "must be a mapping with keys of"),
    (
        "probes: {schedule: {every: null, first: 0}}",
        "probes.schedule",
        "nothing would ever be captured",
    ),
    ("probes: [samples]", "probes", "must be a mapping with keys of Probes"),
    ("probes:", "probes", "got None (NoneType), must be a mapping with keys of Probes"),
]


@pytest.mark.parametrize(("text", "key", "told"), _MISTAKES, ids=[text for text, *_ in _MISTAKES])
def test_a_mistake_is_told_in_one_sentence(text: str, key: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as in_python:
        resolve_config(yaml.safe_load(text))
    (tmp_path / "monitor.yaml").write_text(text)
    with pytest.raises(ConfigError) as in_a_file:
        load_config(tmp_path / "monitor.yaml")
    for error in (in_python.value, in_a_file.value):
        assert error.key == key
        assert told in str(error)
        assert str(error).splitlines() == [str(error)]
    assert str(in_a_file.value).startswith(f"{tmp_path / 'monitor.yaml'}: {key}: ")
