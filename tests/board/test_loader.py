"""How TensorBoard gets the tab, or goes on without it."""

import argparse
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.plugins import base_plugin
from tensorboard.plugins.core import core_plugin

from board_records import GROUP, RUN, Log, read
from jacoscope.board.loader import SensitivityLoader
from jacoscope.board.plugin import SensitivityPlugin

_HEAVY = ("torch", "lightning", "pytorch_lightning", "pandas", "matplotlib", "sklearn")

_LOAD_AND_ASK = """
import sys
from jacoscope.board.loader import SensitivityLoader
from tensorboard.plugins.base_plugin import TBContext

class Provider:
    def list_plugins(self, ctx, *, experiment_id):
        return ["jacoscope"]
    def list_tensors(self, ctx, *, experiment_id, plugin_name):
        return {}

plugin = SensitivityLoader().load(TBContext(data_provider=Provider()))
assert plugin.is_active()
apps = plugin.get_plugin_apps()
from werkzeug.test import Client
for route, app in apps.items():
    assert Client(app).get("/").status_code in (200, 400), route
"""


def test_the_tab_needs_neither_pytorch_nor_lightning() -> None:
    check = f"heavy = set({_HEAVY!r}) & set(sys.modules); assert not heavy, heavy"
    done = subprocess.run(
        [sys.executable, "-c", _LOAD_AND_ASK + check], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_loader_alone_imports_next_to_nothing() -> None:
    code = (
        "import sys, tensorboard.plugins.base_plugin\n"
        "before = set(sys.modules)\n"
        "import jacoscope.board.loader\n"
        "new = {n for n in set(sys.modules) - before if not n.startswith('jacoscope')}\n"
        "assert not {n for n in new if '.' not in n} - set(sys.stdlib_module_names), new\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_tab_that_fails_is_left_out_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "jacoscope.board.plugin", None)
    with caplog.at_level(logging.WARNING):
        assert SensitivityLoader().load(base_plugin.TBContext()) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "The Sensitivity tab could not be loaded (ModuleNotFoundError" in record.getMessage()


def test_tensorboard_without_a_data_provider(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert SensitivityLoader().load(base_plugin.TBContext()) is None
    assert "runs without a data provider" in caplog.text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"jacoscope": 0}),
        (None, {"jacoscope": 0}),
        ({"images": 5}, {"images": 5, "jacoscope": 0}),
        ({"jacoscope": 7}, {"jacoscope": 7}),
    ],
)
def test_all_steps_are_kept_unless_the_command_line_says_how_many(
    given: Any, expected: dict[str, int]
) -> None:
    flags = argparse.Namespace(samples_per_plugin=given)
    SensitivityLoader().fix_flags(flags)
    assert flags.samples_per_plugin == expected


def test_flags_as_tensorboard_parses_them() -> None:
    parser = argparse.ArgumentParser()
    core_plugin.CorePluginLoader().define_flags(parser)
    SensitivityLoader().define_flags(parser)
    for argv, expected in (
        ([], {"jacoscope": 0}),
        (["--samples_per_plugin", "jacoscope=9,images=3"], {"jacoscope": 9, "images": 3}),
    ):
        flags = parser.parse_args(argv)
        SensitivityLoader().fix_flags(flags)
        assert flags.samples_per_plugin == expected
    flags = argparse.Namespace()
    SensitivityLoader().fix_flags(flags)
    assert flags.samples_per_plugin == {"jacoscope": 0}


def test_the_tab_is_active_where_there_is_a_record(tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    with Log(full / RUN, GROUP) as log:
        log.capture(0)
    for folder, active in ((empty, False), (full, True)):
        plugin = SensitivityPlugin(base_plugin.TBContext(data_provider=read(folder)))
        assert plugin.is_active() is active
        assert plugin.data_plugin_names() == ("jacoscope",)


def test_whether_the_tab_is_active_is_asked_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    class Provider:
        asked = 0

        def list_plugins(self, *_: Any, **__: Any) -> list[str]:
            self.asked += 1
            return ["scalars"] if self.asked == 1 else ["jacoscope"]

    now = [100.0]
    monkeypatch.setattr("jacoscope.board.plugin.time.monotonic", lambda: now[0])
    provider = Provider()
    plugin = SensitivityPlugin(base_plugin.TBContext(data_provider=provider))
    assert [plugin.is_active() for _ in range(5)] == [False] * 5
    assert provider.asked == 1
    now[0] += 6
    assert plugin.is_active()


def test_a_provider_that_cannot_tell_leaves_the_tab_idle() -> None:
    plugin = SensitivityPlugin(base_plugin.TBContext(data_provider=object()))
    assert plugin.is_active() is False


def test_the_tab_names_itself_and_its_module() -> None:
    plugin = SensitivityPlugin(base_plugin.TBContext(data_provider=object()))
    assert plugin.plugin_name == "jacoscope"
    metadata = plugin.frontend_metadata()
    assert metadata.tab_name == "Sensitivity"
    assert metadata.es_module_path in plugin.get_plugin_apps()
    assert not metadata.disable_reload
