"""The text card: what TensorBoard makes of its Markdown, and whether it explains every tag."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
import yaml
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.util import tensor_util
from torch import nn

from jacoscope import MonitorConfig
from jacoscope.config import check_section
from jacoscope.quantities import HEADLINES, PROBE_HEADLINES, QUANTITIES, SAMPLE_HEADLINES
from jacoscope.record import GradientInfo, StepRecord
from jacoscope.selection import select
from jacoscope.sinks import RunInfo
from jacoscope.sinks._card import card_text

Train = Callable[..., list[StepRecord]]
Values = Callable[..., list[tuple[int, Any]]]


class _Tables(HTMLParser):
    """Rows of cells of each table, and the text outside tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.rest = ""
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.tables[-1][-1][-1] += data
        else:
            self.rest += data


def _card(
    model: nn.Module | None = None, gradient: GradientInfo | None = None, **config: Any
) -> str:
    made = MonitorConfig(**config)
    run = RunInfo(made, select(model or nn.Linear(2, 1), made), {"torch": "2.x"})
    return card_text(run, gradient or GradientInfo())


_EVERYTHING: dict[str, Any] = {
    "quantities": tuple(QUANTITIES),
    "output": {"layer_scalars": ["grad_rms"], "custom_scalars": True},
}


def test_tables_are_rendered_with_every_row_whole() -> None:
    parsed = _Tables(markdown_to_safe_html(_card(**_EVERYTHING)))
    headline, quantities = parsed.tables
    checks = 5  # coverage, overhead, closure and coverage of samples, cost of probes
    rows = 1 + len(HEADLINES) + len(SAMPLE_HEADLINES) + len(PROBE_HEADLINES) + checks
    assert [len(row) for row in headline] == [4] * rows
    assert [len(row) for row in quantities] == [4] * (1 + len(QUANTITIES))
    assert headline[0][1:] == quantities[0][1:] == ["definition", "unit", "reading"]
    assert "|" not in parsed.rest.partition("Configuration")[0]  # no row left as text


def test_cells_say_what_the_definitions_say() -> None:
    headline, quantities = _Tables(markdown_to_safe_html(_card(**_EVERYTHING))).tables
    for row, item in zip(headline[1:], HEADLINES, strict=False):
        assert row == [item.name, item.formula, item.unit, item.reading]
    for row, quantity in zip(quantities[1:], QUANTITIES.values(), strict=True):
        assert row == [quantity.name, quantity.formula, quantity.unit, quantity.reading]


def test_bars_of_a_formula_stay_in_their_cell() -> None:
    assert any("|" in quantity.formula for quantity in QUANTITIES.values())
    _, quantities = _Tables(markdown_to_safe_html(_card(**_EVERYTHING))).tables
    cells = {row[0]: row[1] for row in quantities[1:]}
    assert cells["grad_max"] == QUANTITIES["grad_max"].formula == "maxⱼ |gⱼ|"


def test_nothing_is_read_as_emphasis_or_markup() -> None:
    model = nn.ModuleDict({"a_b_c": nn.Linear(1, 1), "*x*": nn.Linear(1, 1)})
    html = markdown_to_safe_html(_card(model, layers=[{"match": "a_b_c*"}]))
    assert "<em>" not in html
    assert "<code>*x*.weight</code>" in html


def test_only_quantities_that_are_measured_are_explained() -> None:
    layers = [{"match": "weight", "quantities": ["saliency"]}, {"match": "bias"}]
    html = markdown_to_safe_html(_card(quantities=["grad_norm"], layers=layers))
    assert [row[0] for row in _Tables(html).tables[1][1:]] == ["grad_norm", "saliency"]


def test_the_configuration_can_be_copied_from_it() -> None:
    config = {"layers": [{"match": "weight", "schedule": {"every": 3}}], **_EVERYTHING}
    html = markdown_to_safe_html(_card(**config))
    assert html.count("<pre>") == 1
    text = re.search(r"<pre><code[^>]*>(.*?)</code></pre>", html, re.DOTALL)
    assert text
    assert check_section(yaml.safe_load(text[1])) == MonitorConfig(**config)


def test_what_is_left_out_is_listed_with_its_reason() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    html = markdown_to_safe_html(_card(model, layers=[{"match": "0.*"}]))
    assert "<li><code>1.weight</code>: no rule matches it</li>" in html
    assert "2 parameter tensors are watched, 6 scalars, 50.0% of all" in html
    assert "Left out" not in _card(model)


def test_a_long_list_of_what_is_left_out_is_cut_short() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(30)))
    html = markdown_to_safe_html(_card(model, layers=[{"match": "0.*"}]))
    assert html.count("no rule matches it") == 20
    assert "<li>and 38 more</li>" in html


def test_it_says_which_gradient_it_is() -> None:
    gradient = GradientInfo(
        scaling="SCALING", clipping="CLIPPING", full_window=4, ranks=2, reduction="REDUCTION"
    )
    text = _card(gradient=gradient)
    for part in ("SCALING", "CLIPPING", "REDUCTION", "over 4 batches, 2 processes", "32-true"):
        assert part in text
    assert "before clipping; precision 32-true" in _card(), "of how many batches is not said"


def test_it_names_the_versions() -> None:
    assert _card().endswith("Versions: torch 2.x")


@pytest.mark.parametrize(
    ("output", "absent"),
    [({"headline": False}, "Headline"), ({"pictures": []}, "Pictures")],
)
def test_what_is_not_written_is_not_explained(output: dict[str, Any], absent: str) -> None:
    assert f"## {absent}" in _card()
    assert f"## {absent}" not in _card(output=output)


def _written(write: Train, values: Values, model: nn.Module) -> tuple[str, set[str]]:
    write(model, _EVERYTHING)
    found = values()
    (card,) = (v for _, v in found if v.tag == "sensitivity/about/text_summary")
    text = "".join(part.decode() for part in tensor_util.make_ndarray(card.tensor).flatten())
    return text, {value.tag for _, value in found}


def test_it_is_the_card_that_is_written(write: Train, values: Values, tiny: type) -> None:
    text, _ = _written(write, values, tiny())
    assert text.startswith("# Jacoscope")
    assert len(_Tables(markdown_to_safe_html(text)).tables) == 2


def test_it_names_headlines_and_pictures_that_are_written(
    write: Train, values: Values, tiny: type
) -> None:
    text, tags = _written(write, values, tiny())
    assert "`sensitivity/…`" in text
    for tag in tags:
        group, _, name = tag.partition("/")
        if group == "sensitivity" and name != "about/text_summary":
            assert f"| `{name}` |" in text
        elif group == "sensitivity_layers_by_step":
            assert f"`{tag}`" in text


@pytest.mark.parametrize("group", ["sensitivity_gradients", "sensitivity_parameters_grad_rms"])
def test_it_names_charts_of_single_parameters(
    group: str, write: Train, values: Values, tiny: type
) -> None:
    text, tags = _written(write, values, tiny())
    assert any(tag.startswith(f"{group}/") for tag in tags)
    assert f"{group}/" in text


def test_pictures_that_cannot_be_drawn_are_not_announced(
    write: Train, values: Values, tiny: type
) -> None:
    write(tiny(), {"quantities": ["grad_norm"]})
    found = values()
    (card,) = (v for _, v in found if v.tag == "sensitivity/about/text_summary")
    text = tensor_util.make_ndarray(card.tensor).flatten()[0].decode()
    drawn = {value.tag for _, value in found if "layers_by_step" in value.tag}
    assert set(re.findall(r"sensitivity_layers_by_step/\w+", text)) == drawn


def test_a_model_without_parameters_has_a_card(tiny: type) -> None:
    text = _card(nn.ReLU())
    assert "0 parameter tensors are watched, 0 scalars" in text
    assert len(_Tables(markdown_to_safe_html(text)).tables) >= 1


def test_frozen_models_are_fine() -> None:
    model = nn.Linear(1, 1).requires_grad_(False)
    assert "2 parameter tensors are watched" in _card(model)
    assert torch.is_grad_enabled()
