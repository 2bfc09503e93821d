"""Models that keep more than parameters: lists of their parts, counters, data, loggers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchmetrics import MeanMetric

from jacoscope.probing import AllElseEqual, all_else_equal
from probing.step_cases import OPTIMIZERS, X, mean_square, started, stepped


def same(left: AllElseEqual, right: AllElseEqual) -> None:
    """All but how second derivatives came about, to rounding."""
    assert [share.layer for share in left.layers] == [share.layer for share in right.layers]
    for one, other in zip(left.layers, right.layers, strict=True):
        others = (other.predicted, other.second_order, other.actual)
        numbers = (one.predicted, one.second_order, one.actual)
        assert numbers == pytest.approx(others, rel=1e-12)
    assert left.second_order == pytest.approx(right.second_order, rel=1e-12)
    assert (left.before, left.after) == pytest.approx((right.before, right.after), rel=1e-12)


class Plain(nn.Module):
    """Two layers, reached by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 1)
        self.double()

    def weights(self) -> Any:
        return self.first.weight, self.last.weight

    def forward(self, x: Tensor) -> Tensor:
        first, last = self.weights()
        hidden = nn.functional.linear(x, first, self.first.bias).tanh()
        return nn.functional.linear(hidden, last, self.last.bias)


class Through(Plain):
    """The same, reached through something that holds the layers or their parameters."""

    def __init__(self, held: Callable[[Plain], Any], found: Callable[[Any], Any]) -> None:
        super().__init__()
        self.held, self.found = held(self), found

    def weights(self) -> Any:
        return self.found(self.held)


def _layers(model: Plain) -> list[nn.Module]:
    return [model.first, model.last]


HOLDERS: dict[str, tuple[Callable[[Plain], Any], Callable[[Any], Any]]] = {
    "list of layers": (_layers, lambda held: [layer.weight for layer in held]),
    "tuple of layers": (
        lambda model: tuple(_layers(model)),
        lambda held: [layer.weight for layer in held],
    ),
    "mapping of layers": (
        lambda model: {"a": _layers(model)},
        lambda held: [layer.weight for layer in held["a"]],
    ),
    "list of parameters": (
        lambda model: [layer.weight for layer in _layers(model)],
        lambda held: held,
    ),
    "method of a layer": (
        lambda model: [model.first.get_parameter, model.last.get_parameter],
        lambda held: [get("weight") for get in held],
    ),
}


@pytest.mark.parametrize(
    "name",
    HOLDERS,
)
def test_parts_of_a_model_in_its_attributes(name: str) -> None:
    """What such models compute is what the plain one computes, and so is all that is said."""
    results = []
    for made in (Plain, lambda: Through(*HOLDERS[name])):
        torch.manual_seed(0)
        model = made()
        before, _ = stepped(model, mean_square, OPTIMIZERS["sgd"])
        results.append(all_else_equal(model, mean_square, before))
    same(*results)


class Counting(nn.Module):
    """A loss that depends on what earlier calls have left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1).double()
        self.calls, self.seen = 0, [1.0]
        self.kept: dict[str, Any] = {}
        self.total = torch.ones((), dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(float(self.calls))
        self.total += 1
        self.kept["last"] = self.layer(x) * self.total * self.calls * sum(self.seen)
        self.made = self.kept["last"]
        return self.made


def test_every_evaluation_starts_from_the_same_attributes() -> None:
    torch.manual_seed(0)
    model = Counting()
    result = all_else_equal(model, mean_square, started(model))
    assert (model.calls, model.seen, model.kept, float(model.total)) == (0, [1.0], {}, 1.0)
    # What the first call multiplies by: one more of the total, one call, and both seen.
    plain = all_else_equal(
        model, lambda m: (m.layer(X) * 2 * 1 * 2).square().mean(), started(model)
    )
    assert result == plain


class Measured(nn.Module):
    """Updates a metric in its forward, as training steps do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.error = nn.Linear(3, 1).double(), MeanMetric()

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        self.error.update(found.detach().abs())
        return found


def test_a_metric_is_updated_in_the_forward() -> None:
    torch.manual_seed(0)
    model = Measured()
    model.error.update(2.0)
    result = all_else_equal(model, mean_square, started(model))
    assert (float(model.error.compute()), int(model.error.update_count)) == (2.0, 1)
    plain = all_else_equal(model, lambda m: m.layer(X).square().mean(), started(model))
    same(result, plain)
    assert result.missing is None


class Uncopied(TensorDataset):
    """Data that must be shared, however deep the model holds it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise AssertionError("data was copied")


class Logger:
    """Holds an open file, as loggers do."""

    def __init__(self, file: Any) -> None:
        self.file = file


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    with (tmp_path / "log").open("w") as file:
        yield file


def test_data_and_loggers_are_shared_however_held(opened: Any) -> None:
    model: Any = nn.Linear(3, 1).double()
    plain = all_else_equal(model, mean_square, started(model))
    model.data = {"train": Uncopied(X), "all": [Uncopied(X)]}
    model.loggers = [Logger(opened)]
    assert all_else_equal(model, mean_square, started(model)) == plain
