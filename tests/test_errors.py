import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jacoscope.errors import ConfigError, nearest

_PARTS = {
    "all": (("got 3", "layers[0].match", "a.yaml"), "a.yaml: layers[0].match: got 3"),
    "no file": (("got 3", "every", None), "every: got 3"),
    "no key": (("is empty", "", "a.yaml"), "a.yaml: is empty"),
    "problem only": (("is empty", "", None), "is empty"),
}


@pytest.mark.parametrize(("parts", "message"), _PARTS.values(), ids=_PARTS)
def test_message_says_file_key_and_problem(
    parts: tuple[str, str, str | None], message: str
) -> None:
    assert str(ConfigError(*parts)) == message


def test_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize(
    ("key", "prefix", "joined"),
    [
        ("match", "layers[1]", "layers[1].match"),
        ("", "layers[1]", "layers[1]"),
        ("[1]", "layers", "layers[1]"),
        ("schedule.every", "monitor", "monitor.schedule.every"),
    ],
)
def test_within_prepends_the_entry_that_holds_it(key: str, prefix: str, joined: str) -> None:
    error = ConfigError("got 3", key, "a.yaml").within(prefix)
    assert (error.problem, error.key, error.source) == ("got 3", joined, "a.yaml")


def test_read_from_names_the_file_and_keeps_the_rest() -> None:
    error = ConfigError("got 3", "every").read_from("a.yaml")
    assert str(error) == "a.yaml: every: got 3"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_survives_pickling(protocol: int) -> None:
    error = ConfigError("got 3", "every", "a.yaml")
    twin = pickle.loads(pickle.dumps(error, protocol))
    assert type(twin) is ConfigError
    assert (twin.problem, twin.key, twin.source) == ("got 3", "every", "a.yaml")
    assert str(twin) == str(error)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_survives_copying(duplicate: type) -> None:
    twin = duplicate(ConfigError("got 3", "every", "a.yaml"))
    assert (str(twin), twin.key) == ("a.yaml: every: got 3", "every")


@pytest.mark.parametrize("breaking", ["\n", "\r\n", "\x0b", "\x85", "\u2028"])
def test_message_is_one_line_whatever_was_given(breaking: str) -> None:
    said = str(ConfigError(f"got{breaking}3", f"a{breaking}b", f"c{breaking}.yaml"))
    assert said.splitlines() == [said]


_NEAREST = {
    "transposed": ("grad_nrom", ["grad_rms", "grad_norm"], "did you mean 'grad_norm'?"),
    "cut short": ("sched", ["quantities", "schedule"], "did you mean 'schedule'?"),
    "other case": ("LINEAR", ["Conv2d", "Linear"], "did you mean 'Linear'?"),
    "first of equals": ("a.weight", ["A.weight", "a.Weight"], "did you mean 'A.weight'?"),
    "nothing near": ("zzz", ["match", "kind"], "valid names are match, kind"),
    "repeated": ("zzz", ["match", "kind", "match"], "valid names are match, kind"),
    "twelve": ("zzz", "abcdefghijkl", "valid names are a, b, c, d, e, f, g, h, i, j, k, l"),
    "many": ("zzz", "abcdefghijklm", "valid names are a, b, c, d, e, f, g, h, i, j, k, l, …"),
    "none": ("zzz", [], "there are no valid names here"),
    "empty": ("", ["match"], "valid names are match"),
}


@pytest.mark.parametrize(("name", "valid", "clause"), _NEAREST.values(), ids=_NEAREST)
def test_nearest(name: str, valid: list[str], clause: str) -> None:
    assert nearest(name, iter(valid)) == clause


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.text("abcdefg._", min_size=1), min_size=1), st.data())
def test_nearest_to_a_valid_name_is_that_name(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    assert nearest(name, names) == f"did you mean {name!r}?"
