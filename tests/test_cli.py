"""The command line: our own, and LightningCLIs of projects that know nothing of us."""

import dataclasses
import importlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from docstring_parser import parse

import jacoscope
from jacoscope import MonitorConfig, Run, SensitivityMonitor, read_run
from jacoscope.cli import main
from jacoscope.config import (
    LayerRule,
    Output,
    Probes,
    ProbeSchedule,
    Samples,
    Schedule,
    check_section,
)

_CONFIGS = Path(__file__).parents[1] / "configs"

_EXPERIMENT: dict[str, Any] = {
    "seed_everything": 0,
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_train_batches": 3,
        "limit_val_batches": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": "runs", "name": "boring"},
        },
    },
    "model": {"class_path": "lightning.pytorch.demos.boring_classes.BoringModel"},
    "data": {"class_path": "lightning.pytorch.demos.boring_classes.BoringDataModule"},
    "monitor": {"schedule": {"first": 0, "every": 2}, "output": {"pictures": []}},
}


class _Result(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., _Result]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["jacoscope"])  # LightningCLI warns of pytest's arguments


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"):
        caplog.set_level(logging.ERROR, name)
        caplog.set_level(logging.ERROR, f"{name}.utilities.rank_zero")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process."""

    def run(*args: str) -> _Result:
        capsys.readouterr()
        try:
            code = main(list(args))
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        captured = capsys.readouterr()
        return _Result(code, captured.out, captured.err)

    return run


def _save(name: str, content: Any) -> str:
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    Path(name).write_text(text, encoding="utf-8")
    return name


@pytest.fixture
def experiment() -> str:
    """The path of an experiment's file."""
    return _save("experiment.yaml", _EXPERIMENT)


def _run() -> Run:
    """The newest run."""
    return read_run(max(Path("runs/boring").iterdir(), key=lambda path: path.stat().st_mtime_ns))


def _squeezed(text: str) -> str:
    """The text without its layout, which breaks lines anywhere."""
    return re.sub(r"\s+", "", text)


# fit


def test_fit_trains_and_says_where_to_look(call: Call, experiment: str) -> None:
    result = call("fit", "--config", experiment)
    assert result.code == 0
    assert result.err == ""
    folder = re.search(r"Recorded in (\S+)", result.out)
    assert folder
    run = read_run(folder[1])
    assert list(run.steps.index) == [0, 2]
    assert "tensorboard --logdir runs/boring\n" in result.out
    assert f"jacoscope.read_run('{folder[1]}')" in result.out


def test_fit_uses_the_monitor_section(call: Call, experiment: str) -> None:
    call("fit", "--config", experiment)
    assert check_section(_run().config) == check_section(_EXPERIMENT["monitor"])


def test_fit_without_a_monitor_section_watches_with_the_defaults(call: Call) -> None:
    for section in ({}, {"monitor": None}):
        config = {k: v for k, v in _EXPERIMENT.items() if k != "monitor"} | section
        assert call("fit", "--config", _save("plain.yaml", config)).code == 0
        assert check_section(_run().config) == MonitorConfig()


def test_the_saved_configuration_repeats_the_run(call: Call, experiment: str) -> None:
    call("fit", "--config", experiment, "--monitor.quantities=[grad_norm]")
    first = _run()
    assert call("fit", "--config", str(first.path / "config.yaml")).code == 0
    second = _run()
    assert second.path != first.path
    assert second.config == first.config
    assert second["grad_norm"].equals(first["grad_norm"])


def test_a_dry_run_records_nothing(call: Call, experiment: str) -> None:
    result = call("fit", "--config", experiment, "--trainer.fast_dev_run=1")
    assert result.code == 0
    assert "Recorded" not in result.out
    assert not Path("runs").exists()


def test_without_a_logger_it_records_in_a_folder_of_its_own(call: Call, experiment: str) -> None:
    result = call("fit", "--config", experiment, "--trainer.logger=false")
    folder = re.search(r"Recorded in (\S+)", result.out)
    assert folder
    assert len(read_run(folder[1]).steps) == 2


@pytest.mark.parametrize(("command", "name"), [("validate", "val"), ("test", "test")])
def test_other_commands_record_nothing(
    command: str, name: str, call: Call, experiment: str
) -> None:
    result = call(command, "--config", experiment, f"--trainer.limit_{name}_batches=1")
    assert result.code == 0
    assert "Recorded" not in result.out
    with pytest.raises(FileNotFoundError):
        read_run(".")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--monitor.schedule.every=null", {"schedule": {"first": 2, "every": None}}),
        ("--monitor.schedule.steps=[1,2]", {"schedule": {"first": 0, "every": 2, "steps": [1, 2]}}),
        ("--monitor.quantities=[grad_norm,saliency]", {"quantities": ["grad_norm", "saliency"]}),
        ("--monitor.output.card=false", {"output": {"pictures": [], "card": False}}),
        ("--monitor.on_error=raise", {"on_error": "raise"}),
        (
            '--monitor.layers=[{"match": "*weight", "schedule": {"every": 1}}]',
            {"layers": [{"match": "*weight", "schedule": {"every": 1}}]},
        ),
    ],
)
def test_options_override_the_file(
    option: str, expected: dict[str, Any], call: Call, experiment: str
) -> None:
    more = ["--monitor.schedule.first=2"] if "every=null" in option else []
    assert call("fit", "--config", experiment, option, *more).code == 0
    assert check_section(_run().config) == check_section(_EXPERIMENT["monitor"] | expected)


@pytest.mark.parametrize("joint", [" ", "="])
def test_a_monitor_s_file_is_laid_over_the_experiment_s(
    joint: str, call: Call, experiment: str
) -> None:
    minimal = _CONFIGS / "monitor" / "minimal.yaml"
    assert call("fit", "--config", experiment, *f"--monitor{joint}{minimal}".split()).code == 0
    assert check_section(_run().config) == jacoscope.config.load_config(minimal)
    assert set(_run().quantities) == {"grad_norm", "grad_nonfinite", "update_ratio"}


def test_options_override_a_monitor_s_file(call: Call, experiment: str) -> None:
    minimal = str(_CONFIGS / "monitor" / "minimal.yaml")
    call("fit", "--config", experiment, "--monitor", minimal, "--monitor.schedule.every=7")
    schedule = _run().config["schedule"]
    assert (schedule["every"], schedule["first"]) == (7, 1)


@pytest.mark.parametrize("section", ["sub.yaml", {"config": "sub.yaml"}])
def test_the_monitor_section_may_name_a_file_beside_it(section: Any, call: Call) -> None:
    Path("folder").mkdir()
    _save("folder/sub.yaml", {"quantities": ["saliency"]})
    experiment = _save("folder/experiment.yaml", _EXPERIMENT | {"monitor": section})
    assert call("fit", "--config", experiment).code == 0
    assert _run().quantities == ["saliency"]


def test_a_later_file_overrides_an_earlier_one(call: Call, experiment: str) -> None:
    other = _save("other.yaml", {"monitor": {"schedule": {"every": 1}}})
    assert call("fit", "--config", experiment, "--config", other).code == 0
    assert list(_run().steps.index) == [0, 1, 2]


def test_config_beside_other_options_is_refused(call: Call, experiment: str) -> None:
    other = _save("other.yaml", {"quantities": ["saliency"]})
    result = call("fit", "--config", experiment, "--monitor.config", other)
    assert result.code == 2
    assert re.fullmatch(r"jacoscope: error: .*schedule: is given beside config=.*\n", result.err)


def test_two_monitors_watch_one_run(call: Call, experiment: str) -> None:
    second = ["--trainer.callbacks+=jacoscope.SensitivityMonitor"]
    second += ["--trainer.callbacks.output.group=second"]
    assert call("fit", "--config", experiment, *second).code == 0
    for group in ("sensitivity", "second"):
        assert len(read_run("runs", group=group).steps) > 0


# inspect


def test_inspect_says_what_would_be_watched(call: Call, experiment: str) -> None:
    rule = '--monitor.layers=[{"kind": "weight"}]'
    result = call("inspect", "--config", experiment, rule)
    assert result.code == 0
    assert result.err == ""
    for part in ("layer.weight", "2×32", "layers[0]", "layer.bias", "no rule matches it", "64 sca"):
        assert part in result.out
    assert sorted(Path().iterdir()) == [Path(experiment)]  # nothing was run or written


def test_inspect_takes_a_shipped_experiment(call: Call) -> None:
    result = call("inspect", "--config", str(_CONFIGS / "digits_mlp.yaml"))
    assert result.code == 0
    assert "6 of 6 parameter tensors, 17,226 scalars, 100.0%" in result.out


# Help


_SECTIONS = (
    (MonitorConfig, ""),
    (Schedule, ".schedule"),
    (Output, ".output"),
    (Samples, ".samples"),
    (Probes, ".probes"),
    (ProbeSchedule, ".probes.schedule"),
)


def _options(prefix: str = "--monitor") -> dict[str, str]:
    """Every option with the first words of its documentation, from the docstrings."""
    found = {}
    for cls, path in _SECTIONS:
        documented = {item.arg_name: item.description for item in parse(cls.__doc__ or "").params}
        for field in dataclasses.fields(cls):
            if field.name not in ("schedule", "output", "samples", "probes"):
                found[f"{prefix}{path}.{field.name}"] = documented[field.name] or ""
    return found


def test_help_lists_the_commands(call: Call) -> None:
    result = call("--help")
    assert result.code == 0
    assert "Train a Lightning model and watch its sensitivities" in " ".join(result.out.split())
    for command in ("fit", "validate", "test", "predict", "inspect", "verify"):
        assert re.search(rf"^    {command} ", result.out, re.MULTILINE)
    assert "Print what would be watched" in result.out
    assert "Check per-sample gradients on one batch" in result.out


@pytest.mark.parametrize("command", ["fit", "inspect"])
def test_help_documents_every_option(command: str, call: Call) -> None:
    result = call(command, "--help")
    assert result.code == 0
    shown = _squeezed(result.out)
    assert len(_options()) == 55
    for option, text in _options().items():
        assert text
        section = shown.rpartition(_squeezed(f"{option} "))[2][:3000]
        assert _squeezed(text)[:60] in section, option


def test_help_documents_every_key_of_a_rule(call: Call) -> None:
    result = call("fit", "--monitor.layers.help")
    assert result.code == 0
    shown = _squeezed(result.out)
    for item in parse(LayerRule.__doc__ or "").params:
        if item.arg_name != "schedule":
            assert f"--monitor.layers.{item.arg_name}" in shown
            assert _squeezed(item.description or "")[:60] in shown


def test_print_config_shows_every_default(call: Call, experiment: str) -> None:
    config = {key: value for key, value in _EXPERIMENT.items() if key != "monitor"}
    result = call("fit", "--config", _save("plain.yaml", config), "--print_config")
    assert result.code == 0
    printed = yaml.safe_load(result.out)["monitor"]
    assert printed.pop("config") is None
    assert printed == MonitorConfig().to_dict()


def test_a_printed_configuration_can_be_fed_back(call: Call) -> None:
    section = {
        "quantities": ["grad_norm"],
        "layers": [{"match": ["*weight"], "schedule": {"every": 3}}, {"kind": ["bias"]}],
        "schedule": {"steps": [2], "every": None},
        "output": {"group": "mine", "pictures": ["grad_norm"]},
        "on_error": "raise",
    }
    experiment = _save("experiment.yaml", _EXPERIMENT | {"monitor": section})
    printed = call("fit", "--config", experiment, "--print_config").out
    again = call("fit", "--config", _save("printed.yaml", printed), "--print_config").out
    assert again == printed
    assert call("fit", "--config", "printed.yaml").code == 0
    assert check_section(_run().config) == check_section(section)


def test_version(call: Call) -> None:
    result = call("--version")
    assert (result.code, result.out.strip()) == (0, f"jacoscope {jacoscope.__version__}")


@pytest.mark.slow
def test_as_a_module() -> None:
    """The exit code and the one line, as a shell sees them."""
    _save("monitor.yaml", {"scheduel": {}})
    done = subprocess.run(
        [sys.executable, "-m", "jacoscope", "fit", "--monitor", "monitor.yaml"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(jacoscope.__file__).parents[1])},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "jacoscope: error: monitor.yaml: scheduel: MonitorConfig has no option 'scheduel'; "
        "did you mean 'schedule'?\n"
    )


# Mistakes


def _one_line(result: _Result) -> str:
    """The one line that a mistake gets."""
    assert result.code == 2
    assert result.out == ""
    assert re.fullmatch(r"jacoscope: error: [^\n]+\n", result.err), result.err
    return result.err


_MISTAKES = [  # the messages themselves are tested with the configuration
    ({"scheduel": {"every": 3}}, "scheduel", "did you mean 'schedule'?"),
    ({"schedule": {"evry": 3}}, "schedule.evry", "did you mean 'every'?"),
    ({"quantities": ["grad_nrom"]}, "quantities[0]", "did you mean 'grad_norm'?"),
    ({"layers": [{"mach": "*"}]}, "layers[0].mach", "did you mean 'match'?"),
    ({"output": {"group": "a/b"}}, "output.group", "must be letters"),
]


@pytest.mark.parametrize(("section", "key", "told"), _MISTAKES)
def test_a_mistake_in_a_monitor_s_file(
    section: dict[str, Any], key: str, told: str, call: Call, experiment: str
) -> None:
    file = _save("monitor.yaml", section)
    line = _one_line(call("fit", "--config", experiment, "--monitor", file))
    assert line.startswith(f"jacoscope: error: monitor.yaml: {key}: ")
    assert told in line


@pytest.mark.parametrize(("section", "key", "told"), _MISTAKES)
def test_a_mistake_in_an_experiment_s_file(
    section: dict[str, Any], key: str, told: str, call: Call
) -> None:
    content = _EXPERIMENT | {"monitor": section}
    line = _one_line(call("fit", "--config", _save("experiment.yaml", content)))
    assert line.startswith(f"jacoscope: error: experiment.yaml: monitor.{key}: ")
    assert told in line


def test_a_mistake_is_found_whatever_the_command_and_the_form(call: Call, experiment: str) -> None:
    file = _save("monitor.yaml", {"scheduel": {}})
    line = _one_line(call("inspect", "--config", experiment, f"--monitor={file}"))
    assert line.startswith("jacoscope: error: monitor.yaml: scheduel: ")
    nested = _save("nested.yaml", {"fit": {"monitor": {"scheduel": {}}}})
    line = _one_line(call("-c", nested, "fit"))
    assert line.startswith("jacoscope: error: nested.yaml: fit.monitor.scheduel: ")


def test_a_mistake_in_a_file_that_an_experiment_names(call: Call) -> None:
    Path("folder").mkdir()
    _save("folder/sub.yaml", {"scheduel": {}})
    experiment = _save("folder/experiment.yaml", _EXPERIMENT | {"monitor": "sub.yaml"})
    line = _one_line(call("fit", "--config", experiment))
    assert line.startswith("jacoscope: error: folder/sub.yaml: scheduel: ")


@pytest.mark.parametrize(
    ("command", "rule", "key", "told"),
    [
        ("fit", {"match": "layer.wieght"}, "layers[0].match", "did you mean 'layer.weight'?"),
        ("inspect", {"type": "Linaer"}, "layers[0].type", "did you mean 'Linear'?"),
        ("inspect", {"kind": "norm"}, "layers[0].kind", "whose kinds are weight, bias"),
    ],
)
def test_a_rule_that_matches_nothing(
    command: str, rule: dict[str, Any], key: str, told: str, call: Call
) -> None:
    experiment = _save("experiment.yaml", _EXPERIMENT | {"monitor": {"layers": [rule]}})
    line = _one_line(call(command, "--config", experiment))
    assert f"{key}: " in line
    assert told in line


def test_a_rule_that_matches_nothing_names_its_file(call: Call) -> None:
    rules = {"layers": [{"match": "layer.wieght"}]}
    experiment = _save("experiment.yaml", _EXPERIMENT | {"monitor": rules})
    line = _one_line(call("inspect", "--config", experiment))
    assert line.startswith("jacoscope: error: experiment.yaml: monitor.layers[0].match: ")


@pytest.mark.parametrize(
    ("option", "path", "told"),
    [
        ("--monitor", "no.yaml", "No such file"),
        ("--monitor", ".", "Is a directory"),
        ("--config", "no.yaml", "No such file"),
        ("-c", ".", "Is a directory"),
    ],
)
def test_a_file_that_cannot_be_read(
    option: str, path: str, told: str, call: Call, experiment: str
) -> None:
    line = _one_line(call("fit", "--config", experiment, option, path))
    assert line.startswith(f"jacoscope: error: {path}: cannot be read ({told}")
    assert "give the path of a YAML file" in line


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"a: [\n", "is not valid YAML at line 2"), (b"\xff\xfe\x00", "is not UTF-8 text")],
)
@pytest.mark.parametrize("option", ["--monitor", "--config"])
def test_a_file_that_is_no_yaml(
    option: str, content: bytes, told: str, call: Call, experiment: str
) -> None:
    Path("bad.yaml").write_bytes(content)
    line = _one_line(call("fit", "--config", experiment, option, "bad.yaml"))
    assert line.startswith("jacoscope: error: bad.yaml: ")
    assert told in line


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--monitor.schedule.evry=3", "did you mean '--monitor.schedule.every'?"),
        ("--trainer.max_epohcs=3", "did you mean '--trainer.max_epochs'?"),
        ("--zzzzzzzz", "--zzzzzzzz is not an option; valid names are"),
    ],
)
def test_an_option_that_does_not_exist(option: str, told: str, call: Call, experiment: str) -> None:
    line = _one_line(call("fit", "--config", experiment, option))
    assert line.startswith(f"jacoscope: error: {option.partition('=')[0]} is not an option; ")
    assert told in line


@pytest.mark.parametrize(
    ("option", "key", "told"),
    [
        ("--monitor.quantities=[grad_nrom]", "monitor.quantities", "mean 'grad_norm'?"),
        ("--monitor.schedule.every=ten", "monitor.schedule.every", "a whole number"),
        ('--monitor.layers=[{"quantities": ["grad_nrom"]}]', "layers[0]", "'grad_norm'?"),
        ('--monitor.layers=[{"mach": "x"}]', "monitor.layers[0].mach", "mean 'match'?"),
        ("--monitor.schedule.every=-1", "every", "must be at least 1"),
        ("--monitor.output.group=a/b", "group", "must be letters"),
    ],
)
def test_a_mistake_in_an_option(
    option: str, key: str, told: str, call: Call, experiment: str
) -> None:
    line = _one_line(call("fit", "--config", experiment, option))
    assert key in line
    assert told in line


def test_the_monitor_section_may_be_given_in_place(call: Call, experiment: str) -> None:
    given = '--monitor={"schedule": {"every": 1}}'
    assert call("fit", "--config", experiment, given).code == 0
    assert list(_run().steps.index) == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ['--monitor.layers=[{"match": "nope"}]'],
            "monitor.layers[0].match: 'nope' matches no",
        ),
        (
            ["--monitor.schedule.every=-1"],
            "monitor.schedule.every: got -1, must be at least 1",
        ),
        (
            ['--monitor.layers+={"mach": "x"}'],
            "monitor.layers[0].mach: LayerRule has no option 'mach'; did you mean 'match'?",
        ),
        (
            [
                "--monitor.schedule.first=0",
                "--monitor.schedule.every=null",
                "--trainer.max_epochs=x",
            ],
            'Parser key "trainer.max_epochs"',
        ),
    ],
)
def test_a_mistake_is_blamed_on_what_it_stands_in(
    options: list[str], told: str, call: Call
) -> None:
    section = {"schedule": {"per_epoch": 1}, "layers": [{"match": "*"}]}
    experiment = _save("experiment.yaml", _EXPERIMENT | {"monitor": section})
    line = _one_line(call("fit", "--config", experiment, *options))
    assert line.startswith(f"jacoscope: error: {told}"), line


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ('{"layers": [{"match": "' + "nope" * 100 + '"}]}', "matches no parameter"),
        ('{"layers": [', "is not valid YAML"),
    ],
    ids=["long", "cut short"],
)
def test_a_mistake_in_a_section_given_in_place(
    given: str, told: str, call: Call, experiment: str
) -> None:
    assert told in _one_line(call("fit", "--config", experiment, f"--monitor={given}"))


@pytest.mark.parametrize(
    ("args", "told"),
    [((), "subcommand"), (("fti",), "'fit'"), (("fit",), "model")],
    ids=["nothing", "mistyped", "no model"],
)
def test_a_command_that_is_not_whole(args: tuple[str, ...], told: str, call: Call) -> None:
    assert told in _one_line(call(*args))


def test_a_model_that_does_not_exist_is_named(call: Call) -> None:
    model = {"class_path": "lightning.pytorch.demos.boring_classes.BorigModel"}
    result = call("fit", "--config", _save("e.yaml", _EXPERIMENT | {"model": model}))
    assert result.code == 2
    assert result.err.startswith("jacoscope: error: ")
    assert "BorigModel" in result.err


# LightningCLIs that know nothing of us

_PACKAGES = ["lightning.pytorch", "pytorch_lightning"]
_SMALL = [
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=3",
    "--trainer.limit_val_batches=0",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def _foreign(package: str, *args: str) -> Any:
    """A LightningCLI of a project's own, run with these arguments."""
    cli = importlib.import_module(f"{package}.cli")
    boring = importlib.import_module(f"{package}.demos.boring_classes")
    return cli.LightningCLI(boring.BoringModel, boring.BoringDataModule, args=list(args))


def _monitor(cli: Any) -> SensitivityMonitor:
    (monitor,) = (c for c in cli.trainer.callbacks if isinstance(c, SensitivityMonitor))
    return monitor


def _with_monitor(init_args: dict[str, Any] | None = None) -> str:
    callback: dict[str, Any] = {"class_path": "jacoscope.SensitivityMonitor"}
    if init_args is not None:
        callback["init_args"] = init_args
    return _save("foreign.yaml", {"trainer": {"callbacks": [callback]}})


@pytest.fixture(params=_PACKAGES)
def package(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


_SECTION = {
    "quantities": ["grad_norm", "saliency"],
    "layers": [{"match": "*weight", "schedule": {"every": 2, "first": 0}}, {"kind": ["bias"]}],
    "schedule": {"every": 3, "first": 0},
    "output": {"group": "mine", "pictures": []},
    "on_error": "raise",
}


def test_a_foreign_cli_takes_it_from_yaml(package: str) -> None:
    monitor = _monitor(_foreign(package, "fit", "--config", _with_monitor(_SECTION), *_SMALL))
    assert monitor.config == check_section(_SECTION)
    assert monitor.run_dir is not None
    run = read_run(monitor.run_dir)
    assert check_section(run.config) == monitor.config
    assert list(run["saliency"]["layer.weight"].dropna().index) == [0, 2]
    assert list(run["saliency"]["layer.bias"].dropna().index) == [0]


def test_a_foreign_cli_takes_it_with_defaults(package: str) -> None:
    monitor = _monitor(_foreign(package, "fit", "--config", _with_monitor(), *_SMALL))
    assert monitor.config == MonitorConfig()


def test_a_foreign_cli_takes_it_from_the_command_line(package: str) -> None:
    options = ["--trainer.callbacks+=jacoscope.SensitivityMonitor"]
    options += ["--trainer.callbacks.schedule.every=2", "--trainer.callbacks.output.pictures=[]"]
    monitor = _monitor(_foreign(package, "fit", *options, *_SMALL))
    assert monitor.config == check_section({"schedule": {"every": 2}, "output": {"pictures": []}})
    assert monitor.run_dir is not None
    assert list(read_run(monitor.run_dir).steps.index) == [0, 1, 2]


def test_a_foreign_cli_takes_a_monitor_s_file(package: str) -> None:
    file = str(_CONFIGS / "monitor" / "minimal.yaml")
    monitor = _monitor(
        _foreign(package, "fit", "--config", _with_monitor({"config": file}), *_SMALL)
    )
    assert monitor.config == jacoscope.config.load_config(file)


def test_a_foreign_cli_prints_its_options(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--config", _with_monitor()], ["--trainer.callbacks+=SensitivityMonitor"]):
        with pytest.raises(SystemExit) as leaving:
            _foreign(package, "fit", *given, "--print_config")
        assert leaving.value.code == 0
        (callback,) = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
        assert callback["class_path"] == "jacoscope.SensitivityMonitor"
        assert callback["init_args"].pop("config") is None
        assert callback["init_args"] == MonitorConfig().to_dict()


def test_a_foreign_cli_documents_its_options(
    package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        _foreign(package, "fit", "--trainer.callbacks.help=jacoscope.SensitivityMonitor")
    assert leaving.value.code == 0
    shown = _squeezed(capsys.readouterr().out)
    for option, text in _options("--trainer.callbacks").items():
        assert option in shown
        assert _squeezed(text)[:60] in shown.rpartition(_squeezed(f"{option} "))[2][:3000], option


@pytest.mark.parametrize(
    ("init_args", "told"),
    [
        ({"quantites": ["grad_norm"]}, "Option 'quantites' is not accepted"),
        ({"schedule": {"evry": 3}}, "Group 'schedule' does not accept option 'evry'"),
        ({"schedule": {"every": -3}}, "every: got -3, must be at least 1"),
        ({"layers": [{"mach": "*"}]}, "layers[0].mach: LayerRule has no option 'mach'; did you m"),
        ({"config": "no.yaml"}, "no.yaml: cannot be read (No such file or directory)"),
    ],
)
def test_a_foreign_cli_tells_a_mistake(
    init_args: dict[str, Any], told: str, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, ValueError)) as leaving:
        _foreign(package, "fit", "--config", _with_monitor(init_args), *_SMALL)
    message = capsys.readouterr().err if leaving.type is SystemExit else str(leaving.value)
    assert told in message


def test_a_foreign_cli_tells_that_a_rule_matches_nothing(package: str) -> None:
    file = _with_monitor({"layers": [{"match": "layer.wieght"}]})
    with pytest.raises(jacoscope.ConfigError, match=r"layers\[0\].match: .*'layer.weight'\?"):
        _foreign(package, "fit", "--config", file, *_SMALL)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--config", "monitor.yaml"), "monitor.yaml: is a monitor's file"),
        (("--config", "typo.yaml"), "typo.yaml: monitr: is no section of an experiment; did you"),
        (("--monitor", "whole.yaml"), "whole.yaml: has its options under a key 'monitor'"),
    ],
)
def test_files_in_each_other_s_place(args: tuple[str, str], told: str, call: Call) -> None:
    _save("monitor.yaml", {"schedule": {"every": 1}})
    _save("typo.yaml", _EXPERIMENT | {"monitr": {"quantities": ["grad_norm"]}})
    _save("whole.yaml", {"monitor": {"schedule": {"every": 1}}})
    assert _one_line(call("fit", *args)).startswith(f"jacoscope: error: {told}")
