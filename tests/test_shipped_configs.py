"""Every shipped configuration trains, and its record holds what the file asks for."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jacoscope import MonitorConfig, Run, read_run
from jacoscope.cli import main
from jacoscope.config import check_section, load_config
from jacoscope.quantities import QUANTITIES, is_per_sample, is_probed

_CONFIGS = Path(__file__).parents[1] / "configs"
_EXPERIMENTS = sorted(_CONFIGS.glob("*.yaml"))
_MONITORS = sorted((_CONFIGS / "monitor").glob("*.yaml"))

Fit = Callable[..., Run]


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fit]:
    """Train three batches of an experiment through the command line, and read its record.

    What was trained once is not trained again.
    """
    runs: dict[tuple[str, ...], Run] = {}

    def run(experiment: Path, *args: str) -> Run:
        key = (str(experiment), *args)
        if key not in runs:
            folder = tmp_path_factory.mktemp(experiment.stem)
            runs[key] = _train(experiment, folder, *args)
        return runs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["jacoscope"])  # LightningCLI warns of pytest's arguments
        yield run


def _train(experiment: Path, folder: Path, *args: str) -> Run:
    small = {
        "accelerator": "cpu",
        "limit_train_batches": 3,
        "limit_val_batches": 0,
        "max_epochs": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger.init_args.save_dir": folder,
    }
    options = [f"--trainer.{name}={str(value).lower()}" for name, value in small.items()]
    content = yaml.safe_load(experiment.read_text(encoding="utf-8"))
    if "windows" in content["data"]["init_args"]:
        options.append("--data.init_args.windows=256")
    assert main(["fit", "--config", str(experiment), *options, *args]) == 0
    return read_run(folder)


def _tags(run: Run, kind: str) -> set[str]:
    return set(EventAccumulator(str(run.path)).Reload().Tags()[kind])


def _expect(run: Run, config: MonitorConfig, steps: list[int]) -> None:
    """Whether a run holds what its configuration asks for."""
    assert check_section(run.config) == config
    assert list(run.steps.index) == steps
    for row in run.parameters.itertuples():
        for quantity in row.quantities:
            if quantity == "grad_histogram":
                counts = run.histogram(row.parameter)
                assert (counts.sum(axis=1) == row.size).all()
                continue
            if is_probed(quantity):
                continue
            column = run[quantity][row.parameter]
            assert column.notna().any(), (quantity, row.parameter)
            grown = column[column.index > 0] if quantity == "update_ratio" else column
            assert np.isfinite(grown.dropna()).all()  # biases that begin at 0 have a ratio of inf
    probed = {q for row in run.parameters["quantities"] for q in row if is_probed(q)}
    for quantity in probed:
        assert run[quantity].notna().any(axis=None), quantity
    # Between two large layers there are too many outputs to enumerate.
    lacking = run.missing[~run.missing["reason"].str.contains("probes.max_outputs")]
    assert lacking.empty
    assert set(run.missing["quantity"]) <= {n for n in probed if n.startswith("layer_jacobian")}
    if any(is_per_sample(name) for row in run.parameters["quantities"] for name in row):
        assert (run.capture["verification"] < 1e-3).all()
        assert not run.samples.empty
        assert not run.leaderboards.empty
    group = config.output.group
    layers = f"{group}_layers_by_step/"
    drawn = {tag.removeprefix(layers) for tag in _tags(run, "images") if tag.startswith(layers)}
    asked = {name for row in run.parameters["quantities"] for name in row}
    assert set(config.output.pictures) <= asked
    assert {name.rstrip("_0123456789") for name in drawn} == set(config.output.pictures)
    scalars = _tags(run, "scalars")
    for quantity in config.output.layer_scalars:
        for name in run[quantity]:
            assert f"{group}_parameters_{quantity}/{name}" in scalars
    assert f"{group}/grad_norm" in scalars
    histograms = {tag.partition("/")[2] for tag in _tags(run, "histograms")}
    assert histograms == {
        row.parameter for row in run.parameters.itertuples() if "grad_histogram" in row.quantities
    }
    assert ("custom_scalars__config__" in _tags(run, "tensors")) is config.output.custom_scalars


def _section(experiment: Path) -> dict[str, Any]:
    section = yaml.safe_load(experiment.read_text(encoding="utf-8"))["monitor"]
    assert isinstance(section, dict)
    return section


def test_there_are_configurations_to_test() -> None:
    assert len(_EXPERIMENTS) == 6
    assert [path.stem for path in _MONITORS] == [
        *("attention_only", "every_sample", "first_steps", "full", "minimal", "probes"),
        *("samples", "strict", "weights_only"),
    ]


@pytest.mark.parametrize("experiment", _EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_records_what_it_asks_for(experiment: Path, fit: Fit) -> None:
    run = fit(experiment)
    config = check_section(_section(experiment))
    steps = [0] if config.schedule.per_epoch else [0, 1, 2]
    _expect(run, config, steps)
    assert run.path.parent.name == experiment.stem


def test_diabetes_captures_the_first_step_of_every_epoch(fit: Fit) -> None:
    run = fit(_CONFIGS / "diabetes_mlp.yaml", "--trainer.max_epochs=3")
    assert list(run.steps.index) == [0, 3, 6]
    assert list(run.steps["epoch"]) == [0, 1, 2]


def test_the_resnet_s_biases_are_left_out(fit: Fit) -> None:
    run = fit(_CONFIGS / "digits_resnet.yaml")
    table = run.parameters.set_index("parameter")
    assert set(table["kind"]) == {"weight", "norm"}
    assert list(run.left_out["reason"].unique()) == ["excluded by rule layers[2]"]
    assert "saliency" in table.loc["network.head.weight", "quantities"]
    assert all("saliency" not in row for row in table[table["kind"] == "norm"]["quantities"])


def test_the_transformer_s_attention_has_a_closer_look(fit: Fit) -> None:
    run = fit(_CONFIGS / "topics_transformer.yaml")
    attention = {name for name in run.parameters["parameter"] if "attention" in name}
    assert attention
    assert {
        row.parameter for row in run.parameters.itertuples() if "grad_histogram" in row.quantities
    } == attention
    tied = run.parameters[run.parameters["aliases"].map(len) > 0]
    assert len(tied) == 1


# Monitors, each on an experiment that it fits

_FITTING = {"attention_only": "topics_transformer"}
_STEPS = {"minimal": [0]}


def _merged(experiment: Path, monitor: Path) -> MonitorConfig:
    """A monitor's file laid over an experiment's section, as the command line does."""
    section = _section(experiment)
    for key, value in yaml.safe_load(monitor.read_text(encoding="utf-8")).items():
        merged = {**section.get(key, {}), **value} if isinstance(value, dict) else value
        section[key] = merged
    return check_section(section)


@pytest.mark.parametrize("monitor", _MONITORS, ids=lambda path: path.stem)
def test_a_monitor_works_on_an_experiment(monitor: Path, fit: Fit) -> None:
    experiment = _CONFIGS / f"{_FITTING.get(monitor.stem, 'digits_mlp')}.yaml"
    run = fit(experiment, "--monitor", str(monitor))
    _expect(run, _merged(experiment, monitor), _STEPS.get(monitor.stem, [0, 1, 2]))


@pytest.mark.parametrize("monitor", _MONITORS, ids=lambda path: path.stem)
def test_a_monitor_is_written_in_full(monitor: Path) -> None:
    """Nothing in the file is without effect, and comments say how to use it."""
    written = yaml.safe_load(monitor.read_text(encoding="utf-8"))
    plain = load_config(monitor).to_dict()
    defaults = MonitorConfig().to_dict()
    for key, value in written.items():
        assert plain[key] != defaults[key], key
        assert value != defaults[key], key
    assert monitor.read_text(encoding="utf-8").startswith("# ")


def test_the_full_monitor_leaves_nothing_out(fit: Fit) -> None:
    run = fit(_CONFIGS / "digits_mlp.yaml", "--monitor", str(_CONFIGS / "monitor" / "full.yaml"))
    assert run.quantities == [name for name in QUANTITIES if name != "grad_histogram"]
    assert all(row == list(QUANTITIES) for row in run.parameters["quantities"])
    assert run.left_out.empty


def test_the_attention_monitor_watches_attention_alone(fit: Fit) -> None:
    monitor = _CONFIGS / "monitor" / "attention_only.yaml"
    run = fit(_CONFIGS / "topics_transformer.yaml", "--monitor", str(monitor))
    assert run.parameters["parameter"].str.contains(".attention.", regex=False).all()
    assert not run.left_out["parameter"].str.contains(".attention.", regex=False).any()


def test_the_weights_monitor_watches_weights_alone(fit: Fit) -> None:
    monitor = _CONFIGS / "monitor" / "weights_only.yaml"
    run = fit(_CONFIGS / "digits_mlp.yaml", "--monitor", str(monitor))
    assert set(run.parameters["kind"]) == {"weight"}
    assert set(run.left_out["reason"]) == {"no rule matches it"}
