"""Θ = J Jᵀ against the dense Jacobian, its figures against formulas, and what must hold of it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from capture.architectures import CASES
from capture.case import Case, Net, normal
from jacoscope.probing import NeuralTangentKernel, _rows, neural_tangent_kernel
from probing.probed_models import EXTRA
from probing.reference import by_parameters, distance, gram, of_case

NAMES = (
    "MLP", "U-Net", "LSTM", "GRU's last state", "PReLU between layers",
    "TransformerEncoderLayer", "tied embedding and head", "Embedding with sparse gradients",
    "weight_norm, old", "spectral_norm, old, evaluation", "Conv2d channels last",
    "BatchNorm1d in training", "ResNet with batch norm in training", "dropout in training",
    "TransformerEncoderLayer with dropout in training", "LSTM with dropout between its layers",
    "noise on the weights", "samples coupled by a mean", "autograd function that has no vmap",
    "control flow that depends on data", "a number in Python within the forward",
    "temperature of zero dimensions", "cdist to learned centres (RBF)", "transformers ViT",
    "transformers Llama",
)  # fmt: skip
# Many passes for what others show too.
WHOLE = ("U-Net", "Conv2d channels last", "transformers ViT", "transformers Llama")
BY_NAME = {case.name: case for case in (*CASES, *EXTRA)}

every_case = pytest.mark.parametrize("case", [BY_NAME[name] for name in NAMES], ids=str)
some_cases = pytest.mark.parametrize(
    "case", [BY_NAME[name] for name in ("MLP", "LSTM", "dropout in training")], ids=str
)


def kernel_of(case: Case, memory_budget: int = 2**28) -> NeuralTangentKernel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return neural_tangent_kernel(
            case.build(),
            case.batch(),
            mode="train",
            max_outputs=200,
            memory_budget=memory_budget,
        )


def near(given: Tensor, wanted: Tensor) -> bool:
    return distance(given, wanted, 1e-300) <= 1e-10


def small(seed: int = 0, outputs: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs)).double()


def drawn(seed: int, *shape: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return normal(*shape)


@every_case
def test_equal_to_the_dense_product(case: Case) -> None:
    rows = of_case(case)
    kernel = kernel_of(case)
    theta = gram(rows)
    n, c = next(iter(rows.values())).shape[:2]
    assert kernel.names == tuple(rows)
    assert not kernel.missing
    assert (kernel.samples, kernel.outputs) == (n, c)
    assert near(kernel.gram(), theta)
    assert near(kernel.kernel(), theta.reshape(n, c, n, c))
    assert near(kernel.sample_kernel(), theta.reshape(n, c, n, c).diagonal(0, 1, 3).sum(-1))
    assert near(kernel.eigenvalues(), torch.linalg.eigvalsh(theta).flip(0))
    assert kernel.trace() == pytest.approx(float(theta.trace()), rel=1e-10)
    assert kernel.trace_error() == 0.0


@every_case
def test_parameters_add_up(case: Case) -> None:
    rows = of_case(case)
    kernel = kernel_of(case)
    scale = float(gram(rows).norm())
    for name in rows:
        assert distance(kernel.gram(name), gram({name: rows[name]}), 1e-4 * scale) <= 1e-10, name
    some = list(rows)[::2]
    assert near(kernel.gram(some), gram({name: rows[name] for name in some}))
    assert near(torch.stack([kernel.gram(name) for name in rows]).sum(0), kernel.gram())


@pytest.mark.parametrize("case", [BY_NAME[name] for name in NAMES if name not in WHOLE], ids=str)
def test_blocks_of_rows_give_the_same(case: Case) -> None:
    """A row or a few at a time: by forward mode where there is one, else block by block."""
    assert near(kernel_of(case, 5_000).gram(), gram(of_case(case)))


@some_cases
def test_one_row_at_a_time_gives_the_same(case: Case) -> None:
    kernel = kernel_of(case, 1)
    for name, rows in of_case(case).items():
        assert near(kernel.gram(name), gram({name: rows})), name


def test_no_budget_hides_what_vmap_gets_wrong() -> None:
    """torch's derivative of cdist is right under vmap for one cotangent, and wrong for two."""
    model = Net(lambda m, x: torch.cdist(x, m.centres), centres=nn.Parameter(drawn(3, 2, 4)))
    x = drawn(4, 2, 4)
    theta = gram(by_parameters(model, x))
    for budget in (int(1.3**k) for k in range(12, 36)):
        assert near(neural_tangent_kernel(model, x, memory_budget=budget).gram(), theta), budget


@pytest.mark.parametrize("name", ["LSTM", "autograd function that has no vmap"])
def test_blocks_without_forward_mode_are_of_inner_products(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LSTM has forward mode outside its fused kernel alone; a function by hand has none at all."""

    def refuse(*args: object) -> None:
        raise NotImplementedError("no forward mode")

    monkeypatch.setattr(_rows.Rows, "along", refuse)
    case = BY_NAME[name]
    assert near(kernel_of(case, 4_000).gram(), gram(of_case(case)))


def entropy_rank(eigenvalues: Tensor) -> float:
    shares = [float(v) for v in eigenvalues / eigenvalues.sum() if v > 0]
    return math.exp(-sum(p * math.log(p) for p in shares))


@some_cases
def test_figures_of_the_spectrum(case: Case) -> None:
    values = torch.linalg.eigvalsh(gram(of_case(case)))
    kernel = kernel_of(case)
    together = kernel.spectrum()
    assert torch.equal(together.values, kernel.eigenvalues())
    assert (together.condition, together.effective_rank) == (
        kernel.condition(),
        kernel.effective_rank(),
    )
    assert kernel.effective_rank() == pytest.approx(entropy_rank(values), rel=1e-9)
    if values[0] > 1e-9 * values[-1]:
        assert kernel.condition() == pytest.approx(float(values[-1] / values[0]), rel=1e-4)


def test_condition_of_a_singular_kernel_is_infinite() -> None:
    model, x = small(), drawn(1, 3, 4)
    assert neural_tangent_kernel(model, x).condition() < 1e6
    twins = neural_tangent_kernel(model, x[[0, 1, 0]])
    assert twins.condition() == math.inf
    in_float = neural_tangent_kernel(model.float(), x[[0, 1, 0]].float())
    assert in_float.condition() == math.inf
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    only_weight = neural_tangent_kernel(model, x.float(), parameters=["0.weight"])
    assert math.isnan(only_weight.condition())


@pytest.mark.parametrize(
    ("smallest", "precision", "condition"),
    [(1e-12, 2.0**-52, 1e12), (1e-17, 2.0**-52, math.inf), (1e-8, 2.0**-23, math.inf),
     (-1e-17, 2.0**-52, math.inf), (0.25, 2.0**-23, 4.0)],
)  # fmt: skip
def test_an_eigenvalue_within_rounding_of_zero_is_zero(
    smallest: float, precision: float, condition: float
) -> None:
    theta = torch.diag(torch.tensor([0.5, 1.0, smallest], dtype=torch.float64))
    kernel = NeuralTangentKernel(3, 1, {"weight": theta}, True, precision)
    assert kernel.condition() == pytest.approx(condition, rel=1e-3)


def alignment(kernel_NN: Tensor, targets_ND: Tensor) -> float:
    """⟨HKH, HYH⟩ / (‖HKH‖ ‖HYH‖) with the centring matrix H = 1 − 𝟏𝟏ᵀ/N."""
    n = len(kernel_NN)
    H = torch.eye(n, dtype=torch.float64) - 1 / n
    K, Y = H @ kernel_NN @ H, H @ targets_ND @ targets_ND.T @ H
    return float((K @ Y).trace() / ((K @ K).trace() * (Y @ Y).trace()).sqrt())


@pytest.mark.parametrize("kind", ["classes", "numbers", "vectors", "several labels"])
def test_alignment_with_the_targets(kind: str) -> None:
    model, x = small(), drawn(1, 6, 4)
    classes = torch.tensor([2, 0, 1, 1, 0, 7])
    targets, features = {
        "classes": (classes, (classes[:, None] == torch.tensor([0, 1, 2, 7])).double()),
        "numbers": (drawn(2, 6), drawn(2, 6)[:, None]),
        "vectors": (drawn(2, 6, 2, 2), drawn(2, 6, 2, 2).flatten(1)),
        "several labels": (
            torch.tensor([[0, 1], [1, 0], [0, 1], [1, 1], [1, 0], [0, 0]]),
            torch.eye(4, dtype=torch.float64)[[0, 1, 0, 2, 1, 3]],
        ),
    }[kind]
    rows = by_parameters(model, x)
    n, c = rows["0.bias"].shape[:2]
    samples_NN = gram(rows).reshape(n, c, n, c).diagonal(0, 1, 3).sum(-1)
    kernel = neural_tangent_kernel(model, x)
    assert kernel.alignment(targets) == pytest.approx(alignment(samples_NN, features), rel=1e-10)
    one = gram({"2.weight": rows["2.weight"]}).reshape(n, c, n, c).diagonal(0, 1, 3).sum(-1)
    assert kernel.alignment(targets, "2.weight") == pytest.approx(alignment(one, features))
    assert math.isnan(kernel.alignment(torch.ones(6, dtype=torch.long)))


def test_drift_is_a_distance_of_directions() -> None:
    x = drawn(1, 5, 4)
    model, other = small(0), small(1)
    now, then = neural_tangent_kernel(other, x), neural_tangent_kernel(model, x)
    a, b = gram(by_parameters(other, x)), gram(by_parameters(model, x))
    wanted = 1 - float((a @ b.T).trace() / ((a @ a).trace() * (b @ b).trace()).sqrt())
    assert now.drift(then) == pytest.approx(wanted, rel=1e-10)
    assert then.drift(now) == pytest.approx(wanted, rel=1e-10)
    assert abs(now.drift(now)) < 1e-15
    assert now.drift(then, "0.weight") != pytest.approx(wanted)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(seed=st.integers(0, 99), factor=st.floats(-100, 100).filter(lambda f: abs(f) > 1e-2))
def test_scaling_the_outputs_scales_the_kernel(seed: int, factor: float) -> None:
    class Scaled(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return factor * self.model(x)

    model, x = small(seed), drawn(seed + 1, 4, 4)
    plain, scaled = neural_tangent_kernel(model, x), neural_tangent_kernel(Scaled(model), x)
    assert near(scaled.gram(), factor**2 * plain.gram())
    assert abs(scaled.drift(plain)) < 1e-12
    assert scaled.effective_rank() == pytest.approx(plain.effective_rank(), rel=1e-9)
    assert scaled.condition() == pytest.approx(plain.condition(), rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), order=st.permutations(range(5)))
def test_permuting_the_samples_permutes_the_kernel(seed: int, order: list[int]) -> None:
    model, x = small(seed), drawn(seed + 1, 5, 4)
    plain, permuted = neural_tangent_kernel(model, x), neural_tangent_kernel(model, x[order])
    assert near(permuted.kernel(), plain.kernel()[order][:, :, order])
    assert near(permuted.sample_kernel(), plain.sample_kernel()[order][:, order])
    targets = drawn(seed + 2, 5)
    assert permuted.alignment(targets[order]) == pytest.approx(plain.alignment(targets), abs=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_rotating_the_outputs_keeps_the_spectrum(seed: int) -> None:
    model, x = small(seed), drawn(seed + 1, 4, 4)
    Q = torch.linalg.qr(drawn(seed + 2, 3, 3))[0]

    class Rotated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x) @ Q.T

    plain, rotated = neural_tangent_kernel(model, x), neural_tangent_kernel(Rotated(), x)
    assert near(rotated.eigenvalues(), plain.eigenvalues())
    assert near(rotated.kernel(), torch.einsum("ac,icjd,bd->iajb", Q, plain.kernel(), Q))
    assert near(rotated.sample_kernel(), plain.sample_kernel())


def test_a_kernel_that_is_not_finite_has_no_spectrum() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [torch.nan, 0.0, 0.0, 0.0]], dtype=torch.float64)
    kernel = neural_tangent_kernel(small(), x)
    assert kernel.eigenvalues().isnan().all()
    assert math.isnan(kernel.condition())
    assert math.isnan(kernel.effective_rank())


def test_what_it_says_of_itself() -> None:
    kernel = neural_tangent_kernel(small(), drawn(1, 3, 4))
    assert str(kernel).startswith("NeuralTangentKernel(3 samples × 3 outputs, exact, 4 parameters")
    with pytest.raises(KeyError, match=r"no kernel of '0.wieght'; did you mean '0.weight'\?"):
        kernel.gram("0.wieght")
