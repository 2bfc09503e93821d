"""Disease progression of diabetes patients."""

from typing import final

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from jacoscope.demos.data._loaders import train_loader, val_loader
from jacoscope.demos.data._scikit_learn import scikit_learn, split_indices


@final
class Diabetes(LightningDataModule):
    """The 442 patients of scikit-learn's diabetes set: ten measurements, one outcome to predict.

    A batch is (features, targets): float32 (N, 10) and (N, 1). Both are standardised with the
    means and standard deviations of the training part, so a target's unit is one standard
    deviation of the outcome, and predicting the mean has a squared error near 1. Source: B. Efron
    et al., "Least Angle Regression", Annals of Statistics 32 (2004).

    Args:
        batch_size: Samples in a batch.
        val_fraction: Share of the samples held out for validation.
        seed: Seed of the split and of the training order.
        num_workers: Worker processes of each loader; 0 is best for data this small.
    """

    train_dataset: Subset[tuple[Tensor, ...]]
    val_dataset: Subset[tuple[Tensor, ...]]

    def __init__(
        self,
        batch_size: int = 40,
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
        """Load, split and standardise the patients.

        Args:
            stage: Lightning's stage; every stage uses the same split.
        """
        diabetes = scikit_learn("datasets").load_diabetes(scaled=False)
        features = torch.tensor(diabetes.data, dtype=torch.float64)
        targets = torch.tensor(diabetes.target, dtype=torch.float64).unsqueeze(1)
        train, val = split_indices(len(features), self.val_fraction, self.seed)
        dataset = TensorDataset(_standardise(features, train), _standardise(targets, train))
        self.train_dataset = Subset(dataset, train.tolist())
        self.val_dataset = Subset(dataset, val.tolist())

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the shuffled training batches."""
        return train_loader(self.train_dataset, self.batch_size, self.seed, self.num_workers)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the validation batches."""
        return val_loader(self.val_dataset, self.batch_size, self.num_workers)


def _standardise(columns: Tensor, train: Tensor) -> Tensor:
    """Give each column of (N, C) mean 0 and variance 1 over its training rows; float32."""
    seen = columns[train]
    return ((columns - seen.mean(0)) / seen.std(0)).float()
