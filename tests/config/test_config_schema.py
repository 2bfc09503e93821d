import copy
import dataclasses
import pickle
import threading
import typing

import pytest
import yaml

from jacoscope.config import (
    DEFAULT_QUANTITIES,
    LayerRule,
    MonitorConfig,
    Output,
    ParameterKind,
    QuantityName,
    Schedule,
    check_section,
    resolve_config,
)
from jacoscope.errors import ConfigError

_INSTANCES = [
    Schedule(),
    Schedule(every=None, steps=(1, 5), per_epoch=2, hook="package.module.function"),
    Schedule(hook=min),
    LayerRule(),
    LayerRule(match=("a", "b"), kind="weight", schedule=Schedule(every=3)),
    LayerRule(type="Linear", exclude=True),
    Output(),
    Output(group="wide", pictures=(), layer_scalars=("grad_rms",)),
    MonitorConfig(),
    MonitorConfig(("saliency",), (LayerRule(match="head"), LayerRule()), on_error="raise"),
]

instances = pytest.mark.parametrize("instance", _INSTANCES, ids=lambda item: type(item).__name__)


@instances
def test_is_frozen(instance: object) -> None:
    for field in dataclasses.fields(instance):  # type: ignore[arg-type]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(instance, field.name, getattr(instance, field.name))


@instances
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))]
)
def test_copies_are_equal_and_hash_alike(instance: object, duplicate: type) -> None:
    twin = duplicate(instance)
    assert type(twin) is type(instance)
    assert twin == instance
    assert hash(twin) == hash(instance)


def test_different_configurations_are_different_keys() -> None:
    assert len(set(_INSTANCES)) == len(_INSTANCES)


def test_lists_and_mappings_become_tuples_and_dataclasses() -> None:
    config = MonitorConfig(
        quantities=["saliency"],  # type: ignore[arg-type]
        layers=[{"match": ["a", "b"], "schedule": {"steps": [3]}}, LayerRule()],  # type: ignore[arg-type]
        schedule={"every": 7},  # type: ignore[arg-type]
        output={"pictures": ["grad_max"]},  # type: ignore[arg-type]
    )
    assert config == MonitorConfig(
        ("saliency",),
        (LayerRule(match=("a", "b"), schedule=Schedule(steps=(3,))), LayerRule()),
        Schedule(every=7),
        output=Output(pictures=("grad_max",)),
    )
    hash(config)


@pytest.mark.parametrize(
    ("cls", "options", "key"),
    [
        (Schedule, {"every": "ten"}, "every"),
        (Schedule, {"steps": [1, -1]}, "steps[1]"),
        (LayerRule, {"match": ["a", 3]}, "match[1]"),
        (LayerRule, {"schedule": {"every": 0}}, "schedule.every"),
        (LayerRule, {"schedule": {"evry": 0}}, "schedule.evry"),
        (Output, {"pictures": ["nonsense"]}, "pictures[0]"),
        (MonitorConfig, {"layers": [LayerRule(), {"kind": 3}]}, "layers[1].kind"),
        (MonitorConfig, {"layers": [Schedule()]}, "layers[0]"),
        (MonitorConfig, {"schedule": LayerRule()}, "schedule"),
    ],
)
def test_a_mistake_in_python_names_the_key(cls: type, options: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cls(**options)
    assert caught.value.key == key
    assert caught.value.source is None


@pytest.mark.parametrize(
    ("group", "is_valid"),
    [
        ("sensitivity", True),
        ("my-group_2.0", True),
        ("größe", True),
        ("", False),
        (" ", False),
        ("a/b", False),
        ("a b", False),
        ("a:b", False),
        ("a\n", False),
    ],
)
def test_groups_that_tensorboard_keeps(group: str, is_valid: bool) -> None:
    if is_valid:
        assert Output(group=group).group == group
        return
    with pytest.raises(ConfigError) as caught:
        Output(group=group)
    assert caught.value.key == "group"


@pytest.mark.parametrize(
    "schedule",
    [
        {"every": 1},
        {"every": None, "first": 1},
        {"every": None, "first": 0, "steps": (0,)},
        {"every": None, "first": 0, "per_epoch": 1},
        {"every": None, "first": 0, "hook": min},
        {"every": None, "first": 0, "hook": "package.module.function"},
    ],
)
def test_one_reason_to_capture_is_enough(schedule: dict[str, object]) -> None:
    assert Schedule(**schedule)  # type: ignore[arg-type]


def test_equal_depths_are_no_contradiction() -> None:
    assert LayerRule(min_depth=2, max_depth=2).max_depth == 2


@pytest.mark.parametrize("quantity", typing.get_args(QuantityName))
def test_every_quantity_can_be_asked_for(quantity: QuantityName) -> None:
    assert MonitorConfig(quantities=(quantity,)).quantities == (quantity,)
    assert LayerRule(quantities=(quantity,)).quantities == (quantity,)


@pytest.mark.parametrize("kind", typing.get_args(ParameterKind))
def test_every_kind_can_be_asked_for(kind: ParameterKind) -> None:
    assert LayerRule(kind=kind).kind == kind
    assert LayerRule(kind=(kind,)).kind == (kind,)


def test_defaults() -> None:
    config = MonitorConfig()
    assert config.quantities == DEFAULT_QUANTITIES
    assert set(DEFAULT_QUANTITIES) < set(typing.get_args(QuantityName))
    assert config.layers == ()
    assert config.schedule == Schedule(every=50, first=10)
    assert config.on_error == "warn"


def test_resolve_config_takes_every_form() -> None:
    config = MonitorConfig(on_error="raise")
    assert resolve_config(None) == MonitorConfig()
    assert resolve_config(config) is config
    assert resolve_config({"on_error": "raise"}) == config
    assert resolve_config({}) == MonitorConfig()


def test_check_section_names_the_section_and_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        check_section({"schedule": {"every": 0}}, source="a.yaml", key="fit.monitor")
    assert str(caught.value).startswith("a.yaml: fit.monitor.schedule.every: got 0")


def test_to_dict_is_plain_and_complete() -> None:
    plain = MonitorConfig(("saliency",), (LayerRule(match=("a", "b")),)).to_dict()
    assert plain == {
        "quantities": ["saliency"],
        "layers": [
            {
                **dict.fromkeys(["regex", "type", "kind", "min_depth", "max_depth"]),
                "match": ["a", "b"],
                "exclude": False,
                "quantities": None,
                "schedule": None,
                "group": None,
            }
        ],
        "schedule": {"every": 50, "first": 10, "steps": [], "per_epoch": 0, "hook": None},
        "overhead": None,
        "output": {
            "group": "sensitivity",
            "directory": None,
            "headline": True,
            "records": True,
            "pictures": ["grad_rms", "update_ratio"],
            "histograms": True,
            "layer_scalars": [],
            "card": True,
            "custom_scalars": False,
        },
        "samples": {
            **dict.fromkeys(["batch_size", "rows", "batch_dim", "id", "label", "thing"]),
            "custom_functions": "withhold",
            "compiled": "withhold",
            "loss_reduction": "mean",
            "leaderboard": 32,
            "layer_leaderboard": 5,
            "verify": 2,
            "gram_every": 10,
            "gram_samples": 128,
            "memory_budget": 256,
        },
        "probes": {
            **dict.fromkeys(["module", "method", "input", "output"]),
            "schedule": {"every": 200, "first": 1, "steps": [], "per_epoch": 0, "hook": None},
            "samples": 8,
            "batch": "first",
            "loss_samples": 64,
            "mode": "eval",
            "max_outputs": 32,
            "sketches": 16,
            "chain": [],
            "second_order": True,
            "weights": 5,
            "saliency": 4,
            "features": [],
            "seed": 0,
            "memory_budget": 256,
        },
        "alerts": None,
        "on_alert": None,
        "on_error": "warn",
    }


class _Loop:
    """Holds what cannot be copied, as a trainer does."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def decide(self, step: int, epoch: int) -> bool | None:
        return None

    def __call__(self, step: int, epoch: int) -> bool | None:
        return None


def _never(step: int, epoch: int) -> bool | None:
    return False


@pytest.mark.parametrize(
    ("hook", "name"),
    [
        (_never, "_never"),
        ("my.module.hook", "my.module.hook"),
        (_Loop().decide, "_Loop.decide"),
        (_Loop(), "_Loop"),
    ],
)
def test_to_dict_names_a_hook(hook: object, name: str) -> None:
    plain = MonitorConfig(schedule=Schedule(hook=hook)).to_dict()  # type: ignore[arg-type]
    written = yaml.safe_load(yaml.safe_dump(plain))["schedule"]["hook"]
    assert written in (name, f"{__name__}.{name}")
