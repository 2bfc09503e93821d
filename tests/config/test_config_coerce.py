from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from jacoscope.config._coerce import build, coerce, coerce_fields
from jacoscope.errors import ConfigError


@dataclass(frozen=True)
class _Inner:
    size: int = 1

    def __post_init__(self) -> None:
        coerce_fields(self)


@dataclass(frozen=True)
class _Outer:
    inner: _Inner = _Inner()
    more: tuple[_Inner, ...] = ()
    either: _Inner | None = None

    def __post_init__(self) -> None:
        coerce_fields(self)


_KEPT = [
    (3, int, 3),
    (2.5, float, 2.5),
    (3, float, 3.0),
    ("a", str, "a"),
    (True, bool, True),
    (len, Callable[[int], int], len),
    ([object], Any, [object]),
    (None, int | None, None),
    (3, int | None, 3),
    ("b", Literal["a", "b"], "b"),
    (2, Literal[1, 2], 2),
    ([1, 2], tuple[int, ...], (1, 2)),
    ((), tuple[int, ...], ()),
    (range(3), tuple[int, ...], (0, 1, 2)),
    ([[1], [2, 3]], tuple[tuple[int, ...], ...], ((1,), (2, 3))),
    ("a", str | tuple[str, ...], "a"),
    (["a", "b"], str | tuple[str, ...] | None, ("a", "b")),
    (["a"], Literal["a", "b"] | tuple[Literal["a", "b"], ...], ("a",)),
    ("a.b", Callable[[int], int] | str | None, "a.b"),
    ({"size": 2}, _Inner, _Inner(2)),
    (_Inner(2), _Inner, _Inner(2)),
    ({"more": [{"size": 2}, _Inner()]}, _Outer, _Outer(more=(_Inner(2), _Inner()))),
    ({"either": {"size": 2}}, _Outer, _Outer(either=_Inner(2))),
]


@pytest.mark.parametrize(("value", "hint", "coerced"), _KEPT)
def test_what_fits(value: object, hint: object, coerced: object) -> None:
    result = coerce(value, hint, "key")
    assert result == coerced
    assert type(result) is type(coerced)


_REFUSED = [
    (True, int, "key"),
    (2.0, int, "key"),
    ("3", int, "key"),
    (None, int, "key"),
    (True, float, "key"),
    ("2.5", float, "key"),
    (1, bool, "key"),
    (3, str, "key"),
    (b"a", str, "key"),
    ("a", Callable[[int], int], "key"),
    (True, Literal[1, 2], "key"),
    (1.0, Literal[1, 2], "key"),
    ("ab", tuple[str, ...], "key"),
    (b"ab", tuple[int, ...], "key"),
    ({"a": 1}, tuple[str, ...], "key"),
    ([1, "2"], tuple[int, ...], "key[1]"),
    ([[1], [2, "3"]], tuple[tuple[int, ...], ...], "key[1][1]"),
    (["a", 3], str | tuple[str, ...], "key[1]"),
    (3, str | tuple[str, ...] | None, "key"),
    ({"size": "2"}, _Inner, "key.size"),
    ({"sise": 2}, _Inner, "key.sise"),
    ({"inner": {"size": "2"}}, _Outer, "key.inner.size"),
    ({"more": [{}, {"sise": 2}]}, _Outer, "key.more[1].sise"),
    ({"either": {"size": None}}, _Outer, "key.either.size"),
    (_Outer(), _Inner, "key"),
    ([("size", 2)], _Inner, "key"),
]


@pytest.mark.parametrize(("value", "hint", "key"), _REFUSED)
def test_what_does_not_fit_is_named(value: object, hint: object, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        coerce(value, hint, "key")
    assert caught.value.key == key


def test_build_without_a_key_names_the_path_from_the_top() -> None:
    with pytest.raises(ConfigError) as caught:
        build(_Outer, {"inner": {"size": "2"}})
    assert caught.value.key == "inner.size"


def test_an_instance_is_taken_as_it_is() -> None:
    inner = _Inner(3)
    assert build(_Inner, inner) is inner
