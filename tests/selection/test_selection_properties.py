"""For any rules: each parameter is decided once, by the first rule that holds, in model order."""

import fnmatch
import math
import re
import typing
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jacoscope.config import LayerRule, MonitorConfig, QuantityName, Schedule
from jacoscope.errors import ConfigError
from jacoscope.selection import Selection, select


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.lin = nn.Linear(2, 2)


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = nn.Parameter(torch.zeros(3, dtype=torch.int64), requires_grad=False)
        self.embed = nn.Embedding(4, 2)
        self.blocks = nn.ModuleList([_Block(), _Block()])
        self.norm = nn.LayerNorm(2)
        self.head = nn.Linear(2, 4)
        self.head.weight = self.embed.weight
        self.norm.requires_grad_(False)


class _Known(NamedTuple):
    """What a parameter of ``_Net`` is, written down by hand."""

    names: tuple[str, ...]
    layer: str
    types: str
    kind: str
    depth: int
    trainable: int
    fits: bool = True


def _block(at: str) -> list[_Known]:
    around = "ModuleList _Block"
    return [
        _Known((f"{at}.scale",), at, around, "other", 2, 2),
        _Known((f"{at}.lin.weight",), f"{at}.lin", f"{around} Linear", "weight", 3, 4),
        _Known((f"{at}.lin.bias",), f"{at}.lin", f"{around} Linear", "bias", 3, 2),
    ]


_KNOWN = [
    _Known(("count",), "", "_Net", "other", 0, 0, fits=False),
    _Known(("embed.weight", "head.weight"), "embed", "Embedding", "embedding", 1, 8),
    *_block("blocks.0"),
    *_block("blocks.1"),
    _Known(("norm.weight",), "norm", "LayerNorm", "norm", 1, 0),
    _Known(("norm.bias",), "norm", "LayerNorm", "norm", 1, 0),
    _Known(("head.bias",), "head", "Linear", "bias", 1, 4),
]
_MODEL = _Net()

_globs = st.sampled_from(
    [
        *("*", "*.weight", "*.bias", "blocks.*", "blocks.?.lin", "blocks.1.*", "*.[ls]*"),
        *("embed", "head.weight", "count", "norm", "nothing.*"),
    ]
)
_types = st.sampled_from(["Linear", "torch.nn.Embedding", "_Block", "ModuleList", "_Net", "Conv1d"])
_kinds = st.sampled_from(["weight", "bias", "norm", "embedding", "other"])
_depths = st.none() | st.integers(0, 4)


def _some(items: st.SearchStrategy[str]) -> st.SearchStrategy[object]:
    return st.none() | items | st.lists(items, min_size=1, max_size=2).map(tuple)


@st.composite
def _rules(draw: st.DrawFn) -> LayerRule:
    low, high = draw(_depths), draw(_depths)
    options: dict[str, typing.Any] = {
        "match": draw(_some(_globs)),
        "regex": draw(st.none() | st.sampled_from(["weight", r"^blocks\.\d\.", "s$", "q"])),
        "type": draw(_some(_types)),
        "kind": draw(_some(_kinds)),
        "min_depth": low,
        "max_depth": high if low is None or high is None or low <= high else None,
    }
    dropped = draw(st.sets(st.sampled_from(list(options)), min_size=3))  # else few rules hold
    options = {name: value for name, value in options.items() if name not in dropped}
    if draw(st.booleans()):
        return LayerRule(exclude=draw(st.booleans()), **options)
    names = st.sampled_from(typing.get_args(QuantityName))
    return LayerRule(
        quantities=tuple(draw(st.lists(names, min_size=1, max_size=3))),
        schedule=draw(st.none() | st.builds(Schedule, every=st.integers(1, 5))),
        **options,
    )


def _many(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


_HOLDS: dict[str, Callable[[typing.Any, _Known], bool]] = {
    "match": lambda globs, known: any(
        re.fullmatch(fnmatch.translate(glob), name)
        for glob in _many(globs)
        for name in (*known.names, known.layer)
    ),
    "regex": lambda pattern, known: any(re.search(pattern, name) for name in known.names),
    "type": lambda types, known: any(
        name.removeprefix("torch.nn.") in known.types.split() for name in _many(types)
    ),
    "kind": lambda kinds, known: known.kind in _many(kinds),
    "min_depth": lambda depth, known: known.depth >= depth,
    "max_depth": lambda depth, known: known.depth <= depth,
}


def _holds(rule: LayerRule, known: _Known) -> bool:
    given_ = {name: getattr(rule, name) for name in _HOLDS if getattr(rule, name) is not None}
    return all(_HOLDS[name](value, known) for name, value in given_.items())


def _first(rules: tuple[LayerRule, ...], known: _Known) -> int | None:
    return next((index for index, rule in enumerate(rules) if _holds(rule, known)), None)


def _check(selection: Selection, config: MonitorConfig) -> None:
    targets = {target.name: target for target in selection.targets}
    left_out = {left.info.name: left for left in selection.left_out}
    names = [known.names[0] for known in _KNOWN]
    assert len(selection.targets) + len(selection.left_out) == len(names)
    assert list(targets) == [name for name in names if name in targets]
    assert list(left_out) == [name for name in names if name not in targets]
    for known in _KNOWN:
        index = _first(config.layers, known)
        rule = config.layers[index] if index is not None else None
        is_asked_for = (not config.layers) if rule is None else not rule.exclude
        if not (known.fits and is_asked_for):
            assert left_out[known.names[0]].reason
            continue
        target = targets[known.names[0]]
        assert target.rule == index
        assert target.info.aliases == known.names[1:]
        assert target.quantities == ((rule and rule.quantities) or config.quantities)
        assert target.schedule == ((rule and rule.schedule) or config.schedule)


@settings(derandomize=True, deadline=None, max_examples=250)
@given(rules=st.lists(_rules(), max_size=4).map(tuple))
def test_each_parameter_is_decided_once_by_the_first_rule_that_holds(
    rules: tuple[LayerRule, ...],
) -> None:
    config = MonitorConfig(layers=rules)
    idle = [i for i, rule in enumerate(rules) if not any(_holds(rule, k) for k in _KNOWN)]
    if idle:
        with pytest.raises(ConfigError) as caught:
            select(_MODEL, config)
        assert re.fullmatch(rf"layers\[{idle[0]}\](\.\w+)?", caught.value.key)
        return
    selection = select(_MODEL, config)
    _check(selection, config)
    firsts = [_first(rules, known) for known in _KNOWN]
    assert selection.shadowed == tuple(i for i in range(len(rules)) if i not in firsts)
    watched = {target.name for target in selection.targets}
    covered = sum(known.trainable for known in _KNOWN if known.names[0] in watched)
    assert math.isclose(selection.coverage, covered / sum(known.trainable for known in _KNOWN))
