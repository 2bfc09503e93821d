"""Rows that exceed the memory budget are made anew when they are asked for, or withheld."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import jacoscope

_N = 6


class _Big(nn.Module):
    """A weight-normalised layer and one that goes by the generic rule."""

    def __init__(self) -> None:
        super().__init__()
        self.normed = parametrizations.weight_norm(nn.Linear(8, 12))
        self.pair = nn.Bilinear(12, 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.normed(x).tanh()
        out: Tensor = self.pair(hidden, hidden.cos())
        return out


def _captured(want: Any, budget: int) -> Any:
    torch.manual_seed(0)
    model = _Big().double()
    loss = model(torch.randn(_N, 8, dtype=torch.float64)).square().sum(1).mean()
    with jacoscope.capture(
        loss, model, batch_size=_N, want=want, memory_budget=budget
    ) as jacobians:
        loss.backward()
    return jacobians


_WANTS = ("row_sq_norms", "gram", "column_sq_norms", "sum")


@pytest.mark.parametrize("budget", [1, 800, 5000])
def test_a_small_budget_changes_no_number(budget: int) -> None:
    whole, streamed = _captured(_WANTS, 1 << 28), _captured(_WANTS, budget)
    assert streamed.missing == {}
    assert set(streamed) == set(whole)
    assert streamed.coverage == 1
    for name in whole:
        for want in _WANTS:
            expected = getattr(whole[name], want)()
            torch.testing.assert_close(
                getattr(streamed[name], want)(), expected, rtol=1e-11, atol=1e-13
            )
        assert streamed.closure[name] < 1e-10


def test_an_operator_that_lives_on_the_graph_is_withheld() -> None:
    jacobians = _captured("operator", 800)
    assert {"pair.weight", "normed.parametrizations.weight.original1"} == set(jacobians.missing)
    for reason in jacobians.missing.values():
        assert "memory_budget" in reason


def test_a_gradient_changed_on_its_way_is_withheld_where_rows_are_streamed() -> None:
    torch.manual_seed(0)
    model = _Big().double()
    model.pair.weight.register_hook(lambda grad: 2 * grad)
    loss = model(torch.randn(_N, 8, dtype=torch.float64)).square().sum(1).mean()
    with jacoscope.capture(loss, model, batch_size=_N, memory_budget=800) as jacobians:
        loss.backward()
    assert set(jacobians.missing) == {"pair.weight"}
