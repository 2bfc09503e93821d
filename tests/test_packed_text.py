"""Texts as they are kept: packed and unpacked they are the same, and damage is told."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jacoscope import packed_text
from jacoscope.packed_text import pack_text, unpack_text


@given(text=st.text(st.characters(exclude_categories=["Cs"])), times=st.integers(1, 2000))
def test_a_text_comes_back(text: str, times: int) -> None:
    assert unpack_text(pack_text(text * times)) == text * times
    assert unpack_text(text) == text


def test_long_texts_take_less_room_and_short_ones_stay_readable() -> None:
    assert pack_text("short") == b"short"
    packed = pack_text('{"id": 12, "loss": 0.125}' * 1000)
    assert len(packed) < 1000
    assert packed[-1:] != b"\0"


def test_damage_is_told() -> None:
    packed = pack_text("layer" * 1000)
    with pytest.raises(ValueError, match="is damaged"):
        unpack_text(packed[:10] + b"?" * 20 + packed[30:])
    with pytest.raises(ValueError, match="cut off"):
        unpack_text(packed[:-4])


def test_a_file_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_text, "_MOST", 10_000)
    assert unpack_text(pack_text("a" * 10_000)) == "a" * 10_000
    with pytest.raises(ValueError, match=r"longer than 10,000 bytes"):
        unpack_text(b"zlib:" + zlib.compress(b"a" * 10_000_000) + b".")
