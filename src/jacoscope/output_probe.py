"""One probe of a model's outputs: what is measured on them, by quantity and row.

Shape suffixes: N samples, C outputs per sample, R = N·K rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from jacoscope.capturing import Calibrations
from jacoscope.config import Probes, QuantityName
from jacoscope.groups import ALL
from jacoscope.probe_plan import INPUT_ROW, ProbePlan
from jacoscope.probe_record import OutputSensitivity
from jacoscope.probing import (
    ModelFunction,
    NeuralTangentKernel,
    OutputJacobian,
    PlaceJacobian,
    ProbeError,
    Rows,
    Saliency,
    arguments_of,
    call_of,
    cotangents,
    place_jacobian,
    products,
    refuse_complex,
    rows_of,
    saliency_of,
    spectral_norms,
)
from jacoscope.quantities import PROBES, FloatArray

__all__ = ["Findings", "OutputProbe"]

_Members: TypeAlias = Mapping[str, tuple[str, ...]]

_TOO_MANY = "there are {} outputs per sample, more than probes.max_outputs: {}"


@dataclass(eq=False)
class Findings:
    """What probes found.

    Args:
        values: By quantity, then by row.
        errors: Standard errors of those that are estimates.
        missing: By quantity, then by row, why there is no value.
        withheld: By quantity, why there is none at all.
        notes: How it went, in words, by subject.
    """

    values: dict[str, dict[str, float]] = field(default_factory=dict)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)
    withheld: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, name: QuantityName, row: str, value: float, error: float | None = None) -> None:
        """Take note of a value, and of its standard error if it is an estimate."""
        self.values.setdefault(str(name), {})[row] = value
        if error is not None:
            self.errors.setdefault(str(name), {})[row] = error

    def withhold(self, names: Iterable[str], why: str) -> None:
        """Take note that quantities cannot be had."""
        for name in names:
            self.withheld.setdefault(name, why)


class OutputProbe:
    """Measures a model's outputs on a few samples.

    Args:
        model: A copy of the model, in the mode to probe it in.
        batch: The samples' batch.
        targets: Class labels or target values of the samples, if known.
        plan: What is asked for.
        config: How to probe.
        first: The kernel of the first probe, if it was on the same samples.
        calibrations: What is known of graphs from earlier copies of the model.
        samples: How many samples the batch has, if that is known.

    Attributes:
        findings: What was found.
        kernel: The tangent kernel, if it was asked for.
        spectra: Its eigenvalues by row.
        singular_values: Of the input Jacobian, shape (N, min(C, D)).
        sensitivity: How sensitive each output is to each layer.
        saliency: How much each part of the input moves the outputs.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Any,
        targets: Tensor | None,
        plan: ProbePlan,
        config: Probes,
        first: NeuralTangentKernel | None = None,
        calibrations: Calibrations | None = None,
        samples: int | None = None,
    ) -> None:
        self._samples = samples
        self._calibrations = calibrations
        self._model = model
        self._plan = plan
        self._config = config
        self._targets = targets
        self._first = first
        self._budget = config.memory_budget * 2**20
        path, method = plan.call
        call = call_of(model, path, method)
        self._args, self._kwargs = arguments_of(batch, call, config.input)
        self.findings = Findings()
        self.kernel: NeuralTangentKernel | None = None
        self.spectra: dict[str, FloatArray] = {}
        self.singular_values: FloatArray | None = None
        self.sensitivity: OutputSensitivity | None = None
        self.saliency: Saliency | None = None
        self._rows: Rows | None = None

    def parameters(self) -> None:
        """Measure ∂f/∂θ and the tangent kernel.

        Raises:
            ProbeError: If the model cannot be probed so.
        """
        plan = self._plan
        if not plan.targets:
            return
        refuse_complex({target.name: target.info.parameter for target in plan.targets})
        rows = self._own_rows()
        function = rows.function
        along = cotangents(
            function.outputs, self._config.max_outputs, self._config.sketches, function.values,
            self._config.seed,
        )  # fmt: skip
        with_gram = plan.asks("Tangent kernel") or (
            along.is_exact and "output_jacobian_spectral_norm" in plan.asked
        )
        names = [target.name for target in plan.targets]
        made = products(
            rows,
            names,
            along,
            with_gram=with_gram,
            memory_budget=self._budget,
            calibrations=self._calibrations,
        )
        if made.structured:
            share = f"{len(made.structured)} of {len(names)}"
            self.findings.notes["structured"] = f"{share} parameters by structured operators"
        jacobian = OutputJacobian(rows, along, made, self._budget)
        members: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
        members |= {group.name: group.members for group in plan.groups}
        for name in set(plan.asked) & PROBES["Output Jacobian"] | PROBES["Tangent kernel"]:
            if made.missing:
                self.findings.missing[str(name)] = dict(made.missing)
        self._norms(jacobian, members)
        if jacobian.is_exact:
            self._sensitivity(jacobian)
        if with_gram:
            self.kernel = NeuralTangentKernel(
                function.samples, function.outputs, made.grams, along.is_exact,
                _precision(function.values), made.missing, rows.method, rows.fallback,
            )  # fmt: skip
            self._spectral(self.kernel, members)
            self._tangent(self.kernel, members)

    def inputs(self) -> None:
        """Measure ∂f/∂x.

        Raises:
            ProbeError: If the model cannot be probed so.
        """
        if not self._plan.asks("Input Jacobian"):
            return
        rows = self._own_rows()
        place, index = rows.function.input_place()
        jacobian = self._at(rows, place, index)
        if index is None:
            self.findings.notes["input"] = f"differentiated at the output of {place}"
        found = self.findings
        error = None
        if not jacobian.is_exact:
            along = jacobian.squares.mean(0)  # (K,), each an estimate of the mean over samples
            error = float(along.std() / len(along) ** 0.5)
        mean = float(jacobian.sq_norms.mean())
        self._add_norm("input_jacobian_norm", INPUT_ROW, mean, error)
        if jacobian.is_exact:
            found.add(
                "input_jacobian_spectral_norm", INPUT_ROW, float(jacobian.spectral_norms.mean())
            )
            median = float(np.median(jacobian.conditions.numpy()))
            found.add("input_jacobian_condition", INPUT_ROW, median)
            assert jacobian.singular_values is not None
            self.singular_values = jacobian.singular_values.numpy()
        else:
            why = _TOO_MANY.format(jacobian.outputs, self._config.max_outputs)
            found.withhold(("input_jacobian_spectral_norm", "input_jacobian_condition"), why)
        if self._config.saliency:
            self.saliency = saliency_of(jacobian, self._config.saliency, self._targets)

    def layers(self) -> None:
        """Measure ∂h_b/∂h_a along the chain; what cannot be had is missing with its reason."""
        if not self._plan.asks("Layer Jacobian"):
            return
        chain = self._plan.chain
        for source, target in itertools.pairwise(chain):
            row = f"{source} → {target}"
            try:
                self._between(row, source, target)
            except ProbeError as error:
                for name in PROBES["Layer Jacobian"]:
                    self.findings.missing.setdefault(str(name), {})[row] = str(error)

    def _between(self, row: str, source: str, target: str) -> None:
        jacobian = self._at(rows_of(self._function(target), self._budget), source, None)
        found, size = self.findings, jacobian.outputs
        error = None
        if not jacobian.is_exact:
            along = jacobian.squares.mean(0) / size
            error = float(along.std() / len(along) ** 0.5)
        mean = float(jacobian.mean_sq_singular_values.mean())
        found.add("layer_jacobian_mean_sq", row, mean, error)
        if jacobian.is_exact:
            spectral = float(jacobian.spectral_norms.mean())
            found.add("layer_jacobian_spectral_norm", row, spectral)
            median = float(np.median(jacobian.conditions.numpy()))
            found.add("layer_jacobian_condition", row, median)
            return
        why = (
            f"{source} puts out {jacobian.size} numbers per sample and {target} {size}, both more "
            f"than probes.max_outputs: {self._config.max_outputs}"
        )
        for name in ("layer_jacobian_spectral_norm", "layer_jacobian_condition"):
            found.missing.setdefault(name, {})[row] = why

    def _function(self, target: str | None = None) -> ModelFunction:
        path, method = self._plan.call
        return ModelFunction(
            self._model, self._args, self._kwargs, path=path, method=method,
            output=self._config.output, target=target,
        )  # fmt: skip

    def _own_rows(self) -> Rows:
        """Rows of the model's outputs, made once."""
        if self._rows is None:
            function = self._function()
            if self._samples not in (None, function.samples):
                raise ProbeError(
                    f"the first dimension of the model's input is {function.samples}, but there "
                    f"are {self._samples} samples; set probes.method to what takes samples first"
                )
            rows = rows_of(function, self._budget)
            shape = "×".join(map(str, rows.function.output_shape)) or "1"
            kind = "output" if shape == "1" else "outputs"
            how = "all at once by torch.func" if rows.fallback is None else "one by one"
            samples = rows.function.samples
            self.findings.notes["outputs"] = f"{samples} samples of {shape} {kind}, {how}"
            if rows.fallback is not None:
                self.findings.notes["fallback"] = rows.fallback
            self._rows = rows
        return self._rows

    def _at(self, rows: Rows, place: str, index: int | None) -> PlaceJacobian:
        config = self._config
        return place_jacobian(
            rows, place, index, max_outputs=config.max_outputs, sketches=config.sketches,
            seed=config.seed, memory_budget=self._budget,
        )  # fmt: skip

    def _norms(self, jacobian: OutputJacobian, members: _Members) -> None:
        squares, along = jacobian.products.squares, jacobian.cotangents
        for row, names in members.items():
            mine = [squares[name] for name in names if name in squares]
            if not mine:
                continue
            per_cotangent = sum(mine[1:], mine[0]).mean(0)  # (K,)
            error = None if along.is_exact else float(along.error(per_cotangent))
            self._add_norm("output_jacobian_norm", row, float(along.total(per_cotangent)), error)

    def _add_norm(self, name: QuantityName, row: str, square: float, error: float | None) -> None:
        """A norm from its square, whose standard error goes by the derivative of the root."""
        norm = math.sqrt(square) if square >= 0 else math.nan
        if error is not None:
            error = error / (2 * norm) if norm else 0.0
        self.findings.add(name, row, norm, error)

    def _sensitivity(self, jacobian: OutputJacobian) -> None:
        squares = jacobian.products.squares
        layers = [group for group in self._plan.groups if group.kind == "layer"]
        rows, values = [], []
        for group in layers:
            mine = [squares[name] for name in group.members if name in squares]
            if mine:
                rows.append(group.name.removeprefix("layer ").strip() or "(model)")
                values.append(sum(mine[1:], mine[0]).mean(0).sqrt().numpy())
        if rows:
            self.sensitivity = OutputSensitivity(tuple(rows), np.array(values))

    def _spectral(self, kernel: NeuralTangentKernel, members: _Members) -> None:
        if "output_jacobian_spectral_norm" not in self._plan.asked:
            return
        if not kernel.is_exact:
            why = _TOO_MANY.format(kernel.outputs, self._config.max_outputs)
            self.findings.withhold(("output_jacobian_spectral_norm",), why)
            return
        for row, names in _present(kernel, members):
            largest = spectral_norms(kernel.gram(names), kernel.samples)
            self.findings.add("output_jacobian_spectral_norm", row, float(largest.mean()))

    def _tangent(self, kernel: NeuralTangentKernel, members: _Members) -> None:
        asked, found = self._plan.asked, self.findings
        spectral = {"ntk_top_eigenvalue", "ntk_condition", "ntk_effective_rank"}.intersection(asked)
        if not kernel.is_exact:
            why = _TOO_MANY.format(kernel.outputs, self._config.max_outputs)
            found.withhold(spectral, why)
        if self._targets is None:
            found.withhold(
                ("ntk_alignment",), "the batch has no labels or target values; set samples.label"
            )
        if self._config.batch == "each":
            found.withhold(("ntk_drift",), "probes.batch is each: kernels are of other samples")
        for row, names in _present(kernel, members):
            error = None if kernel.is_exact else kernel.trace_error(names)
            found.add("ntk_trace", row, kernel.trace(names), error)
            if spectral and kernel.is_exact:
                self._add_spectrum(kernel, row, names)
            if "ntk_alignment" in asked and self._targets is not None:
                aligned = kernel.alignment(self._targets, names)
                error = None if kernel.is_exact else kernel.alignment_error(self._targets, names)
                found.add("ntk_alignment", row, aligned, error)
            if "ntk_drift" in asked and self._config.batch == "first":
                since = self._first or kernel
                if all(name in since.grams for name in names):
                    error = None if kernel.is_exact else kernel.drift_error(since, names)
                    found.add("ntk_drift", row, kernel.drift(since, names), error)

    def _add_spectrum(self, kernel: NeuralTangentKernel, row: str, names: tuple[str, ...]) -> None:
        spectrum = kernel.spectrum(names)
        if row == ALL or row.startswith(("layer", "group ")):
            self.spectra[row] = spectrum.values.numpy()
        self.findings.add("ntk_top_eigenvalue", row, float(spectrum.values[0]))
        self.findings.add("ntk_condition", row, spectrum.condition)
        self.findings.add("ntk_effective_rank", row, spectrum.effective_rank)


def _present(kernel: NeuralTangentKernel, members: _Members) -> list[tuple[str, tuple[str, ...]]]:
    """Rows with those of their parameters that have a kernel."""
    found = [(row, tuple(n for n in names if n in kernel.grams)) for row, names in members.items()]
    return [(row, names) for row, names in found if names]


def _precision(values: Tensor) -> float:
    return torch.finfo(values.dtype).eps
