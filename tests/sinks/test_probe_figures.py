"""Pictures of probes: what they show, whatever the values are."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest
from matplotlib import colormaps
from matplotlib.text import Text

from jacoscope.probe_record import AllocationRecord, OutputSensitivity
from jacoscope.probing import AllElseEqual, LayerShare, Saliency
from jacoscope.sinks._allocation_picture import draw_allocation
from jacoscope.sinks._output_sensitivity import draw_output_sensitivity
from jacoscope.sinks._probe_figures import INFINITE, LOWERS, NAN, RAISES, ZERO, rgb, spread
from jacoscope.sinks._saliency_picture import draw_saliency
from jacoscope.sinks._spectrum_picture import draw_spectra
from jacoscope.sinks._waterfall import draw_waterfall

Image = npt.NDArray[np.uint8]
Values = Callable[..., list[tuple[int, Any]]]

_NAN, _INF = math.nan, math.inf
_LABEL = (0xD5, 0x5E, 0x00)
_NASTY = [
    "$x_{b}$",
    r"$\frac$",
    "<script>",
    "重み",
    "under_score",
    "a\nb",
    "",
    "x" * 300,
    "_hidden",
]


def _step(actuals: Sequence[float], names: Sequence[str] = (), **changes: Any) -> AllElseEqual:
    names = names or [f"model.layers.{index}.linear" for index in range(len(actuals))]
    layers = tuple(
        LayerShare(name, 1.2 * actual, -0.1 * actual, actual)
        for name, actual in zip(names, actuals, strict=True)
    )
    given: dict[str, Any] = {
        "before": 2.5,
        "after": 2.5 + float(np.sum(actuals)) + 0.05,
        "layers": layers,
        "second_order": 0.02,
    }
    return AllElseEqual(**(given | changes))


def _images(count: int = 2, outputs: int = 3, size: tuple[int, int] = (8, 8)) -> Saliency:
    rng = np.random.default_rng(0)
    return Saliency(
        "image",
        rng.uniform(0.1, 1, (count, outputs, *size)),
        rng.uniform(0, 1, (count, *size, 1)),
        np.tile(np.arange(outputs), (count, 1)),
        rng.normal(size=(count, outputs)),
        tuple(str(index % outputs) for index in range(count)),
    )


def _sequence(count: int = 2, places: int = 8, *, tokens: int | None = 100) -> Saliency:
    rng = np.random.default_rng(0)
    return Saliency(
        "sequence",
        rng.gamma(1, 1, (count, 1, places)),
        None if tokens is None else rng.integers(0, tokens, (count, places)),
        np.empty((count, 0), dtype=np.int64),
        np.empty((count, 0)),
        (None,) * count,
    )


def _table(count: int = 2, outputs: int = 1, features: int = 10) -> Saliency:
    rng = np.random.default_rng(0)
    return Saliency(
        "features",
        rng.normal(size=(count, outputs, features)),
        rng.normal(size=(count, features)),
        np.tile(np.arange(outputs), (count, 1)),
        rng.normal(size=(count, outputs)),
        tuple(f"{value:.3g}" for value in rng.normal(size=count)),
    )


def _sensitivity(layers: int = 3, outputs: int = 4) -> OutputSensitivity:
    values = np.random.default_rng(0).lognormal(0, 2, (layers, outputs))
    return OutputSensitivity(tuple(f"encoder.layers.{i}.out" for i in range(layers)), values)


def _spectra(
    steps: int = 12, rows: int = 30
) -> list[tuple[int, Mapping[str, npt.NDArray[np.float64]]]]:
    return [(10 * step, {"(all)": np.logspace(2, -3, rows) * (step + 1)}) for step in range(steps)]


def _allocations(layers: int = 3, steps: int = 12) -> list[tuple[int, AllocationRecord]]:
    rng = np.random.default_rng(0)
    sums = np.cumsum(rng.normal(-0.01, 0.05, (steps, layers)), axis=0)
    return [
        (
            10 * step + 10,
            AllocationRecord(
                0,
                {f"encoder.layers.{i}": float(v) for i, v in enumerate(row)},
                float(row.sum()) - 0.1,
                2.5 + float(row.sum()),
            ),
        )
        for step, row in enumerate(sums)
    ]


_EVERY: dict[str, Callable[[], Image]] = {
    "waterfall of 1": lambda: draw_waterfall(_step([-0.2]), 3),
    "waterfall of 3": lambda: draw_waterfall(_step([-0.2, 0.01, 0.3]), 3),
    "waterfall of 60": lambda: draw_waterfall(_step(np.linspace(-0.2, 0.1, 60).tolist()), 3),
    "1 image": lambda: draw_saliency(_images(1, 10), 3),
    "8 images": lambda: draw_saliency(_images(8, 10), 3, [f"train/{i:05}" for i in range(8)]),
    "wide images": lambda: draw_saliency(_images(2, 2, (40, 300)), 3),
    "8 tokens": lambda: draw_saliency(_sequence(3, 8), 3),
    "64 tokens": lambda: draw_saliency(_sequence(8, 64, tokens=50_000), 3),
    "128 tokens": lambda: draw_saliency(_sequence(2, 128), 3),
    "a time series": lambda: draw_saliency(_sequence(2, 30, tokens=None), 3),
    "a row": lambda: draw_saliency(_table(1), 3),
    "8 rows": lambda: draw_saliency(_table(8), 3, None, ["age", "body mass index"]),
    "10 outputs": lambda: draw_saliency(_table(5, 10, 64), 3),
    "few features": lambda: draw_saliency(_table(2, 3, 4), 3),
    "spectra": lambda: draw_spectra(_spectra(), "(all)"),
    "one spectrum": lambda: draw_spectra(_spectra(1, 1), "(all)"),
    "sensitivity": lambda: draw_output_sensitivity(_sensitivity(), 3),
    "sensitivity of 60": lambda: draw_output_sensitivity(_sensitivity(60, 100), 3),
    "allocation": lambda: draw_allocation(_allocations()),
    "allocation to 60": lambda: draw_allocation(_allocations(60)),
}


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, npt.NDArray[np.float64]]]:
    """The texts that pictures show, and where: left, lower, right and upper end in pixels."""
    found: list[tuple[str, npt.NDArray[np.float64]]] = []
    draw = Text.draw

    def watched(self: Text, renderer: Any, *args: Any, **kwargs: Any) -> None:
        if self.get_visible() and self.get_text().strip():
            box = Text.get_window_extent(self, renderer)  # without an annotation's arrow
            clip = self.get_clip_box() if self.get_clip_on() else None
            right = min(box.x1, clip.x1) if clip is not None else box.x1
            found.append((self.get_text(), np.array([box.x0, box.y0, right, box.y1])))
        draw(self, renderer, *args, **kwargs)

    monkeypatch.setattr(Text, "draw", watched)
    return found


def _area(image: Image, colour: str | tuple[int, ...]) -> int:
    """Pixels of a colour, where they are more than a letter's blurred edge."""
    wanted = rgb(colour) if isinstance(colour, str) else colour
    count = int((image == wanted).all(axis=2).sum())
    return count if count > 60 else 0


def _check(image: Image) -> None:
    assert image.dtype == np.uint8
    assert image.shape[1:] == (1280, 3)
    assert image.shape[0] > 50
    assert image.flags.owndata
    assert (image == 255).mean() > 0.1  # paper
    assert len(np.unique(image[::2] @ np.array([1, 1 << 8, 1 << 16]))) > 10  # ink


# Every picture


@pytest.mark.parametrize("name", _EVERY)
def test_texts_lie_within_the_page_and_not_over_one_another(
    name: str, written: list[tuple[str, npt.NDArray[np.float64]]]
) -> None:
    image = _EVERY[name]()
    _check(image)
    for text, (left, _, right, _) in written:
        assert left >= 0, text
        assert right <= 1280, text
    for place, (text, box) in enumerate(written):
        for other, theirs in written[:place]:
            shared = np.minimum(box[2:], theirs[2:]) - np.maximum(box[:2], theirs[:2])
            assert shared.min() < 3, f"{text!r} lies over {other!r}"


@pytest.mark.parametrize("name", ["waterfall of 3", "1 image", "8 tokens", "allocation"])
def test_pictures_are_the_same_each_time_whatever_the_user_s_settings(name: str) -> None:
    expected = _EVERY[name]()
    settings = {"text.color": "white", "font.size": 30, "axes.facecolor": "black"}
    with matplotlib.rc_context(settings):
        np.testing.assert_array_equal(_EVERY[name](), expected)
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.parametrize(
    "image",
    [
        lambda: draw_waterfall(_step([]), 0),
        lambda: draw_waterfall(_step([0.0], before=0.0, after=0.0, second_order=0.0), 0),
        lambda: draw_saliency(_sequence(0), 0),
        lambda: draw_spectra([], "(all)"),
        lambda: draw_spectra(_spectra(), "another"),
        lambda: draw_output_sensitivity(OutputSensitivity((), np.empty((0, 3))), 0),
        lambda: draw_allocation([]),
        lambda: draw_allocation([(3, AllocationRecord(3, {"a": 0.0}, 0.0, 0.0))]),
    ],
)
def test_nothing_to_show_is_said(image: Callable[[], Image]) -> None:
    assert image().shape[1:] == (1280, 3)


def test_names_of_any_kind() -> None:
    shares = [-0.1] * len(_NASTY)
    _check(draw_waterfall(_step(shares, _NASTY), 0))
    _check(draw_saliency(_images(len(_NASTY)), 0, _NASTY))
    _check(draw_saliency(_sequence(len(_NASTY)), 0, _NASTY))
    _check(draw_saliency(_table(2, 1, len(_NASTY)), 0, _NASTY[:2], _NASTY))
    values = np.ones((len(_NASTY), 2))
    _check(draw_output_sensitivity(OutputSensitivity(tuple(_NASTY), values), 0))
    _check(draw_allocation([(1, AllocationRecord(0, dict.fromkeys(_NASTY, 0.1), 1.0, 2.0))]))
    _check(draw_spectra([(0, {name: np.ones(3)}) for name in _NASTY], "$x_{b}$"))


# Waterfall


def test_bars_are_as_long_as_the_changes_and_coloured_by_their_sign() -> None:
    image = draw_waterfall(_step([-0.3, 0.1], after=2.3), 0)
    lowered, raised = _area(image, LOWERS), _area(image, RAISES)
    assert 2 < lowered / raised < 4
    assert not _area(draw_waterfall(_step([-0.3, -0.1], after=2.1), 0), RAISES) - 300 > 0


def test_numbers_stand_at_the_bars(written: list[tuple[str, Any]]) -> None:
    draw_waterfall(_step([-0.3, 0.125]), 41)
    texts = Counter(text for text, _ in written)
    for number in ("−0.3", "+0.125", "+0.05", "2.375 (−0.125)"):
        assert texts[number], number
    assert texts["−0.36"] == 1, "what the first layer's derivative promised"
    assert texts["−0.33"] == 1, "with second order"
    assert any("moves as in step 41" in text for text in texts)
    assert any(text.startswith("This step lowered the loss by 0.12, to 2.4;") for text in texts)


def test_no_second_order_leaves_its_marks_out(written: list[tuple[str, Any]]) -> None:
    draw_waterfall(_step([-0.3, 0.125]), 0, second_order=False)
    result = _step([-0.3, 0.125], second_order=_NAN, missing="no rule for it")
    draw_waterfall(result, 0)
    texts = [text for text, _ in written]
    assert not any("second order" in text for text in texts if "no rule" not in text)
    assert "no second order: no rule for it" in texts


def test_many_layers_keep_the_largest_in_the_model_s_order(written: list[tuple[str, Any]]) -> None:
    actuals = [-0.001] * 60
    for place in range(0, 60, 3):
        actuals[place] = -0.1
    draw_waterfall(_step(actuals, [f"l{index:02}" for index in range(60)]), 0)
    names = [text for text, _ in written if text.startswith("l") and text[1:].isdecimal()]
    assert names == [f"l{index:02}" for index in range(0, 60, 3)]
    assert any(text == "… 40 others" for text, _ in written)
    assert any(text == "−0.04" for text, _ in written), "the others' sum"


@pytest.mark.parametrize(
    "actuals",
    [[_NAN, 0.1], [_INF, -_INF], [1e308, 1e308], [-1e200], [5e-324], [_NAN] * 60, [0.0, 0.0]],
    ids=str,
)
def test_a_step_of_any_numbers(actuals: list[float], written: list[tuple[str, Any]]) -> None:
    with np.errstate(all="ignore"):
        result = _step(actuals)
    _check(draw_waterfall(result, 0))
    texts = {text for text, _ in written}
    if any(math.isnan(actual) for actual in actuals):
        assert "not a number" in texts
    if _INF in actuals:
        assert {"+infinite", "−infinite"} <= texts


def test_promises_far_off_do_not_dwarf_the_bars(written: list[tuple[str, Any]]) -> None:
    share = LayerShare("a", -500.0, 900.0, -0.1)
    image = draw_waterfall(AllElseEqual(2.0, 1.9, (share,), 900.0), 0)
    assert _area(image, LOWERS) > 3000
    assert {"−500", "+400", "beyond the picture"} <= {text for text, _ in written}


# Saliency


def test_the_label_s_map_is_framed_and_named(written: list[tuple[str, Any]]) -> None:
    image = draw_saliency(_images(2, 3), 0)
    texts = Counter(text for text, _ in written)
    assert texts["label: 0"] == texts["label: 1"] == 1
    assert texts["label 0"] == texts["label 1"] == 1
    assert texts["class 2"] == 2
    assert _area(image, _LABEL) > 2 * 1500
    saliency = _images(2, 3)
    unknown = Saliency("image", saliency.maps, None, saliency.outputs, saliency.values, ("x", None))
    assert not _area(draw_saliency(unknown, 0), _LABEL)


def test_a_row_s_largest_derivative_has_the_brightest_colour() -> None:
    saliency = _images(2, 2)
    saliency.maps[:] = 0.1
    saliency.maps[0, 1, 4, 4] = 5.0
    saliency.maps[1, 0, 2, 2] = 50.0
    image = draw_saliency(saliency, 0)
    brightest = tuple((np.array(colormaps["cividis"](1.0)[:3]) * 255).astype(int).tolist())
    pixel = 20 * 20  # of a map of 8 × 8 enlarged to 160
    assert _area(image, brightest) >= 2 * pixel
    assert _area(image, brightest) < 3 * pixel


def test_a_scale_says_its_largest_number_and_its_unit(written: list[tuple[str, Any]]) -> None:
    saliency = _images(2, 2)
    saliency.maps[0] = 0.25
    saliency.maps[1] = 0.0
    draw_saliency(saliency, 0)
    texts = Counter(text for text, _ in written)
    assert texts["0.25"] == texts["all zero"] == 1
    assert texts["output per\nunit of\ninput"] == 2


def test_values_stand_below_the_maps(written: list[tuple[str, Any]]) -> None:
    saliency = _images(1, 2)
    saliency.values[0] = [-1.5, 2.25]
    draw_saliency(saliency, 0)
    assert {"−1.5", "+2.25"} <= {text for text, _ in written}


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (28, 28), (500, 30)])
def test_images_of_any_shape(channels: int, size: tuple[int, int]) -> None:
    saliency = _images(1, 2, size)
    things = np.full((1, *size, channels), 0.5)
    given = Saliency("image", saliency.maps, things, saliency.outputs, saliency.values, (None,))
    _check(draw_saliency(given, 0))


@pytest.mark.parametrize("make", [_images, _sequence, _table, lambda: _table(2, 3)])
def test_derivatives_that_are_no_numbers_have_their_colours(make: Callable[[], Saliency]) -> None:
    plain, broken = make(), make()
    assert not _area(draw_saliency(plain, 0), NAN)
    broken.maps.reshape(2, -1)[0, :2] = _NAN, _INF
    broken.values[:] = _NAN
    image = draw_saliency(broken, 0)
    assert _area(image, NAN) > 450, "more than in the legend"
    assert _area(image, INFINITE) > 450
    broken.maps[:] = _NAN
    _check(draw_saliency(broken, 0))
    broken.maps[:] = 1e308
    _check(draw_saliency(broken, 0))


def test_tokens_stand_below_their_bars_if_they_are_few(written: list[tuple[str, Any]]) -> None:
    saliency = _sequence(1, 8, tokens=50_000)
    draw_saliency(saliency, 0)
    assert saliency.things is not None
    ids = [str(token) for token in saliency.things[0]]
    assert [text for text, _ in written if text in ids] == ids
    written.clear()
    draw_saliency(_sequence(1, 65, tokens=50_000), 0)
    assert "place t, of 65" in {text for text, _ in written}


def test_peaks_of_long_sequences_survive() -> None:
    saliency = _sequence(1, 5000)
    saliency.maps[:] = 0.0
    saliency.maps[0, 0, 3333] = 1.0
    image = draw_saliency(saliency, 0).astype(int)
    assert (image[..., 2] - image[..., 0] > 60).sum() > 50, "a blue bar"


def test_features_have_their_names(written: list[tuple[str, Any]]) -> None:
    draw_saliency(_table(2, 1, 4), 0, None, ["age", "sex"])
    texts = Counter(text for text, _ in written)
    assert [texts[name] for name in ("age", "sex", "x2", "x3")] == [1] * 4


def test_of_many_features_the_largest_are_shown(written: list[tuple[str, Any]]) -> None:
    saliency = _table(2, 2, 100)
    saliency.maps[:] = 0.01
    saliency.maps[1, 0, 77] = -3.0
    draw_saliency(saliency, 0)
    texts = {text for text, _ in written}
    assert "x77" in texts
    assert any("48 of 100 features" in text for text in texts)


def test_signs_of_features_have_their_colours() -> None:
    saliency = _table(1, 1, 4)
    saliency.maps[0, 0] = [-1, -1, -1, 1]
    image = draw_saliency(saliency, 0)
    assert _area(image, LOWERS) > 2 * _area(image, RAISES) > 0


# Spectra


def test_a_few_steps_are_shown_the_first_and_last_among_them(
    written: list[tuple[str, Any]],
) -> None:
    draw_spectra(_spectra(100), "(all)")
    steps = [text for text, _ in written if text.startswith("step ")]
    assert len(steps) == 8
    assert steps[0] == "step 0"
    assert steps[-1] == "step 990"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([3.0, 1.0, 0.0, 0.0], "(2 zero)"),
        ([3.0, 1.0, -1e-9], "(1 below zero)"),
        ([_NAN, _NAN], "(2 not finite)"),
        ([_INF, 1.0, -_INF, -_INF], "(3 not finite)"),
        ([0.0], "(1 zero)"),
        ([1e308, 1e-308], ""),
    ],
)
def test_eigenvalues_off_the_scale_are_said(
    values: list[float], said: str, written: list[tuple[str, Any]]
) -> None:
    _check(draw_spectra([(5, {"a": np.array(values)})], "a"))
    assert any(text == "step 5" + (f"\n{said}" if said else "") for text, _ in written)


def test_spectra_may_differ_in_length() -> None:
    _check(draw_spectra([(0, {"a": np.ones(3)}), (1, {}), (2, {"a": np.ones(5)})], "a"))


# Sensitivity


def test_exceptions_have_their_colours() -> None:
    plain = _sensitivity()
    image = draw_output_sensitivity(plain, 0)
    assert not any(_area(image, colour) for colour in (ZERO, NAN, INFINITE))
    plain.values[0, 0], plain.values[1, 1], plain.values[2, 2] = 0.0, _NAN, _INF
    image = draw_output_sensitivity(plain, 0)
    assert all(_area(image, colour) > 500 for colour in (ZERO, NAN, INFINITE))
    for value in (0.0, _NAN, _INF, 5e-324, 1e308):
        plain.values[:] = value
        _check(draw_output_sensitivity(plain, 0))


def test_larger_is_brighter() -> None:
    values = np.array([[1e-3, 1.0], [1.0, 1.0]])
    image = draw_output_sensitivity(OutputSensitivity(("a", "b"), values), 0)
    shades = (np.array([colormaps["viridis"](x)[:3] for x in (0.0, 1.0)]) * 255).astype(int)
    dark, bright = (_area(image, tuple(shade.tolist())) for shade in shades)
    assert 2 < bright / dark < 5


def test_few_numbers_are_written_out(written: list[tuple[str, Any]]) -> None:
    draw_output_sensitivity(OutputSensitivity(("a", "b"), np.array([[0.125], [3.0]])), 0)
    assert {"0.12", "3"} <= {text for text, _ in written}


def test_of_very_many_layers_the_largest_are_shown(written: list[tuple[str, Any]]) -> None:
    values = np.ones((300, 2))
    values[222] = 9.0
    draw_output_sensitivity(OutputSensitivity(tuple(f"l{i}" for i in range(300)), values), 0)
    texts = {text for text, _ in written}
    assert "l222" in texts
    assert any("128 of 300 layers" in text for text in texts)


# Allocation


def test_lines_have_names_and_last_values(written: list[tuple[str, Any]]) -> None:
    records = {"conv": -0.5, "head": 0.25}
    draw_allocation([(10, AllocationRecord(0, records, -0.35, 2.0))])
    texts = {text for text, _ in written}
    assert {"conv  −0.5", "head  +0.25", "gap  −0.1", "true change  −0.35"} <= texts
    assert any(
        text.startswith("From step 0 to step 10 the loss changed by −0.35") for text in texts
    )


def test_of_many_layers_the_largest_have_lines(written: list[tuple[str, Any]]) -> None:
    by_layer = {f"l{index}": float(index) for index in range(60)}
    draw_allocation([(10, AllocationRecord(0, by_layer, 1.0, 2.0))])
    texts = {text for text, _ in written}
    assert {f"l{index}  +{index}" for index in range(52, 60)} <= texts
    assert "l51  +51" not in texts
    assert any(text.startswith("… 52 others  ") for text in texts)
    assert "… 40 others" in texts, "the bars have room for more"


@pytest.mark.parametrize("value", [_NAN, _INF, -_INF, 1e308, 5e-324])
def test_allocations_of_any_numbers(value: float, written: list[tuple[str, Any]]) -> None:
    plain = AllocationRecord(0, {"a": 1.0, "b": 2.0}, 3.0, 1.0)
    odd = AllocationRecord(0, {"a": 1.0, "b": value, "c": -value}, value, value)
    _check(draw_allocation([(1, plain), (2, odd)]))
    if not math.isfinite(value):
        words = {"b  not a number", "b  +infinite", "b  −infinite"}
        assert words & {text for text, _ in written}
    _check(draw_allocation([(1, odd), (2, plain)]))


def test_a_run_that_counts_anew_has_lines_of_its_own() -> None:
    first = [(step, AllocationRecord(0, {"a": -step / 10}, -step / 10, 1.0)) for step in (5, 10)]
    anew = [(step, AllocationRecord(20, {"a": -0.1}, -0.1, 1.0)) for step in (25, 30)]
    joined = [(step, AllocationRecord(0, {"a": -0.1}, -0.1, 1.0)) for step in (25, 30)]
    apart, together = draw_allocation([*first, *anew]), draw_allocation([*first, *joined])
    stripe = slice(500, 560)  # between the two, where only a line that goes on has ink
    assert apart[90:440, stripe].std() < together[90:440, stripe].std()


def test_labels_keep_their_distance() -> None:
    places = spread([0.5, 0.5, 0.52, 0.0, 1.0, 1.0], 0.1, 0.0, 1.0)
    assert min(np.diff(sorted(places))) > 0.0999
    assert min(places) >= 0
    assert max(places) <= 1
    assert np.argsort(places, kind="stable").tolist() == [3, 0, 1, 2, 4, 5]
    assert spread([0.2, 0.8], 0.1, 0, 1) == [0.2, 0.8]
    np.testing.assert_allclose(spread([0.0] * 3, 0.1, 0, 1), [0.0, 0.1, 0.2])
