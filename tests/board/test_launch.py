"""``jacoscope board``: one address, and one sentence for every mistake."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from board_runs import Loop
from board_server import environment, jacoscope_board, wait_until
from jacoscope.cli import main


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.create_server(("localhost", 0)) as other:
        yield other.getsockname()[1]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    with environment() as variables:
        return subprocess.run(
            [sys.executable, *arguments], env=variables, capture_output=True, text=True, check=False
        )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            [],
            "no LOGDIR is given; name the folder that runs are logged to, such as runs",
        ),
        (["runz"], "there is no folder runz; did you mean 'runs'?"),
        (["a/b"], "there is no folder a/b; make it first if runs are to come there"),
        (["file"], "file is a file; give the folder that it is in"),
        (
            ["runs", "--prot", "1"],
            "--prot is not an option here (TensorBoard's own go after --); did you mean '--port'?",
        ),
        (["runs", "--port", "x"], "argument --port: 'x' is not a number from 0 to 65535"),
        (["runs", "--port", "65536"], "argument --port: '65536' is not a number from 0 to 65535"),
        (
            ["runs", "--path_prefix", "deep"],
            "Path prefix must start with slash, but got: 'deep'.",
        ),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    try:
        code = main(["board", *arguments])
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert said.err == f"jacoscope: error: {sentence}\n"


def test_a_port_that_is_taken_is_told_with_one_that_is_free(
    taken: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["board", "runs", "--port", str(taken)]) == 2
    told = re.fullmatch(
        rf"jacoscope: error: port {taken} is taken; give --port (\d+), which is free, or leave "
        r"--port out\n",
        capsys.readouterr().err,
    )
    assert told
    with socket.create_server(("localhost", int(told[1]))):
        pass


def test_it_serves_the_tab_and_prints_its_address() -> None:
    loop = Loop(Path("runs/first"))
    loop.go(2)
    loop.close()
    with jacoscope_board(Path("runs")) as board:
        assert re.fullmatch(r"http://localhost:\d+/", board.url)
        assert board.get("data/plugin/jacoscope/static/index.js")[0] == 200
        board.wait_for({"first": 1})
        assert json.loads(board.get("data/plugins_listing")[1])["jacoscope"]["enabled"]
        board.process.send_signal(signal.SIGINT)
        assert board.process.wait(timeout=60) == 0
        assert "Traceback" not in board.said()
        assert "holds no record" not in board.said()


def test_it_waits_for_runs_that_begin_later() -> None:
    with jacoscope_board(Path("runs"), "--", "--reload_interval", "1") as board:
        waits = "runs holds no record of a monitor yet; the tab waits for one.\n"
        wait_until(lambda: waits in board.said(), board.said)
        loop = Loop(Path("runs/later"))
        loop.go(3)
        board.wait_for({"later": 2})
        loop.close()


def test_options_after_two_dashes_are_tensorboard_s() -> None:
    with jacoscope_board(
        Path("runs"), "--path_prefix", "/deep/er", "--", "--window_title", "ours"
    ) as board:
        assert board.url.endswith("/deep/er/")
        assert json.loads(board.get("data/environment")[1])["window_title"] == "ours"


def test_open_opens_the_tab_in_a_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    browser, opened = Path("browser").resolve(), Path("opened").resolve()
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    with jacoscope_board(Path("runs"), "--open") as board:
        wait_until(opened.exists, lambda: "no browser was opened")
        wait_until(lambda: opened.read_text() == f"{board.url}#jacoscope\n", opened.read_text)


def test_a_board_loads_neither_pytorch_nor_lightning() -> None:
    heavy = ["torch", "lightning", "pandas", "matplotlib", "jsonargparse", "transformers"]
    program = (
        "import sys\n"
        "from tensorboard import program\n"
        "program.TensorBoard.main = lambda self: self._make_server().server_close()\n"
        "from jacoscope.cli import main\n"
        "assert main(['board', 'runs', '--port', '0', '--load_fast', 'false']) == 0\n"
        f"print(*(name for name in {heavy} if name in sys.modules))\n"
    )
    done = _run("-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_help_names_the_board_and_what_it_can_do() -> None:
    told = _run("-m", "jacoscope", "board", "--help").stdout
    for word in ("LOGDIR", "--port", "--host", "--load_fast", "--path_prefix", "--open", "-- --"):
        assert word in told
    assert "jacoscope board LOGDIR" in _run("-m", "jacoscope", "--help").stdout
