"""Random cotangents: right on average, and as far off as their standard errors say."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from capture.case import normal
from jacoscope.probing import (
    input_jacobian,
    layer_jacobian,
    neural_tangent_kernel,
    output_jacobian,
)
from probing.reference import by_input, by_module, by_parameters, gram

SEEDS = 100
SKETCHES = 64
OUTPUTS = 40


@functools.cache
def model_and_batch() -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        # outputs that have much in common: the harder case for random cotangents
        model = nn.Sequential(nn.Linear(36, 50), nn.Tanh(), nn.Linear(50, OUTPUTS)).double()
        return model, normal(3, 36)


def total_of_parameters(seed: int) -> tuple[Tensor, Tensor]:
    model, x = model_and_batch()
    kernel = neural_tangent_kernel(model, x, sketches=SKETCHES, seed=seed)
    return torch.tensor(kernel.trace()), torch.tensor(kernel.trace_error())


def norms_of_parameters(seed: int) -> tuple[Tensor, Tensor]:
    model, x = model_and_batch()
    jacobian = output_jacobian(model, x, parameters="0.weight", sketches=SKETCHES, seed=seed)
    return jacobian.sq_norms("0.weight"), jacobian.sq_norm_errors("0.weight")


def norms_of_input(seed: int) -> tuple[Tensor, Tensor]:
    model, x = model_and_batch()
    jacobian = input_jacobian(model, x, sketches=SKETCHES, seed=seed)
    return jacobian.sq_norms, jacobian.sq_norm_errors


def norms_of_layer(seed: int) -> tuple[Tensor, Tensor]:
    model, x = model_and_batch()
    jacobian = layer_jacobian(model, x, "0", "2", sketches=SKETCHES, seed=seed)
    return jacobian.sq_norms, jacobian.sq_norm_errors


def squares(rows: Tensor) -> Tensor:
    return rows.flatten(1).square().sum(1)


def exact_of(kind: str) -> Tensor:
    model, x = model_and_batch()
    if kind == "trace":
        return gram(by_parameters(model, x)).trace()
    if kind == "parameters":
        return squares(by_parameters(model, x)["0.weight"])
    return squares(by_input(model, (x,)) if kind == "input" else by_module(model, x, "0", "2"))


ESTIMATES: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
    "trace": total_of_parameters,
    "parameters": norms_of_parameters,
    "input": norms_of_input,
    "layer": norms_of_layer,
}


@functools.cache
def drawn(kind: str) -> tuple[Tensor, Tensor]:
    """Estimates and their standard errors over seeds, (SEEDS, …)."""
    pairs = [ESTIMATES[kind](seed) for seed in range(SEEDS)]
    return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])


every_kind = pytest.mark.parametrize("kind", list(ESTIMATES))


@every_kind
def test_within_three_standard_errors(kind: str) -> None:
    """Of 100 seeds at least 99; with 64 cotangents that is 3 σ of Student's t, 0.4 %."""
    values, errors = drawn(kind)
    exact = exact_of(kind)
    inside = (values - exact).abs() <= 3 * errors
    whole = inside if inside.dim() == 1 else inside[:, 0]
    assert int(whole.sum()) >= 99


@every_kind
def test_the_standard_error_is_not_too_large_either(kind: str) -> None:
    """The spread over seeds is the standard error that each of them states."""
    values, errors = drawn(kind)
    ratio = values.std(0) / errors.square().mean(0).sqrt()
    assert ((ratio > 0.8) & (ratio < 1.25)).all(), ratio


@every_kind
def test_the_mean_over_seeds_is_exact(kind: str) -> None:
    values, _ = drawn(kind)
    off = (values.mean(0) - exact_of(kind)) / (values.std(0) / SEEDS**0.5)
    assert (off.abs() < 3).all(), off


def test_the_kernel_over_samples_is_unbiased() -> None:
    model, x = model_and_batch()
    theta = gram(by_parameters(model, x))
    exact = theta.reshape(3, OUTPUTS, 3, OUTPUTS).diagonal(0, 1, 3).sum(-1)
    found = torch.stack(
        [neural_tangent_kernel(model, x, seed=seed).sample_kernel() for seed in range(SEEDS)]
    )
    off = (found.mean(0) - exact) / (found.std(0) / SEEDS**0.5)
    assert (off.abs() < 3.5).all(), off


def test_more_cotangents_are_nearer_by_their_root() -> None:
    model, x = model_and_batch()
    few, many = (
        torch.stack(
            [input_jacobian(model, x, sketches=k, seed=s).sq_norm_errors for s in range(20)]
        )
        for k in (16, 256)
    )
    ratio = few.square().mean().sqrt() / many.square().mean().sqrt()
    assert float(ratio) == pytest.approx(4, rel=0.25)


def test_seeds_tell_and_torchs_own_does_not() -> None:
    model, x = model_and_batch()
    torch.manual_seed(0)
    one = output_jacobian(model, x, seed=3).sq_norms("0.weight")
    torch.manual_seed(1)
    assert torch.equal(output_jacobian(model, x, seed=3).sq_norms("0.weight"), one)
    assert not torch.equal(output_jacobian(model, x, seed=4).sq_norms("0.weight"), one)


def test_outputs_that_do_not_overlap_are_exact() -> None:
    """Signs squared are one: where rows are orthogonal there is nothing to estimate."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model, x = nn.Linear(5, OUTPUTS).double(), normal(3, 5)
    jacobian = output_jacobian(model, x, sketches=2)
    assert not jacobian.is_exact
    wanted = squares(by_parameters(model, x)["weight"])
    assert torch.allclose(jacobian.sq_norms("weight"), wanted, rtol=1e-12)
    assert (jacobian.sq_norm_errors("weight") < 1e-12).all()


@pytest.mark.parametrize("budget", [1, 50_000, 2**28])
def test_the_memory_budget_changes_nothing(budget: int) -> None:
    model, x = model_and_batch()
    plain = output_jacobian(model, x, sketches=6)
    small = output_jacobian(model, x, sketches=6, memory_budget=budget)
    kernel = neural_tangent_kernel(model, x, sketches=6, memory_budget=budget)
    for name in plain.names:
        assert torch.allclose(small.sq_norms(name), plain.sq_norms(name), rtol=1e-10)
        traces = plain.sq_norms(name).sum()
        assert kernel.trace(name) == pytest.approx(float(traces), rel=1e-10)
    inputs = input_jacobian(model, x, sketches=6, memory_budget=budget)
    assert torch.allclose(inputs.sq_norms, input_jacobian(model, x, sketches=6).sq_norms)


def test_as_many_outputs_as_allowed_are_exact() -> None:
    model, x = model_and_batch()
    assert output_jacobian(model, x, max_outputs=OUTPUTS).is_exact
    assert not output_jacobian(model, x, max_outputs=OUTPUTS - 1).is_exact
    assert neural_tangent_kernel(model, x, max_outputs=OUTPUTS).is_exact
    assert input_jacobian(model, x, max_outputs=36).is_exact
    assert not input_jacobian(model, x, max_outputs=35).is_exact


ENUMERATE = (
    r"[^.\n]*\b40\b[^.\n]*too many to enumerate[^.\n]*; raise max_outputs, or take an output"
)


@pytest.mark.parametrize("figure", ["output_norms", "spectral_norms"])
def test_norms_that_take_every_output_are_refused(figure: str) -> None:
    jacobian = output_jacobian(*model_and_batch())
    with pytest.raises(ValueError, match=rf"^{figure} needs a row per output{ENUMERATE}"):
        getattr(jacobian, figure)("0.weight")


@pytest.mark.parametrize(
    "figure", ["eigenvalues", "condition", "effective_rank", "kernel", "spectrum"]
)
def test_a_sketch_of_a_kernel_has_no_spectrum(figure: str) -> None:
    kernel = neural_tangent_kernel(*model_and_batch())
    assert not kernel.is_exact
    with pytest.raises(ValueError, match="raise max_outputs, or take an output with fewer") as info:
        getattr(kernel, figure)()
    assert "(40 per sample)" in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("figure", ["spectral_norms", "conditions"])
def test_a_sketch_of_an_input_jacobian_has_no_singular_values(figure: str) -> None:
    jacobian = input_jacobian(*model_and_batch())
    assert jacobian.singular_values is None
    with pytest.raises(ValueError, match=r"40 outputs × 36 inputs are too many") as info:
        getattr(jacobian, figure)
    assert re.search("; raise max_outputs, or take an output with fewer$", str(info.value))


def test_a_dense_jacobian_can_still_be_had() -> None:
    """It was only too much to enumerate unasked."""
    model, x = model_and_batch()
    rows = by_parameters(model, x)["0.weight"]
    assert torch.allclose(output_jacobian(model, x).dense("0.weight"), rows, rtol=1e-10, atol=1e-12)
    assert torch.allclose(input_jacobian(model, x).dense(), by_input(model, (x,)), atol=1e-12)


def test_what_a_sketch_says_of_itself() -> None:
    model, x = model_and_batch()
    assert "sketched by 16 cotangents" in str(output_jacobian(model, x))
    assert "sketched by 16 cotangents" in str(input_jacobian(model, x))
    assert "sketched" in str(neural_tangent_kernel(model, x))
