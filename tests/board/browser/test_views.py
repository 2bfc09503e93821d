"""Each view on a real run: it has the numbers of the record, and its controls do what they say."""

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from board_browser import Open, Tab
from jacoscope import read_run


def _numbers(rows: list[dict[str, str]], column: str) -> list[float]:
    return [float(row[column]) if row[column] else float("nan") for row in rows]


def test_the_overview_says_how_the_run_is_and_leads_to_where(tab: Tab) -> None:
    card = tab.open("overview", "cnn").get_by_role("region", name="Run cnn")
    expect(card).to_contain_text("20 captured steps")
    expect(card).to_contain_text("All gradients are finite")
    expect(card).to_contain_text("Nothing is missing of what was asked for")
    finding = card.get_by_role("listitem").filter(has=tab.page.get_by_role("button")).first
    finding.get_by_role("button").click()
    expect(tab.frame.get_by_role("tab", name="Overview")).to_have_attribute(
        "aria-selected", "false"
    )
    assert tab.view(tab.state()["view"]).locator("figure").count() > 0


def test_a_headline_opens_as_a_chart(tab: Tab, logs: Path) -> None:
    drawn = tab.open("overview", "cnn")
    drawn.locator("[data-name=grad_norm]").click()
    chart = tab.figure(".plot")
    expect(chart).to_be_visible()
    recorded = read_run(logs / "cnn").headline["grad_norm"].dropna()
    rows = tab.numbers(drawn.locator("figure").first)
    of_norm = [row for row in rows if row["name"] == "grad_norm"]
    assert [int(row["step"]) for row in of_norm] == list(recorded.index)
    np.testing.assert_allclose(_numbers(of_norm, "high"), recorded, rtol=1e-6)


@pytest.mark.parametrize("run", ["cnn", "mlp"])
def test_the_layers_are_those_of_the_record(tab: Tab, logs: Path, run: str) -> None:
    _expect_layers_of(tab, logs / run)


@pytest.mark.parametrize("loader", ["board", "slow_board"])
def test_of_a_resumed_run_the_last_writing_counts(
    open_tab: Open, logs: Path, loader: str, request: pytest.FixtureRequest
) -> None:
    _expect_layers_of(open_tab(request.getfixturevalue(loader)), logs / "resumed")


def _expect_layers_of(tab: Tab, folder: Path) -> None:
    """The heat map of a run holds what its record holds, each number once."""
    tab.open("layers", folder.name, quantity="grad_norm")
    expected = read_run(folder)["grad_norm"]
    assert expected.notna().all(axis=None)
    rows = tab.numbers(tab.figure("canvas.heat-canvas"))
    shown = [row for row in rows if row["row"] in expected.columns]
    places = [(int(row["step"]), row["row"]) for row in shown]
    assert sorted(places) == sorted((s, n) for s in expected.index for n in expected.columns)
    for end in ("low", "high"):
        values = [expected.loc[place] for place in places]
        np.testing.assert_allclose(_numbers(shown, end), values, rtol=1e-5)
    for name in expected.columns:
        expect(tab.frame.get_by_role("treeitem", name=name, exact=True)).to_be_visible()


def test_a_layer_is_opened_by_a_click_and_steps_are_brushed(tab: Tab) -> None:
    tab.open("layers", "cnn", quantity="grad_norm")
    tab.heat_map().scroll_into_view_if_needed()
    box = tab.heat_map().bounding_box()
    assert box is not None
    tab.page.mouse.click(box["x"] + 5, box["y"] + 2.5 * box["height"] / 11)
    expect(tab.figure(".plot").locator(".legend")).to_contain_text("convolution1.bias")
    middle = box["y"] + box["height"] / 2
    tab.page.mouse.move(box["x"] + box["width"] * 5.5 / 20, middle)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + box["width"] * 8 / 20, middle)
    tab.page.mouse.move(box["x"] + box["width"] * 10.5 / 20, middle)
    tab.page.mouse.up()
    expect(tab.frame.get_by_label("From step")).to_have_value("5")
    expect(tab.frame.get_by_label("To step")).to_have_value("10")
    expect(tab.heat_map()).to_have_accessible_name(re.compile("over steps 5 to 10,"))
    tab.frame.get_by_role("button", name="Show all steps").click()
    expect(tab.heat_map()).to_have_accessible_name(re.compile("over steps 0 to 19,"))


def test_the_step_slider_chooses_what_is_distributed(tab: Tab, logs: Path) -> None:
    tab.open("layers", "cnn", rows=["network.head.weight"])
    slider = tab.frame.get_by_role("slider", name="Step")
    slider.focus()
    slider.press("Home")
    figure = tab.frame.get_by_role("figure", name=re.compile("^Gradients of the weights"))
    expect(figure).to_contain_text("Step 0")
    counts = read_run(logs / "cnn").histogram("network.head.weight").iloc[0]
    np.testing.assert_array_equal(_numbers(tab.numbers(figure), "count"), counts)


def test_a_scale_can_be_linear(tab: Tab) -> None:
    tab.open("layers", "cnn")
    legend = tab.figure("canvas.heat-canvas").locator(".heat-legend")
    expect(legend).to_contain_text("log scale")
    tab.frame.get_by_role("combobox", name="Scale").select_option("linear")
    expect(legend).not_to_contain_text("log scale")
    assert tab.state()["scale"] == "linear"


def test_the_samples_are_ranked_as_recorded(tab: Tab, logs: Path) -> None:
    drawn = tab.open("samples", "cnn")
    latest = read_run(logs / "cnn").samples.drop_duplicates("id", keep="last")
    rows = tab.numbers(tab.figure("table"))
    assert {row["id"] for row in rows} == set(latest["id"].astype(str))
    norms = _numbers(rows, "norm")
    assert norms == sorted(norms, reverse=True)
    recorded = latest.set_index(latest["id"].astype(str))["norm"]
    np.testing.assert_allclose(norms, [recorded[row["id"]] for row in rows], rtol=1e-5)
    assert drawn.get_by_role("img", name="Sample").count() > 0


def test_samples_are_filtered_by_class_and_by_steps(tab: Tab) -> None:
    drawn = tab.open("samples", "cnn")
    all_of_them = tab.numbers(tab.figure("table"))
    classes = drawn.get_by_role("combobox", name="Class")
    third = classes.locator("option", has_text="class 3").get_attribute("value")
    classes.select_option(third)
    expect(drawn.get_by_role("table").first.locator("tbody tr").first).to_contain_text("class 3")
    of_class = tab.numbers(tab.figure("table"))
    assert {row["label"] for row in of_class} == {"3"}
    assert len(of_class) == sum(row["label"] == "3" for row in all_of_them)
    tab.open("samples", "cnn", to="9")
    first_epoch = tab.numbers(tab.figure("table"))
    assert {row["epoch"] for row in first_epoch} == {"0"}


def test_a_sample_opens_with_the_layers_it_pushes(tab: Tab) -> None:
    drawn = tab.open("samples", "cnn")
    first = drawn.get_by_role("button", name=re.compile(r"^Sample \d+: show details")).first
    sample = first.inner_text()
    first.click()
    chosen = drawn.get_by_role("region", name="The chosen sample")
    expect(chosen).to_contain_text(f"Sample {sample}, class")
    shares = tab.numbers(chosen.get_by_role("figure", name="Layers that it pushes"))
    assert sum(_numbers(shares, "share")) == pytest.approx(1, abs=0.01)
    assert tab.state()["samples_id"] == sample


def test_the_matrix_of_a_batch_is_ordered_by_class(tab: Tab) -> None:
    drawn = tab.open("agreement", "cnn")
    expect(drawn.get_by_role("status").first).to_contain_text("step 15")
    rows = tab.numbers(drawn.get_by_role("figure", name="Cosines of gradients"))
    assert len(rows) == 16**2
    assert max(abs(value) for value in _numbers(rows, "value")) <= 1 + 1e-6
    classes = [re.search(r"class (\d)", row["column"])[1] for row in rows[:16]]  # type: ignore[index]
    assert classes == sorted(classes)
    drawn.get_by_role("button", name="Gram matrix", exact=True).click()
    expect(drawn.get_by_role("figure", name=re.compile("^Gram matrix"))).to_be_visible()
    drawn.get_by_role("button", name="Step before").click()
    expect(drawn.get_by_role("figure", name=re.compile("^Gram matrix"))).to_contain_text("step 10")


def test_the_outputs_are_of_the_probe_that_is_chosen(tab: Tab, logs: Path) -> None:
    drawn = tab.open("outputs", "cnn")
    expect(drawn.get_by_role("figure", name="Input saliency at step")).to_be_visible()
    rows = tab.numbers(drawn.get_by_role("figure", name=re.compile("^Norm of the input Jacobian")))
    recorded = read_run(logs / "cnn")["input_jacobian_norm"].iloc[:, 0].dropna()
    assert [int(row["step"]) for row in rows] == list(recorded.index)
    np.testing.assert_allclose(_numbers(rows, "value"), recorded, rtol=1e-6)
    drawn.get_by_role("slider", name="Probed step").press("Home")
    expect(drawn.get_by_role("figure", name="Input saliency at step 0")).to_be_visible()


def test_the_waterfall_is_of_the_recorded_changes(tab: Tab, logs: Path) -> None:
    drawn = tab.open("all_else_equal", "cnn")
    expect(drawn).to_contain_text("This step lowered the loss")
    rows = tab.numbers(drawn.get_by_role("figure", name="Numbers by layer"))
    recorded = read_run(logs / "cnn")
    for column, quantity in {"actual": "actual_change", "promised": "predicted_change"}.items():
        last = recorded[quantity].loc[15]
        expected = [last[f"layer {row['layer']}"] for row in rows]
        np.testing.assert_allclose(_numbers(rows, column), expected, rtol=1e-5)
    assert len(rows) == 5


def test_two_runs_are_compared_layer_by_layer(tab: Tab, logs: Path) -> None:
    tab.open("compare", "resumed", "mlp", quantity="grad_norm")
    compared = tab.frame.get_by_role("figure", name=re.compile("^Gradient norm"))
    # The runs share no layer, and that is said for each.
    rows = tab.numbers(compared)
    last = read_run(logs / "resumed")["grad_norm"].iloc[-1]
    assert {row["layer"] for row in rows} >= set(last.index)
    assert {row["mark"] for row in rows} == {"only in A", "only in B"}
    # A run against one with the same layers: the ratio of each.
    tab.open("compare", "resumed", "diverged", quantity="weight_norm")
    pairs = tab.numbers(tab.frame.get_by_role("figure", name=re.compile("^Weight norm")))
    assert [row["layer"] for row in pairs] == list(last.index)
