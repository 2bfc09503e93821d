"""∂f/∂θ against plain autograd in float64, over the architectures that capture is tested on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capture import cases_sequences, cases_transformers
from capture.architectures import CASES
from capture.case import Case, wave_of_output
from capture.cases_parameters import language_loss
from jacoscope.probing import OutputJacobian, output_jacobian
from probing.probed_models import EXTRA, IN_TRAINING, REFUSED, language_model, token_inputs
from probing.reference import by_parameters, distance, of_case, size_of

TOLERANCE = 1e-10

# The first tensor of the batch has another length than the output, or is not of samples.
NOT_PER_SAMPLE = (
    "with offsets", "weights per id", "EmbeddingBag and what it feeds", "all through",
    "Transformer, sequence first", "batch as last dimension", "graphs of unequal sizes",
    "bags of instances",
)  # fmt: skip
# Seconds each, for what smaller ones of the same kind show too; GPT-2 and BERT are below.
SLOW = (
    "Conv3d", "ConvTranspose3d", "MobileNetV2", "GRU stacked", "Mixtral", "T5", "Whisper",
    "GPT-2", "BERT",
)  # fmt: skip
# The loss calls the model with the whole batch.
LOSSES = (
    wave_of_output,
    language_loss,
    cases_sequences.first,
    cases_transformers.label_loss,
    cases_transformers.next_token_loss,
    cases_transformers.token_loss,
)
COVERED = [
    case
    for case in (*CASES, *EXTRA)
    if case.loss in LOSSES and not any(part in case.name for part in (*NOT_PER_SAMPLE, *SLOW))
]

every_case = pytest.mark.parametrize("case", COVERED, ids=str)


def probed(case: Case, **settings: Any) -> OutputJacobian:
    """The model in the mode that the case has, under the reference's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return output_jacobian(
            case.build(), case.batch(), mode="train", max_outputs=1000, **settings
        )


def spectral_of(rows: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(rows.reshape(*rows.shape[:2], -1), ord=2)


def check(jacobian: OutputJacobian, wanted: dict[str, Tensor]) -> None:
    assert not jacobian.missing
    assert jacobian.names == tuple(wanted)
    assert jacobian.is_exact
    floor = 1e-4 * size_of(wanted)
    for name, rows in wanted.items():
        squares = rows.square().reshape(*rows.shape[:2], -1).sum(-1)
        quantities = {
            "dense": (jacobian.dense(name), rows),
            "norms": (jacobian.norms(name), squares.sum(1).sqrt()),
            "sq_norms": (jacobian.sq_norms(name).sqrt(), squares.sum(1).sqrt()),
            "output_norms": (jacobian.output_norms(name), squares.mean(0).sqrt()),
            "spectral_norms": (jacobian.spectral_norms(name), spectral_of(rows)),
        }
        for quantity, (given, expected) in quantities.items():
            assert distance(given, expected, floor) <= TOLERANCE, (name, quantity)
        assert not jacobian.sq_norm_errors(name).any()


def test_many_architectures_are_covered() -> None:
    assert len(COVERED) >= 180


@every_case
def test_equal_to_plain_autograd(case: Case) -> None:
    jacobian = probed(case)
    wanted = of_case(case)
    check(jacobian, wanted)
    assert (jacobian.fallback is None) == (jacobian.method == "vmap")


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_vmap_refuses_goes_by_a_loop_that_says_why(case: Case) -> None:
    jacobian = probed(case)
    assert jacobian.method == "loop"
    assert jacobian.fallback is not None
    assert jacobian.fallback.startswith(("vmap cannot run it (", "vmap cannot differentiate it ("))
    assert "\n" not in jacobian.fallback


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("BatchNorm1d in training", "vmap cannot run it"),
        ("BatchNorm without running statistics", "other outputs than in the batch"),
        ("samples coupled by a mean", "other outputs than in the batch"),
        ("dropout in training", "draws random numbers"),
        ("noise on the weights", "draws random numbers"),
    ],
)
def test_coupled_and_random_outputs_are_those_of_the_batch(name: str, said: str) -> None:
    (case,) = (case for case in IN_TRAINING if case.name == name)
    jacobian = probed(case)
    assert jacobian.method == "loop"
    assert said in str(jacobian.fallback)


def test_rows_that_vmap_gets_wrong_are_found_out() -> None:
    """A forward that vmap runs and whose derivative is a lie to it."""

    class Lying(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return 2 * gradient if torch._C._functorch.is_batchedtensor(gradient) else gradient

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return Lying.apply(self.layer(x))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model, x = Model().double(), torch.randn(5, 4, dtype=torch.float64)
    jacobian = output_jacobian(model, x)
    assert jacobian.method == "loop"
    assert "differ from plain autograd's" in str(jacobian.fallback)
    check(jacobian, by_parameters(model, x))


def test_a_derivative_that_vmap_gets_wrong_for_several_cotangents_at_once() -> None:
    """torch's derivative of cdist is right under vmap for one cotangent, and wrong for two."""
    (case,) = (case for case in CASES if case.name == "cdist to learned centres (RBF)")
    jacobian = probed(case)
    assert jacobian.method == "loop"
    check(jacobian, of_case(case))


@pytest.mark.parametrize(
    ("kind", "training"), [("GPT2", True), ("Bert", False), ("Bert", True), ("Llama", False)]
)
def test_models_of_transformers_take_what_a_tokenizer_gives(kind: str, training: bool) -> None:
    """In training mode with dropout: plain autograd under the same random state."""
    model = language_model(kind).train(training)
    inputs = token_inputs()
    wanted = by_parameters(model, inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        jacobian = output_jacobian(model, inputs, mode="train", max_outputs=100)
    assert jacobian.output_shape == ((3,) if kind == "Bert" else (4, 11))
    check(jacobian, wanted)


def test_evaluation_mode_is_the_default() -> None:
    (case,) = (case for case in IN_TRAINING if case.name == "BatchNorm1d in training")
    jacobian = output_jacobian(case.build(), case.batch())
    assert jacobian.method == "vmap"
    check(jacobian, by_parameters(case.build().eval(), case.batch()))


def test_values_shapes_and_a_choice_of_parameters() -> None:
    case = next(case for case in CASES if case.name == "U-Net")
    model, batch = case.build(), case.batch()
    jacobian = output_jacobian(model, batch, parameters=["up.weight"], max_outputs=200)
    assert jacobian.names == ("up.weight",)
    assert (jacobian.samples, jacobian.outputs) == (3, 128)
    assert jacobian.output_shape == (2, 8, 8)
    assert torch.allclose(jacobian.values, model(*batch).flatten(1), rtol=1e-12)
    check(jacobian, {"up.weight": of_case(case)["up.weight"]})
    twice = output_jacobian(model, batch, parameters="up.weight", max_outputs=200, spectral=False)
    # Beside Gram matrices, which spectra are of, norms are read off these.
    assert torch.allclose(twice.norms("up.weight"), jacobian.norms("up.weight"), rtol=1e-12)


def test_a_parameter_named_twice_is_one() -> None:
    jacobian = output_jacobian(nn.Linear(4, 3), torch.ones(2, 4), parameters=["weight", "weight"])
    assert jacobian.names == ("weight",)


def test_tied_weights_stand_under_their_first_name_with_both_parts() -> None:
    case = next(case for case in CASES if case.name.startswith("tied embedding and head as mod"))
    jacobian = probed(case)
    assert "0.weight" in jacobian.names
    assert "2.weight" not in jacobian.names


def test_frozen_parameters_have_a_jacobian_too() -> None:
    case = next(case for case in CASES if case.name == "frozen layer in the middle")
    assert probed(case).norms("b.weight").all()


@pytest.mark.parametrize("budget", [1, 10_000])
@pytest.mark.parametrize("name", ["GLU", "LSTM behind an embedding", "residual MLP", "Conv1d"])
def test_a_small_memory_budget_gives_the_same(name: str, budget: int) -> None:
    case = next(case for case in CASES if case.name.startswith(name))
    whole, small = probed(case), probed(case, memory_budget=budget)
    for each in whole.names:
        for quantity in ("norms", "output_norms", "spectral_norms"):
            given, wanted = getattr(small, quantity)(each), getattr(whole, quantity)(each)
            assert torch.allclose(given, wanted, rtol=1e-10, atol=1e-12), (each, quantity)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["MLP", "LayerNorm", "Conv2d", "attention by hand, N equals T"])
def test_lower_precision_is_as_near_as_it_can_be(name: str, dtype: torch.dtype) -> None:
    case = next(case for case in CASES if case.name.startswith(name))
    wanted = of_case(case)
    jacobian = output_jacobian(case.build(dtype), case.batch(dtype), max_outputs=100)
    for each, rows in wanted.items():
        dense = jacobian.dense(each)
        assert dense.dtype == dtype
        assert jacobian.norms(each).dtype == torch.float64
        off = distance(dense.double(), rows, 0.1 * size_of(wanted))
        assert off <= 30 * torch.finfo(dtype).eps, each


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["MLP", "ConvNet, flattened maps", "LSTM", "GRU", "U-Net"])
def test_on_a_gpu(name: str) -> None:
    case = next(case for case in CASES if case.name.startswith(name))
    batch = tuple(part.cuda() for part in case.batch())
    jacobian = output_jacobian(case.build().cuda(), batch, mode="train", max_outputs=1000)
    for each, rows in of_case(case).items():
        floor = 1e-4 * size_of(of_case(case))
        assert distance(jacobian.dense(each).cpu(), rows, floor) <= TOLERANCE, each
        assert distance(jacobian.spectral_norms(each), spectral_of(rows), floor) <= TOLERANCE


def test_non_finite_rows_are_said_to_be_so() -> None:
    model = nn.Linear(2, 2).double()
    x = torch.tensor([[1.0, 2.0], [torch.inf, 1.0], [torch.nan, 0.0]], dtype=torch.float64)
    jacobian = output_jacobian(model, x)
    finite = torch.tensor([True, False, False])
    assert torch.equal(torch.isfinite(jacobian.norms("weight")), finite)
    assert torch.equal(torch.isfinite(jacobian.spectral_norms("weight")), finite)
    assert jacobian.norms("bias").tolist() == pytest.approx([2**0.5] * 3)
