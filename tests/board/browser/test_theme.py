"""Light and dark, as TensorBoard is."""

from playwright.sync_api import expect

from board_browser import Open, Tab
from board_server import Board

_GROUND = "getComputedStyle(document.body).backgroundColor"


def test_the_tab_follows_tensorboard_s_own_switch(tab: Tab) -> None:
    tab.open("layers", "cnn")
    light, drawn_light = tab.evaluate(_GROUND), _pixels(tab)
    tab.set_theme("dark")
    dark, drawn_dark = tab.evaluate(_GROUND), _pixels(tab)
    assert _brightness(light) > 0.9
    assert _brightness(dark) < 0.2
    assert drawn_dark != drawn_light  # what is drawn on canvases follows too
    tab.set_theme("light")
    assert tab.evaluate(_GROUND) == light
    assert _pixels(tab) == drawn_light


def test_without_a_choice_it_follows_the_system(open_tab: Open, board: Board) -> None:
    tab = open_tab(board, color_scheme="dark")
    tab.open("overview", "cnn")
    assert _brightness(tab.evaluate(_GROUND)) < 0.2


def _brightness(color: str) -> float:
    numbers = [float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    return sum(numbers) / 3 / 255


def _pixels(tab: Tab) -> str:
    tab.view("layers")
    axis = tab.frame.locator("canvas.heat-axis").first
    expect(axis).to_be_visible()
    tab.settle()
    picture: str = axis.evaluate("(canvas) => canvas.toDataURL()")
    return picture
