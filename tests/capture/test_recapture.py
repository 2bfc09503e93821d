"""Later captures of one model: a plan is used again only where it still holds."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import jacoscope

_N = 5


class _Sorting(nn.Module):
    """Sorts its samples by what the first layer says, and works on in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).tanh()
        order = x[:, 0].argsort()
        hidden = self.second(hidden[order])
        return hidden[order.argsort()]


class _Routing(nn.Module):
    """Two experts with as many samples each, chosen by the data."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 6)
        self.experts = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.base(x).tanh()
        out = hidden.new_zeros(len(x), 3)
        for expert, is_chosen in zip(self.experts, (x[:, 0] < 0, x[:, 0] >= 0), strict=True):
            chosen = is_chosen.nonzero().flatten()
            out = out.index_add(0, chosen, expert(hidden[chosen]))
        return out


class _Dead(nn.Module):
    """A branch that starts at zero, so that nothing reaches it at first."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.zeros(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x + self.inside(x).tanh() * self.scale)
        return out


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(model(x), y)


def _reference(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    rows = [
        torch.autograd.grad(
            _loss(model, x[i : i + 1], y[i : i + 1]) / len(x),
            list(model.parameters()),
            allow_unused=True,
        )
        for i in range(len(x))
    ]
    return {
        name: torch.stack([torch.zeros_like(p) if r[k] is None else r[k] for r in rows])
        for k, (name, p) in enumerate(model.named_parameters())
    }


def _captured(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    model.zero_grad()
    loss = _loss(model, x, y)
    with jacoscope.capture(loss, model, batch_size=len(x), want="operator") as jacobians:
        loss.backward()
    return jacobians


@pytest.mark.parametrize("make", [_Sorting, _Routing])
def test_samples_that_move_about_are_followed(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randint(0, 3, (6,))
    x[:, 0] -= x[:, 0].median() + 1e-3  # as many samples for either expert
    x = x[x[:, 0].argsort()]  # in order at first, as if nothing moved
    for order in (torch.arange(6), torch.tensor([3, 1, 5, 0, 2, 4]), torch.arange(6).flip(0)):
        jacobians = _captured(model, x[order], y[order])
        assert jacobians.missing == {}
        for name, rows in _reference(model, x[order], y[order]).items():
            torch.testing.assert_close(jacobians[name].dense(), rows, rtol=1e-10, atol=1e-14)


def test_what_comes_to_life_is_found_again() -> None:
    torch.manual_seed(0)
    model = _Dead().double()
    x, y = torch.randn(_N, 4, dtype=torch.float64), torch.randint(0, 3, (_N,))
    seen = []
    for _ in range(4):
        jacobians = _captured(model, x, y)
        expected = _reference(model, x, y)
        for name in jacobians:
            torch.testing.assert_close(
                jacobians[name].dense(), expected[name], rtol=1e-10, atol=1e-14
            )
        seen.append(set(jacobians))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.5 * parameter.grad
    assert seen[-1] == dict(model.named_parameters()).keys()


def test_a_smaller_last_batch_and_the_next_full_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    for size in (_N, 2, 1, _N, 3):
        x, y = torch.randn(size, 4, dtype=torch.float64), torch.randint(0, 3, (size,))
        jacobians = _captured(model, x, y)
        assert jacobians.missing == {}
        for name, rows in _reference(model, x, y).items():
            torch.testing.assert_close(jacobians[name].dense(), rows, rtol=1e-10, atol=1e-14)


def test_captures_of_one_backward_do_not_disturb_one_another() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(_N, 4, dtype=torch.float64), torch.randint(0, 3, (_N,))
    expected = _reference(model, x, y)
    loss = _loss(model, x, y)
    with (
        jacoscope.capture(loss, model, batch_size=_N, want="operator") as outer,
        jacoscope.capture(loss, model, _N, ("gram",), parameters=["0.weight"]) as inner,
    ):
        assert jacoscope.verify(loss, model, batch_size=_N).ok
        loss.backward()
    assert outer.missing == inner.missing == {}
    for name, rows in expected.items():
        torch.testing.assert_close(outer[name].dense(), rows, rtol=1e-10, atol=1e-14)
    flat = expected["0.weight"].flatten(1)
    torch.testing.assert_close(inner["0.weight"].gram(), flat @ flat.T, rtol=1e-10, atol=1e-14)
