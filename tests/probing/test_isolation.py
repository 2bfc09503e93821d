"""A probe leaves no trace: not in the model, not in random states, not when it fails."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jacoscope.probing import ProbeError, all_else_equal
from jacoscope.probing._isolation import Randomness, isolated, without_fused_kernels
from probing.probe_traces import Busy, made_busy, traces, use_all
from probing.step_cases import normal


def draws() -> tuple[float, float, float]:
    """The next number of each random source, which all stay where they are."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    found = float(torch.rand(())), float(np.random.rand()), random.random()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    return found


def modes() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
    )


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "plain": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("fails", [False, True])
def test_what_is_set_within_is_set_back(context: str, fails: bool) -> None:
    with CONTEXTS[context]():
        torch.backends.mha.set_fastpath_enabled(True)
        before, next_draws = modes(), draws()
        with pytest.raises(ZeroDivisionError) if fails else nullcontext(), isolated():
            use_all()
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
            assert not torch.backends.mha.get_fastpath_enabled()
            assert not torch.backends.cuda.flash_sdp_enabled()
            assert torch.backends.cuda.math_sdp_enabled()
            with without_fused_kernels():
                assert not torch.backends.cudnn.enabled
                if fails:
                    raise ZeroDivisionError
        assert modes() == before
        assert draws() == next_draws


@pytest.mark.parametrize(
    "use", [lambda: torch.rand(1), np.random.rand, random.random, np.random.randn]
)
def test_random_states_are_gone_back_to(use: Callable[[], Any]) -> None:
    moment = Randomness()
    next_draws = draws()
    assert not moment.has_been_used()
    use()
    assert moment.has_been_used()
    assert draws() != next_draws
    moment.restore()
    assert draws() == next_draws
    assert not moment.has_been_used()


def _raising(model: Busy) -> Tensor:
    model(torch.ones(5, 3, dtype=torch.float64))
    raise ZeroDivisionError


def _raising_later() -> Callable[[Any], Tensor]:
    left = iter(range(4))

    def loss(model: Any) -> Tensor:
        next(left)
        return model(torch.ones(5, 3, dtype=torch.float64)).mean()

    return loss


@pytest.fixture
def busy() -> Busy:
    return made_busy()


LOSSES: dict[str, tuple[Callable[[], Callable[[Any], Tensor]], type[Exception] | None]] = {
    "fine": (
        lambda: lambda model: model(torch.ones(5, 3, dtype=torch.float64)).square().mean(),
        None,
    ),
    "raises": (lambda: _raising, ZeroDivisionError),
    "raises at the fourth call": (_raising_later, StopIteration),
    "not one number": (lambda: lambda model: model(torch.ones(5, 3).double()), ProbeError),
    "changes": (lambda: lambda model: torch.tensor(random.SystemRandom().random()), ProbeError),
    "sets modes": (
        lambda: lambda model: model.eval()(normal(5, 3)).square().mean(),
        None,
    ),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_disturbed(busy: Busy, name: str, context: str) -> None:
    make, error = LOSSES[name]
    before = {n: p.detach() + 0.1 for n, p in busy.named_parameters()}
    given = {n: (t.tolist(), t._version) for n, t in before.items()}
    with CONTEXTS[context]():
        trace, next_draws, settings = traces(busy), draws(), modes()
        with pytest.raises(error) if error else nullcontext():
            all_else_equal(busy, make(), before)
        assert traces(busy) == trace
        assert draws() == next_draws
        assert modes() == settings
    assert {n: (t.tolist(), t._version) for n, t in before.items()} == given


def test_the_mode_of_the_caller_changes_no_number(busy: Busy) -> None:
    before = {n: p.detach() + 0.1 for n, p in busy.named_parameters()}
    results = []
    for context in CONTEXTS.values():
        torch.manual_seed(1)
        with context():
            results.append(all_else_equal(busy, LOSSES["fine"][0](), before))
    assert all(result == results[0] for result in results)
    assert results[0].missing is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.gpu
def test_random_states_of_a_cuda_device() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    state = torch.cuda.get_rng_state(device)
    moment = Randomness({device})
    with isolated({device}):
        first = torch.rand(3, device=device)
        assert moment.has_been_used()
        moment.restore()
        assert torch.equal(torch.rand(3, device=device), first)
    assert torch.equal(torch.cuda.get_rng_state(device), state)
