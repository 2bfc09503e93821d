"""The tab by keyboard alone."""

import re

from playwright.sync_api import expect

from board_browser import VIEWS, Tab


def test_arrows_walk_the_tabs(tab: Tab) -> None:
    tab.open("overview", "cnn")
    tabs = tab.frame.get_by_role("tablist", name="Views").get_by_role("tab")
    assert tabs.count() == len(VIEWS)
    tabs.first.focus()
    for place, view in enumerate(VIEWS):
        expect(tabs.nth(place)).to_be_focused()
        expect(tabs.nth(place)).to_have_attribute("aria-selected", "true")
        tab.view(view)
        tabs.nth(place).press("ArrowRight")
    expect(tabs.first).to_be_focused()
    tabs.first.press("End")
    expect(tabs.last).to_have_attribute("aria-selected", "true")
    tabs.last.press("Home")
    expect(tabs.first).to_have_attribute("aria-selected", "true")


def test_arrows_read_the_heat_map_and_enter_opens_a_row(tab: Tab) -> None:
    tab.open("layers", "cnn", quantity="grad_norm")
    heat, readout = tab.heat_map(), tab.frame.get_by_label("Value under the cursor").first
    heat.focus()
    heat.press("ArrowRight")  # the newest step of the first row, which is the whole network
    expect(readout).to_contain_text("network")
    heat.press("ArrowDown")
    expect(readout).to_contain_text(re.compile(r"convolution1\.weight.*step 19\b"))
    heat.press("ArrowDown")
    heat.press("Home")
    expect(readout).to_contain_text("convolution1.bias")
    expect(readout).to_contain_text("step 0")
    heat.press("Enter")
    expect(tab.frame.locator("figure", has_text="convolution1.bias").first).to_be_visible()
    assert "convolution1.bias" in tab.state()["rows"]


def test_arrows_read_a_line_chart(tab: Tab) -> None:
    tab.open("layers", "cnn", rows=["network.head.weight"])
    chart = tab.frame.locator(".plot[role=img]").first
    chart.focus()
    chart.press("Home")
    spoken = tab.figure(".plot").locator("[aria-live]")
    expect(spoken).to_contain_text("Step 0:")
    chart.press("ArrowRight")
    expect(spoken).to_contain_text("Step 1:")


def test_arrows_fold_and_unfold_the_tree(tab: Tab) -> None:
    tab.open("layers", "cnn")
    tree = tab.frame.get_by_role("tree")
    items = tree.get_by_role("treeitem")
    branch = tree.locator("[role=treeitem][aria-expanded=true]").first
    count = items.count()
    branch.focus()
    branch.press("ArrowLeft")
    expect(tree.locator("[role=treeitem][aria-expanded=false]")).to_have_count(1)
    assert items.count() < count
    tab.page.keyboard.press("ArrowRight")
    expect(items).to_have_count(count)
    tab.page.keyboard.press("ArrowDown")
    expect(items.nth(1)).to_be_focused()
