import warnings

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from torch import Tensor
from torch.utils.data import TensorDataset

from jacoscope.demos.data._loaders import train_loader, val_loader

DATASET = TensorDataset(torch.arange(10), torch.arange(10))


def _epoch(seed: int) -> Tensor:
    batches = train_loader(DATASET, batch_size=4, seed=seed, num_workers=0)
    return torch.cat([inputs for inputs, _ in batches])


def test_training_order_is_a_permutation_fixed_by_the_seed() -> None:
    assert torch.equal(_epoch(0).sort().values, torch.arange(10))
    assert torch.equal(_epoch(0), _epoch(0))
    assert not torch.equal(_epoch(0), _epoch(1))


def test_training_order_changes_from_epoch_to_epoch() -> None:
    batches = train_loader(DATASET, batch_size=10, seed=0, num_workers=0)
    (first, _), (second, _) = next(iter(batches)), next(iter(batches))
    assert not torch.equal(first, second)


def test_training_order_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    _epoch(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_keeps_the_order() -> None:
    batches = val_loader(DATASET, batch_size=4, num_workers=0)
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), torch.arange(10))


def test_advice_on_workers_is_silenced() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        val_loader(DATASET, batch_size=4, num_workers=0)
        warnings.warn(
            "The 'val_dataloader' does not have many workers.", PossibleUserWarning, stacklevel=1
        )
    assert not caught
