"""Write the reference pages that are generated from the code and from its tests.

python scripts/generate_docs.py           # write them
python scripts/generate_docs.py --check   # fail if they are out of date
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from docstring_parser import parse

from jacoscope.config import (
    ALERT_REASONS,
    DEFAULT_ALERTS,
    AlertRule,
    HeadlineName,
    LayerRule,
    MonitorConfig,
    Output,
    Probes,
    ProbeSchedule,
    QuantityName,
    Samples,
    Schedule,
)
from jacoscope.quantities import (
    FAMILIES,
    HEADLINES,
    HISTOGRAM_BINS,
    OVERHEAD_FORMULA,
    OVERHEAD_READING,
    PROBE_HEADLINES,
    QUANTITIES,
    SAMPLE_HEADLINES,
    Quantity,
    is_per_sample,
    is_probed,
)

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

COMPATIBILITY_INTRO = """\
# What works under which conditions

*Generated from the conditions that the tests train under (`tests/conditions`) by
`scripts/generate_docs.py`; do not edit.*

Each row is a small real training. Its numbers are compared with plain autograd: one process, no
wrappers, no compilation, the same weights and the same batch, in full precision. Rows of the last three
parts (several processes, loops, faults) are held by tests of their own.

- **exact**: every value that is wanted is there, and equals plain autograd's, as far as the precision
  of the row's training goes.
- **withheld**: no value is recorded, and the record, the Sensitivity tab and the log say why, in these
  words. Where parameters are named, theirs alone are withheld and all others are exact.
- **measured**: values are recorded; the row's tests hold the training and the reasons, not the numbers.
- **not run here**: nothing that the tests are run on can run it; the reason says what was tried.

*Parameters* are the quantities of parameter tensors (gradients, weights, updates), *samples* the
per-sample ones, *probes* the output Jacobians, tangent kernels and "all else equal". In every row but
those marked ≈ the training was also run without the monitor and compared bit by bit after every batch:
weights, buffers, gradients, the optimiser's state and random numbers. Rows marked ≈ are those of
several processes or of arithmetic that is not deterministic by itself.
"""

QUANTITIES_INTRO = """\
# Quantities and tags

*Generated from the quantity table by `scripts/generate_docs.py`; do not edit.*

g is the gradient ∂L/∂θ that the optimiser gets: unscaled, before the Trainer clips it, averaged over
accumulated batches and processes as the Trainer does. θ are the weights before the optimiser's
step, Δθ is what the step added. n is the number of scalars in a parameter tensor, j runs over them.
L is the number of watched parameter tensors. Sums are taken in double precision, whatever the
precision of training; the record stores float64 if the model trains in it and float32 otherwise.

Under DDP all processes hold the same g, θ and Δθ, so the numbers are those of the global batch.

## Tags

With GROUP from `output.group` (`sensitivity` by default):

| tag | tab | shape | when |
|---|---|---|---|
| `GROUP/HEADLINE` | Scalars | scalar | `output.headline` (default) |
| `GROUP_layers_by_step/QUANTITY` | Images | picture, parameters × steps | quantities in `output.pictures` |
| `GROUP_gradients/PARAMETER` | Histograms, Distributions | bins | `grad_histogram` is watched and `output.histograms` (default) |
| `GROUP_parameters_QUANTITY/PARAMETER` | Scalars | scalar | quantities in `output.layer_scalars` |
| `GROUP/about` | Text | text | `output.card` (default) |
| `GROUP/alerts` | Text | table | a rule of `alerts` tells of something |
| `jacoscope/GROUP/QUANTITY/AXIS` | Sensitivity; `jacoscope.read_run` | (L,), or (L, N) for histograms | `output.records` (default) |
| `GROUP_all_else_equal/step` | Text | table | a step is probed for all else equal |
| `GROUP_all_else_equal/waterfall`, `allocation` | Images | pictures | the same, unless `output.pictures` is empty |
| `GROUP_outputs/saliency`, `ntk_spectrum`, `sensitivity_by_layer` | Images | pictures | outputs are probed, unless `output.pictures` is empty |
| `GROUP_outputs/about` | Text | how the probes went, what is missing and why | a step is probed; written when it changes |
| `jacoscope/GROUP/.probes`, `.probe`, `.error/…`, `.ntk_spectrum/…`, … | Sensitivity; `jacoscope.read_run` | epoch; reasons and tables; standard errors; spectra; … | a step is probed |
| `jacoscope/GROUP/.alerts` | Sensitivity; `jacoscope.read_run` | what is beyond its bound | a rule of `alerts` tells of something |
| `jacoscope/GROUP/.headline/…` | Sensitivity; `jacoscope.read_run` | the headline scalars and `sample_count` | `output.records` (default) |
| `jacoscope/GROUP/.sample_quantiles/…` | Sensitivity; `jacoscope.read_run` | quantiles of ‖gᵢ‖ over the samples, (rows, 7) | per-sample quantities are watched |
| `jacoscope/GROUP/.gram`, `.gram_spectrum`, `.gram_batch` | Sensitivity; `jacoscope.read_run` | gᵢ·gₖ of a batch, (N, N); its eigenvalues, (N,); its samples | every `samples.gram_every`-th captured batch, where quantities need the matrix |
| `jacoscope/GROUP/.samples` | Sensitivity; `jacoscope.read_run` | leaderboards with thumbnails, numbers of all samples seen | per-sample quantities are watched, at the end of an epoch |
| `jacoscope/GROUP/.steps`, `.status`, `.run` | Sensitivity; `jacoscope.read_run` | epoch; what is missing and which gradient it is; configuration and parameters | `output.records` (default) |

AXIS is a short hash of the watched parameters' names and sizes: TensorBoard reads a tag's metadata
once, so a run whose set of layers changes gets a tag of its own. Of the tags of `jacoscope/GROUP`, texts
are JSON, compressed where they are long (`jacoscope.packed_text.unpack_text`), and histograms hold only
the bins that anything is in (`jacoscope.filled_bins.unpack`).
"""

SAMPLE_HEADLINES_INTRO = """\
Of the per-sample quantities that are asked for, these are scalars on the whole model too, with all
watched parameters as one row. Their definitions are below.
"""

PROBE_HEADLINES_INTRO = """\
And of the probes' quantities that are asked for, these, at the steps that are probed:
"""

PER_SAMPLE_INTRO = """\
## Per-sample quantities

These look at each sample of the batch by itself. They are not measured unless they are asked for by
name in `quantities`.

N is the number of samples in the step: over all batches that are accumulated into it, and over all
processes. cᵢ is sample i's contribution to the gradient, Σᵢ cᵢ = g, and gᵢ = N cᵢ its per-sample
gradient. If the loss is a mean over samples, gᵢ is the gradient of sample i's own loss; where the
loss weighs samples unevenly, as a mean over the tokens of texts of unequal length does, gᵢ carries
that weight. With `samples.loss_reduction: sum` everything is as if the loss were divided by N first:
gᵢ is again the gradient of sample i's own loss, and g below their mean. G_b is the gradient of one
backward.

A value is per row: of a parameter tensor, or of several taken together as if they were one, whose
gᵢ are then laid side by side. Samples are compared with one another only if one backward on one
process saw both; what is said of pairs, of the Gram matrix and of columns is put together from the
backwards and processes of the step as each definition says.

A batch is a draw from the data, so that some of these numbers are estimates. *Unbiased* means: with
samples drawn independently, their expectation does not depend on N.
"""


PROBES_INTRO = """\
## Quantities of probes

These are measured on a copy of the model, on a few samples of a training batch, after the step. They
are not measured unless they are asked for by name in `quantities`; `probes` says when and how. The
guide is [probes.md](probes.md).

Rows: those of an output Jacobian and of the tangent kernel are parameter tensors, layers, rules'
groups and `(all)`; those of all else equal are layers, `(not watched)` for what moves besides, and
`(all)`; an input Jacobian has the row `(input)`, a layer Jacobian one for each two neighbours `a → b`
of `probes.chain`. Values that are estimates from random cotangents come with a standard error, which
`run.standard_errors` holds.
"""


def quantities_page() -> str:
    """The page on quantities and tags."""
    lines = [QUANTITIES_INTRO, "## Headline scalars", ""]
    lines += ["Over all watched parameters that measure what is needed.", ""]
    lines += ["Each is a scalar per captured step.", ""]
    lines += ["| name | definition | unit | reading | source |", "|---|---|---|---|---|"]
    lines += [
        f"| `{item.name}` | {_cell(item.formula)} | {item.unit} | {item.reading} | {item.source} |"
        for item in HEADLINES
    ]
    lines.append(
        "| `coverage` | scalars whose gradient is in the record / trainable scalars | 1 | Share of "
        "the model that these numbers are on. | own definition |"
    )
    lines.append(
        f"| `monitor_overhead` | {_cell(OVERHEAD_FORMULA)} | 1 | {OVERHEAD_READING} | own definition |"
    )
    lines += ["", SAMPLE_HEADLINES_INTRO, "| name | title | unit |", "|---|---|---|"]
    for name in SAMPLE_HEADLINES:
        lines.append(f"| `{name}` | {QUANTITIES[name].title} | {QUANTITIES[name].unit} |")
    lines += ["", PROBE_HEADLINES_INTRO, "| name | title | unit |", "|---|---|---|"]
    for name in PROBE_HEADLINES:
        lines.append(f"| `{name}` | {QUANTITIES[name].title} | {QUANTITIES[name].unit} |")
    lines.append("| `probe_seconds` | Wall time of a step's probes | s |")
    lines += ["", "## Quantities per parameter tensor", ""]
    lines += _families(lambda name: not (is_per_sample(name) or is_probed(name)))
    lines += [PER_SAMPLE_INTRO, *_families(is_per_sample)]
    lines += [PROBES_INTRO, *_families(is_probed)]
    return "\n".join(lines)


def _families(belongs: Callable[[QuantityName], bool]) -> list[str]:
    lines = []
    for family, quantities in FAMILIES.items():
        if all(belongs(quantity.name) for quantity in quantities):
            lines += [f"### {family}", ""]
            for quantity in quantities:
                lines += _entry(quantity)
    return lines


def _entry(quantity: Quantity) -> list[str]:
    shape = f"(L, {HISTOGRAM_BINS})" if quantity.name == "grad_histogram" else "(L,)"
    return [
        f"#### `{quantity.name}`",
        "",
        f"{quantity.title}. {quantity.reading}",
        "",
        f"- definition: {quantity.formula}",
        f"- unit: {quantity.unit}",
        f"- shape: {shape}",
        f"- source: {quantity.source}",
        f"- when the loss is multiplied by s: {quantity.scaling}",
        f"- `nan` when: {quantity.nan_when}",
        "",
    ]


CONFIGURATION_INTRO = """\
# Configuration

*Generated from the dataclasses by `scripts/generate_docs.py`; do not edit.*

One schema, written three ways: as arguments of `SensitivityMonitor`, as the dataclass
`jacoscope.MonitorConfig`, or as YAML. A YAML file serves `SensitivityMonitor("monitor.yaml")`,
`jacoscope fit --config experiment.yaml --monitor monitor.yaml`, and any LightningCLI:

```yaml
trainer:
  callbacks:
    - class_path: jacoscope.SensitivityMonitor
      init_args:
        config: monitor.yaml      # or the options themselves, as below
```

A whole experiment's file has the same options under its top-level key `monitor`. A mistake stops
the run before training, with one sentence: file, key, what was given, and the nearest valid name.

The defaults:

```yaml
"""

EXAMPLE = """\
## Rules on layers

Rules are tried in order and the first that matches a parameter decides. All criteria of a rule must
hold; a rule without criteria matches everything.

```yaml
layers:
  - kind: bias
    exclude: true                 # no biases
  - match: ["*attention*", "*attn*"]
    quantities: [grad_norm, grad_rms, grad_histogram, update_ratio]
    schedule: {every: 10}         # attention more often than the rest
  - type: torch.nn.Linear
    min_depth: 2
```

With these rules, a parameter that is none of the three is not watched. `jacoscope inspect --config
experiment.yaml` shows which rule takes which parameter, before anything runs.
"""


ALERTS = """\
## Alerts

A rule looks at every captured or probed step. What it tells of goes to the log (`jacoscope`), to the Text tab
(`GROUP/alerts`), to the Sensitivity tab, to `run.alerts`, and to the function that `on_alert` names.

```yaml
alerts:
  - {name: vanishing, quantity: grad_rms, match: encoder, below: 1.0e-5, of: median, captures: 5}
  - {name: diverged, headline: grad_norm, above: 1000, of: past, severity: alert, stop: true}
```

These replace the default rules; write `alerts: []` for none. One is told of a row once, and again when it has
been within its bounds in between. The default rules, those idle whose quantity is not measured:

| name | told when | for | why |
|---|---|---|---|"""


def _default_alerts() -> list[str]:
    rows = []
    for rule in DEFAULT_ALERTS:
        of = {"value": "", "median": " × the median over rows", "past": " × the row's mean so far"}
        bounds = [
            f"{side} {bound:g}{of.get(rule.of, ' × the batch size')}"
            for side, bound in (("above", rule.above), ("below", rule.below))
            if bound is not None
        ]
        where = f" of {rule.kind}s" if rule.kind else ""
        what = f"`{rule.quantity or rule.headline}`{where} is {' or '.join(bounds)}"
        captures = f"{rule.captures} captures" if rule.captures > 1 else "1 capture"
        rows.append(
            f"| {rule.name} ({rule.severity}) | {what} | {captures} | {ALERT_REASONS[rule.name]} |"
        )
    return rows


def configuration_page() -> str:
    """The page on the configuration."""
    defaults = yaml.safe_dump(MonitorConfig().to_dict(), sort_keys=False, allow_unicode=True)
    lines = [CONFIGURATION_INTRO + defaults + "```", ""]
    for cls, title in (
        (MonitorConfig, "The monitor"),
        (LayerRule, "A rule in `layers`"),
        (Schedule, "`schedule`"),
        (Samples, "`samples`"),
        (Probes, "`probes`"),
        (ProbeSchedule, "`probes.schedule`"),
        (Output, "`output`"),
        (AlertRule, "A rule in `alerts`"),
    ):
        lines += [f"## {title}", "", _summary(cls), ""]
        lines += ["| option | type | default | meaning |", "|---|---|---|---|", *_rows(cls), ""]
        if cls is LayerRule:
            lines += [EXAMPLE]
        if cls is AlertRule:
            lines += [ALERTS, *_default_alerts(), ""]
    return "\n".join(lines)


def _summary(cls: type) -> str:
    parsed = parse(inspect.getdoc(cls) or "")
    parts = [parsed.short_description or "", parsed.long_description or ""]
    return "\n\n".join(part.replace("``", "`") for part in parts if part)


def _rows(cls: type) -> list[str]:
    documented = {
        item.arg_name: item.description or "" for item in parse(inspect.getdoc(cls) or "").params
    }
    hints = typing.get_type_hints(cls)
    rows = []
    for field in dataclasses.fields(cls):
        default = field.default
        if default is dataclasses.MISSING:
            shown = "required"
        elif dataclasses.is_dataclass(default):
            shown = "see below"
        else:
            shown = (
                f"`{_yaml(default)}`" if field.name != "quantities" or default is None else "above"
            )
        meaning = " ".join(documented[field.name].split()).replace("``", "`")
        rows.append(
            f"| `{field.name}` | {_cell(_type(hints[field.name]))} | {shown} | {_cell(meaning)} |"
        )
    return rows


def _type(hint: object) -> str:
    args = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        if len(args) <= 5:
            return ", ".join(map(str, args))
        return "scalar name" if hint is HeadlineName else "quantity name"
    if origin is tuple:
        return f"list of {_type(args[0])}"
    if dataclasses.is_dataclass(hint):
        return hint.__name__  # type: ignore[union-attr]
    if args and origin is not None and "Callable" in str(origin):
        return "callable"
    if args:
        return " or ".join(_type(arg) for arg in args if arg is not type(None))
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(
        getattr(hint, "__name__", ""), str(hint)
    )


def _yaml(value: object) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).replace("\n...", "").strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def compatibility_page() -> str:
    """The page on conditions of training, from the tests' rows."""
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from conditions.table import CONDITIONS
    finally:
        sys.path.pop(0)
    parts = dict.fromkeys(condition.group for condition in CONDITIONS)
    lines = [COMPATIBILITY_INTRO]
    for part in parts:
        lines += [f"## {part}", "", "| condition | parameters | samples | probes |"]
        lines += ["|---|---|---|---|"]
        for row in CONDITIONS:
            if row.group == part:
                mark = "" if row.is_identical else " ≈"
                note = f"<br>*{row.note}*" if row.note else ""
                cells = [_verdict(each) for each in (row.parameters, row.samples, row.probes)]
                lines.append("| " + " | ".join([f"{_cell(row.name)}{mark}{note}", *cells]) + " |")
        lines.append("")
    return "\n".join(lines)


def _verdict(verdict: Any) -> str:
    if not verdict.reason:
        return str(verdict.word)
    named = [name.removeprefix("network.") for name in (*verdict.rows, *verdict.quantities)]
    where = f" for {', '.join(f'`{name}`' for name in named)}" if named else ""
    where += f" at step {', '.join(map(str, verdict.steps))}" if verdict.steps else ""
    head = f"exact; {verdict.word}{where}" if where else verdict.word
    return _cell(f"{head}: {verdict.reason}")


PAGES = {
    "quantities.md": quantities_page,
    "configuration.md": configuration_page,
    "compatibility.md": compatibility_page,
}


def main() -> int:
    """Write or check every page."""
    check = "--check" in sys.argv[1:]
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page().rstrip() + "\n"
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"out of date: {', '.join(stale)}; run python scripts/generate_docs.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
