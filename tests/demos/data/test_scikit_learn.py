import sys

import pytest
import torch

from jacoscope.demos.data._scikit_learn import scikit_learn, split_indices


def test_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ModuleNotFoundError, match=r"not installed.*jacoscope\[demo\]"):
        scikit_learn("datasets")


def test_missing_module_of_an_installed_package_keeps_its_own_error() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"sklearn\.no_such_module"):
        scikit_learn("no_such_module")


def test_split_covers_every_index_once() -> None:
    train, val = split_indices(50, val_fraction=0.2, seed=3)
    assert len(val) == 10
    torch.testing.assert_close(torch.cat([train, val]).sort().values, torch.arange(50))


def test_split_follows_the_seed() -> None:
    first, same, other = (split_indices(50, 0.2, seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_stratified_split_keeps_the_proportions() -> None:
    labels = torch.tensor([0] * 80 + [1] * 20)
    _, val = split_indices(100, val_fraction=0.1, seed=0, stratify=labels)
    assert labels[val].bincount().tolist() == [8, 2]
