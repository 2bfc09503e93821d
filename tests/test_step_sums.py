"""Whether the backwards of a step add up to the gradient that the optimiser was given."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from jacoscope.capturing import Versions
from jacoscope.gathering import _Notice, _whole
from jacoscope.sample_results import StepSum, not_closed


def sums(total: float, grad: float, tolerance: float = 1e-9) -> dict[str, StepSum]:
    return {"w": StepSum(total, 2.0, grad, tolerance)}


def test_one_process() -> None:
    assert not not_closed([{}])
    assert not not_closed([sums(1.0, 1.0 + 1e-9)])
    assert list(not_closed([sums(1.0, 1.0 + 1e-8)])) == ["w"]
    assert "do not add up to the one that the optimiser got" in not_closed([sums(1.0, 2.0)])["w"]


@pytest.mark.parametrize(("total", "grad"), [(1.0, math.nan), (math.nan, 1.0), (1.0, math.inf)])
def test_what_is_not_finite_is_not_closed(total: float, grad: float) -> None:
    assert not_closed([sums(total, grad)])


def test_several_processes_average_their_gradients() -> None:
    assert not not_closed([sums(1.0, 2.0), sums(3.0, 2.0)])
    assert not_closed([sums(1.0, 4.0), sums(3.0, 4.0)]), "their sum"
    assert not not_closed([sums(1.0, 2.001), sums(3.0, 2.001)]), "compressed on its way"


def test_versions_tell_what_was_changed_in_place() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    versions = Versions(model.parameters())
    with torch.no_grad():
        model.bias.add_(1)
    assert not versions.changed(), "it does not train"
    model(torch.ones(1, 2)).sum().backward()
    assert not versions.changed()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert versions.changed() == {id(model.weight)}
    with torch.inference_mode():
        inside = nn.Linear(2, 2)
    assert not Versions(inside.parameters()).changed(), "it keeps no version"


def test_what_is_not_closed_is_missing_from_the_whole_of_all_processes() -> None:
    notices = [_Notice(3, 4, {}, None, {}, sums(total, 9.0)) for total in (1.0, 3.0)]
    whole = _whole(notices)
    assert whole.samples == 8
    assert "do not add up" in whole.missing["w"]
