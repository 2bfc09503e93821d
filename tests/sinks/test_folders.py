"""The folder of a run that was given none."""

from pathlib import Path

from jacoscope.sinks import new_folder


def test_it_is_the_one_after_the_last(tmp_path: Path) -> None:
    assert new_folder(tmp_path) == str(tmp_path / "jacoscope" / "version_0")
    for name in ("version_2", "version_10", "version_x", "other_30"):
        (tmp_path / "jacoscope" / name).mkdir(parents=True)
    assert new_folder(str(tmp_path)) == str(tmp_path / "jacoscope" / "version_11")
