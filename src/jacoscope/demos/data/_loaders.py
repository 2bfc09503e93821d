"""The loaders that every demo data set shares."""

import warnings
from typing import Any

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Pairs = Dataset[tuple[Tensor, ...]]
"""A data set whose samples are (input, target)."""


def train_loader(
    dataset: Pairs, batch_size: int, seed: int, num_workers: int
) -> DataLoader[tuple[Tensor, ...]]:
    """Serve a data set in a new order each epoch, the orders fixed by the seed.

    The loader draws from a generator of its own, so that its orders depend on neither the network's
    initialisation nor dropout. A last batch that is not full is served too.

    Args:
        dataset: Samples to serve.
        batch_size: Samples in a batch.
        seed: Seed of the orders.
        num_workers: Worker processes.
    """
    generator = torch.Generator().manual_seed(seed)
    return _loader(dataset, batch_size, num_workers, shuffle=True, generator=generator)


def val_loader(dataset: Pairs, batch_size: int, num_workers: int) -> DataLoader[tuple[Tensor, ...]]:
    """Serve a data set in its own order.

    Args:
        dataset: Samples to serve.
        batch_size: Samples in a batch.
        num_workers: Worker processes.
    """
    return _loader(dataset, batch_size, num_workers, shuffle=False)


def _loader(
    dataset: Pairs, batch_size: int, num_workers: int, **options: Any
) -> DataLoader[tuple[Tensor, ...]]:
    # The demo data lies in memory, where workers would only cost: Lightning's advice to add some
    # does not hold here.
    warnings.filterwarnings(
        "ignore", message=".*does not have many workers", category=PossibleUserWarning
    )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        **options,
    )
