"""Servers that the browser tests share, and pages that must do nothing wrong."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

import board_runs
from board_browser import ARGUMENTS, Open, Tab, chromium
from board_server import Board, Serve, tensorboard

_LAST_STEPS = {"cnn": 19, "mlp": 19, "resumed": 14, "diverged": 13}


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A Chromium; without one these tests are skipped, unless a browser is required."""
    path = chromium()
    if path is None:
        reason = (
            "THE TAB IS NOT TESTED: there is no Chromium; install one (Debian: apt-get install "
            "chromium) or say where it is with CHROMIUM_PATH"
        )
        if os.environ.get("JACOSCOPE_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    # Playwright keeps an event loop running, so it ends with these tests and not with the session.
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="package")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with other layers, one that was resumed, and one that diverged."""
    folder = tmp_path_factory.mktemp("logs")
    for record in (board_runs.perceptron, board_runs.resumed, board_runs.diverged):
        record(folder)
    board_runs.convolutional(folder)  # the newest run is the one that is shown first
    return folder


@pytest.fixture(scope="package")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that must neither run nor break."""
    folder = tmp_path_factory.mktemp("hostile")
    board_runs.hostile(folder)
    return folder


@pytest.fixture(scope="package")
def serve() -> Iterator[Serve]:
    """Serve a folder; a server that was started with the same options is used again."""
    started: dict[tuple[Path, tuple[str, ...]], Board] = {}
    with ExitStack() as stack:

        def start(folder: Path, *options: str) -> Board:
            key = (folder, options)
            if key not in started:
                started[key] = stack.enter_context(tensorboard(folder, *options))
            return started[key]

        yield start


@pytest.fixture(scope="package")
def board(serve: Serve, logs: Path) -> Board:
    """The runs of :func:`logs` with TensorBoard's fast loader, all loaded."""
    started = serve(logs, "--load_fast=true")
    started.wait_for(_LAST_STEPS)
    return started


@pytest.fixture(scope="package")
def slow_board(serve: Serve, logs: Path) -> Board:
    """The same with TensorBoard's Python loader, under a path prefix."""
    started = serve(logs, "--load_fast=false", "--path_prefix=/deep/er")
    started.wait_for(_LAST_STEPS)
    return started


@pytest.fixture(scope="package")
def kept(browser: Browser) -> Iterator[dict[str, Tab]]:
    """Tabs by the address of their server. TensorBoard's page takes long to load, links do not."""
    tabs: dict[str, Tab] = {}
    yield tabs
    for tab in tabs.values():
        tab.close()


@pytest.fixture
def open_tab(browser: Browser, kept: dict[str, Tab]) -> Iterator[Open]:
    """Open the tab: on the page that the server has already, or on a new one where options differ.

    At the end, nothing must have gone wrong on it.
    """
    used: list[Tab] = []
    own: list[Tab] = []

    def start(board: Board, **options: object) -> Tab:
        if options:
            own.append(Tab(browser, board, **options))
            return own[-1]
        used.append(kept.get(board.url) or Tab(browser, board))
        kept[board.url] = used[-1]
        return used[-1]

    yield start
    for tab in own:
        tab.close()
    for tab in (*own, *used):
        tab.check()


@pytest.fixture
def tab(open_tab: Open, board: Board) -> Tab:
    """The tab with the fast loader."""
    return open_tab(board)
