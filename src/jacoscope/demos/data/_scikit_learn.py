"""scikit-learn on demand: only the tabular and image data need it, and only once they load."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor


def scikit_learn(module: str) -> Any:
    """Import a module of scikit-learn.

    Args:
        module: Its name inside the package, such as ``"datasets"``.

    Returns:
        The module, untyped because scikit-learn ships no types.

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
    """
    try:
        return import_module(f"sklearn.{module}")
    except ModuleNotFoundError as error:
        if error.name != "sklearn":
            raise
        raise ModuleNotFoundError(
            "scikit-learn is not installed, and this demo reads its data from there: "
            "run pip install 'jacoscope[demo]'.",
            name="sklearn",
        ) from error


def split_indices(
    total: int, val_fraction: float, seed: int, stratify: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Split ``range(total)`` at random into a training and a validation part.

    Args:
        total: Number of samples N.
        val_fraction: Share of the samples that goes to validation, between 0 and 1.
        seed: Seed of the split; the same seed gives the same split.
        stratify: Labels of shape (N,) whose proportions both parts keep, or None.

    Returns:
        Sorted indices of the training samples and of the validation samples, both int64.
    """
    train, val = scikit_learn("model_selection").train_test_split(
        range(total),
        test_size=val_fraction,
        random_state=seed,
        stratify=None if stratify is None else stratify.numpy(),
    )
    return torch.tensor(sorted(train)), torch.tensor(sorted(val))
