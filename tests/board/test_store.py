"""Reading tags: what counts of what was written twice, once for all threads, within bounds."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.data.provider import TensorDatum
from tensorboard.errors import NotFoundError

from board_records import CALM, GROUP, NAMES, RUN, Log, place, recording
from jacoscope.board.catalogue import Tag
from jacoscope.board.store import Store
from jacoscope.board.track import Track, is_overwritten, last_written


def _plain(steps: Sequence[int]) -> list[bool]:
    """The rule as it is said: a value drops all that were written before at its step or later."""
    kept: list[int] = []
    for index, step in enumerate(steps):
        kept = [*(other for other in kept if steps[other] < step), index]
    return [index in kept for index in range(len(steps))]


@CALM
@given(st.lists(st.integers(0, 12), max_size=30))
def test_the_last_written_count(steps: list[int]) -> None:
    found = last_written(np.array(steps, np.int64))
    assert found.tolist() == _plain(steps)
    assert (np.diff(np.array(steps)[found]) > 0).all()


def _track(steps: Sequence[int], walls: Sequence[float], values: Any = None) -> Track:
    given_values = range(len(steps)) if values is None else values
    arrays = [np.array([value], np.float32) for value in given_values]
    return Track.of(steps, walls, arrays)


def test_a_resumed_run_overwrites_its_tail_in_whatever_order_it_is_read() -> None:
    # Steps 3 to 5 were done again, an hour later; a loader may give them in any order.
    steps, walls = [1, 2, 3, 4, 5, 3, 4], [1, 2, 3, 4, 5, 3601, 3602]
    for order in (range(7), [5, 6, 0, 1, 2, 3, 4], [0, 1, 2, 5, 3, 6, 4]):
        track = _track([steps[i] for i in order], [walls[i] for i in order], list(order))
        assert track.steps_S.tolist() == [1, 2, 3, 4]
        assert track.values_S[:, 0].tolist() == [0, 1, 5, 6]


def test_a_tag_that_is_not_written_again_loses_what_was_done_again() -> None:
    clock = _track([1, 2, 3, 4, 3], [1, 2, 3, 4, 100])
    tag = _track([2, 3, 4], [2, 3, 4])
    assert is_overwritten(tag, clock).tolist() == [False, True, True]


def test_what_was_written_with_the_last_count_of_its_step_stays() -> None:
    clock = _track([1, 2, 3, 2], [1, 2, 3, 100])
    tag = _track([1, 2], [1, 100])
    assert not is_overwritten(tag, clock).any()
    assert not is_overwritten(tag, _track([], [])).any()


def test_probes_are_not_overwritten_by_captures_that_come_late(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.probe(5, log.headline("p", predicted_change=-1.0), log.text(".probe", {"epoch": 0}))
        log.capture(5, log.headline(grad_norm=1.0))
    found = recording(tmp_path)
    assert {tag.names[0]: len(track.steps_S) for tag, track in found.tracks(".headline")} == {
        "grad_norm": 1,
        "predicted_change": 1,
    }
    assert len(found.texts(".probe")) == 1


def test_values_of_different_shapes_stay_apart() -> None:
    values = [np.zeros((2, 2), np.float32), np.zeros((3, 3), np.float32)]
    track = Track.of([1, 2], [1, 2], values)
    assert [value.shape for value in track.values_S] == [(2, 2), (3, 3)]
    assert track.nbytes > 52


class Provider:
    """A data provider in memory that counts what is read.

    Args:
        values: By tag, values at steps 0, 1, …
    """

    def __init__(self, values: dict[str, list[Any]]) -> None:
        self.values = values
        self.reads: list[tuple[str, int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def read_tensors(
        self, ctx: Any, *, experiment_id: str, plugin_name: str, downsample: int,
        run_tag_filter: Any,
    ) -> Any:  # fmt: skip
        (run,), (tag,) = run_tag_filter.runs, run_tag_filter.tags
        self.reads.append((tag, downsample))
        assert self.gate.wait(10)
        if tag not in self.values:
            raise NotFoundError(tag)
        data = [TensorDatum(i, float(i), value) for i, value in enumerate(self.values[tag])]
        return {run: {tag: [*data[: downsample - 1], data[-1]][-downsample:]}}


def _tag(name: str, step: int = 9, quantity: str = "q", **schema: Any) -> Tag:
    return Tag(name, GROUP, quantity, schema, step, float(step))


def _values(count: int, size: int = 3) -> list[Any]:
    return [np.full(size, step, np.float32) for step in range(count)]


def test_a_tag_is_read_once_until_it_has_new_data() -> None:
    provider = Provider({"a": _values(10)})
    store = Store(provider)
    tag = _tag("a", names=list(NAMES))
    first = store.track(place(), RUN, tag)
    assert store.track(place(), RUN, tag) is first
    assert len(provider.reads) == 1
    newer = store.track(place(), RUN, _tag("a", step=10, names=list(NAMES)))
    assert newer is not first
    assert len(provider.reads) == 2
    # What is superseded is not kept.
    store.track(place(), RUN, tag)
    assert len(provider.reads) == 3


def test_runs_and_experiments_are_kept_apart() -> None:
    provider = Provider({"a": _values(10)})
    store = Store(provider)
    tag = _tag("a", names=list(NAMES))
    elsewhere = type(place())(place().context, "other")
    store.track(place(), "one", tag)
    store.track(place(), "two", tag)
    store.track(elsewhere, "one", tag)
    assert len(provider.reads) == 3


def test_what_was_not_used_longest_is_forgotten_first() -> None:
    provider = Provider({name: _values(10) for name in "abc"})
    size = Track.of(range(10), range(10), _values(10)).nbytes
    store = Store(provider, cache_bytes=2 * size)
    tags = {name: _tag(name, names=list(NAMES)) for name in "abc"}
    for name in "abac":  # c needs room, and b was used before a
        store.track(place(), RUN, tags[name])
    provider.reads.clear()
    store.track(place(), RUN, tags["a"])
    store.track(place(), RUN, tags["c"])
    assert provider.reads == []
    store.track(place(), RUN, tags["b"])
    assert [name for name, _ in provider.reads] == ["b"]


def test_what_is_larger_than_the_cache_is_read_and_not_kept() -> None:
    provider = Provider({"a": _values(10)})
    store = Store(provider, cache_bytes=10)
    tag = _tag("a", names=list(NAMES))
    assert len(store.track(place(), RUN, tag).steps_S) == 10
    store.track(place(), RUN, tag)
    assert len(provider.reads) == 2


def test_threads_that_want_the_same_wait_for_one() -> None:
    provider = Provider({"a": _values(10)})
    store = Store(provider)
    provider.gate.clear()
    found: list[Track] = []
    tag = _tag("a", names=list(NAMES))
    threads = [
        threading.Thread(target=lambda: found.append(store.track(place(), RUN, tag)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    provider.gate.set()
    for thread in threads:
        thread.join(10)
    assert len(provider.reads) == 1
    assert len(found) == 8
    assert all(track is found[0] for track in found)


def test_a_failed_read_fails_for_all_that_wait_and_is_tried_anew() -> None:
    provider = Provider({"a": _values(3)})
    store = Store(provider)
    tag = _tag("a", names=list(NAMES))

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("gone")

    working, provider.read_tensors = provider.read_tensors, fail  # type: ignore[method-assign]
    with pytest.raises(OSError, match="gone"):
        store.track(place(), RUN, tag)
    provider.read_tensors = working  # type: ignore[method-assign]
    assert len(store.track(place(), RUN, tag).steps_S) == 3


def test_a_run_that_was_deleted_is_empty() -> None:
    track = Store(Provider({})).track(place(), RUN, _tag("a", names=list(NAMES)))
    assert len(track.steps_S) == 0
    assert not track.is_thinned


@pytest.mark.parametrize(
    ("tag", "values", "most"),
    [
        (_tag("a", names=list(NAMES)), _values(100), 1000 // (3 * 4)),
        # Histograms hold more bins at some steps than at others.
        (_tag("a", names=["x"], edges=[0.0] * 5), _values(100, 8), 1000 // (2 * 8 * 4)),
        (_tag("a", quantity=".steps"), _values(300, 1), 1000 // 4),
        # What metadata do not say is asked of the last value.
        (_tag("a", quantity=".gram"), _values(100, 25), 1000 // (25 * 4)),
        (
            _tag("a", quantity=".samples"),
            [np.array(b"x" * 50, dtype=object)] * 100,
            1000 // (2 * 50),
        ),
        (_tag("a", quantity=".gram"), _values(100, 1000), 2),
    ],
)
def test_what_is_too_much_to_read_is_thinned(tag: Tag, values: list[Any], most: int) -> None:
    provider = Provider({"a": values})
    track = Store(provider, read_bytes=1000).track(place(), RUN, tag)
    assert provider.reads[-1] == ("a", most)
    assert track.is_thinned
    assert track.steps_S[-1] == len(values) - 1
    assert not Store(provider).track(place(), RUN, tag).is_thinned


def test_few_steps_are_drawn_where_few_are_enough() -> None:
    provider = Provider({"a": _values(100)})
    store = Store(provider)
    tag = _tag("a", names=list(NAMES))
    assert len(store.track(place(), RUN, tag, 10).steps_S) == 10
    assert len(store.track(place(), RUN, tag).steps_S) == 100
    # All of them serve those who need few.
    assert len(store.track(place(), RUN, tag, 10).steps_S) == 100
    assert len(provider.reads) == 2


def test_a_record_loses_what_was_done_again_in_every_tag(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        for step in range(4):
            log.capture(
                step,
                log.quantity("grad_norm", [step] * 3),
                log.quantity("grad_max", [step] * 3),
                log.text(".status", {"withheld": {"at": str(step)}}),
            )
            log.probe(step, log.text(".probe", {"step": step}))
        log.event(3, log.text(".samples", {"epoch": 0, "step": 3}))
        # Taken up again at step 2, without grad_max and, so far, without probes.
        log.capture(2, log.quantity("grad_norm", [20] * 3))
    found = recording(tmp_path)
    (norm,), (maximum,) = (found.tracks(name) for name in ("grad_norm", "grad_max"))
    assert norm[1].steps_S.tolist() == [0, 1, 2]
    assert norm[1].values_S[:, 0].tolist() == [0, 1, 20]
    assert maximum[1].steps_S.tolist() == [0, 1]
    assert [step for step, _ in found.texts(".status")] == [0, 1]
    assert found.texts(".samples") == []
    assert [step for step, _ in found.texts(".probe")] == [0, 1, 2, 3]


def test_probes_that_were_done_again_overwrite_each_other(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        for step in (0, 10, 20):
            log.probe(step, log.quantity("ntk_trace", [step] * 3, probe=True))
        log.probe(10)
    (found,) = recording(tmp_path).tracks("ntk_trace")
    assert found[1].steps_S.tolist() == [0]


def test_a_run_that_describes_itself_with_a_probe_stays_described(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.probe(0, log.text(".run", {"versions": {"jacoscope": "1"}}))
        log.capture(0)  # the capture of the same step, which the device answered later
    assert recording(tmp_path).last_text(".run") == {"versions": {"jacoscope": "1"}}


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "NaN", '"x"', "\x00", "[" * 100_000])
def test_a_text_that_is_no_object_is_passed_over(tmp_path: Path, text: str) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.text(".status", {"withheld": {}}))
        log.capture(1, log.text(".status", text))
    assert recording(tmp_path).texts(".status") == [(0, {"withheld": {}})]
