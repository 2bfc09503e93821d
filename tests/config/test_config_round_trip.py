"""Any valid configuration survives being written as YAML, pickled and given as plain values."""

import copy
import pickle
import re
import typing
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jacoscope.config import (
    LayerRule,
    MonitorConfig,
    Output,
    ParameterKind,
    QuantityName,
    Schedule,
    load_config,
    resolve_config,
)

_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
_counts = st.integers(0, 10**9)
_quantities = st.lists(st.sampled_from(typing.get_args(QuantityName)), min_size=1, max_size=4)
_pictures = st.lists(
    st.sampled_from([name for name in typing.get_args(QuantityName) if name != "grad_histogram"]),
    max_size=3,
)


def _some(items: st.SearchStrategy[str]) -> st.SearchStrategy[object]:
    return st.none() | items | st.lists(items, min_size=1, max_size=3).map(tuple)


_schedules = st.builds(
    Schedule,
    every=st.none() | st.integers(1, 10**9),
    first=st.integers(1, 100),  # so that something is always captured
    steps=st.lists(_counts, max_size=4).map(tuple),
    per_epoch=_counts,
    hook=st.none() | st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5}){1,3}", fullmatch=True),
)
_criteria: dict[str, st.SearchStrategy[object]] = {
    "match": _some(_texts),
    "regex": st.none() | _texts.map(re.escape) | st.sampled_from([r"\.weight$", r"^h\.\d+\."]),
    "type": _some(_texts),
    "kind": _some(st.sampled_from(typing.get_args(ParameterKind))),
    "min_depth": st.none() | st.integers(0, 3),
    "max_depth": st.none() | st.integers(3, 9),
}
_rules = st.builds(LayerRule, exclude=st.just(True), **_criteria) | st.builds(
    LayerRule,
    quantities=st.none() | _quantities.map(tuple),
    schedule=st.none() | _schedules,
    **_criteria,
)
_outputs = st.builds(
    Output,
    group=st.from_regex(r"[A-Za-z0-9_.-]{1,8}", fullmatch=True),
    directory=st.none() | _texts,
    pictures=_pictures.map(tuple),
    layer_scalars=_pictures.map(tuple),
    **dict.fromkeys(["headline", "records", "histograms", "card", "custom_scalars"], st.booleans()),
)
configs = st.builds(
    MonitorConfig,
    quantities=_quantities.map(tuple),
    layers=st.lists(_rules, max_size=3).map(tuple),
    schedule=_schedules,
    overhead=st.none() | st.floats(0.0001, 1),
    output=_outputs,
    on_error=st.sampled_from(["warn", "raise"]),
)

seldom = settings(derandomize=True, deadline=None, max_examples=100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round_trip")


@seldom
@given(config=configs, as_section=st.booleans())
def test_through_yaml(folder: Path, config: MonitorConfig, as_section: bool) -> None:
    plain = config.to_dict()
    written = {"trainer": {}, "monitor": plain} if as_section else plain
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    loaded = load_config(path)
    assert loaded == config
    assert hash(loaded) == hash(config)
    assert loaded.to_dict() == plain


@seldom
@given(configs)
def test_through_plain_values(config: MonitorConfig) -> None:
    assert resolve_config(config.to_dict()) == config


@seldom
@given(configs)
def test_through_pickle_and_deep_copy(config: MonitorConfig) -> None:
    for twin in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
        assert twin == config
        assert hash(twin) == hash(config)


@seldom
@given(configs, st.data())
def test_options_at_their_default_may_be_left_out(
    config: MonitorConfig, data: st.DataObject
) -> None:
    plain, defaults = config.to_dict(), MonitorConfig().to_dict()
    dropped = data.draw(st.sets(st.sampled_from(list(plain))))
    kept = {name: value for name, value in plain.items() if name not in dropped}
    expected = resolve_config({**plain, **{name: defaults[name] for name in dropped}})
    assert resolve_config(kept) == expected
