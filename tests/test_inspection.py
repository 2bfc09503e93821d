"""The dry run: every parameter is listed, with its rule, its reason and what it costs."""

from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from jacoscope.config import DEFAULT_QUANTITIES, MonitorConfig
from jacoscope.inspection import inspect_selection, report
from jacoscope.selection import select

_COLUMNS = ["parameter", "layer", "kind", "shape", "size", "rule", "quantities", "memory", "reason"]


class _Net(nn.Module):
    """Parameters of every kind, in an order that is not the alphabet's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.zeta = nn.Embedding(10, 4)
        self.norm = nn.LayerNorm(4)
        self.alpha = nn.Linear(4, 3)
        self.counts = nn.Parameter(torch.zeros(5, dtype=torch.int64), requires_grad=False)


_NAMES = ["scale", "counts", "zeta.weight", "norm.weight", "norm.bias"]
_NAMES += ["alpha.weight", "alpha.bias"]


def _table(model: nn.Module, **config: Any) -> pd.DataFrame:
    return inspect_selection(select(model, MonitorConfig(**config)))


def _text(model: nn.Module, **config: Any) -> str:
    made = MonitorConfig(**config)
    return report(select(model, made), made)


def _line(text: str, start: str) -> str:
    (line,) = [line for line in text.splitlines() if line.split("  ")[0] == start]
    return " ".join(line.split())


# The table


def test_every_parameter_is_listed_in_the_model_s_order() -> None:
    table = _table(_Net(), layers=[{"kind": "bias"}, {"match": "alpha.*"}, {"kind": "norm"}])
    assert list(table) == _COLUMNS
    assert list(table["parameter"]) == _NAMES == [name for name, _ in _Net().named_parameters()]


def test_parameters_are_described() -> None:
    table = _table(_Net()).set_index("parameter")
    described = table[["layer", "kind", "shape", "size"]].T.to_dict("list")
    assert described == {
        "scale": ["_Net", "other", "scalar", 1],
        "counts": ["_Net", "other", "5", 5],
        "zeta.weight": ["Embedding", "embedding", "10×4", 40],
        "norm.weight": ["LayerNorm", "norm", "4", 4],
        "norm.bias": ["LayerNorm", "norm", "4", 4],
        "alpha.weight": ["Linear", "weight", "3×4", 12],
        "alpha.bias": ["Linear", "bias", "3", 3],
    }


def test_rules_and_reasons_are_given() -> None:
    rules = [{"match": "alpha.bias", "exclude": True}, {"match": "alpha.*"}, {"kind": "norm"}]
    table = _table(_Net(), layers=rules).set_index("parameter")
    assert table["rule"].to_dict() == {
        **dict.fromkeys(("scale", "counts", "zeta.weight"), "-"),
        **dict.fromkeys(("norm.weight", "norm.bias"), "layers[2]"),
        "alpha.weight": "layers[1]",
        "alpha.bias": "layers[0]",
    }
    assert table["reason"].to_dict() == {
        **dict.fromkeys(("norm.weight", "norm.bias", "alpha.weight"), ""),
        **dict.fromkeys(("scale", "counts", "zeta.weight"), "no rule matches it"),
        "alpha.bias": "excluded by rule layers[0]",
    }


def test_without_rules_there_is_no_rule_to_name() -> None:
    table = _table(_Net()).set_index("parameter")
    assert set(table["rule"]) == {"-"}
    assert "not floating point" in table.loc["counts", "reason"]
    assert (table["reason"].drop("counts") == "").all()


def test_quantities_are_each_parameter_s_own() -> None:
    rules = [{"kind": "norm", "quantities": ["grad_max", "saliency"]}, {"kind": "weight"}]
    table = _table(_Net(), layers=rules).set_index("parameter")
    assert table.loc["norm.bias", "quantities"] == "grad_max, saliency"
    assert table.loc["alpha.weight", "quantities"] == ", ".join(DEFAULT_QUANTITIES)
    assert table.loc["alpha.bias", "quantities"] == ""


@pytest.mark.parametrize(
    ("quantities", "copies"),
    [
        (["grad_norm", "grad_histogram", "weight_norm", "saliency"], 0),  # read in place
        (["update_norm"], 1),  # θ, until the optimiser has stepped
        (["update_ratio", "grad_norm"], 1),
        (["update_cosine"], 2),  # θ and g
        (list(DEFAULT_QUANTITIES), 2),
    ],
)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.float64, 8)])
def test_memory_is_that_of_the_copies(
    quantities: list[str], copies: int, dtype: torch.dtype, size: int
) -> None:
    model = nn.Linear(4, 3).to(dtype)
    table = _table(model, quantities=quantities).set_index("parameter")
    assert table["memory"].to_dict() == {"weight": 12 * copies * size, "bias": 3 * copies * size}


def test_what_is_left_out_costs_nothing() -> None:
    table = _table(_Net(), layers=[{"match": "alpha.*"}]).set_index("parameter")
    assert (table["memory"][table["reason"] != ""] == 0).all()


def test_tied_parameters_are_listed_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert list(_table(model)["parameter"]) == ["0.weight", "0.bias", "1.bias"]


def test_lazy_parameters_have_no_shape_yet() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    table = _table(model).set_index("parameter")
    for name in ("0.weight", "0.bias"):
        assert table.loc[name, "shape"] == "not yet known"
        assert table.loc[name, "size"] == 0
        assert "no shape yet" in table.loc[name, "reason"]
    assert table.loc["1.weight", "reason"] == ""
    text = _text(model)
    assert "not yet known" in text
    assert "watched    2 of 4 parameter tensors, 10 scalars" in text


def test_a_model_that_is_all_lazy_can_be_inspected() -> None:
    text = _text(nn.LazyLinear(4))
    assert "watched    0 of 2 parameter tensors, 0 scalars" in text


def test_a_model_on_the_meta_device_can_be_inspected() -> None:
    with torch.device("meta"):
        model = nn.Linear(4, 3)
    table = _table(model)
    assert list(table["shape"]) == ["3×4", "3"]
    assert table["reason"].str.contains("meta device").all()


def test_a_model_without_parameters() -> None:
    table = _table(nn.ReLU())
    assert table.empty
    assert list(table) == _COLUMNS
    assert _text(nn.ReLU()) == "The model has no parameters; there is nothing to watch."


def test_inspecting_changes_nothing() -> None:
    model = _Net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    _text(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


# The text


def test_the_report_has_a_line_per_parameter_in_order() -> None:
    text = _text(_Net(), layers=[{"kind": "bias"}, {"match": "alpha.*"}])
    lines = text.splitlines()
    assert lines[0].split() == _COLUMNS
    assert [line.split()[0] for line in lines[1 : 1 + len(_NAMES)]] == _NAMES
    assert lines[1 + len(_NAMES)] == ""


def test_its_columns_line_up() -> None:
    lines = _text(_Net(), layers=[{"match": "alpha.*"}]).splitlines()
    table = lines[: 1 + len(_NAMES)]
    for name in ("layer", "kind", "shape", "rule", "quantities"):
        place = table[0].index(name)
        assert all(line[place - 2 : place] == "  " for line in table)
        assert all(line[place] != " " for line in table if name != "quantities")
    assert not any(line.endswith(" ") for line in lines)


def test_reasons_are_shown_where_there_are_any() -> None:
    assert "reason" not in _text(nn.Linear(2, 2)).splitlines()[0]
    text = _text(nn.Linear(2, 2), layers=[{"kind": "weight"}])
    assert _line(text, "bias").endswith("no rule matches it")


def test_many_quantities_are_cut_short_in_the_table_alone() -> None:
    text = _text(nn.Linear(2, 2))
    assert "grad_norm, grad_rms + 9" in _line(text, "weight")
    assert ", ".join(DEFAULT_QUANTITIES) in text
    few = _text(nn.Linear(2, 2), quantities=["grad_norm", "grad_max", "saliency"])
    assert "grad_norm, grad_max, saliency" in _line(few, "weight")


def test_sums_are_right() -> None:
    text = _text(_Net(), quantities=["update_norm"], layers=[{"match": ["alpha.*", "scale"]}])
    trainable, watched = 1 + 40 + 4 + 4 + 12 + 3, 12 + 3 + 1
    share = f"{watched / trainable:.1%}"
    assert _line(text, "watched") == (
        f"watched 3 of 7 parameter tensors, {watched} scalars, {share} of what can be trained"
    )
    assert f"{4 * watched} B copies" in _line(text, "memory")


def test_large_numbers_are_readable() -> None:
    text = _text(nn.Linear(1000, 1000, bias=False), quantities=["update_cosine"])
    row = _line(text, "weight")
    assert "1000×1000 1,000,000" in row
    assert row.endswith("8.0 MB")
    assert "1,000,000 scalars" in text
    assert "8.0 MB copies" in text


def test_memory_is_copies_and_buffers() -> None:
    line = _line(_text(nn.Linear(100, 100)), "memory")
    numbers = [float(word) for word in line.split() if word.replace(".", "").isdigit()]
    total, copies, buffers = numbers
    assert total == pytest.approx(copies + buffers, abs=0.2)
    assert copies == pytest.approx(2 * 4 * 10_100 / 1000, abs=0.1)
    assert buffers > 0


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({}, "every 50 steps, the first 10 steps"),
        ({"every": None}, "the first 10 steps"),
        ({"first": 0, "steps": [3, 70]}, "every 50 steps, steps 3, 70"),
        ({"first": 0, "every": None, "per_epoch": 2}, "the first 2 steps of each epoch"),
        ({"first": 0, "every": None, "hook": "os.path.exists"}, "whenever os.path.exists says so"),
    ],
)
def test_schedules_are_said_in_words(schedule: dict[str, Any], said: str) -> None:
    assert _line(_text(nn.Linear(2, 2), schedule=schedule), "all") == f"all 2 tensors, {said}:"


def test_each_rule_says_what_it_watches_and_when() -> None:
    rules = [
        {"kind": "bias", "exclude": True},
        {"match": "alpha.*", "quantities": ["grad_max"], "schedule": {"every": 7, "first": 0}},
        {"match": "*"},
    ]
    text = _text(_Net(), layers=rules)
    assert _line(text, "layers[1]") == "layers[1] 1 tensors, every 7 steps:"
    assert _line(text, "layers[2]").startswith("layers[2] 4 tensors, every 50 steps")
    lines = [line.strip() for line in text.splitlines()]
    assert lines[lines.index("layers[1]  1 tensors, every 7 steps:") + 1] == "grad_max"
    assert not any(line.startswith("layers[0]") for line in lines)


def test_it_says_where_to_look() -> None:
    assert "under mine/ in TensorBoard" in _text(nn.Linear(1, 1), output={"group": "mine"})


def test_a_model_with_nothing_to_train() -> None:
    text = _text(nn.Linear(2, 2).requires_grad_(False))
    assert "2 of 2 parameter tensors" in text
    assert "nan" not in text
