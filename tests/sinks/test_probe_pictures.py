"""When probes are written and drawn, and under which tags."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from jacoscope.probe_record import AllocationRecord, OutputSensitivity, ProbeRecord
from jacoscope.probing import AllElseEqual, LayerShare, Saliency
from jacoscope.sinks._drawing_time import DrawingTime
from jacoscope.sinks._probe_pictures import _MOST_KEPT, ProbePictures

_WATERFALL, _ALLOCATION = "g_all_else_equal/waterfall", "g_all_else_equal/allocation"
_SALIENCY, _SPECTRUM = "g_outputs/saliency", "g_outputs/ntk_spectrum"
_SENSITIVITY = "g_outputs/sensitivity_by_layer"
_PICTURES = {_WATERFALL, _ALLOCATION, _SALIENCY, _SPECTRUM, _SENSITIVITY}
_STEP, _ABOUT = "g_all_else_equal/step", "g_outputs/about"
_DRAW = {
    "jacoscope.sinks._waterfall.draw_waterfall": 0,
    "jacoscope.sinks._allocation_picture.draw_allocation": 1,
    "jacoscope.sinks._saliency_picture.draw_saliency": 2,
    "jacoscope.sinks._spectrum_picture.draw_spectra": 3,
    "jacoscope.sinks._output_sensitivity.draw_output_sensitivity": 4,
}


class _Writer:
    """Keeps what is written: tag and step, and the thing itself by them."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, int]] = []
        self.images: list[tuple[str, int]] = []
        self.things: dict[tuple[str, int], Any] = {}

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.texts.append((tag, step))
        self.things[tag, step] = text

    def add_image(
        self, tag: str, image: npt.NDArray[np.uint8], step: int, *, dataformats: str
    ) -> None:
        assert dataformats == "HWC"
        self.images.append((tag, step))
        self.things[tag, step] = image


class _Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr("jacoscope.sinks._drawing_time.time", clock)
    return clock


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, clock: _Clock) -> list[tuple[Any, ...]]:
    """Drawing takes half a second of that time, and its arguments are kept."""
    calls: list[tuple[Any, ...]] = []

    def stand_in(path: str) -> Any:
        def draw(*args: Any) -> npt.NDArray[np.uint8]:
            clock.now += 0.5
            calls.append((path.rpartition(".")[2], *args))
            return np.zeros((1, 1, 3), dtype=np.uint8)

        return draw

    for path in _DRAW:
        monkeypatch.setattr(path, stand_in(path))
    return calls


def _record(step: int = 5, **changes: Any) -> ProbeRecord:
    """A record that has something for every picture."""
    saliency = Saliency(
        "features", np.ones((1, 1, 2)), np.ones((1, 2)), np.zeros((1, 1), dtype=np.int64),
        np.ones((1, 1)), ("1",),
    )  # fmt: skip
    given: dict[str, Any] = {
        "notes": {"outputs": "1 sample"},
        "all_else_equal": AllElseEqual(2.0, 1.9, (LayerShare("a", -0.1, 0.0, -0.1),), 0.0),
        "allocation": AllocationRecord(0, {"a": -0.1}, -0.1, 1.9),
        "spectra": {"(all)": np.ones(3), "a": np.ones(3)},
        "saliency": saliency,
        "output_sensitivity": OutputSensitivity(("a",), np.ones((1, 1))),
        "ids": ("s1",),
    }
    return ProbeRecord(step=step, epoch=0, records=(), **(given | changes))


def _nothing(step: int) -> ProbeRecord:
    return ProbeRecord(step=step, epoch=0, records=())


def _pictures(writer: _Writer, is_wanted: bool = True, **options: Any) -> ProbePictures:
    return ProbePictures(writer, "g", is_wanted, DrawingTime(), **options)  # type: ignore[arg-type]


# What is written


def test_a_probe_is_written_under_its_step() -> None:
    writer = _Writer()
    pictures = _pictures(writer)
    pictures.write(_record(5))
    assert writer.texts == [(_STEP, 5), (_ABOUT, 5)]
    pictures.draw()
    assert set(writer.images) == {(tag, 5) for tag in _PICTURES}
    for tag in _PICTURES:
        assert writer.things[tag, 5].shape[1:] == (1280, 3)
    assert "Step 5" in writer.things[_STEP, 5]
    assert "1 sample" in writer.things[_ABOUT, 5]


@pytest.mark.parametrize(
    ("part", "tag"),
    [
        ("all_else_equal", _WATERFALL),
        ("allocation", _ALLOCATION),
        ("saliency", _SALIENCY),
        ("output_sensitivity", _SENSITIVITY),
    ],
)
def test_what_was_not_probed_has_no_picture(
    part: str, tag: str, drawn: list[tuple[Any, ...]]
) -> None:
    writer = _Writer()
    pictures = _pictures(writer)
    pictures.write(_record(**{part: None}))
    pictures.draw()
    assert {tag for tag, _ in writer.images} == _PICTURES - {tag}
    assert ((_STEP, 5) in writer.texts) is (part != "all_else_equal")


def test_a_spectrum_of_layers_alone_has_no_picture(drawn: list[tuple[Any, ...]]) -> None:
    writer = _Writer()
    pictures = _pictures(writer)
    pictures.write(_record(spectra={"a": np.ones(3)}))
    pictures.draw()
    assert {tag for tag, _ in writer.images} == _PICTURES - {_SPECTRUM}


def test_an_empty_probe_writes_its_notes_alone() -> None:
    writer = _Writer()
    pictures = _pictures(writer)
    pictures.write(_nothing(5))
    pictures.draw()
    assert writer.texts == [(_ABOUT, 5)]
    assert writer.images == []


def test_notes_are_written_when_they_change(drawn: list[tuple[Any, ...]]) -> None:
    writer = _Writer()
    pictures = _pictures(writer)
    for step, note in enumerate(["a", "a", "b", "b", "a"]):
        pictures.write(_record(step, notes={"outputs": note}))
    assert [step for tag, step in writer.texts if tag == _ABOUT] == [0, 2, 4]
    assert [step for tag, step in writer.texts if tag == _STEP] == [0, 1, 2, 3, 4]


def test_pictures_get_features_ids_and_the_past(drawn: list[tuple[Any, ...]]) -> None:
    pictures = _pictures(_Writer(), features=["age"])
    first, second = _record(0), _record(9)
    pictures.write(first)
    pictures.features = ["age", "sex"]
    pictures.write(_nothing(5))
    pictures.write(second)
    pictures.draw()
    calls = {name: args for name, *args in drawn}
    assert calls["draw_saliency"] == [second.saliency, 9, ("s1",), ["age", "sex"]]
    assert calls["draw_waterfall"] == [second.all_else_equal, 9]
    assert calls["draw_output_sensitivity"] == [second.output_sensitivity, 9]
    assert calls["draw_allocation"] == [[(0, first.allocation), (9, second.allocation)]]
    spectra, row = calls["draw_spectra"]
    assert row == "(all)"
    assert [step for step, _ in spectra] == [0, 9]
    assert [list(rows) for _, rows in spectra] == [["(all)"], ["(all)"]]


def test_the_past_stays_short(drawn: list[tuple[Any, ...]]) -> None:
    pictures = _pictures(_Writer())
    steps = 4 * _MOST_KEPT
    for step in range(steps):
        pictures.write(_record(step, all_else_equal=None, saliency=None))
    pictures.draw()
    (*_, history) = next(args for name, *args in reversed(drawn) if name == "draw_allocation")
    kept = [step for step, _ in history]
    assert len(kept) <= _MOST_KEPT + 1
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (0, steps - 1)
    assert max(np.diff(kept)) < 20, "old steps and new ones alike"


# When it is drawn


def test_a_short_run_is_drawn_at_its_end_alone(drawn: list[tuple[Any, ...]]) -> None:
    writer = _Writer()
    pictures = _pictures(writer)
    for step in range(4):
        pictures.write(_record(step))
    assert not writer.images
    pictures.draw()
    assert [step for _, step in writer.images] == [3] * 5
    pictures.draw()
    assert len(writer.images) == 5, "nothing new"


def test_what_waits_is_drawn_when_there_is_time(
    clock: _Clock, drawn: list[tuple[Any, ...]]
) -> None:
    writer = _Writer()
    pictures = _pictures(writer)
    pictures.write(_record(0))
    clock.now += 100.0
    pictures.catch_up()
    assert not writer.images, "five pictures at a fifth of a second, twice, are 2 s of 200"
    clock.now += 101.0
    pictures.catch_up()
    pictures.catch_up()
    assert writer.images == [(tag, 0) for tag in dict.fromkeys(tag for tag, _ in writer.images)]
    assert len(writer.images) == 5


def test_drawing_takes_a_hundredth_of_the_time_at_most(
    clock: _Clock, drawn: list[tuple[Any, ...]]
) -> None:
    writer = _Writer()
    pictures = _pictures(writer)
    begun = clock.now
    for step in range(6000):
        pictures.write(_record(step))
        assert 0.5 * len(drawn) <= 0.01 * (clock.now - begun) + 0.5
        clock.now += 1.0
    pictures.draw()
    assert 0.5 * len(drawn) <= 0.01 * (clock.now - begun) + 0.5, "with what the end draws"
    times = len(writer.images) / 5
    assert 18 < times <= 25, "a hundredth of 6000 s, in pictures of half a second"
    assert len(writer.texts) == 6001


def test_all_that_draws_shares_the_time(clock: _Clock, drawn: list[tuple[Any, ...]]) -> None:
    time = DrawingTime()
    one, other = (
        ProbePictures(_Writer(), name, True, time)  # type: ignore[arg-type]
        for name in ("one", "other")
    )
    clock.now += 300.0
    one.write(_record(0))
    other.write(_record(0))
    assert len(drawn) == 5, "2.5 s of 3 s are gone"


def test_a_picture_that_fails_has_taken_its_time(clock: _Clock) -> None:
    time = DrawingTime()

    def fail() -> None:
        with time.drawing(1):
            clock.now += 0.9
            raise ValueError("no such font")

    clock.now += 100.0
    assert time.allows(2)
    with pytest.raises(ValueError, match="no such font"):
        fail()
    assert not time.allows(1)
    clock.now += 200.0
    assert time.allows(1)


def test_the_last_of_each_picture_is_drawn_under_its_own_step(
    drawn: list[tuple[Any, ...]],
) -> None:
    writer = _Writer()
    pictures = _pictures(writer)
    pictures.write(_record(0))
    pictures.write(_record(1))
    pictures.write(_record(2, saliency=None))
    pictures.draw()
    last = dict(writer.images)
    assert last == {**dict.fromkeys(_PICTURES, 2), _SALIENCY: 1}


def test_no_pictures_unless_they_are_wanted(drawn: list[tuple[Any, ...]]) -> None:
    writer = _Writer()
    pictures = _pictures(writer, is_wanted=False)
    pictures.write(_record(0))
    pictures.draw()
    assert (writer.images, drawn) == ([], [])
    assert writer.texts == [(_STEP, 0), (_ABOUT, 0)]


def test_after_a_stop_texts_alone_are_written(drawn: list[tuple[Any, ...]]) -> None:
    writer = _Writer()
    pictures = _pictures(writer)
    pictures.write(_record(0))
    pictures.draw()
    pictures.write(_record(1))
    pictures.stop()
    pictures.draw()
    pictures.write(_record(2))
    pictures.draw()
    assert {step for _, step in writer.images} == {0}
    assert [step for tag, step in writer.texts if tag == _STEP] == [0, 1, 2]


def test_texts_are_written_before_a_picture_fails(
    clock: _Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no such font")

    monkeypatch.setattr("jacoscope.sinks._waterfall.draw_waterfall", fail)
    writer = _Writer()
    pictures = _pictures(writer)
    clock.now += 1000.0
    with pytest.raises(ValueError, match="no such font"):
        pictures.write(_record(0))
    assert writer.texts == [(_STEP, 0), (_ABOUT, 0)]


def test_matplotlib_is_not_imported_for_texts(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from jacoscope.probe_record import ProbeRecord\n"
        "from jacoscope.probing import AllElseEqual, LayerShare\n"
        "from jacoscope.sinks._drawing_time import DrawingTime\n"
        "from jacoscope.sinks._probe_pictures import ProbePictures\n"
        "class Writer:\n"
        "    def add_text(self, *_): pass\n"
        "result = AllElseEqual(2.0, 1.9, (LayerShare('a', -0.1, 0.0, -0.1),), 0.0)\n"
        "record = ProbeRecord(0, 0, (), all_else_equal=result)\n"
        "ProbePictures(Writer(), 'g', False, DrawingTime()).write(record)\n"
        "print('matplotlib' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["False"]
