from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from transformers import GPT2Config, GPT2LMHeadModel

from jacoscope.selection import ParameterInfo, walk_parameters
from jacoscope.selection._parameters import clean_name


def _by_name(model: nn.Module) -> dict[str, ParameterInfo]:
    return {info.name: info for info in walk_parameters(model)}


class _Tied(nn.Module):
    """Weights with several names: by assignment, by sharing a module, and by both."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.again = self.block
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embed.weight
        self.shortcut = self.head.weight


_LINEAR = {"weight": "weight", "bias": "bias"}
_NORM = {"weight": "norm", "bias": "norm"}
_KINDS: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "Linear": (lambda: nn.Linear(2, 3), _LINEAR),
    "Linear of one output": (lambda: nn.Linear(2, 1), _LINEAR),
    "Conv1d": (lambda: nn.Conv1d(2, 3, 1), _LINEAR),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 1), _LINEAR),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 3, 1), _LINEAR),
    "Bilinear": (lambda: nn.Bilinear(2, 2, 3), _LINEAR),
    "LSTM": (
        lambda: nn.LSTM(2, 4, num_layers=2, bidirectional=True, proj_size=3),
        {
            f"{name}_l{layer}{suffix}": "bias" if name.startswith("bias") else "weight"
            for layer in (0, 1)
            for suffix in ("", "_reverse")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        },
    ),
    "GRUCell": (
        lambda: nn.GRUCell(2, 3),
        {"weight_ih": "weight", "weight_hh": "weight", "bias_ih": "bias", "bias_hh": "bias"},
    ),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(4, 2),
        {
            "in_proj_weight": "weight",
            "in_proj_bias": "bias",
            "out_proj.weight": "weight",
            "out_proj.bias": "bias",
        },
    ),
    "MultiheadAttention in parts": (
        lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=3, add_bias_kv=True, bias=False),
        {
            "q_proj_weight": "weight",
            "k_proj_weight": "weight",
            "v_proj_weight": "weight",
            "bias_k": "bias",
            "bias_v": "bias",
            "out_proj.weight": "weight",
        },
    ),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), _NORM),
    "LayerNorm": (lambda: nn.LayerNorm(3), _NORM),
    "GroupNorm": (lambda: nn.GroupNorm(1, 3), _NORM),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3, affine=True), _NORM),
    "RMSNorm": (lambda: nn.RMSNorm(3), {"weight": "norm"}),
    "Embedding": (lambda: nn.Embedding(5, 3), {"weight": "embedding"}),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(5, 3), {"weight": "embedding"}),
    "PReLU": (lambda: nn.PReLU(3), {"weight": "other"}),
    "ParameterList": (
        lambda: nn.ParameterList([torch.ones(2), torch.ones(2, 2)]),
        {"0": "other", "1": "weight"},
    ),
    "weight_norm": (
        lambda: parametrizations.weight_norm(nn.Linear(2, 3)),
        {
            "bias": "bias",
            "parametrizations.weight.original0": "weight",
            "parametrizations.weight.original1": "weight",
        },
    ),
    "LazyLinear": (lambda: nn.LazyLinear(3), _LINEAR),
    "LazyBatchNorm1d": (nn.LazyBatchNorm1d, _NORM),
}


@pytest.mark.parametrize(("build", "kinds"), _KINDS.values(), ids=_KINDS)
def test_kinds(build: Callable[[], nn.Module], kinds: dict[str, str]) -> None:
    assert {info.name: info.kind for info in walk_parameters(build())} == kinds


@pytest.mark.parametrize("cls", [nn.LayerNorm, nn.RMSNorm])
def test_a_norm_over_several_axes_is_a_norm(cls: type[nn.Module]) -> None:
    assert {info.kind for info in walk_parameters(cls((3, 3)))} == {"norm"}


def test_a_matrix_in_a_class_called_norm_is_a_weight() -> None:
    class NormalizedLinear(nn.Linear):
        pass

    assert _by_name(NormalizedLinear(2, 3))["weight"].kind == "weight"


def test_names_order_owners_and_layers_are_the_models() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 1)))
    infos = walk_parameters(model)
    assert [(info.name, info.parameter) for info in infos] == list(model.named_parameters())
    assert [info.index for info in infos] == list(range(len(infos)))
    assert [info.layer for info in infos] == ["0", "0", "1.0", "1.0", "1.1", "1.1"]
    assert [info.layer_type for info in infos][::2] == ["Linear", "LayerNorm", "Linear"]
    assert [info.depth for info in infos] == [1, 1, 2, 2, 2, 2]
    for info in infos:
        assert info.owner is model.get_submodule(info.layer)


def test_ancestors_go_from_the_outermost_to_the_owner_without_the_model() -> None:
    model = nn.Sequential(nn.ModuleDict({"a": nn.Linear(2, 2)}))
    assert _by_name(model)["0.a.weight"].ancestors == (model[0], model[0]["a"])


def test_the_models_own_parameters() -> None:
    model = nn.Linear(2, 3)
    info = _by_name(model)["weight"]
    assert (info.layer, info.depth, info.layer_type) == ("", 0, "Linear")
    assert info.owner is model
    assert info.ancestors == (model,)


def test_tied_weights_are_one_parameter_with_aliases() -> None:
    model = _Tied()
    infos = walk_parameters(model)
    assert [(info.name, info.aliases) for info in infos] == [
        ("shortcut", ("embed.weight", "head.weight")),
        ("block.0.weight", ("again.0.weight",)),
        ("block.0.bias", ("again.0.bias",)),
        ("head.bias", ()),
    ]
    assert len({id(info.parameter) for info in infos}) == len(infos) == len([*model.parameters()])


def test_a_model_without_parameters() -> None:
    assert walk_parameters(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3, affine=False))) == ()


def test_names_with_spaces_are_kept() -> None:
    model = nn.ModuleDict({"my layer": nn.Linear(2, 3)})
    info = _by_name(model)["my layer.weight"]
    assert (info.layer, info.depth) == ("my layer", 1)


def test_a_tiny_gpt_2() -> None:
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=16, vocab_size=32, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    infos = _by_name(GPT2LMHeadModel(config))
    block = {
        "ln_1": "norm",
        "attn.c_attn": "weight",
        "attn.c_proj": "weight",
        "ln_2": "norm",
        "mlp.c_fc": "weight",
        "mlp.c_proj": "weight",
    }
    expected = {"transformer.wte.weight": "embedding", "transformer.wpe.weight": "embedding"}
    for layer, kind in block.items():
        expected[f"transformer.h.0.{layer}.weight"] = kind
        expected[f"transformer.h.0.{layer}.bias"] = "norm" if kind == "norm" else "bias"
    expected |= {"transformer.ln_f.weight": "norm", "transformer.ln_f.bias": "norm"}
    assert {name: info.kind for name, info in infos.items()} == expected
    assert infos["transformer.wte.weight"].aliases == ("lm_head.weight",)
    query = infos["transformer.h.0.attn.c_attn.weight"]
    assert [type(module).__name__ for module in query.ancestors] == [
        *("GPT2Model", "ModuleList", "GPT2Block", "GPT2Attention", "Conv1D")
    ]


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("head.weight", "head.weight"),
        ("_orig_mod.head.weight", "head.weight"),
        ("encoder._orig_mod.0.weight", "encoder.0.weight"),
        ("_orig_mod.encoder._orig_mod._checkpoint_wrapped_module.weight", "encoder.weight"),
        ("_fsdp_wrapped_module.0.weight", "0.weight"),
        ("my_orig_mod.weight", "my_orig_mod.weight"),
        ("_orig_mod", ""),
    ],
)
def test_clean_name(name: str, clean: str) -> None:
    assert clean_name(name) == clean


def test_a_compiled_submodule_has_the_names_of_the_plain_one() -> None:
    plain = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)))
    described = [(i.name, i.layer, i.depth, i.kind, i.owner) for i in walk_parameters(plain)]
    compiled = nn.Sequential(torch.compile(plain[0]), torch.compile(plain[1]))
    assert next(n for n, _ in compiled.named_parameters()) == "0._orig_mod.weight"
    found = [(i.name, i.layer, i.depth, i.kind, i.owner) for i in walk_parameters(compiled)]
    assert found == described


def test_aliases_of_a_compiled_submodule_are_clean() -> None:
    layer = nn.Linear(2, 2)
    model = nn.ModuleDict({"eager": layer, "compiled": torch.compile(layer)})
    assert _by_name(model)["eager.weight"].aliases == ("compiled.weight",)


def test_a_compiled_model_has_the_names_of_the_plain_one() -> None:
    plain = nn.Sequential(nn.Linear(2, 3), nn.ModuleDict({"a": nn.Linear(3, 3)}))
    described = [(i.name, i.layer, i.depth, i.owner) for i in walk_parameters(plain)]
    found = [(i.name, i.layer, i.depth, i.owner) for i in walk_parameters(torch.compile(plain))]
    assert found == described


def test_a_compiled_model_is_no_ancestor_either() -> None:
    plain = nn.Sequential(nn.Linear(2, 3), nn.ModuleDict({"a": nn.Linear(3, 3)}))
    found = [info.ancestors for info in walk_parameters(torch.compile(plain))]
    assert found == [info.ancestors for info in walk_parameters(plain)]
