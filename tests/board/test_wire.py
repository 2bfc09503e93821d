"""Replies as bytes."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from board_records import CALM, unpacked
from jacoscope.board.wire import arrays_body, entity_tag, json_body


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"a": 1.5}, '{"a":1.5}'),
        ({"a": float("nan"), "b": [float("inf"), -float("inf")]}, '{"a":null,"b":["inf","-inf"]}'),
        ({"name": "日本"}, '{"name":"\\u65e5\\u672c"}'),
        # The name of a file whose bytes were no UTF-8.
        ({"id": "caf\udce9"}, '{"id":"caf\\udce9"}'),
        ({"html": "</script>"}, '{"html":"</script>"}'),
    ],
)
def test_json_is_strict_and_in_ascii(data: Any, text: str) -> None:
    body = json_body(data)
    assert body == text.encode("ascii")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(body, parse_constant=refuse)


def test_arrays_lie_where_the_header_says() -> None:
    arrays = {
        "step": np.array([1.0, 2.0, 3.0]),
        "flags": np.array([[1, 2, 3]], np.uint8),
        "low": np.array([[1.5, np.nan, -np.inf]], np.float32),
        "count": np.array([7], np.int32),
        "nothing": np.empty((0, 4), np.float32),
        "after": np.array([1.0]),
    }
    header, found = unpacked(arrays_body({"title": "é"}, arrays))
    assert header["title"] == "é"
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@CALM
@given(
    st.text(max_size=20),
    stn.arrays(
        st.sampled_from([np.float32, np.float64, np.uint8, np.int32]),
        stn.array_shapes(min_dims=1, max_dims=4, max_side=5, min_side=0),
    ),
)
def test_any_array_comes_back(name: str, array: np.ndarray[Any, Any]) -> None:
    header, found = unpacked(arrays_body({"run": name}, {"one": array, "two": array}))
    assert header["run"] == name
    np.testing.assert_array_equal(found["one"], array)
    np.testing.assert_array_equal(found["two"], array)


def test_arrays_in_any_memory_order_are_sent_row_by_row() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert not array.flags.c_contiguous
    np.testing.assert_array_equal(unpacked(arrays_body({}, {"a": array}))[1]["a"], array)


def test_entity_tags_differ_when_any_part_does() -> None:
    parts: list[list[Any]] = [
        ["a", "b"], ["ab"], ["a", "", "b"], ["b", "a"], [("a", 1, 2.0)], [("a", 1, 2.5)],
        ["\ud800"],
    ]  # fmt: skip
    tags = [entity_tag(part) for part in parts]
    assert len(set(tags)) == len(tags)
    assert [entity_tag(part) for part in parts] == tags
