"""The first samples of a batch, in tensors of their own."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from jacoscope.probing._batch import first_samples
from probing.probe_batches import Frozen, Graph, Pair, Slotted, rows, same

BATCHES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "tensor": (rows, lambda: rows()[:2]),
    "pair": (lambda: [rows(), torch.arange(4)], lambda: [rows()[:2], torch.arange(2)]),
    "tuple": (lambda: (rows(), torch.arange(4)), lambda: (rows()[:2], torch.arange(2))),
    "dict": (lambda: {"x": rows(), 3: rows()}, lambda: {"x": rows()[:2], 3: rows()[:2]}),
    "nested": (
        lambda: {"a": [rows(), {"b": (rows(), "text")}], "c": None},
        lambda: {"a": [rows()[:2], {"b": (rows()[:2], "text")}], "c": None},
    ),
    "named tuple": (lambda: Pair(rows(), rows()), lambda: Pair(rows()[:2], rows()[:2])),
    "dataclass": (
        lambda: Graph(rows(), ["a", "b", "c", "d"], 0.5),
        lambda: Graph(rows()[:2], ["a", "b"], 0.5),
    ),
    "frozen dataclass": (lambda: Frozen(rows()), lambda: Frozen(rows()[:2])),
    "dataclass with slots": (lambda: Slotted(rows()), lambda: Slotted(rows()[:2])),
    "strings": (
        lambda: {"x": rows(), "text": ["a", "b", "c", "d"], "ids": ("1", "2", "3", "4")},
        lambda: {"x": rows()[:2], "text": ["a", "b"], "ids": ("1", "2")},
    ),
    "whole": (
        lambda: {"x": rows(), "names": ["all", "of", "them"], "rate": torch.tensor(0.5), "n": 4},
        lambda: {
            "x": rows()[:2],
            "names": ["all", "of", "them"],
            "rate": torch.tensor(0.5),
            "n": 4,
        },
    ),
    "another length": (
        lambda: (rows(), torch.ones(7, 2), torch.zeros(0)),
        lambda: (rows()[:2], torch.ones(7, 2), torch.zeros(0)),
    ),
    "ordered": (
        lambda: collections.OrderedDict(b=rows(), a=rows()),
        lambda: collections.OrderedDict(b=rows()[:2], a=rows()[:2]),
    ),
    "with a default": (
        lambda: collections.defaultdict(list, x=rows()),
        lambda: collections.defaultdict(list, x=rows()[:2]),
    ),
    "booleans": (lambda: {"mask": rows() > 2}, lambda: {"mask": rows()[:2] > 2}),
    "empty": (
        lambda: {"x": rows(), "none": [], "no": {}},
        lambda: {"x": rows()[:2], "none": [], "no": {}},
    ),
}


@pytest.mark.parametrize("name", BATCHES)
def test_first_samples(name: str) -> None:
    made, expected = BATCHES[name]
    batch = made()
    assert same(first_samples(batch, 4, 2), expected())
    assert same(batch, made()), "the batch itself is as it was"


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("wanted", [4, 9])
def test_all_of_a_small_batch(name: str, wanted: int) -> None:
    made, _ = BATCHES[name]
    assert same(first_samples(made(), 4, wanted), made())


def changed(batch: Any) -> None:
    """Overwrite every tensor in place, and what holds them."""
    if isinstance(batch, Tensor):
        batch.logical_not_() if batch.dtype == torch.bool else batch.fill_(77)
    elif isinstance(batch, collections.abc.Mapping):
        for value in batch.values():
            changed(value)
        batch["new"] = 1  # type: ignore[index]
    elif isinstance(batch, list | tuple):
        for value in batch:
            changed(value)
        if isinstance(batch, list):
            batch.append("new")
    elif dataclasses.is_dataclass(batch):
        for field in dataclasses.fields(batch):
            changed(getattr(batch, field.name))


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("wanted", [2, 4])
def test_a_copy_and_its_batch_go_their_own_ways(name: str, wanted: int) -> None:
    made, _ = BATCHES[name]
    batch = made()
    taken = first_samples(batch, 4, wanted)
    as_taken = first_samples(made(), 4, wanted)
    changed(batch)
    assert same(taken, as_taken)
    batch = made()
    changed(first_samples(batch, 4, wanted))
    assert same(batch, made())


@pytest.mark.parametrize("name", BATCHES)
def test_none_of_no_samples_is_a_copy_of_all(name: str) -> None:
    made, _ = BATCHES[name]
    batch = made()
    copied = first_samples(batch, 0, 0)
    assert same(copied, made())
    changed(batch)
    assert same(copied, made())


def test_a_list_with_an_entry_per_sample() -> None:
    """As in detection, where each image has boxes of its own."""
    images = torch.zeros(3, 2, 8, 8)
    boxes = [{"boxes": torch.full((n, 4), float(n)), "label": f"{n}"} for n in (1, 3, 2)]
    taken = first_samples((images, boxes), 3, 2)
    assert same(taken, (images[:2], boxes[:2]))
    taken[1][1]["boxes"].fill_(9)
    assert float(boxes[1]["boxes"].max()) == 3


def test_a_list_of_objects_per_sample_is_copied() -> None:
    batch = [Graph(rows(5), ["a"], float(n)) for n in range(3)]
    taken = first_samples({"x": rows(3), "graphs": batch}, 3, 2)["graphs"]
    assert same(taken, batch[:2])
    taken[0].nodes.fill_(9)
    assert float(batch[0].nodes[0, 0]) == 0


def test_tensors_are_taken_without_history() -> None:
    leaf = rows().requires_grad_()
    taken = first_samples({"x": leaf * 2}, 4, 2)
    assert not taken["x"].requires_grad
    assert torch.equal(taken["x"], 2 * rows()[:2])


def test_a_batch_of_the_transformers_library() -> None:
    """It stays what it is: people write ``batch.input_ids``."""
    from transformers import BatchEncoding

    batch = BatchEncoding({"input_ids": torch.arange(8).view(4, 2), "labels": torch.arange(4)})
    taken = first_samples(batch, 4, 2)
    assert taken["input_ids"].tolist() == [[0, 1], [2, 3]]
    taken["input_ids"].fill_(9)
    assert batch["input_ids"][0].tolist() == [0, 1]
    assert isinstance(taken, BatchEncoding)
    assert taken.input_ids.shape == (2, 2)


def test_outputs_of_the_transformers_library_as_a_batch() -> None:
    from transformers.modeling_outputs import BaseModelOutput

    batch = BaseModelOutput(last_hidden_state=rows())
    taken = first_samples(batch, 4, 2)
    assert isinstance(taken, BaseModelOutput)
    assert taken.last_hidden_state.shape == taken["last_hidden_state"].shape == (2, 3)
