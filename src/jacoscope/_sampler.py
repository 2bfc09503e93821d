"""Which samples of the dataset a batch holds, as the sampler drew them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler

from jacoscope.faults import Faults

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["SampledIndices"]

_SOURCE = "dataset index"


class SampledIndices:
    """Listens to the training data's sampler.

    A data loader with PyTorch's own batch sampler asks its sampler for indices one by one and
    makes batches of them in order, whatever the number of workers. For the time of a fit a
    listener stands between the two; it passes everything on and draws nothing. Loaders of another
    make are left alone.

    Args:
        process: Which of several processes this is, if there are several. A distributed sampler
            deals out one dataset to all of them; with any other each may have a dataset of its own,
            whose indices are told apart from the others'.
    """

    def __init__(self, process: int | None = None) -> None:
        self._process = process
        self._batch_sampler: Any = None
        self._listener: _Listener | None = None
        self._strategy: Any = None

    def expect(self, trainer: Trainer, faults: Faults) -> None:
        """Listen as soon as there is a loader: its workers draw ahead before the first epoch.

        Of several processes each has a sampler of its own, which the Trainer puts in before its
        strategy gets the loader.
        """
        self._strategy = strategy = trainer.strategy
        process = strategy.process_dataloader

        def process_dataloader(dataloader: object) -> object:
            loader = process(dataloader)
            if trainer.training:
                with faults.contain("watching the sampler"):
                    self._listen_to(loader)
            return loader

        strategy.process_dataloader = process_dataloader  # type: ignore[method-assign]

    def watch(self, trainer: Trainer) -> None:
        """Listen to the training data's sampler, if there is one to listen to."""
        self._listen_to(trainer.train_dataloader)

    def _listen_to(self, loader: Any) -> None:
        sampler = getattr(loader, "batch_sampler", None)
        if sampler is self._batch_sampler and self._listener is not None:
            return
        self.release()
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return
        if type(sampler) is not BatchSampler or not isinstance(sampler.sampler, Sampler):
            return
        self._listener = _Listener(sampler.sampler, sampler.batch_size)
        self._batch_sampler = sampler
        sampler.sampler = self._listener

    def release(self) -> None:
        """Put everything back as it was; another monitor's listener stays until it leaves."""
        holder, attribute = self._batch_sampler, "sampler"
        while self._listener is not None and holder is not None:
            here = getattr(holder, attribute)
            if here is self._listener:
                setattr(holder, attribute, self._listener.inner)
            holder, attribute = (here if isinstance(here, _Listener) else None), "inner"
        self._batch_sampler = self._listener = None

    def forget(self) -> None:
        """Listen no more, and put everything back as it was."""
        self.release()
        if self._strategy is not None:
            vars(self._strategy).pop("process_dataloader", None)
        self._strategy = None

    def of_batch(self, batch_idx: int) -> tuple[str, Sequence[str | int]] | None:
        """Where ids come from, and the ids of a batch of the epoch; ``None`` if unknown."""
        ids = self._listener.batch(batch_idx) if self._listener is not None else None
        if ids is None or self._listener is None:
            return None
        if self._process is None or self._listener.is_distributed:
            return _SOURCE, ids
        return f"{_SOURCE} and process", [f"{index}, process {self._process}" for index in ids]


class _Listener(Sampler[int]):
    """A sampler that remembers what another one draws."""

    def __init__(self, inner: Sampler[int], batch_size: int) -> None:
        self.inner = inner
        self._batch_size = batch_size
        self._drawn: list[int] = []

    def __iter__(self) -> Iterator[int]:
        self._drawn = drawn = list[int]()
        # Appending returns nothing, so all pass; no line of Python runs for an index.
        return itertools.filterfalse(drawn.append, self.inner)

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        # What others ask of the sampler (set_epoch, state_dict, …) goes to it.
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def is_distributed(self) -> bool:
        """Whether it deals out one dataset to several processes."""
        return getattr(self.inner, "num_replicas", None) is not None

    def batch(self, batch_idx: int) -> list[int] | None:
        start = batch_idx * self._batch_size
        ids = self._drawn[start : start + self._batch_size]
        whole = all(isinstance(index, Integral) for index in ids)
        return [int(index) for index in ids] if ids and whole else None
