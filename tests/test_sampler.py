"""Ids of samples are their places in the dataset, however they were drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from helpers import trainer
from jacoscope import Monitor
from jacoscope._sampler import SampledIndices
from sample_training import (
    Learner,
    cross_entropies,
    fit,
    into_memory,
    loader_of,
    perceptron,
    places,
    rows_of_pairs,
    watching,
)

SAMPLES = 44
SOURCE = "dataset index"


class Told:
    """What the callback tells the monitor of each batch, beside what the batch itself says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ids: list[list[Any] | None] = []
        self.true: list[list[int]] = []
        self.sources: set[str] = set()
        whole = Monitor.begin_batch

        def begin_batch(monitor: Monitor, batch: Any, ids: Any = None) -> None:
            self.ids.append(None if ids is None else list(ids[1]))
            first = batch[0] if isinstance(batch[0], list) else batch  # of several loaders
            self.true.append(places(first, SAMPLES))
            self.sources |= set() if ids is None else {ids[0]}
            whole(monitor, batch, ids)

        monkeypatch.setattr(Monitor, "begin_batch", begin_batch)
        self.sink = into_memory(monkeypatch)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def train(folder: Path, loader: Any, **options: Any) -> Any:
    torch.manual_seed(3)
    monitor = watching(quantities=("sample_grad_norm", "grad_diversity"))
    return fit(folder, Learner(perceptron()), loader, monitor, **{"max_epochs": 3, **options})


LOADERS: dict[str, dict[str, Any]] = {
    "in order": {},
    "shuffled": {"shuffle": True},
    "shuffled, last batch dropped": {"shuffle": True, "drop_last": True},
    "with a generator": {"shuffle": True, "generator": torch.Generator().manual_seed(1)},
    "with replacement": {"sampler": WeightedRandomSampler([1.0, 3.0] * 22, 40)},
    "a part of the dataset": {"sampler": SubsetRandomSampler(range(5, 40, 2))},
    "a part named by NumPy": {
        "sampler": SubsetRandomSampler(np.arange(5, 40, 2))  # type: ignore[arg-type]
    },
    "more than once": {"sampler": RandomSampler(range(SAMPLES), replacement=True, num_samples=60)},
}


@pytest.mark.parametrize(
    ("name", "workers"),
    [*((name, 0) for name in LOADERS), ("shuffled", 2), ("shuffled, last batch dropped", 2)],
)
def test_ids_are_places_in_the_dataset(name: str, workers: int, told: Told, tmp_path: Path) -> None:
    loader = loader_of(rows_of_pairs(SAMPLES), num_workers=workers, **LOADERS[name])
    train(tmp_path, loader)
    assert len(told.ids) == 3 * len(loader)
    assert told.ids == told.true
    assert told.sources == {SOURCE}


def test_persistent_workers(told: Told, tmp_path: Path) -> None:
    loader = loader_of(rows_of_pairs(SAMPLES), shuffle=True, num_workers=1, persistent_workers=True)
    train(tmp_path, loader)
    assert told.ids == told.true


def test_ids_under_accumulation_and_limits(told: Told, tmp_path: Path) -> None:
    loader = loader_of(rows_of_pairs(SAMPLES), shuffle=True)
    train(tmp_path, loader, accumulate_grad_batches=2, limit_train_batches=3)
    assert len(told.ids) == 9
    assert told.ids == told.true


def test_loaders_made_anew_each_epoch(told: Told, tmp_path: Path) -> None:
    loaders: list[Any] = []

    class Renewing(Learner):
        def train_dataloader(self) -> Any:
            loaders.append(loader_of(rows_of_pairs(SAMPLES), shuffle=True))
            return loaders[-1]

    monitor = watching(quantities=("sample_grad_norm", "grad_diversity"))
    fitting = trainer(
        pl,
        tmp_path,
        callbacks=[monitor],
        logger=False,
        max_epochs=3,
        reload_dataloaders_every_n_epochs=1,
    )
    fitting.fit(Renewing(perceptron()))
    assert len(loaders) == 3
    assert told.ids == told.true
    assert all(type(loader.batch_sampler.sampler) is RandomSampler for loader in loaders)


def test_a_loader_that_the_module_makes_for_its_workers(told: Told, tmp_path: Path) -> None:
    """These may draw ahead before anyone can listen: then ids are unknown, for one epoch."""

    class Making(Learner):
        def train_dataloader(self) -> Any:
            return loader_of(rows_of_pairs(SAMPLES), shuffle=True, num_workers=2)

    monitor = watching(quantities=("sample_grad_norm", "grad_diversity"))
    fitting = trainer(pl, tmp_path, callbacks=[monitor], logger=False, max_epochs=3)
    fitting.fit(Making(perceptron()))
    assert len(told.ids) == 18
    assert all(ids in (None, true) for ids, true in zip(told.ids, told.true, strict=True))
    assert told.ids[6:] == told.true[6:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_resumes_within_an_epoch(workers: int, told: Told, tmp_path: Path) -> None:
    """The loader may begin anew, though batches count on from where the run stopped.

    Ids may then be unknown, but never another sample's.
    """
    dataset = rows_of_pairs(SAMPLES)
    saving = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
    train_options = {"enable_checkpointing": True, "logger": False, "max_epochs": 1}
    first = trainer(pl, tmp_path, callbacks=[saving], **train_options)
    first.fit(Learner(perceptron()), loader_of(dataset))
    path = next(tmp_path.glob("*step=2.ckpt"))
    monitor = watching(quantities=("sample_grad_norm", "grad_diversity"))
    second = trainer(pl, tmp_path, callbacks=[monitor], **{**train_options, "max_epochs": 2})
    loader = loader_of(dataset, shuffle=True, num_workers=workers)
    second.fit(Learner(perceptron()), loader, ckpt_path=path)
    assert told.ids
    for ids, true in zip(told.ids, told.true, strict=True):
        assert ids is None or ids == true


class InPairs(Sampler[list[int]]):
    """A batch sampler of the user's own."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from ([start, start + 1] for start in range(0, SAMPLES, 2))

    def __len__(self) -> int:
        return SAMPLES // 2


class Backwards(BatchSampler):
    """One that PyTorch's own is the base of."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from reversed(list(super().__iter__()))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from rows_of_pairs(SAMPLES)


class Batches(list[Any]):
    """An iterable that is no loader."""


def _of_the_first(network: Any, batch: Any) -> torch.Tensor:
    return cross_entropies(network, batch[0])


@pytest.mark.parametrize("kind", ["batch sampler", "subclass", "stream", "a list", "several"])
def test_what_cannot_be_listened_to_falls_back(kind: str, told: Told, tmp_path: Path) -> None:
    dataset = rows_of_pairs(SAMPLES)
    loaders: dict[str, Any] = {
        "batch sampler": lambda: DataLoader(dataset, batch_sampler=InPairs()),  # type: ignore[arg-type]
        "subclass": lambda: DataLoader(
            dataset, batch_sampler=Backwards(SequentialSampler(dataset), 8, False)
        ),
        "stream": lambda: loader_of(Stream()),
        "a list": lambda: Batches(loader_of(dataset)),
        "several": lambda: [loader_of(dataset), loader_of(dataset)],
    }
    losses = cross_entropies if kind != "several" else _of_the_first
    monitor = watching(quantities=("sample_grad_norm", "grad_diversity"))
    fit(tmp_path, Learner(perceptron(), losses), loaders[kind](), monitor)
    assert told.ids
    assert set(map(str, told.ids)) == {"None"}
    (boards,) = told.sink.boards
    assert boards.id_source.startswith("position")
    assert len(set(boards.columns.ids)) == SAMPLES, "no two samples share a position"


def test_the_board_goes_by_dataset_index(told: Told, tmp_path: Path) -> None:
    """A sample's label is that of its row in the dataset, in every epoch."""
    dataset = rows_of_pairs(SAMPLES)
    train(tmp_path, loader_of(dataset, shuffle=True))
    assert len(told.sink.boards) == 3
    for boards in told.sink.boards:
        assert boards.id_source == SOURCE
        assert sorted(boards.columns.ids) == list(range(SAMPLES))
        for index, label in zip(boards.columns.ids, boards.columns.labels, strict=True):
            assert label == int(dataset[int(index)][1])


class Asking(pl.Callback):
    """Looks at the sampler while the run is under way."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.types: set[type] = set()
        self.fail_at = fail_at

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.types.add(type(trainer.train_dataloader.batch_sampler.sampler))
        if trainer.global_step == self.fail_at:
            raise ZeroDivisionError("planted")


@pytest.mark.parametrize("fail_at", [None, 2])
def test_the_users_sampler_is_put_back(fail_at: int | None, told: Told, tmp_path: Path) -> None:
    sampler = RandomSampler(range(SAMPLES))
    loader = loader_of(rows_of_pairs(SAMPLES), sampler=sampler)
    asking = Asking(fail_at)
    monitor = watching(quantities=("sample_grad_norm", "grad_diversity"))
    if fail_at is None:
        fit(tmp_path, Learner(perceptron()), loader, monitor, asking)
    else:
        with pytest.raises(ZeroDivisionError):
            fit(tmp_path, Learner(perceptron()), loader, monitor, asking)
    assert asking.types != {RandomSampler}, "it was listened to"
    assert loader.batch_sampler is not None
    assert loader.batch_sampler.sampler is sampler  # type: ignore[attr-defined]
    assert loader.sampler is sampler


def test_nothing_is_listened_to_without_per_sample_quantities(told: Told, tmp_path: Path) -> None:
    asking = Asking()
    loader = loader_of(rows_of_pairs(SAMPLES), shuffle=True)
    fit(tmp_path, Learner(perceptron()), loader, watching(quantities=("grad_norm",)), asking)
    assert asking.types == {RandomSampler}


class Counted(Sampler[int]):
    """A sampler with a method and a state of its own."""

    def __init__(self) -> None:
        self.epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.epoch)
        yield from torch.randperm(SAMPLES, generator=generator).tolist()

    def __len__(self) -> int:
        return SAMPLES


def test_the_samplers_own_methods_are_reached(told: Told, tmp_path: Path) -> None:
    sampler = Counted()
    train(tmp_path, loader_of(rows_of_pairs(SAMPLES), sampler=sampler))
    assert sampler.epoch == 2, "set_epoch came through"
    assert told.ids == told.true


def test_watching_twice_listens_once() -> None:
    class FakeTrainer:
        train_dataloader = loader_of(rows_of_pairs(8), batch_size=4)

    loader = FakeTrainer.train_dataloader
    indices = SampledIndices()
    fake: Any = FakeTrainer()
    indices.watch(fake)
    indices.watch(fake)
    assert [len(batch[0]) for batch in loader] == [4, 4]
    assert [indices.of_batch(place) for place in range(3)] == [
        (SOURCE, [0, 1, 2, 3]),
        (SOURCE, [4, 5, 6, 7]),
        None,
    ]
    indices.release()
    indices.release()
    assert loader.batch_sampler is not None
    assert type(loader.batch_sampler.sampler) is SequentialSampler  # type: ignore[attr-defined]
    assert indices.of_batch(0) is None


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_listeners_leave_nothing_behind(order: tuple[int, int]) -> None:
    from jacoscope._sampler import SampledIndices

    loader = torch.utils.data.DataLoader(list(range(6)), batch_size=2)
    sampler = loader.batch_sampler.sampler
    both = [SampledIndices(), SampledIndices()]
    for each in both:
        each._listen_to(loader)
    list(loader)
    assert [each.of_batch(1) for each in both] == [("dataset index", [2, 3])] * 2
    both[order[0]].release()
    assert loader.batch_sampler.sampler is not sampler
    both[order[1]].release()
    assert loader.batch_sampler.sampler is sampler
