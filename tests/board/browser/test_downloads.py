"""Every figure can be taken away: its picture as PNG, its numbers as CSV."""

import struct
from pathlib import Path

import pytest
from playwright.sync_api import expect

from board_browser import VIEWS, Tab, rows_of

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _size(picture: bytes) -> tuple[int, int]:
    assert picture.startswith(_SIGNATURE)
    width, height = struct.unpack(">II", picture[16:24])
    return width, height


@pytest.mark.parametrize("view", VIEWS)
def test_every_figure_can_be_taken_away(tab: Tab, view: str) -> None:
    drawn = tab.open(view, "cnn", "mlp", focus="cnn|sensitivity", rows=["network.head.weight"])
    figures = drawn.locator("figure").all()
    assert figures
    for figure in figures:
        buttons = figure.get_by_role("button", name="Download as")
        assert buttons.count() >= 1, figure.inner_text()
        for button in buttons.all():
            name, content = tab.take(button)
            if name.endswith(".png"):
                width, height = _size(content)
                assert width >= 240, name
                assert height >= 60, name
            else:
                assert name.endswith(".csv")
                assert rows_of(content), name


def test_a_picture_is_as_large_as_what_is_shown(tab: Tab) -> None:
    tab.open("layers", "cnn")
    shown = tab.heat_map().bounding_box()
    assert shown is not None
    button = tab.figure("canvas.heat-canvas").get_by_role("button", name="Download as PNG")
    with tab.page.expect_download() as downloading:
        button.click()
    assert downloading.value.suggested_filename == "grad_rms_layers_by_step.png"
    width, height = _size(Path(downloading.value.path()).read_bytes())
    assert width > shown["width"]  # the rows' names stand beside the cells
    assert height > shown["height"]


def test_a_picture_can_be_copied(tab: Tab) -> None:
    tab.open("layers", "cnn")
    tab.allow_clipboard()
    figure = tab.figure("canvas.heat-canvas")
    figure.get_by_role("button", name="Copy picture").click()
    expect(figure.get_by_text("Copied")).to_be_visible()
    kinds = tab.page.evaluate(
        "async () => (await navigator.clipboard.read()).flatMap((item) => item.types)"
    )
    assert kinds == ["image/png"]
