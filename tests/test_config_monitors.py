"""Configurations by the thousand: each gives a working monitor, or one clear sentence."""

from __future__ import annotations

import dataclasses
import types
import typing
import warnings
from collections.abc import Callable
from typing import Any, Literal, Union

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import many
from jacoscope import Monitor, MonitorConfig
from jacoscope.errors import ConfigError
from jacoscope.sinks import MemorySink

_TEXTS = (
    *("*", "0", "0.weight", "*.bias", "encoder", "(all)", "layer 2", "[", "a b", "", "1", "x.y"),
    *("none", "math.sqrt", "Linear", "torch.nn.Linear", "inputs", "émile", "\n", "3"),
)
_NUMBERS = (-1, 0, 1, 2, 3, 7, 50, 10**9)
_FLOATS = (-1.0, 0.0, 1e-30, 0.5, 1.0, 1e30, float("inf"), float("nan"))
_JUNK = st.sampled_from([None, True, 3, -1.5, "zzz", [], {}, [[]], {"every": 1}])


def _of_type(hint: Any) -> st.SearchStrategy[Any]:
    """Values that YAML may have where this type is declared."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(_of_type, args))
    if origin is tuple:
        return st.lists(_of_type(args[0]), max_size=3)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _of_class(hint)
    if origin is not None:  # a callable, which YAML names
        return st.sampled_from(("builtins.print", "nowhere.at_all", "3"))
    simple: dict[Any, st.SearchStrategy[Any]] = {
        type(None): st.none(),
        bool: st.booleans(),
        int: st.sampled_from(_NUMBERS),
        float: st.sampled_from(_FLOATS),
        str: st.sampled_from(_TEXTS),
    }
    return simple.get(hint, st.none())


def _of_class(cls: type) -> st.SearchStrategy[dict[str, Any]]:
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    needed = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    values = {name: st.one_of(*[_of_type(hints[name])] * 9, _JUNK) for name in fields}
    required = {name: values[name] for name in needed}
    optional = {name: value for name, value in values.items() if name not in needed}
    return st.fixed_dictionaries(required, optional=optional).map(_few)


def _few(told: dict[str, Any]) -> dict[str, Any]:
    """At most four keys, for with more nearly every configuration has a mistake."""
    return dict(list(told.items())[:4])


_CONFIGS = st.deferred(lambda: _of_class(MonitorConfig))


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2))


def _made(told: dict[str, Any]) -> tuple[Monitor, nn.Module, MemorySink] | None:
    """The monitor, or ``None`` where there is one clear sentence instead."""
    model, sink = _model(), MemorySink()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rules without effect
            return Monitor(model, told, sinks=[sink], loss=_loss), model, sink
    except ConfigError as error:
        said = str(error)
        assert said.splitlines() == [said]
        assert len(said) < 2000
        return None


def _loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch["inputs"]), batch["label"])


def _train(monitor: Monitor, model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        monitor.begin_step(step)
        batch = {
            "inputs": torch.randn(4, 3, generator=generator),
            "label": torch.tensor([0, 1, 0, 1]),
        }
        monitor.begin_batch(batch)
        optimizer.zero_grad()
        loss = _loss(model, batch)
        monitor.before_backward(loss)
        loss.backward()
        monitor.after_backward()
        monitor.before_optimizer_step(optimizer)
        optimizer.step()
        monitor.end_step()


_often: Callable[..., Any] = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.slow
@settings(_often, max_examples=many(1500, 10_000))  # type: ignore[arg-type]
@given(told=_CONFIGS)
def test_each_gives_a_monitor_or_one_sentence(told: dict[str, Any]) -> None:
    made = _made(told)
    if made is not None:
        made[0].close()


@pytest.mark.slow
@settings(_often, max_examples=many(100, 300))  # type: ignore[arg-type]
@given(told=_CONFIGS)
def test_each_monitor_works(told: dict[str, Any]) -> None:
    """Weights end as without it; a fault inside it would be raised."""
    made = _made({**told, "on_error": "raise"})
    if made is None:
        return
    monitor, model, sink = made
    plain = _model()
    with Monitor(plain, {"layers": [{"match": "0", "exclude": True}, {"match": "2"}]}) as other:
        _train(other, plain)
    try:
        with monitor, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _train(monitor, model)
    except ConfigError as error:  # a path that the batch does not have, known only now
        said = str(error)
    else:
        said = ""
    assert len(said.splitlines()) <= 1
    if said:
        return
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert all(record.step in (0, 1, 2) for record in sink.records)


def test_the_strategy_reaches_every_option() -> None:
    seen: set[str] = set()

    @settings(_often, max_examples=400)  # type: ignore[arg-type]
    @given(told=_CONFIGS)
    def look(told: dict[str, Any]) -> None:
        seen.update(told)

    look()
    assert seen == {field.name for field in dataclasses.fields(MonitorConfig)}
