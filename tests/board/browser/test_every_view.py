"""What all views have in common: they draw, they fit, they can be read, and they have names."""

import pytest

from board_browser import VIEWS, Open, Tab
from board_checks import nameless, overflowing, unfocused, unreadable
from board_server import Board

_SIZES = {"1280 × 720": (1280, 720), "1920 × 1080": (1920, 1080)}


@pytest.mark.parametrize("size", _SIZES)
def test_every_view_fits_and_can_be_read(open_tab: Open, board: Board, size: str) -> None:
    width, height = _SIZES[size]
    tab = open_tab(board, viewport={"width": width, "height": height})
    tab.open("overview", "cnn")
    for theme in ("light", "dark"):
        tab.set_theme(theme)
        for view in VIEWS:
            tab.open(view, "cnn", "mlp", focus="cnn|sensitivity")
            assert overflowing(tab) == [], (view, theme)
            assert unreadable(tab) == [], (view, theme)


@pytest.mark.parametrize("run", ["cnn", "mlp"])
def test_every_control_and_picture_has_a_name(tab: Tab, run: str) -> None:
    for view in VIEWS:
        tab.open(view, run)
        assert nameless(tab) == [], view


def test_every_control_shows_that_it_has_the_focus(tab: Tab) -> None:
    for view in VIEWS:
        tab.open(view, "cnn")
        assert unfocused(tab) == [], view


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_opens_with_the_python_loader_under_a_path_prefix(
    open_tab: Open, slow_board: Board, view: str
) -> None:
    assert slow_board.url.endswith("/deep/er/")
    drawn = open_tab(slow_board).open(view, "cnn")
    assert drawn.locator("canvas, svg").count() > 0
    assert drawn.locator(".empty").count() == 0
