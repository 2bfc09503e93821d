import sys
from pathlib import Path

import pytest

from jacoscope.config import LayerRule, MonitorConfig, Output, Schedule, load_config, resolve_config
from jacoscope.errors import ConfigError


def _write(folder: Path, content: str | bytes) -> Path:
    path = folder / "monitor.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _refuse(path: Path | str) -> str:
    """What is said of a file that cannot be used; it names the file and stands on one line."""
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    said = str(caught.value)
    assert caught.value.source == str(path)
    assert said.splitlines() == [said]
    return said


_WITH_RAISE = MonitorConfig(on_error="raise")

_READABLE = {
    "nothing": ("", MonitorConfig()),
    "comments": ("# quantities: [grad_norm]\n", MonitorConfig()),
    "null": ("null", MonitorConfig()),
    "no keys": ("{}", MonitorConfig()),
    "own file": ("on_error: raise", _WITH_RAISE),
    "byte order mark": (b"\xef\xbb\xbfon_error: raise", _WITH_RAISE),
    "windows line ends": ("on_error: raise\r\nquantities: [saliency]\r\n", None),
    "experiment": ("trainer: {max_epochs: 3}\nmonitor: {on_error: raise}", _WITH_RAISE),
    "experiment, all commented out": ("model: x\nmonitor:\n  # first: 1\n", MonitorConfig()),
    "experiment's other keys": ("model: x\nnonsense: 1\nmonitor: {on_error: raise}", _WITH_RAISE),
    "anchors": (
        "layers: [{match: a, schedule: &s {every: 3}}, {schedule: *s}]",
        MonitorConfig(
            layers=(
                LayerRule(match="a", schedule=Schedule(every=3)),
                LayerRule(schedule=Schedule(3)),
            )
        ),
    ),
    "everything": (
        """
        quantities: [grad_norm, saliency]
        layers:
          - match: [head, "encoder.layers.*.weight"]
            regex: "weight$"
            type: Linear
            kind: [weight, bias]
            min_depth: 1
            max_depth: 4
            quantities: [grad_histogram]
            schedule: {every: null, first: 3, steps: [7, 9], per_epoch: 1, hook: my.module.hook}
          - exclude: true
        schedule: {every: 20}
        output: {group: wide, directory: runs/x, headline: false, pictures: [], card: false}
        on_error: raise
        """,
        MonitorConfig(
            quantities=("grad_norm", "saliency"),
            layers=(
                LayerRule(
                    match=("head", "encoder.layers.*.weight"),
                    regex="weight$",
                    type="Linear",
                    kind=("weight", "bias"),
                    min_depth=1,
                    max_depth=4,
                    quantities=("grad_histogram",),
                    schedule=Schedule(None, 3, (7, 9), 1, "my.module.hook"),
                ),
                LayerRule(exclude=True),
            ),
            schedule=Schedule(every=20),
            output=Output("wide", "runs/x", headline=False, pictures=(), card=False),
            on_error="raise",
        ),
    ),
}


@pytest.mark.parametrize(("content", "config"), _READABLE.values(), ids=_READABLE)
def test_what_a_file_says(
    tmp_path: Path, content: str | bytes, config: MonitorConfig | None
) -> None:
    path = _write(tmp_path, content)
    expected = config or MonitorConfig(quantities=("saliency",), on_error="raise")
    assert load_config(path) == expected
    assert load_config(str(path)) == expected
    assert resolve_config(path) == expected
    assert resolve_config(str(path)) == expected


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _write(tmp_path, "on_error: raise")
    assert load_config("~/monitor.yaml") == _WITH_RAISE


def test_a_lone_monitor_section_is_taken(tmp_path: Path) -> None:
    assert load_config(_write(tmp_path, "monitor: {on_error: raise}")) == _WITH_RAISE


@pytest.mark.parametrize("key", ["trainer", "model", "data", "fit", "seed_everything"])
def test_an_experiment_without_a_monitor(tmp_path: Path, key: str) -> None:
    said = _refuse(_write(tmp_path, f"{key}: 0\n"))
    assert said.endswith("without a monitor section; add 'monitor:' to it")


@pytest.mark.parametrize(
    "section",
    [
        "[grad_norm]",
        "on",
        "3",
        *("off", "0", "''", "[]"),
    ],
)
def test_a_monitor_section_that_is_no_mapping(tmp_path: Path, section: str) -> None:
    said = _refuse(_write(tmp_path, f"trainer: 0\nmonitor: {section}\n"))
    assert ": monitor: got " in said
    assert "must be a mapping with keys of MonitorConfig" in said


@pytest.mark.parametrize("content", ["[]", "false", "0", "''"])
def test_an_empty_value_that_is_no_mapping(tmp_path: Path, content: str) -> None:
    assert "must be a mapping with keys of MonitorConfig" in _refuse(_write(tmp_path, content))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.yaml"
    assert _refuse(path) == (
        f"{path}: cannot be read (No such file or directory); give the path of a YAML file"
    )


def test_a_folder(tmp_path: Path) -> None:
    assert "cannot be read (Is a directory)" in _refuse(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert "cannot be read (Permission denied)" in _refuse(tmp_path / "secret.yaml")


@pytest.mark.parametrize(
    "path", ["a\0b.yaml", "\ud800.yaml", "~no-such-user-here/a.yaml"], ids=ascii
)
def test_what_is_no_path(path: str) -> None:
    assert "cannot be read" in _refuse(path)


def test_yaml_text_given_as_a_path() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config("on_error: raise\nquantities: [saliency]\n")
    assert "give the path of a YAML file" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content", ["on_error: raise".encode("utf-16"), b"on_error: \xe9", b"\x89PNG\r\n\x1a\n"]
)
def test_a_file_that_is_not_utf_8(tmp_path: Path, content: bytes) -> None:
    assert _refuse(_write(tmp_path, content)).endswith(
        ": is not UTF-8 text; give the path of a YAML file"
    )


_BAD_SYNTAX = {
    "colon": ("on_error: raise\nquantities: a: b\n", "line 2 (mapping values are not allowed"),
    "unclosed": ("quantities: [grad_norm\non_error: raise\n", "line 2 ("),
    "tab": ("output:\n\tcard: true\n", "line 2 (found character '\\t'"),
    "quote": ("on_error: 'raise\n", "line 2 (found unexpected end of stream)"),
    "two documents": ("on_error: raise\n---\non_error: warn\n", "line 2 (but found another doc"),
    "unhashable key": ("on_error: raise\n? [a]\n: 1\n", "line 2 (found unhashable key)"),
    "unknown alias": ("on_error: raise\nlayers: *rules\n", "line 2 (found undefined alias"),
    "Python object": ("\nlayers: !!python/object:os.x 1", "line 2 (could not determine a const"),
    "control character": ("on_error: \x01", "bad syntax"),
}


@pytest.mark.parametrize(("content", "where"), _BAD_SYNTAX.values(), ids=_BAD_SYNTAX)
def test_bad_syntax_names_the_line(tmp_path: Path, content: str, where: str) -> None:
    said = _refuse(_write(tmp_path, content))
    assert "is not valid YAML" in said
    assert "check brackets, quotes and indentation there" in said
    assert where in said


@pytest.mark.parametrize(
    "value",
    ["2001-99-99", "0x_", "0b_", "!!int ten", "!!bool maybe", "!!float x", "!!timestamp noon"],
)
def test_a_scalar_that_yaml_cannot_construct(tmp_path: Path, value: str) -> None:
    _refuse(_write(tmp_path, f"schedule: {{every: {value}}}"))


def test_a_file_nested_too_deeply(tmp_path: Path) -> None:
    _refuse(_write(tmp_path, "layers: " + "[" * sys.getrecursionlimit() * 2))


def test_a_list_that_holds_itself(tmp_path: Path) -> None:
    assert ": layers[0]: got [[" in _refuse(_write(tmp_path, "layers: &own [*own]"))
