"""Handwritten digits."""

from typing import final

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from jacoscope.demos.data._loaders import train_loader, val_loader
from jacoscope.demos.data._scikit_learn import scikit_learn, split_indices


@final
class Digits(LightningDataModule):
    """The 1797 handwritten digits that ship with scikit-learn, 8 x 8 pixels each.

    A batch is (images, labels): float32 (N, 1, 8, 8) in [0, 1] and int64 (N,) from 0 to 9. Source:
    E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI (1998).

    Args:
        batch_size: Samples in a batch.
        val_fraction: Share of the samples held out for validation, with each digit in proportion.
        seed: Seed of the split and of the training order.
        num_workers: Worker processes of each loader; 0 is best for data this small.
    """

    train_dataset: Subset[tuple[Tensor, ...]]
    val_dataset: Subset[tuple[Tensor, ...]]

    def __init__(
        self,
        batch_size: int = 64,
        val_fraction: float = 0.2,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.seed = seed
        self.num_workers = num_workers

    def setup(self, stage: str) -> None:
        """Load and split the digits.

        Args:
            stage: Lightning's stage; every stage uses the same split.
        """
        digits = scikit_learn("datasets").load_digits()
        brightest = 16  # each pixel counts the inked points in a block of 4 x 4
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / brightest
        labels = torch.tensor(digits.target, dtype=torch.int64)
        dataset = TensorDataset(images, labels)
        train, val = split_indices(len(dataset), self.val_fraction, self.seed, stratify=labels)
        self.train_dataset = Subset(dataset, train.tolist())
        self.val_dataset = Subset(dataset, val.tolist())

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the shuffled training batches."""
        return train_loader(self.train_dataset, self.batch_size, self.seed, self.num_workers)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the validation batches."""
        return val_loader(self.val_dataset, self.batch_size, self.num_workers)
