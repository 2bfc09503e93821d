"""What all_else_equal refuses, in one sentence each."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jacoscope.probing import ProbeError, all_else_equal
from probing.step_cases import X, linear, mean_square, started
from probing.step_reference import LossOf


def counted() -> LossOf:
    calls = itertools.count()
    return lambda model: mean_square(model) + next(calls)


CHANGING: dict[str, Callable[[], LossOf]] = {
    "counter": counted,
    "time": lambda: lambda model: mean_square(model) * time.perf_counter(),
    "generator": lambda: (
        lambda generator: lambda model: mean_square(model) * torch.rand((), generator=generator)
    )(torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("name", CHANGING)
def test_a_loss_that_is_not_the_same_twice(name: str) -> None:
    model = linear()
    with pytest.raises(ProbeError, match=r"at the same parameters is \S+ once and \S+ the next"):
        all_else_equal(model, CHANGING[name](), started(model))


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda model: model(X), r"\(4, 1\)"),
        (lambda model: float(mean_square(model)), "float"),
        (lambda model: {"loss": mean_square(model)}, "dict"),
        (lambda model: None, "NoneType"),
        (lambda model: model(X).argmax(), r"\(\)"),
    ],
)
def test_a_loss_that_is_not_one_number(loss: LossOf, said: str) -> None:
    model = linear()
    rule = "not a tensor with one floating-point number"
    with pytest.raises(ProbeError, match=f"the loss is {said}, {rule}"):
        all_else_equal(model, loss, started(model))


def test_a_loss_of_one_element_is_a_number() -> None:
    model = linear()
    plain = all_else_equal(model, mean_square, started(model))
    assert all_else_equal(model, lambda m: mean_square(m).view(1, 1), started(model)) == plain


@pytest.mark.parametrize("argument", ["before", "after"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"0.wieght": torch.zeros(2, 3)}, r"did you mean '0.weight'\?"),
        ({"0.weight": torch.zeros(3, 2)}, r"has shape \(3, 2\), but the model's has \(2, 3\)"),
        ({"0.bias": torch.zeros(())}, r"has shape \(\), but the model's has \(2,\)"),
    ],
)
def test_parameters_that_do_not_fit(argument: str, given: dict[str, Tensor], said: str) -> None:
    model = linear()
    arguments = {"before": started(model), argument: given}
    with pytest.raises(ValueError, match=rf"^{argument}.*{said}"):
        all_else_equal(model, mean_square, **arguments)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"a": ["0.weight", "0.bais"]}, r"layers\['a'\] has '0.bais'.*did you mean '0.bias'\?"),
        ({"a": ["0.weight"], "b": ["0.weight"]}, "has '0.weight' twice"),
        ({"a": ["0.weight", "0.weight"]}, "has '0.weight' twice"),
    ],
)
def test_layers_that_do_not_fit(layers: dict[str, list[str]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        all_else_equal(linear(), mean_square, {}, layers=layers)


def test_a_layer_of_one_parameter_may_be_its_name() -> None:
    model = linear()
    result = all_else_equal(model, mean_square, started(model), layers={"head": "2.weight"})
    listed = all_else_equal(model, mean_square, started(model), layers={"head": ["2.weight"]})
    assert result == listed
    with pytest.raises(KeyError, match="did you mean 'head'"):
        result["haed"]


def test_a_loss_that_forgets_the_model_that_it_is_given() -> None:
    """A loss that closes over the model itself never moves; zeros would be a lie."""
    model = linear()
    with pytest.raises(ProbeError, match="depend"):
        all_else_equal(model, lambda _: mean_square(model), started(model))
