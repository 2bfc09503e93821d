"""Several runs side by side, runs that diverge, and runs that lack what a view needs."""

import re

import pytest
import yaml
from playwright.sync_api import expect

from board_browser import Tab
from jacoscope.config import check_section

_NEEDS_MORE = ("samples", "agreement", "outputs", "all_else_equal")


def test_the_newest_run_is_shown_first(tab: Tab) -> None:
    tab.follow()
    tab.view("overview")
    expect(tab.run("cnn").get_by_role("checkbox")).to_be_checked()
    expect(tab.run("mlp").get_by_role("checkbox")).not_to_be_checked()


def test_runs_are_told_apart_by_more_than_colour(tab: Tab) -> None:
    tab.open("overview", "cnn")
    names = ("cnn", "diverged", "mlp", "resumed")
    for name in names[1:]:
        tab.run(name).get_by_role("checkbox").check()
    lines = [tab.run(name).locator("svg line, svg path").first for name in names]
    look = "(node) => [getComputedStyle(node).stroke, getComputedStyle(node).strokeDasharray]"
    looks = [line.evaluate(look) for line in lines]
    assert len({color for color, _ in looks}) == len(names)
    assert len({dash for _, dash in looks}) == len(names)
    for name in names:
        expect(tab.frame.locator("[data-view=overview]").get_by_text(name).first).to_be_visible()


def test_a_layer_s_curves_of_two_runs_share_a_chart(tab: Tab) -> None:
    tab.open("layers", "resumed", "diverged", rows=["0.weight"], focus="resumed|sensitivity")
    chart = tab.figure(".plot")
    expect(chart.locator(".legend-item")).to_have_count(2)
    expect(chart.locator(".legend")).to_contain_text("resumed")
    expect(chart.locator(".legend")).to_contain_text("diverged")


def test_numbers_that_are_not_finite_are_marked_and_told(tab: Tab) -> None:
    tab.open("layers", "diverged", quantity="grad_norm")
    expect(tab.heat_map()).to_have_accessible_name(re.compile("not finite"))
    tab.heat_map().focus()
    tab.heat_map().press("ArrowRight")
    expect(tab.frame.get_by_label("Value under the cursor").first).to_contain_text("nan measured")
    overview = tab.open("overview", "diverged")
    expect(overview).to_contain_text("not finite")


@pytest.mark.parametrize("view", _NEEDS_MORE)
def test_a_view_without_its_numbers_says_what_to_switch_on(tab: Tab, view: str) -> None:
    drawn = tab.open(view, "mlp")
    empty = drawn.locator(".empty").first
    expect(empty).to_be_visible()
    written = yaml.safe_load(empty.locator("pre").first.inner_text())
    check_section(written["monitor"])  # it can be pasted as it is
    tab.allow_clipboard()
    empty.get_by_role("button", name="Copy YAML").click()
    expect(empty.get_by_role("button", name="Copied")).to_be_visible()
    assert yaml.safe_load(tab.page.evaluate("navigator.clipboard.readText()")) == written
