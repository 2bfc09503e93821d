import torch

from jacoscope.demos import Digits


def _loaded(seed: int = 0) -> Digits:
    digits = Digits(batch_size=32, seed=seed)
    digits.setup("fit")
    return digits


def test_batch_has_the_documented_shapes_and_range() -> None:
    images, labels = next(iter(_loaded().train_dataloader()))
    assert images.shape == (32, 1, 8, 8)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert labels.shape == (32,)
    assert labels.dtype == torch.int64


def test_parts_are_disjoint_and_complete() -> None:
    digits = _loaded()
    train, val = digits.train_dataset.indices, digits.val_dataset.indices
    assert set(train).isdisjoint(val)
    assert len(train) + len(val) == 1797


def test_every_digit_is_held_out_in_proportion() -> None:
    labels = torch.cat([labels for _, labels in _loaded().val_dataloader()])
    assert labels.bincount(minlength=10).min() >= 34
    assert labels.bincount(minlength=10).max() <= 37


def test_split_follows_the_seed() -> None:
    assert _loaded(0).val_dataset.indices == _loaded(0).val_dataset.indices
    assert _loaded(0).val_dataset.indices != _loaded(1).val_dataset.indices
