"""What probes recorded, as frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from jacoscope.errors import nearest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ProbedSteps"]

_LAYERS = ("step", "layer", "predicted", "second_order", "actual")
_NUMBERS = ("derivative", "difference", "h", "error", "step")
_WEIGHTS = ("step", "parameter", "index", "derivative", "difference", "h", "error", "delta")


class ProbedSteps:
    """What the probes of a run recorded besides their quantities.

    Args:
        texts: By step, what the record says of the probe.
        tensors: By name and step, the tensors with the names of their rows.
    """

    def __init__(
        self,
        texts: Mapping[int, Mapping[str, Any]],
        tensors: Mapping[str, Mapping[int, tuple[tuple[str, ...], npt.NDArray[Any]]]],
    ) -> None:
        self._texts = dict(sorted(texts.items()))
        self._tensors = tensors

    @property
    def steps(self) -> list[int]:
        """The steps that were probed."""
        return list(self._texts)

    @property
    def epochs(self) -> dict[int, int]:
        """The epoch of each probed step."""
        return {step: text["epoch"] for step, text in self._texts.items()}

    def notes(self) -> pd.DataFrame:
        """How the probes went: one row per step and subject."""
        import pandas as pd

        rows = [
            (step, subject, said)
            for step, text in self._texts.items()
            for subject, said in text["notes"].items()
        ]
        return pd.DataFrame(rows, columns=["step", "subject", "note"])

    def all_else_equal(self) -> pd.DataFrame:
        """One row per probed step and layer: the promised and the actual change of the loss.

        The rows ``(interaction)`` and ``(all)`` are what the layers did together, and the step.
        """
        import pandas as pd

        rows: list[tuple[Any, ...]] = []
        for step, result in self._results():
            layers = result["layers"]
            rows += [(step, *(_number(share[name]) for name in _LAYERS[1:])) for share in layers]
            actual = _number(result["after"]) - _number(result["before"])
            interaction = _number(result["interaction"])
            rows.append((step, "(interaction)", float("nan"), float("nan"), interaction))
            whole = _number(result["predicted"]), _number(result["second_order"])
            rows.append((step, "(all)", *whole, actual))
        return pd.DataFrame(rows, columns=list(_LAYERS))

    def weights(self) -> pd.DataFrame:
        """One row per probed step and single weight: its derivative against a finite difference."""
        import pandas as pd

        rows = [
            (step, weight["parameter"], tuple(weight["index"]),
             *(_number(weight[name]) for name in _NUMBERS))
            for step, result in self._results()
            for weight in result["weights"]
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=list(_WEIGHTS))

    def allocation(self) -> pd.DataFrame:
        """The loss change allocated so far: one row per probed step, one column per layer.

        The columns ``(change)`` and ``(gap)`` are the true change and what was not allocated.
        """
        import pandas as pd

        rows: dict[int, dict[str, float]] = {}
        for step, text in self._texts.items():
            found = text["allocation"]
            if found is not None:
                rows[step] = {name: _number(value) for name, value in found["by_layer"].items()}
                rows[step]["(change)"] = _number(found["change"])
                rows[step]["(gap)"] = _number(found["gap"])
        return _by_step(pd.DataFrame.from_dict(rows, orient="index"))

    def ntk_spectrum(self, row: str = "(all)") -> pd.DataFrame:
        """Eigenvalues of the tangent kernel, largest first: one row per step.

        Args:
            row: A layer's or group's row, such as ``layer network.0``, or ``(all)``.
        """
        import pandas as pd

        found = self._tensors.get(".ntk_spectrum", {})
        known = {name for names, _ in found.values() for name in names}
        if row not in known:
            raise KeyError(f"the run has no spectrum of {row!r}; {nearest(row, known)}")
        rows = {step: values[names.index(row)] for step, (names, values) in found.items()
                if row in names}  # fmt: skip
        return _by_step(pd.DataFrame.from_dict(rows, orient="index"))

    def output_sensitivity(self, step: int) -> pd.DataFrame:
        """How sensitive each output is to each layer at a step: layers down, outputs across."""
        import pandas as pd

        names, values = self._tensor(".output_sensitivity", step)
        return pd.DataFrame(values, index=pd.Index(names, name="layer"))

    def input_singular_values(self, step: int) -> pd.DataFrame:
        """Singular values of ∂f_i/∂x_i at a step: samples down, largest first across."""
        import pandas as pd

        frame = pd.DataFrame(self._tensor(".input_singular_values", step)[1])
        frame.index.name = "sample"
        return frame

    def saliency(self, step: int) -> dict[str, Any]:
        """The saliency of a step: kind, maps, things, outputs, values, labels, ids.

        Their shapes are those of :class:`jacoscope.probing.Saliency`.
        """
        maps = self._tensor(".saliency_maps", step)[1]
        before = [s for s in self._tensors.get(".saliency_things", {}) if s <= step]
        text = self._texts[step]
        return {
            **text["saliency"],
            "ids": text["ids"],
            "maps": maps,
            "things": self._tensors[".saliency_things"][max(before)][1] if before else None,
        }

    def _results(self) -> list[tuple[int, Mapping[str, Any]]]:
        pairs = [(step, text["all_else_equal"]) for step, text in self._texts.items()]
        return [(step, result) for step, result in pairs if result is not None]

    def _tensor(self, name: str, step: int) -> tuple[tuple[str, ...], npt.NDArray[Any]]:
        found = self._tensors.get(name, {})
        if step not in found:
            steps = ", ".join(map(str, sorted(found))) or "none"
            raise KeyError(f"the run has no {name[1:]} at step {step}; steps with it: {steps}")
        return found[step]

    def __repr__(self) -> str:
        return f"ProbedSteps({len(self._texts)} probes, at steps {self.steps})"


def _number(value: Any) -> Any:
    """A number as JSON held it."""
    return float("nan") if value is None else float(value) if value in ("inf", "-inf") else value


def _by_step(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.sort_index()
    frame.index.name = "step"
    return frame
