"""Layer × step pictures: what they show, whatever the values are.

What is missing is shown where the TensorBoard sink is tested, which knows what is.
"""

import warnings

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jacoscope.config import QuantityName
from jacoscope.quantities import QUANTITIES
from jacoscope.record import Axis
from jacoscope.sinks._heatmap import draw_heatmap
from jacoscope.sinks._history import ROWS_PER_PAGE, History, page_count

Image = npt.NDArray[np.uint8]

_INFINITE = (0xFF, 0x7F, 0x0E)
_ZERO, _NONFINITE, _MISSING = (0x8C, 0x8C, 0x8C), (0xD6, 0x27, 0x28), (0xEC, 0xEC, 0xEC)
# A logarithmic scale, a signed one, a share from 0 to 1, a count.
_SCALES: tuple[QuantityName, ...] = (
    "grad_rms",
    "grad_mean",
    "grad_zero_fraction",
    "grad_nonfinite",
)


def _history(rows: list[list[float]], names: list[str] | None = None) -> History:
    names = names or [f"layers.{index}.weight" for index in range(len(rows))]
    count = len(names)
    axis = Axis(tuple(names), ("",) * count, ("weight",) * count, (1,) * count)
    history = History(axis)
    for step, column in enumerate(np.array(rows, dtype=float).T):
        history.append(10 * step, column)
    return history


def _draw(quantity: QuantityName, history: History, page: int = 0) -> Image:
    return draw_heatmap(QUANTITIES[quantity], history, page)


def _area(image: Image, colour: tuple[int, int, int]) -> int:
    """Pixels of a colour, where they are more than a letter's blurred edge."""
    count = int((image == colour).all(axis=2).sum())
    return count if count > 100 else 0


def _colours(image: Image) -> set[tuple[int, ...]]:
    """The colours that cover the picture's cells."""
    colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(colour.tolist()) for colour in colours[counts > 2000]}


def _check(image: Image) -> None:
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert min(image.shape[:2]) > 100
    assert image.flags.owndata
    assert (image == 255).mean() > 0.1  # paper
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10  # ink


@pytest.mark.parametrize("quantity", _SCALES)
def test_every_scale_can_be_drawn(quantity: QuantityName) -> None:
    _check(_draw(quantity, _history([[0.1, 0.2, 0.3], [0.5, 0.9, 0.0]])))


def test_a_plain_picture_has_no_colour_of_an_exception() -> None:
    image = _draw("grad_rms", _history([[0.1, 0.2], [0.3, 0.4]]))
    assert not any(_area(image, colour) for colour in (_ZERO, _NONFINITE, _MISSING))


def test_zero_has_its_colour_on_a_logarithmic_scale_alone() -> None:
    history = _history([[0.1, 0.0], [0.3, 0.4]])
    assert _area(_draw("grad_rms", history), _ZERO)
    assert not _area(_draw("grad_zero_fraction", history), _ZERO)


@pytest.mark.parametrize(
    ("quantity", "value"),
    [("grad_rms", np.nan), ("grad_rms", np.inf), ("grad_mean", -np.inf), ("update_cosine", np.nan)],
)
def test_a_value_that_is_not_finite_has_its_colour(quantity: QuantityName, value: float) -> None:
    image = _draw(quantity, _history([[0.1, value], [0.3, 0.4]]))
    assert _area(image, _NONFINITE if np.isnan(value) else _INFINITE)
    assert not _area(image, _MISSING)


def test_larger_areas_for_more_zeros() -> None:
    few, many = ([[1.0, 0.0, 1.0, 1.0]], [[1.0, 0.0, 0.0, 0.0]])
    smaller, larger = (_area(_draw("grad_rms", _history(rows)), _ZERO) for rows in (few, many))
    assert larger > 2 * smaller > 0


def test_signed_values_diverge_from_zero() -> None:
    negative, positive = (_draw("grad_mean", _history([[s, 0.0, s]])) for s in (-1.0, 1.0))
    assert (negative != positive).any()
    # Orange on one side, purple on the other: neither colour is grey.
    for image in (negative, _draw("grad_mean", _history([[-1.0, 1.0]]))):
        spread = image.max(axis=2).astype(int) - image.min(axis=2)
        assert (spread > 60).sum() > 100


@pytest.mark.parametrize(
    ("rows", "pages"),
    [(1, 1), (ROWS_PER_PAGE, 1), (ROWS_PER_PAGE + 1, 2), (3 * ROWS_PER_PAGE, 3)],
)
def test_many_layers_take_several_pages(rows: int, pages: int) -> None:
    assert page_count(_history([[1.0]] * rows)) == pages


def test_pages_show_their_own_layers_on_one_scale() -> None:
    rows = [[1.0, 1.0]] * ROWS_PER_PAGE + [[1e-3, 0.0]]
    history = _history(rows)
    first, second = (_draw("grad_rms", history, page) for page in range(page_count(history)))
    _check(first)
    _check(second)
    assert first.shape[0] > second.shape[0]  # forty rows against one
    assert not _area(first, _ZERO)
    assert _area(second, _ZERO)
    alone = _draw("grad_rms", _history([[1e-3, 0.0]]))
    assert _colours(alone) != _colours(second)  # whose scale is the whole quantity's


@pytest.mark.parametrize(
    "names",
    [
        ["x" * 300, "y", "", "a.b.weight", "weight"],
        [".".join(["encoder"] * 40) + ".weight"],
        ["model.encoder.layers.0.weight", "model.encoder.layers.1.weight"],
        [
            "Größe.重み",
            "a layer.with spaces",
            "under_score",
            "percent%s",
            "back\\slash",
            "<b>&amp;",
        ],
    ],
)
def test_names_of_any_kind(names: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the font has no kanji
        _check(_draw("grad_rms", _history([[0.1, 0.2]] * len(names), names)))


@pytest.mark.parametrize("names", [["a$b", "$x^$"], ["cost_$", "$\\frac$"]])
def test_names_with_dollar_signs(names: list[str]) -> None:
    _check(_draw("grad_rms", _history([[0.1, 0.2]] * len(names), names)))


def test_long_names_leave_room_for_the_picture() -> None:
    short = _draw("grad_rms", _history([[0.1, 0.0]] * 2, ["a", "b"]))
    long = _draw("grad_rms", _history([[0.1, 0.0]] * 2, ["a" * 500, "b" * 500]))
    assert long.shape[1] < 2 * short.shape[1]
    assert _area(long, _ZERO) > 0.5 * _area(short, _ZERO)


@pytest.mark.parametrize("quantity", ["grad_rms", "grad_mean"])
@pytest.mark.parametrize(
    "rows",
    [
        [[0.0, 0.0], [0.0, 0.0]],
        [[3.0, 3.0], [3.0, 3.0]],
        [[-3.0, -3.0], [-3.0, -3.0]],
        [[np.inf, -np.inf], [np.nan, np.inf]],
        [[-1.0, 2.0], [0.0, np.nan]],
        [[1e-45, 1e-44]],
        [[1e-30, 1e30]],
        [[5.0]],
        [[0.0]],
        [[np.nan]],
    ],
    ids=str,
)
def test_degenerate_values(quantity: QuantityName, rows: list[list[float]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        _check(_draw(quantity, _history(rows)))


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["grad_rms", "grad_mean", "update_cosine", "grad_nonfinite"]),
    st.integers(1, 4).flatmap(
        lambda columns: st.lists(
            st.lists(st.floats(width=32), min_size=columns, max_size=columns),
            min_size=1,
            max_size=3,
        )
    ),
)
def test_no_values_break_it(quantity: QuantityName, rows: list[list[float]]) -> None:
    _check(_draw(quantity, _history(rows)))


@pytest.mark.parametrize("quantity", ["grad_rms", "grad_mean"])
def test_the_end_of_double_precision(quantity: QuantityName) -> None:
    _check(_draw(quantity, _history([[1e308, 1e308]])))


def test_a_long_history_says_that_it_is_thinned() -> None:
    def draw(limit: int) -> Image:
        axis = Axis(("a", "b"), ("", ""), ("weight",) * 2, (1, 1))
        history = History(axis, limit)
        for step in range(20):
            history.append(step, np.array([1.0, 2.0]))
        return _draw("grad_rms", history)

    whole, thinned = draw(20), draw(8)
    _check(thinned)
    below = slice(-25, None)  # the label of the step axis
    assert (thinned[below] != 255).sum() > (whole[below] != 255).sum()
