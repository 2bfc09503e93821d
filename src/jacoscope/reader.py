"""Reading a run back: every recorded number, as pandas frames."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from jacoscope.record import PLUGIN_NAME, SCHEMA_VERSION

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run", "read_run"]

_PREFIX = "jacoscope/"


def read_run(path: str | Path, group: str | None = None) -> Run:
    """Read what a monitor recorded.

    Where steps were recorded twice, as after resuming from a checkpoint, the later writing wins.
    A file that ends in the middle of an event, as after a crash, is read up to there.

    Args:
        path: The run's folder, an event file, or a folder above with only one recorded run.
        group: The monitor's group, if the run has several.

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
    files = [root] if root.is_file() else sorted(root.rglob("*tfevents*"), key=_natural)
    found: dict[tuple[Path, str], _Builder] = {}
    for file in files:
        for step, wall_time, value, schema in _values(file):
            name, _, tag = value.tag.removeprefix(_PREFIX).partition("/")
            builder = found.setdefault((file.parent, name), _Builder(file.parent, name))
            builder.add(step, wall_time, tag, schema, value)
    found = {key: builder for key, builder in found.items() if group in (None, key[1])}
    if not found:
        of = f" of group {group!r}" if group else ""
        raise FileNotFoundError(
            f"no record{of} under {root}; the monitor writes one with output.records: true"
        )
    if len(found) > 1:
        listed = ", ".join(f"{folder} (group {name})" for folder, name in found)
        raise ValueError(f"several records under {root}: {listed}; name one folder and group")
    return next(iter(found.values())).build()


class Run:
    """What a monitor recorded in a run.

    ``run[quantity]`` is a frame with one row per captured step and one column per parameter;
    ``nan`` is a value that is not a number or, as :attr:`missing` then says, was not captured.

    Attributes:
        path: The run's folder.
        group: The monitor's group.
        config: The monitor's configuration, as plain values.
        versions: Versions of the packages that were at work.
        units: By quantity, its unit.
        steps: One row per captured step: its epoch, wall time, and which gradient it is of.
        parameters: One row per watched parameter: layer, type, kind, shape, size, quantities, …
        left_out: One row per parameter that is not watched, with the reason.
        missing: One row per value that is missing: step, quantity, parameter (``*`` for all) and
            reason.
    """

    def __init__(
        self,
        path: Path,
        group: str,
        values: dict[str, pd.DataFrame],
        histograms: dict[str, Histogram],
        steps: pd.DataFrame,
        missing: pd.DataFrame,
        units: dict[str, str],
        described: dict[str, Any],
    ) -> None:
        import pandas as pd

        self.path = path
        self.group = group
        self.units = units
        self.steps = steps
        self.missing = missing
        self.config: dict[str, Any] = described.get("config", {})
        self.versions: dict[str, str] = described.get("versions", {})
        self.parameters = pd.DataFrame(described.get("parameters", []))
        self.left_out = pd.DataFrame(
            described.get("left_out", []), columns=["parameter", "layer", "reason"]
        )
        self._values = values
        self._histograms = histograms

    @property
    def quantities(self) -> list[str]:
        """Names of the quantities that have one value per parameter."""
        return list(self._values)

    def __getitem__(self, quantity: str) -> pd.DataFrame:
        """A quantity: one row per captured step, one column per parameter."""
        from jacoscope.errors import nearest

        if quantity == "grad_histogram" and self._histograms:
            raise KeyError("grad_histogram has many values per parameter; use run.histogram(name)")
        if quantity not in self._values:
            raise KeyError(f"the run has no {quantity!r}; {nearest(quantity, self._values)}")
        return self._values[quantity].copy()

    def histogram(self, parameter: str) -> pd.DataFrame:
        """A parameter's gradients by bin: one row per captured step, one column per bin.

        Columns are intervals; the outermost hold all that lies beyond, up to the largest float.
        """
        from jacoscope.errors import nearest

        if parameter not in self._histograms:
            hint = nearest(parameter, self._histograms)
            raise KeyError(f"the run has no histogram of {parameter!r}; {hint}")
        return self._histograms[parameter].frame()

    def to_frame(self) -> pd.DataFrame:
        """Everything in long form: columns step, epoch, quantity, parameter, layer, value."""
        import pandas as pd

        layers = dict(zip(self.parameters["parameter"], self.parameters["layer"], strict=True))
        parts = []
        for quantity, frame in self._values.items():
            part = frame.melt(var_name="parameter", value_name="value", ignore_index=False)
            parts.append(part.reset_index().assign(quantity=quantity))
        columns = ["step", "epoch", "quantity", "parameter", "layer", "value"]
        if not parts:
            return pd.DataFrame(columns=columns)
        long = pd.concat(parts, ignore_index=True)
        long["layer"] = long["parameter"].map(layers)
        long["epoch"] = long["step"].map(self.steps["epoch"])
        return long[columns]

    def __repr__(self) -> str:
        return (
            f"Run({str(self.path)!r}, group={self.group!r}, {len(self.steps)} captured steps, "
            f"{len(self.parameters)} parameters, quantities: {', '.join(self._values)})"
        )


class Histogram:
    """A parameter's histograms by step.

    Args:
        edges: Edges of the bins, shape (N + 1,).
    """

    def __init__(self, edges: list[float]) -> None:
        self.edges = edges
        self.counts: dict[int, npt.NDArray[Any]] = {}

    def frame(self) -> pd.DataFrame:
        """One row per step, one column per bin."""
        import pandas as pd

        columns = pd.IntervalIndex.from_breaks(self.edges, closed="left")
        frame = pd.DataFrame(self.counts, index=columns).T.sort_index()
        frame.index.name = "step"
        return frame


class _Builder:
    """Collects a group's events of one folder."""

    def __init__(self, folder: Path, group: str) -> None:
        self._folder = folder
        self._group = group
        self._columns: dict[str, dict[int, dict[str, float]]] = {}
        self._histograms: dict[str, Histogram] = {}
        self._steps: dict[int, dict[str, Any]] = {}
        self._status: dict[str, Any] = {}
        self._described: dict[str, Any] = {}
        self._units: dict[str, str] = {}
        self._missing: dict[int, list[dict[str, Any]]] = {}

    def add(
        self, step: int, wall_time: float, tag: str, schema: dict[str, Any], value: Any
    ) -> None:
        array = tensor_util.make_ndarray(value.tensor)
        if tag == ".run":
            self._described = json.loads(array.item())
        elif tag == ".status":
            self._status = json.loads(array.item())
            self._note_status(step)
        elif tag == ".steps":
            self._begin(step, int(array[0]), wall_time)
        else:
            self._take(step, schema, array)

    def _begin(self, step: int, epoch: int, wall_time: float) -> None:
        import pandas as pd

        when = pd.Timestamp(wall_time, unit="s")
        self._steps[step] = {"epoch": epoch, "wall_time": when}
        for columns in self._columns.values():
            columns.pop(step, None)
        for histogram in self._histograms.values():
            histogram.counts.pop(step, None)
        self._note_status(step)

    def _note_status(self, step: int) -> None:
        self._steps.setdefault(step, {}).update(self._status.get("gradient", {}))
        rows = [
            {"step": step, "quantity": quantity, "parameter": name, "reason": reason}
            for quantity, names in self._status.get("missing", {}).items()
            for name, reason in names.items()
        ]
        rows += [
            {"step": step, "quantity": quantity, "parameter": "*", "reason": reason}
            for quantity, reason in self._status.get("withheld", {}).items()
        ]
        self._missing[step] = rows

    def _take(self, step: int, schema: dict[str, Any], array: npt.NDArray[Any]) -> None:
        quantity, names = schema["quantity"], schema["names"]
        self._units[quantity] = schema["unit"]
        if array.ndim == 1:
            row = self._columns.setdefault(quantity, {}).setdefault(step, {})
            row.update(zip(names, array.tolist(), strict=True))
            return
        for name, counts in zip(names, array, strict=True):
            self._histograms.setdefault(name, Histogram(schema["edges"])).counts[step] = counts

    def build(self) -> Run:
        import pandas as pd

        order = [item["parameter"] for item in self._described.get("parameters", [])]
        values = {}
        for quantity, rows in self._columns.items():
            frame = pd.DataFrame.from_dict(rows, orient="index").sort_index()
            known = [name for name in order if name in frame]
            frame = frame[known + [name for name in frame if name not in known]]
            for step, row in rows.items():
                self._missing.setdefault(step, []).extend(
                    {
                        "step": step,
                        "quantity": quantity,
                        "parameter": name,
                        "reason": "it is captured on a schedule of its own, not at this step",
                    }
                    for name in frame
                    if name not in row
                )
            frame.index.name, frame.columns.name = "step", None
            values[quantity] = frame
        steps = pd.DataFrame.from_dict(self._steps, orient="index").sort_index()
        steps.index.name = "step"
        rows_missing = [row for step in sorted(self._missing) for row in self._missing[step]]
        missing = pd.DataFrame(rows_missing, columns=["step", "quantity", "parameter", "reason"])
        return Run(
            self._folder,
            self._group,
            values,
            self._histograms,
            steps,
            missing,
            self._units,
            self._described,
        )


def _natural(path: Path) -> list[int | str]:
    """A key that sorts names with numbers by the numbers: 9 before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def _values(file: Path) -> Iterator[tuple[int, float, Any, dict[str, Any]]]:
    """The monitor's values in an event file, each with its schema, up to where it can be read."""
    schemas: dict[str, dict[str, Any] | None] = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            data = value.metadata.plugin_data
            if value.tag not in schemas:
                ours = data.plugin_name == PLUGIN_NAME and value.tag.startswith(_PREFIX)
                schemas[value.tag] = _schema(data.content) if ours else None
            schema = schemas[value.tag]
            if schema is not None:
                yield event.step, event.wall_time, value, schema


def _schema(content: bytes) -> dict[str, Any] | None:
    """What a tag's metadata say, or ``None`` if they are not of a kind that this version reads."""
    try:
        schema = json.loads(content)
    except ValueError:  # of UTF-8 and of JSON alike
        return None
    if not isinstance(schema, dict) or schema.get("version") != SCHEMA_VERSION:
        return None
    return schema
