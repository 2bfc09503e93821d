"""Sample leaderboards in TensorBoard: tables, pictures and the record, whatever the data hold."""

import base64
import io
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from tensorboard import plugin_util
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

import jacoscope
from jacoscope.config import Output
from jacoscope.faults import Faults
from jacoscope.leaderboard import EpochBoards, Leaderboard, SampleBatch, Thing
from jacoscope.packed_text import unpack_text
from jacoscope.schema import PLUGIN_NAME
from jacoscope.sinks import MemorySink, ScalarSink, TensorBoardSink

Values = Callable[..., list[tuple[int, Any]]]

_OUTPUT: dict[str, Any] = {"records": False, "pictures": ()}
_BOARDS = (
    *("largest_gradient", "worst_alignment", "largest_mean_gradient", "largest_mean_loss"),
    *("worst_class_alignment", "worst_mean_class_alignment"),
)
_LAYERS = "largest_gradient_by_layer"


def _boards(
    ids: list[Any] | None = None,
    thing: Callable[[int], Thing | None] = lambda index: None,
    epoch: int = 3,
    seed: int = 0,
    **columns: Any,
) -> EpochBoards:
    """The boards of an epoch with a batch of random numbers."""
    rng = np.random.default_rng(seed)
    ids = list(range(10)) if ids is None else ids
    leaderboard = Leaderboard(size=columns.pop("size", 32))
    given: dict[str, Any] = {
        "id_source": "dataset index",
        "labels": [f"class {index % 3}" for index in range(len(ids))],
        "losses": rng.gamma(1, 1, len(ids)),
        "norms_RN": rng.gamma(1, 1, (3, len(ids))),
        "class_alignments_N": rng.uniform(-1, 1, len(ids)),
        **columns,
    }
    leaderboard.add(
        SampleBatch(
            ids=ids,
            step=17,
            rows=("all", "conv.0", "head"),
            alignments_RN=rng.uniform(-1, 1, (3, len(ids))),
            thing=thing,
            **given,
        )
    )
    boards = leaderboard.close_epoch(epoch, 10 * epoch + 9)
    assert boards is not None
    return boards


def _write(folder: Path, *epochs: EpochBoards, faults: Faults | None = None, **output: Any) -> None:
    writer = SummaryWriter(str(folder))
    sink = TensorBoardSink(
        writer, Output(**_OUTPUT | output), owns_writer=True, faults=faults or Faults("raise")
    )
    for boards in epochs:
        sink.write_boards(boards)
    sink.close()


def _texts(values: Values) -> dict[str, str]:
    """By board, its last table."""
    texts = {
        value.tag.removesuffix("/text_summary").removeprefix("sensitivity_samples/"): value.tensor
        for _, value in values("text")
    }
    return {name: tensor_util.make_ndarray(value).item().decode() for name, value in texts.items()}


def _rows(text: str) -> list[list[str]]:
    """The cells of a table as a browser shows them: header first."""
    from html import unescape
    from re import DOTALL, findall, sub

    shown = plugin_util.markdown_to_safe_html(text)
    rows = findall(r"<tr>(.*?)</tr>", shown, DOTALL)
    return [
        [unescape(sub(r"</?strong>", "", cell)) for cell in findall(r"<t[hd]>(.*?)</t[hd]>", row)]
        for row in rows
    ]


def _image(_: int) -> npt.NDArray[np.uint8]:
    return np.arange(64, dtype=np.uint8).reshape(8, 8, 1)


def _pixels(value: Any) -> npt.NDArray[np.uint8]:
    _, _, png = tensor_util.make_ndarray(value.tensor).tolist()
    return np.asarray(Image.open(io.BytesIO(png)))


# Which tags


def test_every_board_is_written(tmp_path: Path, values: Values) -> None:
    _write(tmp_path, _boards(thing=_image), records=True, pictures=("grad_rms",))
    tags = {(step, value.tag) for step, value in values()}
    assert tags == {
        *((39, f"sensitivity_samples/{name}/text_summary") for name in (*_BOARDS, _LAYERS)),
        *((39, f"sensitivity_samples_pictures/{name}") for name in _BOARDS),
        (39, "jacoscope/sensitivity/.samples"),
    }


def test_records_and_pictures_can_be_left_out(tmp_path: Path, values: Values) -> None:
    _write(tmp_path, _boards(thing=_image))
    assert {value.tag.split("/")[0] for _, value in values()} == {"sensitivity_samples"}


def test_the_group_stands_in_every_tag(tmp_path: Path, values: Values) -> None:
    _write(tmp_path, _boards(thing=_image), records=True, pictures=("grad_rms",), group="g")
    heads = {value.tag.rpartition("/largest_gradient")[0] for _, value in values()}
    assert {"g_samples", "g_samples_pictures"} <= heads
    assert "jacoscope/g/.samples" in {value.tag for _, value in values()}


def test_other_sinks_keep_them_or_pass_them_by() -> None:
    boards = _boards()
    memory = MemorySink()
    memory.write_boards(boards)
    assert memory.boards == [boards]
    ScalarSink(lambda scalars, step: pytest.fail("nothing to log"), "g").write_boards(boards)


# Tables


def test_a_table_has_the_numbers_of_its_board(tmp_path: Path, values: Values) -> None:
    boards = _boards()
    _write(tmp_path, boards)
    text = _texts(values)["largest_gradient"]
    header, *rows = _rows(text)
    assert header == ["rank", "id", "label", "loss", "‖g‖", "alignment"]
    for row, entry in zip(rows, boards.boards[0].entries, strict=True):
        numbers = [f"{value:.3g}" for value in (entry.loss, entry.norm, entry.alignment)]
        assert row == [str(entry.rank), str(entry.id), entry.label, *numbers]
    assert "how hard it pulls" in text
    assert "Epoch 3, up to step 39: 10 samples seen" in text
    assert "Ids: dataset index." in text


def test_a_table_has_the_number_that_it_is_ranked_by(tmp_path: Path, values: Values) -> None:
    _write(tmp_path, _boards())
    last = {name: _rows(text)[0][-1] for name, text in _texts(values).items()}
    assert last["largest_mean_gradient"] == "mean ‖g‖"
    assert last["largest_mean_loss"] == "mean loss"
    assert last["worst_class_alignment"] == "alignment with class"
    assert last["worst_mean_class_alignment"] == "mean alignment with class"


def test_layers_share_a_table(tmp_path: Path, values: Values) -> None:
    boards = _boards()
    _write(tmp_path, boards)
    header, *rows = _rows(_texts(values)[_LAYERS])
    assert header == ["layer", "1", "2", "3", "4", "5"]
    assert [row[0] for row in rows] == ["conv.0", "head"]
    first = boards.boards[-2].entries[0]
    assert rows[0][1] == f"{first.id} ({first.label}) {first.norm:.3g}"


def test_what_is_not_known_is_a_dash(tmp_path: Path, values: Values) -> None:
    _write(tmp_path, _boards(labels=None, losses=None))
    row = _rows(_texts(values)["largest_gradient"])[1]
    assert row[2:4] == ["–", "–"]


def test_samples_that_the_record_leaves_out_are_told(
    tmp_path: Path, values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jacoscope.leaderboard._leaderboard._COLUMNS_LIMIT", 4)
    _write(tmp_path, _boards())
    assert "the numbers of the 4 with the largest" in _texts(values)["largest_gradient"]


_NASTY = [
    "a|b",
    "<script>alert(1)</script>",
    "<b>bold</b>",
    "**bold** _it_ `code`",
    "[link](http://example.org)",
    "![picture](x.png)",
    "http://example.org",
    "&amp; &#124;",
    "\\| \\*",
    "---",
    "~~x~~ ^y^ $z$ #h",
]


@pytest.mark.parametrize("nasty", _NASTY)
def test_a_user_s_text_is_shown_as_it_is(nasty: str, tmp_path: Path, values: Values) -> None:
    source = f"batch key '{nasty}'"
    boards = _boards([nasty, "other"], lambda index: nasty, labels=[nasty] * 2, id_source=source)
    _write(tmp_path, boards)
    for name, text in _texts(values).items():
        shown = plugin_util.markdown_to_safe_html(text)
        assert "<script" not in shown
        assert "<a " not in shown
        assert "<em>" not in shown
        rows = _rows(text)
        assert len({len(row) for row in rows}) == 1, "a cell was broken up"
        if name != _LAYERS:
            (row,) = [row for row in rows if row[1] == nasty]
            assert row[2] == row[-1] == nasty


@pytest.mark.parametrize(
    "odd", ["line\nbreak", "tab\there", "\x02stx\x03", "\ud800", "", "猫 ü 🐈"]
)
def test_odd_characters_do_no_harm(odd: str, tmp_path: Path, values: Values) -> None:
    things = {0: odd, 1: _image(1)}
    boards = _boards([odd, "other"], things.__getitem__, labels=[odd] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _write(tmp_path, boards, records=True, pictures=("grad_rms",))
    rows = _rows(_texts(values)["largest_gradient"])
    assert [len(row) for row in rows] == [7, 7, 7]
    (record,) = [value for _, value in values(PLUGIN_NAME)]
    found = json.loads(unpack_text(tensor_util.make_ndarray(record.tensor).item()))
    assert odd in found["samples"]["id"]


def test_texts_are_cut(tmp_path: Path, values: Values) -> None:
    long = "word " * 1000
    _write(tmp_path, _boards(["x" * 500], lambda index: long))
    header, row = _rows(_texts(values)["largest_gradient"])
    assert header[-1] == "text"
    assert len(row[-1]) == 120
    assert row[-1].startswith("word word")
    assert row[-1].endswith("…")
    assert len(row[1]) == 80


# Pictures


@pytest.mark.parametrize("count", [1, 8, 9, 32])
def test_a_picture_shows_every_sample(count: int, tmp_path: Path, values: Values) -> None:
    boards = _boards(list(range(count)), _image)
    _write(tmp_path, boards, pictures=("grad_rms",))
    pictures = {value.tag.rpartition("/")[2]: value for _, value in values("images")}
    assert set(pictures) == set(_BOARDS)
    pixels = _pixels(pictures["largest_gradient"])
    assert pixels.shape[1:] == (1280, 3)
    brightest = (pixels == 63).all(axis=2).sum()  # the last pixel of an image, enlarged
    assert abs(brightest / 17**2 - count) < 0.5


@pytest.mark.parametrize(
    "shape",
    [
        *((1, 1, 1), (8, 8, 1), (32, 32, 3), (137, 20, 3), (600, 400, 3), (2, 900, 3)),
        *((16, 16, 2), (16, 16, 4), (16, 16, 7)),
    ],
)
def test_images_of_any_shape(shape: tuple[int, ...]) -> None:
    from jacoscope.sinks._thumbnails import _fitted

    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    fitted = _fitted(image)
    height, width = fitted.shape[:2]
    assert fitted.shape[2] == 3
    assert 68 <= max(height, width) <= 136
    ratio = shape[0] / shape[1]
    if min(height, width) > 1:
        assert height / width == pytest.approx(ratio, rel=0.1)
    if max(shape[:2]) <= 136 and shape[2] in (1, 3):  # enlarged by a whole factor
        factor = 136 // max(shape[:2])
        expected = image.repeat(factor, axis=0).repeat(factor, axis=1)
        np.testing.assert_array_equal(fitted, np.broadcast_to(expected, fitted.shape))


def test_opacity_is_laid_on_white() -> None:
    from jacoscope.sinks._images import coloured

    image = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=np.uint8)
    assert coloured(image).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_a_caption_has_the_number_that_its_board_is_ranked_by() -> None:
    from jacoscope.sinks._thumbnails import _caption

    for board in _boards().boards:
        entry = board.entries[0]
        assert f"{getattr(entry, board.ranked_by):.2g}" in _caption(board, entry)[-1]


def test_samples_without_an_image_have_a_grey_field(tmp_path: Path, values: Values) -> None:
    _write(tmp_path, _boards(thing=lambda i: _image(i) if i else None), pictures=("grad_rms",))
    pixels = _pixels(values("images")[0][1])
    assert (pixels == 0xEC).all(axis=2).sum() > 136 * 100


@pytest.mark.parametrize("thing", [lambda index: None, lambda index: "text"])
def test_nothing_to_draw_draws_nothing(
    thing: Callable[[int], Thing | None], tmp_path: Path, values: Values
) -> None:
    _write(tmp_path, _boards(thing=thing), pictures=("grad_rms",))
    assert values("images") == []


def test_short_epochs_are_drawn_at_the_end_alone(tmp_path: Path, values: Values) -> None:
    _write(tmp_path, *(_boards(thing=_image, epoch=e) for e in range(3)), pictures=("grad_rms",))
    assert [step for step, _ in values("images")] == [29] * len(_BOARDS)


def test_long_epochs_are_all_drawn_once(
    tmp_path: Path, values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jacoscope.sinks._drawing_time._SHARE", float("inf"))
    _write(tmp_path, *(_boards(thing=_image, epoch=e) for e in range(2)), pictures=("grad_rms",))
    assert [step for step, _ in values("images")] == [9] * len(_BOARDS) + [19] * len(_BOARDS)


def test_a_picture_that_fails_costs_pictures_alone(
    tmp_path: Path, values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no such font")

    monkeypatch.setattr("jacoscope.sinks._thumbnails.draw_thumbnails", fail)
    monkeypatch.setattr("jacoscope.sinks._drawing_time._SHARE", float("inf"))
    epochs = [_boards(thing=_image, epoch=epoch) for epoch in range(2)]
    with pytest.warns(jacoscope.MonitorWarning, match="drawing samples failed.*no such font"):
        _write(tmp_path, *epochs, faults=Faults("warn"), records=True, pictures=("grad_rms",))
    assert [step for step, _ in values(PLUGIN_NAME)] == [9, 19]


# The record


def test_the_record_holds_every_number(tmp_path: Path, values: Values) -> None:
    norms = np.ones((3, 2)) * [math.inf, 1 / 3]
    boards = _boards(["a", 2], _image, losses=np.array([math.nan, 1e300]), norms_RN=norms)
    _write(tmp_path, boards, records=True)
    ((step, value),) = values(PLUGIN_NAME)
    text = unpack_text(tensor_util.make_ndarray(value.tensor).item())
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert step == found["step"] == 39
    assert (found["epoch"], found["seen"], found["omitted"]) == (3, 2, 0)
    assert (found["id_source"], found["last_layer"]) == ("dataset index", "head")
    assert [board["name"] for board in found["boards"]] == [board.name for board in boards.boards]
    assert found["samples"]["id"] == ["a", 2]
    assert found["samples"]["loss"] == found["samples"]["mean_loss"] == [None, 1e300]
    assert found["samples"]["norm"] == ["inf", 0.333333333]
    assert {len(column) for column in found["samples"].values()} == {2}
    assert "text" not in found["boards"][0]["entries"][0]


def test_the_record_holds_whole_texts(tmp_path: Path, values: Values) -> None:
    _write(tmp_path, _boards(["a"], lambda index: "word " * 100), records=True)
    ((_, value),) = values(PLUGIN_NAME)
    found = json.loads(unpack_text(tensor_util.make_ndarray(value.tensor).item()))
    assert found["boards"][0]["entries"][0]["text"] == "word " * 100


@pytest.mark.parametrize("shape", [(8, 8, 1), (64, 32, 3), (200, 100, 4), (1, 1, 2)])
def test_the_record_holds_thumbnails(
    shape: tuple[int, ...], tmp_path: Path, values: Values
) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    _write(tmp_path, _boards(["a", 2], lambda index: image), records=True)
    ((_, value),) = values(PLUGIN_NAME)
    images = json.loads(unpack_text(tensor_util.make_ndarray(value.tensor).item()))["images"]
    assert set(images) == {"a", "2"}
    head, _, coded = images["a"].partition(",")
    assert head == "data:image/png;base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(coded))))
    height, width = shape[:2]
    assert max(picture.shape[:2]) == min(max(height, width), 64)
    if shape[2] == 3:
        np.testing.assert_array_equal(picture, image)


def test_the_record_says_which_layers_a_sample_pushes(tmp_path: Path, values: Values) -> None:
    norms_RN = np.array([[5.0, 0.0, math.inf], [3.0, 0.0, 1.0], [4.0, 0.0, 1.0]])
    boards = _boards(["a", "b", "c"], norms_RN=norms_RN)
    _write(tmp_path, boards, records=True)
    ((_, value),) = values(PLUGIN_NAME)
    pushes = json.loads(unpack_text(tensor_util.make_ndarray(value.tensor).item()))["pushes"]
    assert pushes["a"] == [["head", pytest.approx(0.64)], ["conv.0", pytest.approx(0.36)]]
    assert pushes["b"] == pushes["c"] == []  # no gradient, or none that is finite
