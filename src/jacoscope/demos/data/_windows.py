"""Windows into a text, for predicting each next character."""

from typing import final

from torch import Tensor
from torch.utils.data import Dataset


@final
class Windows(Dataset[tuple[Tensor, ...]]):
    """Windows of a fixed length, each paired with the same window one character later.

    A sample keeps its index, so that a sample looked up later is the one that was trained on.

    Args:
        text: Tokens of shape (L,), int64.
        starts: Where each window begins, shape (W,), int64, at most ``L - context - 1``.
        context: Length T of a window.
    """

    def __init__(self, text: Tensor, starts: Tensor, context: int) -> None:
        self.text = text
        self.starts = starts.tolist()
        self.context = context

    def __len__(self) -> int:
        """Return the number of windows W."""
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """Return a window's tokens and the tokens that follow each of them, both (T,)."""
        start = self.starts[index]
        stop = start + self.context
        return self.text[start:stop], self.text[start + 1 : stop + 1]
