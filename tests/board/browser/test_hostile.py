"""Whatever lies in the log folder does not run, does not break the tab, and is shown as text."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from board_browser import VIEWS, Open, Tab
from board_runs import HOSTILE, UNICODE
from board_server import Board, Serve


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast loader", "Python loader"])
def hostile_board(request: pytest.FixtureRequest, serve: Serve, hostile: Path) -> Board:
    board = serve(hostile, f"--load_fast={request.param}")
    board.wait_for({HOSTILE: 5, UNICODE: 5})
    return board


@pytest.fixture
def hostile_tab(open_tab: Open, hostile_board: Board) -> Tab:
    return open_tab(hostile_board)


@pytest.mark.parametrize("name", [HOSTILE, UNICODE], ids=["markup", "unicode"])
def test_names_are_shown_as_text(hostile_tab: Tab, name: str) -> None:
    for view in VIEWS:
        drawn = hostile_tab.open(view, HOSTILE, UNICODE, focus=f"{name}|sensitivity")
        expect(hostile_tab.run(name)).to_contain_text(name)
        assert hostile_tab.frame.locator("img[src=x]").count() == 0, view
        expect(drawn).not_to_be_empty()


def test_layers_samples_and_texts_are_shown_as_text(hostile_tab: Tab) -> None:
    hostile_tab.open("layers", HOSTILE, rows=[f"network.{HOSTILE}.weight"])
    expect(hostile_tab.frame.get_by_text(HOSTILE).first).to_be_visible()
    # uPlot is handed such names too: its legend and titles must hold them as text.
    expect(hostile_tab.frame.locator("figure", has_text=HOSTILE).first).to_be_visible()
    hostile_tab.open("samples", HOSTILE)
    table = hostile_tab.frame.get_by_role("table").first
    expect(table).to_contain_text("<img src=x")
    expect(table).to_contain_text("</script>")


def test_records_of_others_are_passed_over(hostile_board: Board) -> None:
    runs = hostile_board.runs()
    assert {HOSTILE, UNICODE, "truncated"} <= set(runs)
    assert not {"scalars alone", "rubbish", "empty file"} & set(runs)
    assert 0 <= runs["truncated"]["last_step"] < 5
    assert runs["truncated"]["problem"] is None


def test_a_truncated_run_shows_what_it_has(hostile_tab: Tab) -> None:
    drawn = hostile_tab.open("layers", "truncated")
    assert drawn.locator("canvas").count() > 0


def test_a_record_of_a_newer_version_says_so(hostile_tab: Tab) -> None:
    hostile_tab.open("overview", "newer")
    expect(hostile_tab.run("newer")).to_contain_text("newer Jacoscope")
    for view in VIEWS:
        hostile_tab.open(view, "newer")
        expect(hostile_tab.frame.get_by_role("alert")).to_have_count(0)
