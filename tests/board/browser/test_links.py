"""A link restores what was shown, and a link that makes no sense does no harm."""

import re

import pytest
from playwright.sync_api import expect

from board_browser import Open, Tab
from board_runs import HOSTILE
from board_server import Board


def test_a_reload_restores_what_was_shown(tab: Tab) -> None:
    tab.open("overview", "cnn")
    tab.frame.get_by_role("tab", name="Layers").click()
    tab.view("layers")
    tab.frame.get_by_role("combobox", name="Quantity").select_option("grad_max")
    tab.frame.get_by_label("From step").fill("5")
    tab.frame.get_by_label("From step").press("Enter")
    expect(tab.heat_map()).to_have_accessible_name(_summary("largest gradient", "5 to 19"))
    before = tab.state()
    assert before["view"] == "layers"
    assert before["quantity"] == "grad_max"
    assert before["from"] == "5"
    tab.page.reload()
    tab.view("layers")
    assert tab.state() == before
    expect(tab.frame.get_by_role("tab", name="Layers")).to_have_attribute("aria-selected", "true")
    expect(tab.frame.get_by_role("combobox", name="Quantity")).to_have_value("grad_max")
    expect(tab.frame.get_by_label("From step")).to_have_value("5")
    expect(tab.heat_map()).to_have_accessible_name(_summary("largest gradient", "5 to 19"))


def test_the_copied_link_shows_the_same_on_another_page(
    tab: Tab, open_tab: Open, board: Board
) -> None:
    tab.open("layers", "cnn", quantity="weight_norm", to="12")
    tab.allow_clipboard()
    tab.frame.get_by_role("button", name="Copy link").click()
    expect(tab.frame.get_by_role("button", name="Copied")).to_be_visible()
    link = tab.page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{board.url}#jacoscope&")
    other = open_tab(board)
    other.page.goto(link)
    other.view("layers")
    assert other.state() == tab.state()
    expect(other.heat_map()).to_have_accessible_name(_summary("weight norm", "0 to 12"))


def test_the_tab_is_as_it_was_after_a_look_at_another_one(tab: Tab) -> None:
    tab.open("layers", "cnn", quantity="grad_max")
    tab.page.get_by_role("tab", name="Scalars").click()
    tab.page.wait_for_function("location.hash.startsWith('#scalars')")
    tab.page.get_by_role("tab", name="Sensitivity").click()
    tab.view("layers")
    expect(tab.frame.get_by_role("combobox", name="Quantity")).to_have_value("grad_max")
    tab.page.wait_for_function("location.hash.includes('p.jacoscope.quantity=grad_max')")


@pytest.mark.parametrize(
    "state",
    [
        {"view": HOSTILE},
        {"runs": "[not JSON"},
        {"runs": '{"a": 1}'},
        {"runs": [f"{HOSTILE}|sensitivity", 5, None]},
        {"from": "abc", "to": "NaN"},
        {"from": "1e300", "to": "-7"},
        {"quantity": "../../etc/passwd"},
        {"quantity": HOSTILE, "rows": '["' + "x" * 3000 + '"]', "step": "Infinity", "scale": "%00"},
        {"focus": "\x00", "side": HOSTILE, "live": HOSTILE},
    ],
    ids=lambda state: "-".join(state),
)
def test_a_link_that_makes_no_sense_does_no_harm(tab: Tab, state: dict[str, object]) -> None:
    for view in ("layers", "samples"):
        tab.follow(**{"view": view, **state})
        tab.frame.locator("[data-view][data-ready=true]").wait_for()
        expect(tab.frame.get_by_role("alert")).to_have_count(0)
        assert tab.frame.locator("img[src=x]").count() == 0
    tab.open("overview", "cnn")


def test_a_run_that_has_gone_is_told_and_can_be_removed(tab: Tab) -> None:
    tab.open("overview", "cnn", HOSTILE)
    gone = tab.frame.get_by_role("complementary", name="Runs").get_by_role("listitem").last
    expect(gone).to_contain_text(HOSTILE)
    expect(gone).to_contain_text("not in this folder")
    gone.get_by_role("button", name="Remove").click()
    expect(tab.frame.get_by_text("not in this folder")).to_have_count(0)


def _summary(quantity: str, steps: str) -> re.Pattern[str]:
    return re.compile(rf"{quantity}.*steps {steps}\b", re.IGNORECASE | re.DOTALL)
