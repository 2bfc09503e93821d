"""∂f/∂x against plain autograd: images, tables, tokens at their embedding, by rows and columns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capture.architectures import CASES
from capture.case import Case, Net, integers, normal
from jacoscope.probing import PlaceJacobian, _rows, input_jacobian
from probing.probed_models import EXTRA, REFUSED, language_model, token_inputs
from probing.reference import by_input, by_module, distance

TOLERANCE = 1e-10

NAMES = (
    "MLP", "Linear 2D", "Conv2d", "U-Net", "ConvNet with pooling and ReLU in place",
    "ConvNet, flattened maps, batch norm in evaluation", "transformers ResNet", "transformers ViT",
    "TransformerEncoderLayer", "attention by hand, N equals T and width", "deep sets",
    "residual MLP with norms", "weight_norm, old", "RNN tanh", "squeeze and excitation",
    "spatial transformer", "Conv2d channels last", "cdist to learned centres (RBF)",
    "mixture of experts, one per token by index_add", "penalty on the gradient by the input",
    "factorisation machine",
)  # fmt: skip
COVERED = [
    *(case for case in CASES if case.name in NAMES),
    *(case for case in EXTRA if "embedding" not in case.name),
]
BY_NAME = {case.name: case for case in (*CASES, *EXTRA)}


def probed(case: Case, **settings: Any) -> PlaceJacobian:
    settings = {"max_outputs": 1000, "mode": "train", **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return input_jacobian(case.build(), case.batch(), **settings)


def check(jacobian: PlaceJacobian, rows: Tensor) -> None:
    """Every figure against the dense reference, (N, C, *x)."""
    n, c = rows.shape[:2]
    assert (jacobian.samples, jacobian.outputs) == (n, c)
    assert jacobian.shape == tuple(rows.shape[2:])
    assert jacobian.is_exact
    matrices = rows.flatten(2)
    values = torch.linalg.svdvals(matrices)
    assert jacobian.size == matrices.shape[2]
    assert jacobian.singular_values is not None
    assert distance(jacobian.dense(), rows) <= TOLERANCE
    assert distance(jacobian.norms, torch.linalg.matrix_norm(matrices)) <= TOLERANCE
    assert distance(jacobian.sq_norms, matrices.square().sum((1, 2))) <= TOLERANCE
    assert distance(jacobian.mean_sq_singular_values, values.square().sum(1) / c) <= TOLERANCE
    assert distance(jacobian.singular_values, values) <= TOLERANCE
    assert distance(jacobian.spectral_norms, values[:, 0]) <= TOLERANCE
    assert not jacobian.sq_norm_errors.any()
    ratios = values[:, 0] / values[:, -1]
    regular = ratios < 1e12
    assert torch.allclose(jacobian.conditions[regular], ratios[regular], rtol=1e-3)
    assert (jacobian.conditions[ratios > 1e18] == torch.inf).all()


@pytest.mark.parametrize("case", COVERED, ids=str)
def test_equal_to_plain_autograd(case: Case) -> None:
    check(probed(case), by_input(case.build(), case.batch()))


@pytest.mark.parametrize("case", [c for c in REFUSED if "embedding" not in c.name], ids=str)
def test_what_vmap_refuses_goes_by_a_loop_that_says_why(case: Case) -> None:
    jacobian = probed(case)
    assert jacobian.method == "loop"
    assert str(jacobian.fallback).startswith("vmap cannot")


def wide(inputs: int, outputs: int, recurrent: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if recurrent:
            return Net(
                lambda m, x: m.head(m.gru(x.unsqueeze(1))[0].flatten(1)),
                gru=nn.GRU(inputs, 6, batch_first=True),
                head=nn.Linear(6, outputs),
            ).double()
        body = (nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))
        return nn.Sequential(*body).double()


def table(n: int, features: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return normal(n, features)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 40), (40, 3), (5, 5), (1, 50), (50, 1)])
def test_rows_or_columns_whichever_are_fewer(inputs: int, outputs: int, recurrent: bool) -> None:
    """Neither is more than ``max_outputs`` allows, so that nothing is sketched."""
    model, x = wide(inputs, outputs, recurrent), table(4, inputs)
    jacobian = input_jacobian(model, x, max_outputs=6)
    assert jacobian.method == ("loop" if recurrent else "vmap")
    check(jacobian, by_input(model, (x,)))


def test_columns_are_had_by_forward_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three passes forward for forty outputs, not forty back."""
    made: list[str] = []
    columns = _rows.Vectorized.columns_of_place

    def noted(self: Any, *args: Any) -> Tensor:
        made.append("columns")
        return columns(self, *args)

    monkeypatch.setattr(_rows.Vectorized, "columns_of_place", noted)
    input_jacobian(wide(40, 3), table(4, 40), max_outputs=6)
    assert not made
    input_jacobian(wide(3, 40), table(4, 3), max_outputs=6)
    assert made


@pytest.mark.parametrize("name", ["cdist", "function"])
def test_more_outputs_than_inputs_without_forward_mode(name: str) -> None:
    """vmap runs it, and it has no derivative forward: rows it is."""

    class Squared(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.square()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return 2 * gradient * ctx.saved_tensors[0]

    run = {
        "cdist": lambda m, x: torch.cdist(x, m.weight),
        "function": lambda m, x: Squared.apply(x @ m.weight.T),
    }[name]
    model = Net(run, weight=nn.Parameter(table(9, 4)))
    x = table(3, 4)
    check(input_jacobian(model, x, max_outputs=20), by_input(model, (x,)))


def test_rows_that_vmap_gets_wrong_below_all_parameters_are_found_out() -> None:
    """Fixed centres: no parameter's derivative goes through the distance, the input's does.

    torch's derivative of cdist is right under vmap for one cotangent, and wrong for two.
    """
    centres = table(6, 4)
    run = lambda m, x: m.head(torch.exp(-torch.cdist(x, centres)))  # noqa: E731
    model = Net(run, head=nn.Linear(6, 3)).double()
    x = table(5, 4)
    jacobian = input_jacobian(model, x)
    assert jacobian.method == "loop"
    assert "differ from plain autograd's" in str(jacobian.fallback)
    check(jacobian, by_input(model, (x,)))


@pytest.mark.parametrize("budget", [1, 2_000])
@pytest.mark.parametrize("name", ["MLP", "U-Net", "GRU's last state"])
def test_a_small_memory_budget_gives_the_same(name: str, budget: int) -> None:
    case = BY_NAME[name]
    small, whole = probed(case, memory_budget=budget), probed(case)
    assert torch.allclose(small.sq_norms, whole.sq_norms, rtol=1e-12)
    assert small.singular_values is not None
    assert whole.singular_values is not None
    assert torch.allclose(small.singular_values, whole.singular_values, rtol=1e-9, atol=1e-13)


def test_rank_deficient_samples_have_an_infinite_condition() -> None:
    model = nn.Linear(4, 3, bias=False).double()
    with torch.no_grad():
        model.weight[2] = model.weight[0] + 2 * model.weight[1]
    x = table(2, 4)
    assert input_jacobian(model, x).conditions.tolist() == [torch.inf] * 2
    assert input_jacobian(model.float(), x.float()).conditions.tolist() == [torch.inf] * 2
    relu = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 3)).double()
    with torch.no_grad():
        relu[0].weight.copy_(torch.ones(3, 4))
    dead = input_jacobian(relu, torch.tensor([[-1.0] * 4, [1.0] * 4], dtype=torch.float64))
    assert dead.norms[0] == 0
    assert dead.conditions[0].isnan()
    assert dead.conditions[1] == torch.inf


def test_conditions_of_a_diagonal_map() -> None:
    model = nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.diag(torch.tensor([4.0, 0.5, 2.0])))
    jacobian = input_jacobian(model, table(2, 3))
    assert jacobian.conditions.tolist() == pytest.approx([8.0, 8.0])
    assert jacobian.spectral_norms.tolist() == pytest.approx([4.0, 4.0])


def tokens(*shape: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return 1 + integers(6, *shape)


@pytest.mark.parametrize("kind", ["plain", "LSTM", "tied", "two embeddings"])
def test_tokens_are_differentiated_at_their_embedding(kind: str) -> None:
    def both(m: Net, x: Tensor) -> Tensor:
        places = m.places(torch.arange(x.shape[1]))
        return m.head((m.token(x) + places).tanh()).flatten(1)

    parts: dict[str, Any] = {"token": nn.Embedding(7, 4), "head": nn.Linear(4, 3)}
    run = {
        "plain": lambda m, x: m.head(m.token(x).tanh().mean(1)),
        "LSTM": lambda m, x: m.head(m.lstm(m.token(x))[0][:, -1]),
        "tied": lambda m, x: m.token(x).tanh().mean(1) @ m.token.weight.T,
        "two embeddings": both,
    }[kind]
    extra = {"LSTM": {"lstm": nn.LSTM(4, 4, batch_first=True)},
             "two embeddings": {"places": nn.Embedding(9, 4)}}  # fmt: skip
    model = Net(run, **parts, **extra.get(kind, {})).double()
    x = tokens(3, 5)
    jacobian = input_jacobian(model, x)
    assert jacobian.place == "token"
    assert jacobian.method == ("loop" if kind == "LSTM" else "vmap")
    check(jacobian, by_module(model, x, "token"))


@pytest.mark.parametrize("first", ["input_ids", "attention_mask"])
def test_tokens_within_a_model_of_transformers(first: str) -> None:
    model = language_model("GPT2").eval()
    inputs = token_inputs()
    inputs = {first: inputs[first], **inputs}
    jacobian = input_jacobian(model, inputs, max_outputs=100)
    assert jacobian.place == "network.transformer.wte"
    assert jacobian.shape == (4, 8)
    check(jacobian, by_module(model, inputs, "network.transformer.wte"))


def test_several_inputs_of_which_the_first_is_meant() -> None:
    """Tokens at their embedding; integers that go into none are passed over."""

    def run(m: Net, ids: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return m.a(x).tanh() * m.b(y) + m.e(ids)

    def chosen(m: Net, ids: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return m.a(x).tanh() * m.b(y) + m.e.weight[ids]

    for forward, place in ((run, "e"), (chosen, "(input)")):
        model = Net(forward, a=nn.Linear(4, 3), b=nn.Linear(2, 3), e=nn.Embedding(7, 3)).double()
        inputs = (tokens(5), table(5, 4), table(5, 2))
        jacobian = input_jacobian(model, inputs)
        assert jacobian.place == place
        by_place = place == "e"
        wanted = by_module(model, inputs, "e") if by_place else by_input(model, inputs, index=1)
        check(jacobian, wanted)


def test_some_rows_of_some_samples() -> None:
    case = BY_NAME["U-Net"]
    wanted = by_input(case.build(), case.batch())
    assert distance(probed(case).rows_of(2, [5, 0, 127]), wanted[:2, [5, 0, 127]]) <= TOLERANCE


def test_a_model_without_parameters() -> None:
    x = table(3, 4)
    jacobian = input_jacobian(nn.Tanh(), x)
    assert jacobian.method == "vmap"
    check(jacobian, torch.diag_embed(1 - x.tanh().square()))


def test_non_finite_samples_spoil_no_other() -> None:
    x = table(3, 4)
    x[1, 0] = torch.nan
    jacobian = input_jacobian(nn.Sequential(nn.Tanh(), nn.Linear(4, 3)).double(), x)
    finite = torch.tensor([True, False, True])
    assert torch.equal(jacobian.norms.isfinite(), finite)
    assert torch.equal(jacobian.conditions.isfinite(), finite)
