"""New steps and new runs appear while the page is open."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from board_browser import Open
from board_runs import Loop
from board_server import Board, Serve

Train = Callable[[str, int], Loop]

# The page asks every five seconds; what it then has to do takes a slow machine a while.
_NEWS = 30_000


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast loader", "Python loader"])
def live(
    request: pytest.FixtureRequest, serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Board, Path]:
    """A server on a folder of its own, in which runs come and grow."""
    folder = tmp_path_factory.mktemp("live")
    return serve(folder, f"--load_fast={request.param}"), folder


@pytest.fixture
def train(live: tuple[Board, Path]) -> Iterator[Train]:
    """Begin a run, or go on with it, and wait until the server has its steps."""
    _, folder = live
    loops: dict[str, Loop] = {}

    def go(name: str, steps: int) -> Loop:
        loop = loops.setdefault(name, Loop(folder / name))
        loop.go(steps)
        return loop

    yield go
    for loop in loops.values():
        loop.close()


def test_new_steps_and_runs_appear_without_a_reload(
    open_tab: Open, live: tuple[Board, Path], train: Train
) -> None:
    board, _ = live
    train("growing", 3)
    board.wait_for({"growing": 2})
    tab = open_tab(board)
    tab.open("layers", "growing")
    expect(tab.heat_map()).to_have_accessible_name(_up_to(2))
    tab.evaluate("(window.isTheSamePage = true)")
    tab.heat_map().focus()

    train("second", 2)
    train("growing", 4)
    expect(tab.run("growing")).to_contain_text("step 6", timeout=_NEWS)
    expect(tab.run("growing")).to_contain_text("live")
    expect(tab.run("second")).to_be_visible(timeout=_NEWS)
    expect(tab.heat_map()).to_have_accessible_name(_up_to(6))
    expect(tab.heat_map()).to_be_focused()
    assert tab.evaluate("window.isTheSamePage")


def test_tensorboard_s_reload_button_brings_new_steps(
    open_tab: Open, live: tuple[Board, Path], train: Train
) -> None:
    board, _ = live
    train("by hand", 3)
    board.wait_for({"by hand": 2})
    tab = open_tab(board, locale="en-GB")  # a page that has not asked for anything yet
    tab.open("overview", "by hand", live="off")
    expect(tab.run("by hand")).to_contain_text("step 2")
    train("by hand", 2)
    board.wait_for({"by hand": 4})
    expect(tab.run("by hand")).to_contain_text("step 2")
    tab.page.get_by_title("Last Updated").click()
    expect(tab.run("by hand")).to_contain_text("step 4")


def test_a_folder_without_records_fills_by_itself(
    open_tab: Open, serve: Serve, tmp_path: Path
) -> None:
    board = serve(tmp_path, "--load_fast=true")
    tab = open_tab(board)
    tab.follow()
    tab.view("none")
    empty = tab.frame.get_by_role("note", name="No record")
    expect(empty).to_contain_text("jacoscope.SensitivityMonitor")
    loop = Loop(tmp_path / "first")
    loop.go(2)
    tab.view("overview")
    expect(tab.run("first")).to_contain_text("step 1", timeout=_NEWS)
    loop.close()


def _up_to(last: int) -> re.Pattern[str]:
    return re.compile(rf"over steps 0 to {last},")
