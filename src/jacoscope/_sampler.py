"""Which samples of the dataset a batch holds, as the sampler drew them."""

from __future__ import annotations

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
    """

    def __init__(self) -> None:
        self._batch_sampler: Any = None
        self._listener: _Listener | None = None
        self._source: Any = None

    def expect(self, trainer: Trainer, faults: Faults) -> None:
        """Listen as soon as there is a loader: its workers draw ahead before the first epoch."""
        self._source = source = trainer.fit_loop._data_source
        given = source.dataloader

        def dataloader() -> Any:
            loader = given()
            with faults.contain("watching the sampler"):
                self._listen_to(loader)
            return loader

        source.dataloader = dataloader  # type: ignore[method-assign]

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
        if self._source is not None:
            vars(self._source).pop("dataloader", None)
        self._source = None

    def of_batch(self, batch_idx: int) -> tuple[str, Sequence[str | int]] | None:
        """Where ids come from, and the ids of a batch of the epoch; ``None`` if unknown."""
        ids = self._listener.batch(batch_idx) if self._listener is not None else None
        return None if ids is None else (_SOURCE, ids)


class _Listener(Sampler[int]):
    """A sampler that remembers what another one draws."""

    def __init__(self, inner: Sampler[int], batch_size: int) -> None:
        self.inner = inner
        self._batch_size = batch_size
        self._drawn: list[int] = []

    def __iter__(self) -> Iterator[int]:
        self._drawn = drawn = []
        for index in self.inner:
            drawn.append(index)
            yield index

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        # What others ask of the sampler (set_epoch, state_dict, …) goes to it.
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def batch(self, batch_idx: int) -> list[int] | None:
        start = batch_idx * self._batch_size
        ids = self._drawn[start : start + self._batch_size]
        whole = all(isinstance(index, Integral) for index in ids)
        return [int(index) for index in ids] if ids and whole else None
