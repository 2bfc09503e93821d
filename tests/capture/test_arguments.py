"""What ``capture`` and ``verify`` are given: refused in one sentence, or used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jacoscope

SAMPLES = 4


class Tied(nn.Module):
    """Two layers with one weight, one with a bias, and a parameter of no elements."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.b.bias.requires_grad_(False)
        self.e = nn.Parameter(torch.empty(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b(self.a(x).tanh()), x @ self.e.T], 1)


def capture(model: nn.Module, batch_size: Any = SAMPLES, **options: Any) -> jacoscope.Jacobians:
    loss = model(torch.randn(SAMPLES, 3)).square().sum(1).mean()
    with jacoscope.capture(loss, model, batch_size, **options) as jacobians:
        loss.backward()
    return jacobians


def verify(model: nn.Module, batch_size: Any = SAMPLES, **options: Any) -> jacoscope.Verification:
    loss = model(torch.randn(SAMPLES, 3)).square().sum(1).mean()
    return jacoscope.verify(loss, model, batch_size, **options)


both = pytest.mark.parametrize("call", [capture, verify])

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"custom_functions": "rnu"}, "custom_functions is 'rnu'; write 'withhold' or 'run'"),
    ({"memory_budget": 0}, "memory_budget must be an integer of 1 or more, got 0"),
    ({"memory_budget": -5}, "memory_budget must be an integer of 1 or more, got -5"),
    ({"memory_budget": "1"}, "memory_budget must be an integer of 1 or more, got '1'"),
    ({"batch_dim": "0"}, "batch_dim must be an integer from 0 to 63, got '0'"),
    ({"batch_dim": 99}, "batch_dim must be an integer from 0 to 63, got 99"),
    ({"batch_dim": -1}, "batch_dim must be an integer from 0 to 63, got -1"),
    ({"batch_size": True}, "batch_size must be an integer of 1 or more, got True"),
    ({"batch_size": 4.0}, "batch_size must be an integer of 1 or more, got 4.0"),
    ({"samples": range(4), "batch_size": "4"}, "batch_size must be an integer of 1 or more"),
    ({"parameters": ["c"]}, "'c', which is not a parameter of the model; valid names are a.weight"),
    ({"parameters": "a.wieght"}, "did you mean 'a.weight'?"),
    ({"parameters": ["e"]}, "parameters has 'e', which has no elements; leave it out"),
    ({"parameters": ["b.bias"]}, "parameters has 'b.bias', which requires no gradient"),
    ({"parameters": [3]}, "parameters has something of type int; write names"),
]


@both
@pytest.mark.parametrize(("options", "told"), MISTAKES)
def test_a_mistake_is_one_sentence(
    call: Callable[..., Any], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=r".+") as raised:
        call(Tied(), **options)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("count", [-1, "2", 1.5, None])
def test_how_many_samples_to_check(count: Any) -> None:
    with pytest.raises(ValueError, match="verify must be an integer of 0 or more, got"):
        capture(Tied(), verify=count)
    with pytest.raises(ValueError, match="count must be an integer of 1 or more, got"):
        verify(Tied(), count=count)
    assert capture(Tied(), verify=0).coverage == 1


@both
@pytest.mark.parametrize("size", [np.int64(SAMPLES), np.uint8(SAMPLES)])
def test_integers_of_numpy(call: Callable[..., Any], size: Any) -> None:
    assert call(Tied(), size).coverage == 1


@pytest.mark.parametrize("names", [None, "a.weight", ["b.weight"], ["b.weight", "a.weight"]])
def test_a_tied_parameter_answers_to_each_of_its_names(names: Any) -> None:
    jacobians = capture(Tied(), parameters=names)
    assert list(jacobians) == ["a.weight"]
    assert len(jacobians) == 1
    assert jacobians["b.weight"] is jacobians["a.weight"]
    assert jacobians.get("b.weight") is jacobians["a.weight"]
    assert "b.weight" in jacobians
    assert "b.bias" not in jacobians
    assert 3 not in jacobians
    verification = verify(Tied(), parameters=names)
    assert [row.parameter for row in verification.rows] == ["a.weight"]


def test_a_tied_parameter_that_is_missing_says_why_by_each_name() -> None:
    model = Tied()
    loss = model(torch.ones(SAMPLES, 3)).mean()
    unfinished = pytest.raises(KeyError, match="the capture has not ended")
    with jacoscope.capture(loss, model, SAMPLES) as jacobians, unfinished:
        jacobians["b.weight"]
    assert "b.weight" not in jacobians
    with pytest.raises(KeyError, match=r"'b\.weight' is missing: "):
        jacobians["b.weight"]


def test_where_nothing_is_watched_no_share_is_given() -> None:
    jacobians = capture(Tied(), parameters=[])
    assert repr(jacobians) == "Jacobians(0 parameters, 0 missing, nothing was watched)"
    assert repr(capture(Tied())) == "Jacobians(1 parameters, 0 missing, 100.0% of scalars)"
