"""The text of Python's own help topics."""

from pydoc_data import topics as help_topics
from typing import final

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from jacoscope.demos.data._loaders import train_loader, val_loader
from jacoscope.demos.data._vocabulary import Vocabulary
from jacoscope.demos.data._windows import Windows


@final
class Topics(LightningDataModule):
    """Python's language reference, character by character, from the standard library.

    ``pydoc_data.topics`` holds what ``help("for")`` and its like print: about 465 000 characters in
    Python 3.11, other versions differ a little. The last part is held out for validation, so no
    window reaches from one part into the other.

    A batch is (tokens, next tokens), both int64 (N, T): position t is to predict the character
    after position t.

    Args:
        batch_size: Windows in a batch.
        context: Characters in a window, T.
        windows: Training windows in an epoch, begun at random places that stay the same.
        val_fraction: Share of the text, at its end, held out for validation.
        seed: Seed of the training windows and of their order.
        num_workers: Worker processes of each loader; 0 is best for data this small.
    """

    train_dataset: Windows
    val_dataset: Windows

    def __init__(
        self,
        batch_size: int = 32,
        context: int = 128,
        windows: int = 4096,
        val_fraction: float = 0.1,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.context = context
        self.windows = windows
        self.val_fraction = val_fraction
        self.seed = seed
        self.num_workers = num_workers
        self.vocabulary = Vocabulary()

    def setup(self, stage: str) -> None:
        """Encode the text, split it and choose the windows.

        Args:
            stage: Lightning's stage; every stage uses the same split.

        Raises:
            ValueError: If a part of the text is too short for the windows asked of it.
        """
        tokens = self.vocabulary.encode(read_topics())
        train_text, val_text = _split_text(tokens, self.val_fraction)
        train_places = _count_places("training", train_text, self.context)
        val_places = _count_places("validation", val_text, self.context)
        if self.windows > train_places:
            raise ValueError(
                f"windows={self.windows} is more than the {train_places} places where a training "
                f"window can begin; set windows to {train_places} or less."
            )
        generator = torch.Generator().manual_seed(self.seed)
        random_starts = torch.randperm(train_places, generator=generator)[: self.windows]
        self.train_dataset = Windows(train_text, random_starts, self.context)
        regular_starts = torch.arange(0, val_places, self.context)
        self.val_dataset = Windows(val_text, regular_starts, self.context)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the shuffled training batches."""
        return train_loader(self.train_dataset, self.batch_size, self.seed, self.num_workers)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the validation batches: the held-out text once through, without overlap."""
        return val_loader(self.val_dataset, self.batch_size, self.num_workers)


def read_topics() -> str:
    """Return all help topics in the order of their names, an empty line between them."""
    return "\n\n".join(text for _, text in sorted(help_topics.topics.items()))


def _split_text(tokens: Tensor, val_fraction: float) -> tuple[Tensor, Tensor]:
    if not 0 < val_fraction < 1:
        raise ValueError(
            f"val_fraction={val_fraction} must lie between 0 and 1; 0.1 holds out a tenth."
        )
    boundary = round(len(tokens) * (1 - val_fraction))
    return tokens[:boundary], tokens[boundary:]


def _count_places(part: str, text: Tensor, context: int) -> int:
    """Count where a window of ``context`` characters and its next one can begin."""
    places = len(text) - context
    if places < 1:
        raise ValueError(
            f"context={context} does not fit into the {part} text of {len(text)} characters; set "
            f"context below that or change val_fraction."
        )
    return places
