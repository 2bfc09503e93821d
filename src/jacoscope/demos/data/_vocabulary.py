"""Characters as token numbers."""

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_ASCII = "".join(map(chr, range(ord(" "), ord("~") + 1)))
_TYPOGRAPHY = "°ß–—‘’“”…"


@final
class Vocabulary:
    """A fixed set of characters, the same whatever the text.

    Token 0 stands for every character outside the set and is written as U+FFFD; then come the line
    feed, printable ASCII, and the few typographic characters that Python's documentation uses.
    """

    def __init__(self) -> None:
        self.characters = UNKNOWN + "\n" + _ASCII + _TYPOGRAPHY
        self._tokens = {character: token for token, character in enumerate(self.characters)}

    def __len__(self) -> int:
        """Return the number of tokens, the unknown one included."""
        return len(self.characters)

    def encode(self, text: str) -> Tensor:
        """Return the tokens of a text.

        Args:
            text: T characters.

        Returns:
            Tokens of shape (T,), int64.
        """
        unknown = self._tokens[UNKNOWN]
        return torch.tensor([self._tokens.get(c, unknown) for c in text], dtype=torch.int64)

    def decode(self, tokens: Tensor | Iterable[int]) -> str:
        """Return the text of some tokens.

        Args:
            tokens: Tokens of shape (T,), each from 0 to ``len(self) - 1``.

        Returns:
            T characters; the inverse of :meth:`encode` on characters in the vocabulary.
        """
        numbers = tokens.tolist() if isinstance(tokens, Tensor) else tokens
        return "".join(self.characters[number] for number in numbers)
