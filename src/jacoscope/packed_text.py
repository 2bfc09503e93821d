"""Texts as they are kept in an event file: long ones are compressed.

TensorBoard computes a checksum of all that is written, in Python, which takes longer than to
compress it first.
"""

from __future__ import annotations

import zlib

__all__ = ["pack_text", "unpack_text"]

_MARK = b"zlib:"
_END = b"."  # readers that keep texts in arrays of numpy's may drop zeros at the end
_LONG = 1024
_MOST = 2**28
"""Bytes that a text may have: a damaged or hostile file must not fill the memory."""


def pack_text(text: str) -> bytes:
    """A text as bytes."""
    plain = text.encode()
    return _MARK + zlib.compress(plain) + _END if len(plain) > _LONG else plain


def unpack_text(packed: bytes | str) -> str:
    """The text that :func:`pack_text` was given; other texts are handed back.

    Raises:
        ValueError: If it is damaged, or longer than 256 MiB.
    """
    if isinstance(packed, str):
        return packed
    if not packed.startswith(_MARK):
        return packed.decode()
    unpacking = zlib.decompressobj()
    try:
        plain = unpacking.decompress(packed.removeprefix(_MARK), _MOST)
    except zlib.error as error:
        raise ValueError(f"a compressed text is damaged: {error}") from error
    if not unpacking.eof:
        raise ValueError(f"a compressed text is cut off, or longer than {_MOST:,} bytes")
    return plain.decode()
