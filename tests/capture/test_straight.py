"""Linear layers whose rows are the samples go the short way, and get the same there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import jacoscope
from jacoscope.capturing import _closure, _straight

SAMPLES = 6
WANTS = ("row_sq_norms", "gram", "column_sq_norms", "sum")


class _Net(nn.Module):
    """Each way in which a linear layer's parameters can be used once, and some that do not count.

    The matrix of ``turned`` is (inputs, outputs); ``tied`` is used twice, ``scaled`` with factors,
    ``seen`` through a view; ``frozen`` has no bias that trains; ``sequence`` has three positions,
    and ``crossed`` has them outside of the samples.
    """

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(4, 5)
        self.bare = nn.Linear(5, 5, bias=False)
        self.turned = nn.Parameter(torch.randn(5, 7))
        self.bias = nn.Parameter(torch.randn(7))
        self.frozen = nn.Linear(7, 6)
        self.frozen.bias.requires_grad_(False)
        self.tied = nn.Linear(6, 6)
        self.scaled = nn.Linear(6, 5)
        self.seen = nn.Parameter(torch.randn(15))
        self.sequence = nn.Linear(3, 4)
        self.crossed = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bare(self.plain(x).tanh())
        x = torch.addmm(self.bias, x, self.turned).tanh()
        x = self.frozen(x)
        x = self.tied(self.tied(x).tanh())
        x = torch.addmm(self.scaled.bias, x, self.scaled.weight.T, alpha=0.5, beta=2.0)
        x = x @ self.seen.view(5, 3)
        x = self.sequence(torch.stack((x, 2 * x, x * x), 1)).tanh()
        return self.crossed(x.transpose(0, 1)).square().sum((0, 2))


def _captured(
    make: Callable[[], tuple[nn.Module, Tensor]],
) -> tuple[Any, set[str], dict[str, Tensor]]:
    """Jacobians, the parameters that went the short way, and the gradients."""
    model, loss = make()
    short: set[str] = set()
    right = _straight.Taken.jacobian

    def noted(taken: Any, name: str, *args: Any) -> Any:
        short.add(name)
        return right(taken, name, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_straight.Taken, "jacobian", noted)
        with jacoscope.capture(loss, model, SAMPLES, WANTS) as jacobians:
            loss.backward()
    return jacobians, short, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def _net(dtype: torch.dtype = torch.double) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = _Net().to(dtype)
    return model, model(torch.randn(SAMPLES, 4, dtype=dtype)).mean()


def test_which_layers_go_the_short_way() -> None:
    jacobians, short, _ = _captured(_net)
    assert not jacobians.missing
    assert short == {
        *("plain.weight", "plain.bias", "bare.weight", "turned", "bias", "frozen.weight"),
        *("sequence.weight", "sequence.bias"),
    }


def test_the_short_way_gives_what_the_long_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    short, names, _ = _captured(_net)
    monkeypatch.setattr(_straight, "_MATRIX", {})
    long, none, _ = _captured(_net)
    assert names
    assert not none
    for name in long:
        for want in WANTS:
            torch.testing.assert_close(
                getattr(short[name], want)(), getattr(long[name], want)(), rtol=1e-12, atol=1e-14
            )


def test_rows_are_the_samples_own_gradients() -> None:
    jacobians, short, _ = _captured(_net)
    torch.manual_seed(0)
    model = _Net().double()
    x = torch.randn(SAMPLES, 4, dtype=torch.double)
    names = sorted(short)
    parameters = dict(model.named_parameters())
    for sample in range(SAMPLES):
        loss = model(x)[sample] / SAMPLES
        grads = torch.autograd.grad(loss, [parameters[name] for name in names])
        for name, grad in zip(names, grads, strict=True):
            torch.testing.assert_close(
                jacobians[name].row_sq_norms()[sample], grad.square().sum(), rtol=1e-10, atol=1e-20
            )


def test_half_precision_goes_the_long_way() -> None:
    jacobians, short, _ = _captured(lambda: _net(torch.bfloat16))
    assert not short
    assert "plain.weight" in jacobians


@pytest.mark.parametrize("agree", [True, False])
def test_weight_and_bias_look_at_their_gradient_once(
    agree: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With positions only where it matters what rounding explains, as norms do not take it."""
    monkeypatch.setattr(_closure, "_agree", lambda *_: agree)
    sizes: list[torch.Size] = []
    norm = torch.linalg.vector_norm

    def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        sizes.append(tensor.shape)
        return norm(tensor, *args, **kwargs)

    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    for rows in (SAMPLES, SAMPLES * 4):
        loss = model(torch.randn(rows, 3)).view(SAMPLES, -1).sum(1).square().mean()
        with jacoscope.capture(loss, model, SAMPLES) as jacobians:
            loss.backward()
        assert not jacobians.missing
        loss = model(torch.randn(rows, 3)).view(SAMPLES, -1).sum(1).square().mean()
        with monkeypatch.context() as patch:
            patch.setattr(torch.linalg, "vector_norm", counted)
            sizes.clear()
            with jacoscope.capture(loss, model, SAMPLES):
                loss.backward()
        assert sizes.count(torch.Size((rows, 2))) == (rows == SAMPLES or not agree)


@pytest.mark.parametrize("graph", [False, True])
def test_a_backward_that_is_differentiated_again_holds_no_more(graph: bool) -> None:
    """Under ``create_graph`` gradients carry graphs of their own, which capture must not keep."""
    model, x = nn.Linear(3, 2), torch.randn(SAMPLES, 3)
    loss = functional.softplus(model(x)).mean()
    with jacoscope.capture(loss, model, SAMPLES, WANTS) as jacobians:
        loss.backward(create_graph=graph)
    assert not jacobians.missing
    for name in jacobians:
        for want in WANTS:
            assert not getattr(jacobians[name], want)().requires_grad
