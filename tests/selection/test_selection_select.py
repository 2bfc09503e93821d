import math
from collections.abc import Iterator

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from jacoscope.config import LayerRule, MonitorConfig, Schedule
from jacoscope.errors import ConfigError
from jacoscope.selection import Selection, select


def _net() -> nn.Module:
    return nn.ModuleDict(
        {"first": nn.Linear(3, 4), "norm": nn.LayerNorm(4), "second": nn.Linear(4, 2)}
    )


_NAMES = [f"{layer}.{own}" for layer in ("first", "norm", "second") for own in ("weight", "bias")]


def _select(model: nn.Module, *rules: LayerRule, withheld: str | None = None) -> Selection:
    return select(model, MonitorConfig(layers=rules), withheld=withheld)


def _taken(selection: Selection) -> dict[str, int | None]:
    return {target.name: target.rule for target in selection.targets}


def _reasons(selection: Selection) -> dict[str, str]:
    return {left.info.name: left.reason for left in selection.left_out}


def test_without_rules_everything_is_watched_by_the_monitors_own_options() -> None:
    config = MonitorConfig(quantities=("saliency",), schedule=Schedule(every=7))
    selection = select(_net(), config)
    assert _taken(selection) == dict.fromkeys(_NAMES)
    assert {target.quantities for target in selection.targets} == {("saliency",)}
    assert {target.schedule for target in selection.targets} == {Schedule(every=7)}
    assert (selection.left_out, selection.shadowed) == ((), ())
    assert selection.coverage == 1.0
    assert selection.is_final


def test_the_first_rule_that_matches_decides() -> None:
    selection = _select(
        _net(), LayerRule(match="first.bias"), LayerRule(kind="bias"), LayerRule(match="first*")
    )
    assert _taken(selection) == {"first.weight": 2, "first.bias": 0, "second.bias": 1}
    assert _reasons(selection) == dict.fromkeys(
        ["norm.weight", "norm.bias", "second.weight"], "no rule matches it"
    )
    assert selection.shadowed == ()


def test_targets_stay_in_the_models_order_whatever_the_rules() -> None:
    rules = [LayerRule(match=name) for name in reversed(_NAMES)]
    assert list(_taken(_select(_net(), *rules))) == _NAMES


def test_an_excluding_rule_leaves_out_and_is_named() -> None:
    rules = [LayerRule(match="first"), LayerRule(kind="bias", exclude=True), LayerRule()]
    selection = _select(_net(), *rules)
    taken = [("first.weight", 0), ("first.bias", 0), ("norm.weight", 2), ("norm.bias", 2)]
    assert _taken(selection) == dict([*taken, ("second.weight", 2)])
    assert _reasons(selection) == {"second.bias": "excluded by rule layers[1]"}
    assert [left.rule for left in selection.left_out] == [1]


def test_each_rule_has_its_own_quantities_and_schedule() -> None:
    config = MonitorConfig(
        quantities=("grad_norm",),
        schedule=Schedule(every=100),
        layers=(
            LayerRule(match="first", quantities=("saliency", "grad_max")),
            LayerRule(match="norm", schedule=Schedule(every=3)),
            LayerRule(),
        ),
    )
    found = {
        target.info.layer: (target.quantities, target.schedule)
        for target in select(_net(), config).targets
    }
    assert found == {
        "first": (("saliency", "grad_max"), Schedule(every=100)),
        "norm": (("grad_norm",), Schedule(every=3)),
        "second": (("grad_norm",), Schedule(every=100)),
    }


def test_rules_without_effect_are_told() -> None:
    selection = _select(
        _net(),
        LayerRule(match="first"),
        LayerRule(match="first.weight"),
        LayerRule(kind="bias"),
        LayerRule(match="second.bias", exclude=True),
        LayerRule(match=["first.bias", "norm.weight"]),
    )
    assert selection.shadowed == (1, 3)


def test_a_rule_that_takes_only_what_cannot_be_measured_is_not_shadowed() -> None:
    model = nn.ParameterDict({"a": torch.ones(2), "b": torch.empty(0)})
    selection = _select(model, LayerRule(match="b"), LayerRule(match="a"))
    assert selection.shadowed == ()
    assert _reasons(selection) == {"b": "it has no elements"}


def _parameter(*shape: int, **options: object) -> nn.Parameter:
    tensor = torch.empty(shape, **options)  # type: ignore[call-overload]
    return nn.Parameter(tensor, requires_grad=tensor.is_floating_point())


_LAZY = "a lazy parameter that has no shape yet; it joins once the first batch has shaped it"
_UNFIT = {
    "int64": (_parameter(2, dtype=torch.int64), "its type int64 is not floating point"),
    "uint8": (_parameter(2, dtype=torch.uint8), "its type uint8 is not floating point"),
    "bool": (_parameter(2, dtype=torch.bool), "its type bool is not floating point"),
    "empty": (_parameter(0, 3), "it has no elements"),
    "meta": (_parameter(2, device="meta"), "it is on the meta device and has no values"),
    "lazy": (nn.UninitializedParameter(), _LAZY),
}


@pytest.mark.parametrize(("parameter", "reason"), _UNFIT.values(), ids=_UNFIT)
@pytest.mark.parametrize("rules", [(), (LayerRule(),)])
def test_what_cannot_be_measured_is_left_out_with_its_reason(
    parameter: nn.Parameter, reason: str, rules: tuple[LayerRule, ...]
) -> None:
    model = _net()
    model.register_parameter("odd", parameter)
    selection = _select(model, *rules)
    assert list(_taken(selection)) == _NAMES
    assert list(_reasons(selection)) == ["odd"]
    assert _reasons(selection)["odd"].startswith(reason)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_floating_type_is_watched(dtype: torch.dtype) -> None:
    assert len(_select(_net().to(dtype)).targets) == len(_NAMES)


def test_scalars_and_frozen_parameters_are_watched() -> None:
    model = nn.ParameterDict({"scalar": torch.ones(()), "frozen": torch.ones(3)})
    model["frozen"].requires_grad_(False)
    selection = _select(model)
    assert {target.name: target.numel for target in selection.targets} == {"scalar": 1, "frozen": 3}


def test_excluding_goes_before_what_else_is_in_the_way() -> None:
    model = nn.ParameterDict({"a": torch.ones(2), "odd": torch.empty(0)})
    assert _reasons(_select(model, LayerRule(match="odd", exclude=True), LayerRule())) == {
        "odd": "excluded by rule layers[0]"
    }
    assert _reasons(_select(model, LayerRule(match="a"))) == {"odd": "no rule matches it"}


def test_in_a_run_that_cannot_be_measured_all_is_left_out() -> None:
    selection = _select(
        _net(),
        LayerRule(match="norm", exclude=True),
        LayerRule(match="first"),
        withheld="the strategy shards the parameters",
    )
    assert selection.targets == ()
    assert _reasons(selection) == {
        **dict.fromkeys(["first.weight", "first.bias"], "the strategy shards the parameters"),
        **dict.fromkeys(["norm.weight", "norm.bias"], "excluded by rule layers[0]"),
        **dict.fromkeys(["second.weight", "second.bias"], "no rule matches it"),
    }
    assert (selection.coverage, selection.shadowed) == (0.0, ())


@pytest.fixture
def _one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
def test_a_parameter_placed_in_one_process_is_whole() -> None:
    whole = torch.ones(4)
    sharded = distribute_tensor(whole.clone(), init_device_mesh("cpu", (1,)), [Shard(0)])
    model = nn.ParameterDict({"whole": whole, "sharded": nn.Parameter(sharded)})
    assert list(_taken(_select(model))) == ["sharded", "whole"]


def test_coverage_is_of_the_trainable_scalars() -> None:
    model = nn.ParameterDict(
        {
            "watched": torch.ones(6),
            "missed": torch.ones(2),
            "frozen": torch.ones(100),
            "frozen and missed": torch.ones(50),
        }
    )
    for name in ("frozen", "frozen and missed"):
        model[name].requires_grad_(False)
    assert _select(model, LayerRule(match=["watched", "frozen"])).coverage == 6 / 8


def test_coverage_counts_a_tied_weight_once() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    assert _select(model, LayerRule(match="a.weight")).coverage == 4 / 8


def test_coverage_of_a_frozen_model_is_nan() -> None:
    assert math.isnan(_select(_net().requires_grad_(False)).coverage)


def test_lazy_parameters_join_once_they_have_a_shape() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(2), nn.LazyBatchNorm1d())
    config = MonitorConfig(layers=(LayerRule(kind="weight"), LayerRule(kind="norm")))
    before = select(model, config)
    assert _taken(before) == {"0.weight": 0}
    assert not before.is_final
    assert before.coverage == 12 / 16  # what has no shape is not counted
    model(torch.ones(5, 3))
    after = select(model, config)
    assert _taken(after) == {"0.weight": 0, "1.weight": 0, "2.weight": 1, "2.bias": 1}
    assert after.is_final


def test_a_model_without_parameters() -> None:
    selection = _select(nn.ReLU())
    assert (selection.targets, selection.left_out, selection.shadowed) == ((), (), ())
    assert math.isnan(selection.coverage)
    assert selection.is_final


def test_rules_for_a_model_without_parameters() -> None:
    with pytest.raises(ConfigError, match="the model has no parameters") as caught:
        _select(nn.ReLU(), LayerRule())
    assert caught.value.key == "layers[0]"


def test_selecting_changes_nothing_on_the_model() -> None:
    model = _net()
    before = {name: (id(p), set(vars(p))) for name, p in model.named_parameters()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    _select(model, LayerRule(type="Linear"))
    assert {name: (id(p), set(vars(p))) for name, p in model.named_parameters()} == before
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
