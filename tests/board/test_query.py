"""Query strings as anyone may write them."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from board_records import CALM
from jacoscope.board.mistakes import BadQueryError
from jacoscope.board.query import Query

ALLOWED = ("run", "from", "to", "points", "rows")


def test_reads_what_is_given_and_what_is_not() -> None:
    query = Query.parse("run=a%20b%2Fc&from=-3&rows=4,0", ALLOWED)
    assert query.text("run") == "a b/c"
    assert query.optional_text("to") is None
    assert query.integer("from") == -3
    assert query.span() == (-3, None)
    assert query.count("points", 600, 2, 5000) == 600
    assert query.indices("rows") == (4, 0)


def test_an_empty_value_is_a_value() -> None:
    assert Query.parse("run=", ALLOWED).text("run") == ""


@pytest.mark.parametrize(
    "name", [".", "../../etc/passwd", "<script>alert(1)</script>", "日本 🙂", "a&b=c"]
)
def test_any_text_comes_through_as_it_was(name: str) -> None:
    from urllib.parse import quote

    assert Query.parse(f"run={quote(name, safe='')}", ALLOWED).text("run") == name


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ("run=a&run=b", "run is given twice"),
        ("run=a&run=a", "run is given twice"),
        ("colour=red", "'colour' is not a parameter here, those are: run, from, to, points, rows"),
        ("run=%00", "run holds a null character"),
        ("run=%ff%fe", "the query is not in UTF-8"),
        ("run=%ed%a0%80", "the query is not in UTF-8"),
        ("run=" + "a" * 2049, "run has 2049 characters; 2048 are the most"),
        ("run=" + "a" * 20_000, "the query has 20004 characters; 16384 are the most"),
        ("&".join(f"x{i}=1" for i in range(17)), "the query has more than 16 parameters"),
    ],
)
def test_a_malformed_query_is_refused(raw: str, sentence: str) -> None:
    with pytest.raises(BadQueryError) as caught:
        Query.parse(raw, ALLOWED)
    assert caught.value.sentence == sentence
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("raw", "read", "sentence"),
    [
        ("", lambda q: q.text("run"), "run is missing"),
        ("", lambda q: q.required_integer("from"), "from is missing"),
        ("from=1.5", lambda q: q.integer("from"), "from is '1.5', must be a whole number"),
        ("from=", lambda q: q.integer("from"), "from is '', must be a whole number"),
        ("from=1e3", lambda q: q.integer("from"), "from is '1e3', must be a whole number"),
        ("from=NaN", lambda q: q.integer("from"), "from is 'NaN', must be a whole number"),
        ("from=%2B1", lambda q: q.integer("from"), "from is '+1', must be a whole number"),
        ("from=1%0A", lambda q: q.integer("from"), "from is '1\\n', must be a whole number"),
        # Digits of another script, which int() would take.
        ("from=%D9%A3", lambda q: q.integer("from"), "from is '٣', must be a whole number"),
        (
            "from=" + "9" * 16,
            lambda q: q.integer("from"),
            "from is '9999999999999999', must be a whole number",
        ),
        ("from=5&to=4", lambda q: q.span(), "from is 5, which is after to, 4"),
        (
            "points=1",
            lambda q: q.count("points", 600, 2, 5000),
            "points is 1, must be from 2 to 5000",
        ),
        (
            "points=5001",
            lambda q: q.count("points", 600, 2, 5000),
            "points is 5001, must be from 2 to 5000",
        ),
        ("rows=", lambda q: q.indices("rows"), "rows is '', must be a whole number"),
        ("rows=1,,2", lambda q: q.indices("rows"), "rows is '', must be a whole number"),
        ("rows=1,1", lambda q: q.indices("rows"), "rows names a row twice"),
        ("rows=-1", lambda q: q.indices("rows"), "rows holds -1; rows are counted from 0"),
        (
            "run=x",
            lambda q: q.choice("run", ("ntk", "input")),
            "run is 'x', must be one of: ntk, input",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(
    raw: str, read: Callable[[Query], Any], sentence: str
) -> None:
    query = Query.parse(raw, ALLOWED)
    with pytest.raises(BadQueryError) as caught:
        read(query)
    assert caught.value.sentence == sentence


def test_what_a_request_said_is_quoted_and_cut() -> None:
    with pytest.raises(BadQueryError) as caught:
        Query.parse("from=" + "x" * 2000, ALLOWED).integer("from")
    assert len(caught.value.sentence) < 150
    assert "…" in caught.value.sentence


def test_the_canonical_text_does_not_depend_on_order_or_encoding() -> None:
    one = Query.parse("run=a&from=1", ALLOWED).canonical
    assert Query.parse("from=1&run=%61", ALLOWED).canonical == one
    assert Query.parse("from=1&run=b", ALLOWED).canonical != one


@CALM
@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=200))
def test_whatever_is_asked_is_read_or_refused(raw: str) -> None:
    with suppress(BadQueryError):
        query = Query.parse(raw, ALLOWED)
        query.span(), query.indices("rows"), query.count("points", 5, 2, 10)
