"""From a folder to the run that it holds."""

from __future__ import annotations

from pathlib import Path

from jacoscope.reader._builder import RunBuilder
from jacoscope.reader._events import TAG_PREFIX, natural_order, recorded_values
from jacoscope.reader._run import Run

__all__ = ["read_run"]


def read_run(path: str | Path, group: str | None = None) -> Run:
    """Read what a monitor recorded.

    Where steps were recorded twice, as after resuming from a checkpoint, the later writing wins.
    A file that ends in the middle of an event, as after a crash, is read up to there.

    Args:
        path: The run's folder, an event file, or a folder above with only one recorded run.
        group: The monitor's group, if the run has several.

    Returns:
        What was recorded, quantity by quantity in the unit of each, as frames with a row per
        captured step; where it is not there, why.

    Raises:
        FileNotFoundError: If there is no record under ``path``.
        ValueError: If there are several runs or groups to choose from.

    Example:
        >>> run = read_run("runs/digits_cnn/version_0")  # doctest: +SKIP
        >>> run["grad_rms"]  # one row per captured step, one column per parameter # doctest: +SKIP
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist; give the folder of a run")
    files = [root] if root.is_file() else sorted(root.rglob("*tfevents*"), key=natural_order)
    found: dict[tuple[Path, str], RunBuilder] = {}
    for file in files:
        for step, wall_time, value, schema in recorded_values(file):
            name, _, tag = value.tag.removeprefix(TAG_PREFIX).partition("/")
            builder = found.setdefault((file.parent, name), RunBuilder(file.parent, name))
            builder.add(step, wall_time, tag, schema, value)
    groups = ", ".join(sorted({name for _, name in found}))
    if not found:
        raise FileNotFoundError(
            f"no record under {root}; either no step of the run was captured, as its schedule "
            "asked for none, or it ended before one was, or its output could not be written, or "
            "output.records is false; give the folder of a run that recorded"
        )
    found = {key: builder for key, builder in found.items() if group in (None, key[1])}
    if not found:
        raise FileNotFoundError(f"no record of group {group!r} under {root}; it has {groups}")
    if len(found) > 1:
        listed = ", ".join(f"{folder} (group {name})" for folder, name in found)
        raise ValueError(f"several records under {root}: {listed}; name one folder and group")
    return next(iter(found.values())).build()
