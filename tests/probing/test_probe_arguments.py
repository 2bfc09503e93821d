"""What of a batch goes into a model, and what is to come out."""

from __future__ import annotations

import collections
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jacoscope.probing import ProbeError
from jacoscope.probing._batch import arguments_of, call_of, targets_of
from probing.probe_batches import Pair, rows, same


def named(input_ids: Tensor, attention_mask: Tensor | None = None, labels: Any = None) -> None: ...


def anything(*args: Any, **kwargs: Any) -> None: ...


X, Y = rows(), torch.arange(4)


@pytest.mark.parametrize(
    ("batch", "args", "kwargs"),
    [
        (X, (X,), {}),
        ([X, Y], (X,), {}),
        ((X, Y), (X,), {}),
        (Pair(X, Y), (X,), {}),
        ([[X, Y], Y], ([X, Y],), {}),
        ({"input_ids": X, "labels": Y}, (), {"input_ids": X}),
        ({"attention_mask": Y, "input_ids": X, "id": 3}, (), {"attention_mask": Y, "input_ids": X}),
        (({"input_ids": X, "labels": Y}, Y), (), {"input_ids": X}),
    ],
)
def test_arguments(batch: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    found = arguments_of(batch, named)
    assert same(found, (args, kwargs))


@pytest.mark.parametrize(
    ("path", "args", "kwargs"),
    [
        ("x", (X,), {}),
        ("pair", (X, Y), {}),
        ("list", (X, Y), {}),
        ("list.1", (Y,), {}),
        ("named", (), {"a": X, "labels": Y}),
        ("named.a", (X,), {}),
    ],
)
def test_arguments_at_a_path(path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    batch = {"x": X, "pair": (X, Y), "list": [X, Y], "named": {"a": X, "labels": Y}}
    assert same(arguments_of(batch, named, path), (args, kwargs))


@pytest.mark.parametrize(
    ("batch", "call", "path", "said"),
    [
        (
            {"image": X, "labels": Y},
            named,
            None,
            r"none of .*\(image, labels\).*\(input_ids, .*set",
        ),
        ({"labels": Y}, named, None, "none of the batch's keys"),
        (({"image": X},), named, None, "none of the batch's keys"),
        ([], named, None, "the batch is empty"),
        ({"image": X}, anything, "imgae", "did you mean 'image'"),
        ({"image": X}, anything, "image.x.y", "'image.x.y' is not in the batch"),
    ],
)
def test_arguments_that_are_not_to_be_had(batch: Any, call: Any, path: Any, said: str) -> None:
    with pytest.raises(ProbeError, match=said) as caught:
        arguments_of(batch, call, path)
    assert "\n" not in str(caught.value)


def test_a_forward_that_takes_any_name() -> None:
    """As in ``def forward(self, **inputs): return self.model(**inputs)``."""
    found = arguments_of({"input_ids": X, "labels": Y}, anything)
    assert same(found, ((), {"input_ids": X}))


# What is to come out.


@pytest.mark.parametrize(
    ("batch", "path", "expected"),
    [
        ((X, Y), None, Y),
        ({"x": X, "labels": Y}, None, Y),
        ({"x": X, "labels": Y[:, None]}, None, Y),
        ({"x": X, "id": Y, "label": Y + 1}, None, Y + 1),
        ({"x": X, "target": X + 1}, None, X + 1),
        ({"x": X, "y": X + 1}, None, X + 1),
        ({"a": {"x": X, "targets": X[:, 0]}}, None, X[:, 0]),
        ((X, X + 1), None, X + 1),
        ([X, X + 1], None, X + 1),
        (Pair(X, X + 1), None, X + 1),
        ({"x": X, "z": X + 1}, None, None),
        ((X, X + 1, X + 2), None, None),
        (X, None, None),
        ((X, "text"), None, None),
        ((X, torch.ones(7)), None, None),
        ({"x": X, "mine": Y}, "mine", Y),
        ({"x": X, "labels": Y, "mine": Y + 1}, "mine", Y + 1),
        ({"x": X, "mine": torch.arange(7)}, "mine", None),
        ({"x": X, "mine": "text"}, "mine", None),
        ({"x": X, "mine": torch.tensor(3)}, "mine", None),
    ],
)
def test_targets(batch: Any, path: str | None, expected: Tensor | None) -> None:
    found = targets_of(batch, 4, path)
    assert same(found, expected)


def test_targets_are_taken_without_history() -> None:
    targets = targets_of({"x": X, "y": rows().requires_grad_() * 2}, 4)
    assert targets is not None
    assert not targets.requires_grad


def test_the_function_that_a_path_names() -> None:
    model = nn.Sequential(collections.OrderedDict(body=nn.Linear(3, 2)))
    assert call_of(model, "", "forward") == model.forward
    assert call_of(model, "body", "extra_repr") == model.body.extra_repr
