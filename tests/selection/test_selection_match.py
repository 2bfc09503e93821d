from typing import Any

import pytest
import torch
from torch import nn

from jacoscope.config import LayerRule, MonitorConfig
from jacoscope.errors import ConfigError
from jacoscope.selection import select, walk_parameters
from jacoscope.selection._match import matches


class _Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(2, 2)


class _Block(_Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2)
        self.scale = nn.Parameter(torch.ones(2))


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.embed = nn.Embedding(3, 2)
        self.blocks = nn.ModuleList([_Block(), _Block()])
        self.add_module("my head", nn.Linear(2, 3))
        self.get_submodule("my head").weight = self.embed.weight


# Every parameter by a letter, so that a case stays on one line.
_LETTERS = {
    "t": "temperature",
    "e": "embed.weight",  # also "my head.weight"
    "s": "blocks.0.scale",
    "w": "blocks.0.lin.weight",
    "b": "blocks.0.lin.bias",
    "n": "blocks.0.norm.weight",
    "m": "blocks.0.norm.bias",
    "S": "blocks.1.scale",
    "W": "blocks.1.lin.weight",
    "B": "blocks.1.lin.bias",
    "N": "blocks.1.norm.weight",
    "M": "blocks.1.norm.bias",
    "h": "my head.bias",
}
_HERE = _Block.__module__

_CASES: list[tuple[dict[str, Any], str]] = [
    ({}, "teswbnmSWBNMh"),
    # glob patterns, on the parameter's name or its layer's
    ({"match": "blocks.0.lin.weight"}, "w"),
    ({"match": "blocks.0.lin"}, "wb"),
    ({"match": "blocks.0"}, "swbnm"),
    ({"match": "blocks.0.*"}, "swbnm"),
    ({"match": "blocks.*.weight"}, "wnWN"),
    ({"match": "*.weight"}, "ewnWN"),
    ({"match": "*"}, "teswbnmSWBNMh"),
    ({"match": "blocks.?.scale"}, "sS"),
    ({"match": "blocks.[!0].scale"}, "S"),
    ({"match": ["temperature", "*.scale"]}, "tsS"),
    ({"match": "my head.weight"}, "e"),
    ({"match": "*head.*"}, "eh"),
    # regular expressions, searched for
    ({"regex": "norm"}, "nmNM"),
    ({"regex": r"^blocks\.\d\.lin\.(weight|bias)$"}, "wbWB"),
    ({"regex": "weight$"}, "ewnWN"),
    ({"regex": "^my head"}, "eh"),
    # types, of the owner or of a module around it
    ({"type": "Linear"}, "wbWBh"),
    ({"type": "torch.nn.Linear"}, "wbWBh"),
    ({"type": "nn.Linear"}, "wbWBh"),
    ({"type": "torch.nn.modules.linear.Linear"}, "wbWBh"),
    ({"type": "_Block"}, "swbnmSWBNM"),
    ({"type": f"{_HERE}._Block"}, "swbnmSWBNM"),
    ({"type": "_Base"}, "swbnmSWBNM"),
    ({"type": "ModuleList"}, "swbnmSWBNM"),
    ({"type": "_Net"}, "t"),
    ({"type": ["LayerNorm", "Embedding"]}, "enmNM"),
    # kinds
    ({"kind": "weight"}, "wW"),
    ({"kind": "norm"}, "nmNM"),
    ({"kind": ["bias", "embedding"]}, "ebBh"),
    ({"kind": "other"}, "tsS"),
    # depths
    ({"max_depth": 0}, "t"),
    ({"min_depth": 1, "max_depth": 1}, "eh"),
    ({"min_depth": 2}, "swbnmSWBNM"),
    ({"min_depth": 3}, "wbnmWBNM"),
    ({"max_depth": 2}, "tesSh"),
    # all at once
    ({"match": "blocks.0.*", "kind": "weight"}, "w"),
    ({"match": "blocks.*", "regex": r"\.1\.", "type": "LayerNorm"}, "NM"),
    ({"type": "_Block", "max_depth": 2}, "sS"),
    ({"match": ["blocks.0.*", "my head"], "kind": ["bias", "norm"], "min_depth": 3}, "bnm"),
]


@pytest.mark.parametrize(("criteria", "letters"), _CASES, ids=lambda case: str(case))
def test_what_a_rule_matches(criteria: dict[str, Any], letters: str) -> None:
    infos = walk_parameters(_Net())
    assert [info.name for info in infos] == list(_LETTERS.values())
    rule = LayerRule(**criteria)
    found = [letter for letter, info in zip(_LETTERS, infos, strict=True) if matches(rule, info)]
    assert "".join(found) == letters


def test_a_tied_weight_is_matched_by_each_of_its_layers() -> None:
    assert [
        info.name for info in walk_parameters(_Net()) if matches(LayerRule(match="my head"), info)
    ] == ["embed.weight", "my head.bias"]


def test_a_base_class_of_torch_is_a_type() -> None:
    attention = nn.MultiheadAttention(2, 1)
    names = [i.name for i in walk_parameters(attention) if matches(LayerRule(type="Linear"), i)]
    assert names == ["out_proj.weight", "out_proj.bias"]


@pytest.mark.parametrize("type_", ["Linear", "torch.nn.Linear", "ParametrizedLinear"])
def test_a_parametrized_layer_keeps_its_type(type_: str) -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    infos = walk_parameters(nn.Sequential(layer))
    assert all(matches(LayerRule(type=type_), info) for info in infos)


# Criteria that match nothing, the key that is named, and what is said.
_NOTHING: list[tuple[dict[str, Any], str, str]] = [
    ({"match": "temprature"}, "match", "'temprature' matches no parameter or layer of the model; "
     "did you mean 'temperature'?"),
    ({"match": "blocks.0.lni.*"}, "match", "did you mean 'blocks.0.lin'?"),
    ({"match": "embed.wieght"}, "match", "did you mean 'embed.weight'?"),
    ({"match": ["my haed", "zzz"]}, "match", "'my haed', 'zzz' matches no parameter or layer"),
    ({"match": ["my haed", "zzz"]}, "match", "did you mean 'my head'?"),
    ({"match": "Blocks.0.lin"}, "match", "did you mean 'blocks.0.lin'?"),
    ({"match": "qqq"}, "match", "valid names are embed, "),
    ({"match": "???"}, "match", "valid names are embed"),
    ({"regex": r"^tempratur\b"}, "regex", "matches no parameter or layer of the model"),
    ({"regex": "embd"}, "regex", "'embd' matches no parameter or layer of the model; "
     "did you mean 'embed'?"),
    ({"type": "linear"}, "type", "'linear' matches no module of the model; did you mean 'Linear'?"),
    ({"type": "LayrNorm"}, "type", "did you mean 'LayerNorm'?"),
    ({"type": "Conv2d"}, "type", "valid names are _Net, Embedding, ModuleList, _Block"),
    ({"type": "Module"}, "type", "'Module' matches no module of the model"),
    ({"min_depth": 4}, "min_depth", "4 matches no parameter of the model, whose depths are 0 to 3"),
    ({"match": "embed.*", "type": "Lineer"}, "type", "did you mean 'Linear'?"),
    ({"match": "zzz", "type": "zzz"}, "match", "'zzz' matches no parameter or layer"),
    ({"match": "embed.*", "kind": "bias"}, "", "no parameter of the model meets all of its "
     "criteria (match, kind) at once; drop or widen one"),
    ({"type": "Linear", "max_depth": 0}, "", "criteria (type, max_depth) at once"),
]  # fmt: skip


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize(("criteria", "key", "said"), _NOTHING, ids=lambda case: str(case)[:50])
def test_a_rule_that_matches_nothing(
    criteria: dict[str, Any], key: str, said: str, exclude: bool
) -> None:
    config = MonitorConfig(layers=(LayerRule(), LayerRule(exclude=exclude, **criteria)))
    with pytest.raises(ConfigError) as caught:
        select(_Net(), config)
    assert caught.value.key == (f"layers[1].{key}" if key else "layers[1]")
    assert said in str(caught.value)
    assert str(caught.value).splitlines() == [str(caught.value)]


def test_a_kind_that_the_model_lacks() -> None:
    with pytest.raises(ConfigError) as caught:
        select(nn.Linear(2, 2), MonitorConfig(layers=(LayerRule(kind=("norm", "embedding")),)))
    assert str(caught.value) == (
        "layers[0].kind: 'norm', 'embedding' matches no parameter of the model, "
        "whose kinds are weight, bias"
    )


def test_the_nearest_name_may_be_an_alias() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'my head\.weight'"):
        select(_Net(), MonitorConfig(layers=(LayerRule(match="my haed.weight"),)))
