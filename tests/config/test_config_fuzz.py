"""Whatever is given, the answer is a configuration or one line that says what is wrong with it."""

import dataclasses
import datetime
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
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
from jacoscope.errors import ConfigError

_NAMES: list[str] = [
    *(
        field.name
        for cls in (MonitorConfig, Schedule, LayerRule, Output)
        for field in dataclasses.fields(cls)
    ),
    *typing.get_args(QuantityName),
    *typing.get_args(ParameterKind),
    *("monitor", "trainer", "warn", "raise", ""),
]
_yaml_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(_NAMES)
    | st.text(max_size=6)
    | st.binary(max_size=4)
    | st.dates()
    | st.datetimes(timezones=st.just(datetime.UTC))
)
_keys = st.sampled_from(_NAMES) | st.text(max_size=6) | st.none() | st.integers() | st.dates()


def _nested(scalars: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
        max_leaves=8,
    )


def _sections(junk: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Mappings with the right keys and anything as their values, so that junk gets far in."""

    def of(cls: type, **inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
        names = [field.name for field in dataclasses.fields(cls)]
        return st.fixed_dictionaries({}, optional={n: inner.get(n, junk) for n in names})

    schedule = of(Schedule)
    rule = of(LayerRule, schedule=schedule | junk)
    inner = {"schedule": schedule, "output": of(Output), "layers": st.lists(rule, max_size=2)}
    return of(MonitorConfig, **inner) | st.fixed_dictionaries({"trainer": junk, "monitor": junk})


_plain = _nested(_yaml_scalars)
_python_only = st.sampled_from(
    [
        *(np.zeros((2, 2)), np.array(3), np.float32(2), torch.ones(2), torch.tensor(1)),
        *(
            torch.nn.Sequential(torch.nn.ReLU()),
            object(),
            len,
            Path,
            Path("a\nb"),
            {3, "a"},
            range(3),
        ),
        *(Schedule(), LayerRule(), MonitorConfig, 1j, b"\n", iter([1]), NotImplemented),
    ]
)
_python = _nested(_yaml_scalars | _python_only)

often = settings(derandomize=True, deadline=None, max_examples=200)


def _answer(read: Callable[[], MonitorConfig]) -> None:
    try:
        config = read()
    except ConfigError as error:
        said = str(error)
    else:
        assert type(config) is MonitorConfig
        assert resolve_config(config.to_dict()).to_dict() == config.to_dict()
        return
    assert said.splitlines() == [said]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "config.yaml"


@often
@given(junk=_plain | _sections(_plain))
def test_a_file_of_nested_junk(path: Path, junk: object) -> None:
    path.write_text(yaml.safe_dump(junk), encoding="utf-8")
    _answer(lambda: load_config(path))


@often
@given(junk=_python | _sections(_python))
def test_nested_junk_in_python(junk: object) -> None:
    _answer(lambda: resolve_config(junk))  # type: ignore[arg-type]


@often
@given(text=st.text("[]{}:-,&*!|>'\"%@`#?.~<=0123x_ab\n\t\x85\ufeff ", max_size=24))
def test_a_file_of_junk_that_looks_like_yaml(path: Path, text: str) -> None:
    path.write_text(f"layers: {text}", encoding="utf-8")
    _answer(lambda: load_config(path))
    path.write_text(text, encoding="utf-8")
    _answer(lambda: load_config(path))


@often
@given(content=st.binary(max_size=24))
def test_a_file_of_any_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _answer(lambda: load_config(path))


@often
@given(name=st.text(max_size=12))
def test_any_text_as_a_path(name: str) -> None:
    _answer(lambda: resolve_config(name))


def _nested_deeply() -> object:
    value: object = "grad_norm"
    for _ in range(5000):
        value = [value]
    return value


@pytest.mark.parametrize("value", [_nested_deeply(), 10**5000], ids=["deep list", "long number"])
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(MonitorConfig)])
def test_what_python_itself_cannot_show(field: str, value: object) -> None:
    _answer(lambda: resolve_config(value))  # type: ignore[arg-type]
    _answer(lambda: resolve_config({field: value}))
    _answer(lambda: resolve_config({field: [value]}))
