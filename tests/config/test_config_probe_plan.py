"""The plan that comes of a configuration of probes: rows, layers, what is called, the dry run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jacoscope import ConfigError, Monitor, MonitorConfig, SensitivityMonitor
from jacoscope.cli import main
from jacoscope.config import check_section
from jacoscope.inspection import inspect_selection, report
from jacoscope.probe_plan import INPUT_ROW, ProbePlan, probe_plan
from jacoscope.quantities import PROBES, QUANTITIES, is_probed
from jacoscope.selection import select

PROBED = tuple(name for name in QUANTITIES if is_probed(name))


class Net(nn.Module):
    """An embedding, a block with a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.block = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 4))
        self.head = nn.Linear(4, 2)
        self.counts = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)

    def forward(self, tokens: Any) -> Any:
        return self.head(self.block(self.table(tokens)))

    def encode(self, tokens: Any) -> Any:
        return self.table(tokens)


def plan_of(model: nn.Module, **config: Any) -> ProbePlan | None:
    made = check_section({"quantities": list(PROBED), **config})
    return probe_plan(select(model, made), made, model)


def planned(model: nn.Module, **config: Any) -> ProbePlan:
    plan = plan_of(model, **config)
    assert plan is not None
    return plan


# What the model lacks.

_UNKNOWN = [
    ({"module": "hed"}, "probes.module", "no module 'hed'; did you mean 'head'?"),
    ({"module": "block.7"}, "probes.module", "no module 'block.7'; did you mean 'block."),
    ({"method": "encde"}, "probes.method", "Net has no method 'encde'; did you mean 'encode'?"),
    ({"method": "head.weight"}, "probes.method", "Net has no method 'head.weight'"),
    (
        {"module": "head", "method": "encode"},
        "probes.method",
        "Linear has no method 'encode'",
    ),
    ({"chain": ["head", "blck.*"]}, "probes.chain[1]", "matches no module of the model; did you"),
    ({"chain": ["head"]}, "probes.chain", "names one module, 'head'; name at least two"),
    (
        {"schedule": {"hook": "no_such.module.function"}},
        "probes.schedule.hook",
        "no_such.module.function",
    ),
]


@pytest.mark.parametrize(("probes", "key", "told"), _UNKNOWN)
def test_what_the_model_lacks_is_told_before_training(
    probes: dict[str, Any], key: str, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Monitor(Net(), {"quantities": ["ntk_trace"], "probes": probes})
    assert caught.value.key == key
    assert told in str(caught.value)
    assert str(caught.value).splitlines() == [str(caught.value)]


def test_the_callback_tells_it_before_training(tmp_path: Path) -> None:
    import lightning.pytorch as pl

    from helpers import classifier, data, trainer

    monitor = SensitivityMonitor(
        quantities=("ntk_trace",),
        probes={"module": "netwrk"},  # type: ignore[arg-type]
    )
    module = classifier()
    module.training_step = lambda *_: pytest.fail("training has begun")
    fitting = trainer(pl, tmp_path, callbacks=[monitor])
    with pytest.raises(ConfigError, match=r"^probes.module: .*did you mean 'network'\?"):
        fitting.fit(module, data())


# The plan.


def test_nothing_of_probes_is_asked_for_by_default() -> None:
    made = MonitorConfig()
    assert probe_plan(select(Net(), made), made, Net()) is None


def test_rows_of_every_family() -> None:
    plan = planned(Net())
    assert plan.asked == PROBED
    parameters = ["table.weight", "block.0.weight", "block.0.bias", "block.1.weight"]
    parameters += ["block.1.bias", "block.2.weight", "block.2.bias", "head.weight", "head.bias"]
    layers = ["table", "block.0", "block.1", "block.2", "head"]
    groups = ["(all)", *(f"layer {layer}" for layer in layers)]
    between = ["table → block.0", "block.0 → block.2", "block.2 → head"]
    for name, axes in plan.axes.items():
        rows = [list(axis.names) for axis in axes]
        if name in PROBES["Output Jacobian"] | PROBES["Tangent kernel"]:
            assert rows == [parameters, groups]
        elif name in ("interaction_change", "allocation_gap"):
            assert rows == [["(all)"]]
        elif name in PROBES["All else equal"]:
            assert rows == [[*groups, "(not watched)"]], "the counts are of no layer"
        elif name in PROBES["Input Jacobian"]:
            assert rows == [[INPUT_ROW]]
        else:
            assert rows == [between], "norms and biases are no layers of a chain"
    assert plan.call == ("", "forward")
    assert plan.chain == ("table", "block.0", "block.2", "head")


def test_layers_by_rule() -> None:
    layers = [
        {"match": "block.0.*", "quantities": ["ntk_trace"], "group": "first"},
        {"match": "head", "quantities": ["grad_norm", "actual_change", "interaction_change"]},
        {"match": "table", "quantities": ["grad_norm"]},
    ]
    plan = planned(Net(), layers=layers)
    rows = {name: [list(axis.names) for axis in axes] for name, axes in plan.axes.items()}
    assert rows == {
        "ntk_trace": [
            ["block.0.weight", "block.0.bias"],
            ["(all)", "group first", "layer block.0"],
        ],
        "actual_change": [["(all)", "layer head", "(not watched)"]],
        "interaction_change": [["(all)"]],
    }
    assert [target.name for target in plan.targets] == ["block.0.weight", "block.0.bias"]
    assert set(plan.layers) == {"layer head", "(not watched)"}
    assert plan.layers["layer head"] == ("head.weight", "head.bias")
    assert len(plan.layers["(not watched)"]) == 8


def test_a_chain_expands_patterns_in_the_model_s_order() -> None:
    chain = planned(Net(), probes={"chain": ["head", "block.?", "head"]}).chain
    assert chain == ("head", "block.0", "block.1", "block.2")
    assert planned(Net(), probes={"chain": ["*b*.2", "table"]}).chain == ("block.2", "table")


@pytest.mark.parametrize(
    ("probes", "call"),
    [
        ({}, ("", "forward")),
        ({"module": "block"}, ("block", "forward")),
        ({"method": "encode"}, ("", "encode")),
        ({"module": "head", "method": "extra_repr"}, ("head", "extra_repr")),
    ],
)
def test_what_is_called(probes: dict[str, Any], call: tuple[str, str]) -> None:
    assert planned(Net(), probes=probes).call == call


def test_probe_forward_goes_before_forward() -> None:
    class Own(Net):
        def probe_forward(self, batch: Any) -> Any:
            return self(batch)

    assert planned(Own()).call == ("", "probe_forward")
    assert planned(Own(), probes={"method": "forward"}).call == ("", "forward")
    assert planned(Own(), probes={"module": "head"}).call == ("head", "forward")


def test_wrappers_are_not_in_names() -> None:
    model = Net()
    model.block[0] = torch.compile(model.block[0], backend="eager")
    plan = planned(model)
    whole = planned(torch.compile(Net(), backend="eager"))  # type: ignore[arg-type]
    plain = planned(Net())
    for other in (plan, whole):
        assert other.axes.keys() == plain.axes.keys()
        assert other.layers == plain.layers
        assert other.chain == plain.chain
    assert planned(model, probes={"module": "block.0"}).call == ("block.0", "forward")


def test_lazy_parameters_have_no_rows_yet() -> None:
    plan = planned(nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(2)))
    assert [list(axis.names) for axis in plan.axes["actual_change"]] == [["(all)", "layer 0"]]
    assert [target.name for target in plan.targets] == ["0.weight", "0.bias"]


# The dry run.


def test_probes_alone_can_be_inspected() -> None:
    made = check_section({"quantities": ["ntk_trace", "actual_change"]})
    table = inspect_selection(select(Net(), made))
    watched = table[table["quantities"] != ""]
    assert (watched["quantities"] == "ntk_trace, actual_change").all()
    assert (table["memory"] == 0).all(), "captures take copies, probes none while they wait"
    assert "ntk_trace, actual_change" in report(select(Net(), made), made)


@pytest.mark.parametrize("quantities", [["ntk_trace"], ["grad_norm", "ntk_trace"]])
def test_the_dry_run_says_when_probes_are_run(quantities: list[str]) -> None:
    made = check_section({"quantities": quantities, "probes": {"schedule": {"every": 70}}})
    text = report(select(Net(), made), made)
    captured = "grad_norm" in quantities
    assert ("every 50 steps" in text) is captured
    assert "probed every 70 steps" in text
    assert text.index("every 70 steps") < text.rindex("ntk_trace")


def test_the_dry_run_says_that_probes_alone_take_no_buffers() -> None:
    made = check_section({"quantities": ["ntk_trace"]})
    assert "0 B copies, 0 B buffers" in report(select(Net(), made), made)


def test_the_dry_run_tells_what_probes_cannot_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = tmp_path / "monitor.yaml"
    monitor.write_text("quantities: [ntk_trace]\nprobes: {module: netwrok}\n", encoding="utf-8")
    experiment = Path(__file__).parents[2] / "configs" / "digits_mlp.yaml"
    assert main(["inspect", "--config", str(experiment), "--monitor", str(monitor)]) == 2
    told = "probes.module: the model has no module 'netwrok'; did you mean 'network'?"
    assert told in capsys.readouterr().err
