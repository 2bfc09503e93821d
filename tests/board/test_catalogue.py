"""What is recorded, among what is foreign, broken, older or newer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from board_records import GROUP, NAMES, RUN, Board, Log, catalogue, described, read
from jacoscope.board.known import FAMILIES, PROBE_FAMILIES, PROBE_SCALARS
from jacoscope.board.mistakes import NotRecordedError
from jacoscope.quantities import FAMILIES as TABLE
from jacoscope.quantities import PROBE_HEADLINES, PROBES
from jacoscope.schema import SCHEMA_VERSION

_ONE = np.zeros(1, np.float32)


def _content(**schema: Any) -> bytes:
    return json.dumps({"version": SCHEMA_VERSION, **schema}).encode()


def test_the_known_order_is_that_of_the_quantity_table() -> None:
    assert {family: tuple(map(str, names)) for family, names in FAMILIES.items()} == {
        family: tuple(quantity.name for quantity in quantities)
        for family, quantities in TABLE.items()
    }
    assert list(FAMILIES) == list(TABLE)
    assert set(PROBE_FAMILIES) == set(PROBES)
    assert PROBE_SCALARS.issuperset(PROBE_HEADLINES)


def test_runs_and_groups_are_found_by_name(tmp_path: Path) -> None:
    for run, group in ((RUN, GROUP), (RUN, "other"), ("deep/日本", GROUP)):
        with Log(tmp_path / run, group) as log:
            log.capture(3, log.quantity("grad_norm", [1, 2, 3]))
    found = catalogue(tmp_path)
    assert {(group.run, group.group) for group in found.groups} == {
        (RUN, GROUP),
        (RUN, "other"),
        ("deep/日本", GROUP),
    }
    assert found.find("deep/日本", GROUP).quantities == ["grad_norm"]
    with pytest.raises(NotRecordedError, match="no record of a run 'rum'; did you mean 'run'"):
        found.find("rum", GROUP)
    with pytest.raises(NotRecordedError, match="no group 'others'; did you mean 'other'"):
        found.find(RUN, "others")
    with pytest.raises(NotRecordedError, match="no quantity 'grad_nrom'; did you mean 'grad_norm'"):
        found.find(RUN, GROUP).quantity("grad_nrom")
    with pytest.raises(NotRecordedError):
        found.find(RUN, GROUP).quantity(".steps")


@pytest.mark.parametrize(
    ("tag", "content"),
    [
        ("other/sensitivity/grad_norm/a", _content(quantity="grad_norm", names=["x"])),
        ("jacoscope/sensitivity", _content(quantity="grad_norm", names=["x"])),
        ("jacoscope/sensitivity/", _content(quantity="grad_norm", names=["x"])),
        ("jacoscope/sensitivity/grad_norm/a", b""),
        ("jacoscope/sensitivity/grad_norm/a", b"\xff\xfe"),
        ("jacoscope/sensitivity/grad_norm/a", b"[1, 2]"),
        ("jacoscope/sensitivity/grad_norm/a", b"[" * 100_000),
        ("jacoscope/sensitivity/grad_norm/a", _content()),
        ("jacoscope/sensitivity/grad_norm/a", _content(quantity=7, names=["x"])),
        ("jacoscope/sensitivity/grad_norm/a", _content(quantity="", names=["x"])),
        # Another tag's metadata.
        ("jacoscope/sensitivity/grad_norm/a", _content(quantity="grad_max", names=["x"])),
        ("jacoscope/sensitivity/grad_norm_x/a", _content(quantity="grad_norm", names=["x"])),
        ("jacoscope/sensitivity/grad_norm/a", _content(quantity="grad_norm")),
        ("jacoscope/sensitivity/grad_norm/a", _content(quantity="grad_norm", names=[])),
        ("jacoscope/sensitivity/grad_norm/a", _content(quantity="grad_norm", names="x")),
        ("jacoscope/sensitivity/grad_norm/a", _content(quantity="grad_norm", names=[1])),
        (
            "jacoscope/sensitivity/grad_norm/a",
            _content(quantity="grad_norm", names=["x"], layers=["a", "b"]),
        ),
        (
            "jacoscope/sensitivity/grad_norm/a",
            _content(quantity="grad_norm", names=["x"], sizes=3),
        ),
    ],
)
def test_foreign_and_broken_metadata_are_passed_over(
    tmp_path: Path, tag: str, content: bytes
) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(0, log.quantity("grad_max", [1, 2, 3]), log.raw(tag, _ONE, content))
    assert catalogue(tmp_path).find(RUN, GROUP).quantities == ["grad_max"]
    board = Board(read(tmp_path))
    (run,) = board.json("runs")["runs"]
    assert [quantity["name"] for quantity in run["quantities"]] == ["grad_max"]
    assert run["problem"] is None
    board.arrays("overview", run=RUN, group=GROUP)


def test_what_a_newer_version_wrote_is_told_and_not_shown(tmp_path: Path) -> None:
    content = json.dumps({"version": SCHEMA_VERSION + 1, "quantity": "grad_norm", "names": "new"})
    with Log(tmp_path / RUN) as log:
        tag = f"jacoscope/{GROUP}/grad_norm/a"
        log.event(0, log.raw(tag, _ONE, content.encode()))
    (run,) = Board(read(tmp_path)).json("runs")["runs"]
    assert run["quantities"] == []
    assert run["last_step"] is None
    assert run["problem"] == (
        f"Some of this run was recorded by a newer Jacoscope (record version {SCHEMA_VERSION + 1}; "
        f"this one reads {SCHEMA_VERSION}); update Jacoscope to see it."
    )


def test_a_version_that_is_no_number_is_told_too(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        tag = f"jacoscope/{GROUP}/grad_norm/a"
        log.event(0, log.raw(tag, _ONE, json.dumps({"quantity": "grad_norm"}).encode()))
    (run,) = Board(read(tmp_path)).json("runs")["runs"]
    assert run["problem"].endswith("a record version that this Jacoscope does not read: 0.")


def test_runs_say_what_they_have(tmp_path: Path) -> None:
    with Log(tmp_path / RUN) as log:
        log.capture(
            5,
            log.quantity("weight_norm", [1, 2, 3], title="Weight norm", family="Updates"),
            log.quantity("grad_norm", [1, 2, 3], reading="how steep", log=False),
            log.quantity("grad_norm", [1, 2], names=["(all)", NAMES[0]], digest="b"),
            log.quantity("zebra", [1, 2, 3]),
            log.headline(grad_norm=1.0),
            log.text(".run", described()),
        )
        log.probe(7, log.quantity("predicted_change", [1, 2, 3], probe=True))
    (run,) = Board(read(tmp_path)).json("runs")["runs"]
    assert (run["run"], run["group"], run["label"]) == (RUN, GROUP, RUN)
    assert run["last_step"] == 7
    # In the order of the documentation, what is not known last.
    names = ["grad_norm", "weight_norm", "predicted_change", "zebra"]
    assert [quantity["name"] for quantity in run["quantities"]] == names
    norm, weight, predicted, _ = run["quantities"]
    assert (norm["reading"], norm["log"], norm["rows"], norm["probe"]) == (
        "how steep", False, 4, False,
    )  # fmt: skip
    assert (weight["title"], weight["family"]) == ("Weight norm", "Updates")
    assert predicted["probe"] is True
    has = {part for part, there in run["has"].items() if there}
    assert has == {"headline", "all_else_equal"}


def test_labels_tell_groups_apart(tmp_path: Path) -> None:
    for run, group in ((".", GROUP), ("a", GROUP), ("a", "tail"), ("b", "mine")):
        with Log(tmp_path / run, group) as log:
            log.capture(0)
    labels = [run["label"] for run in Board(read(tmp_path)).json("runs")["runs"]]
    assert labels == [".", f"a · {GROUP}", "a · tail", "b · mine"]


def test_the_version_of_a_run_changes_with_its_data_alone(tmp_path: Path) -> None:
    def versions() -> dict[str, str]:
        runs = Board(read(tmp_path)).json("runs")["runs"]
        return {run["run"]: run["version"] for run in runs}

    for run in "ab":
        with Log(tmp_path / run) as log:
            log.capture(0)
    before = versions()
    assert versions() == before
    with Log(tmp_path / "b") as log:
        log.capture(1, wall=2000.0)
    after = versions()
    assert after["a"] == before["a"]
    assert after["b"] != before["b"]


def test_no_runs_are_no_error(tmp_path: Path) -> None:
    assert Board(read(tmp_path)).json("runs") == {"runs": []}
