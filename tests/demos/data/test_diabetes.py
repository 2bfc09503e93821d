import torch
from torch import Tensor

from jacoscope.demos import Diabetes


def _loaded(seed: int = 0) -> Diabetes:
    diabetes = Diabetes(batch_size=500, seed=seed)
    diabetes.setup("fit")
    return diabetes


def _training_part() -> tuple[Tensor, Tensor]:
    features, targets = next(iter(_loaded().train_dataloader()))
    return features, targets


def test_batch_has_the_documented_shapes() -> None:
    features, targets = _training_part()
    assert features.shape == (353, 10)
    assert targets.shape == (353, 1)
    assert features.dtype == targets.dtype == torch.float32


def test_training_part_is_standardised() -> None:
    for columns in _training_part():
        width = columns.shape[1]
        torch.testing.assert_close(columns.mean(0), torch.zeros(width), atol=1e-5, rtol=0)
        torch.testing.assert_close(columns.std(0), torch.ones(width), atol=1e-5, rtol=0)


def test_validation_part_uses_the_training_part_s_scale() -> None:
    _, targets = next(iter(_loaded().val_dataloader()))
    assert targets.mean().abs() > 1e-4
    assert 0.5 < targets.std() < 1.5


def test_parts_are_disjoint_complete_and_follow_the_seed() -> None:
    diabetes = _loaded()
    train, val = diabetes.train_dataset.indices, diabetes.val_dataset.indices
    assert set(train).isdisjoint(val)
    assert len(train) + len(val) == 442
    assert val == _loaded(0).val_dataset.indices
    assert val != _loaded(1).val_dataset.indices
